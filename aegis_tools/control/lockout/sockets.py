"""This host's addresses, routes and TCP sockets, by netlink."""

from __future__ import annotations

import socket
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any, NamedTuple, Protocol

ESTABLISHED, LISTEN = 1, 10  # include/net/tcp_states.h
FAMILIES = (socket.AF_INET, socket.AF_INET6)


class Socket(NamedTuple):
    """A TCP socket."""

    state: int
    address: str
    port: int
    peer: str
    peer_port: int
    inode: int


class Network(Protocol):
    """What the proof asks about the network."""

    def sockets(self) -> list[Socket]:
        """Return the TCP sockets that listen or are connected."""

    def addresses(self) -> list[str]:
        """Return this host's own addresses."""

    def gateways(self) -> list[str]:
        """Return the gateways of default routes."""

    def owners(self, inodes: Iterable[int], name: str) -> set[int]:
        """Return which sockets (by inode) processes of a name hold."""


class Netlink:
    """The network by netlink (sock_diag(7), rtnetlink(7))."""

    def sockets(self) -> list[Socket]:
        """Return the TCP sockets that listen or are connected."""
        from pyroute2 import DiagSocket

        found = []
        with DiagSocket() as diag:
            diag.bind()
            for family in FAMILIES:
                states = 1 << ESTABLISHED | 1 << LISTEN
                stats = diag.get_sock_stats(family=family, states=states)
                found += [_socket(stat) for stat in stats]
        return found

    def addresses(self) -> list[str]:
        """Return this host's own addresses."""
        from pyroute2 import IPRoute

        with IPRoute() as route:
            return [
                address
                for message in route.get_addr()
                if (address := message.get_attr("IFA_LOCAL") or message.get_attr("IFA_ADDRESS"))
            ]

    def gateways(self) -> list[str]:
        """Return the gateways of default routes."""
        from pyroute2 import IPRoute

        found = []
        with IPRoute() as route:
            for family in FAMILIES:
                for message in route.get_default_routes(family=family):
                    found += list(_gateways(message))
        return list(dict.fromkeys(found))

    def owners(self, inodes: Iterable[int], name: str) -> set[int]:
        """Return which sockets (by inode) processes of a name hold."""
        wanted = {f"socket:[{inode}]": inode for inode in inodes}
        found: set[int] = set()
        for process in Path("/proc").glob("[0-9]*"):
            try:
                if not (process / "comm").read_text().startswith(name):
                    continue
                for fd in (process / "fd").iterdir():
                    inode = wanted.get(str(fd.readlink()))
                    found.update(() if inode is None else (inode,))
            except OSError:  # it has ended
                continue
        return found


def _socket(stat: Any) -> Socket:
    return Socket(
        int(stat["idiag_state"]),
        str(stat["idiag_src"]),
        int(stat["idiag_sport"]),
        str(stat["idiag_dst"]),
        int(stat["idiag_dport"]),
        int(stat["idiag_inode"]),
    )


def _gateways(message: Any) -> Iterator[str]:
    if gateway := message.get_attr("RTA_GATEWAY"):
        yield str(gateway)
    via = message.get_attr("RTA_VIA")
    if isinstance(via, dict) and via.get("addr"):
        yield str(via["addr"])
    for hop in message.get_attr("RTA_MULTIPATH") or ():
        if gateway := hop.get_attr("RTA_GATEWAY"):
            yield str(gateway)
