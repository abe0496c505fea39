"""The addresses and ports that a way back into the host needs."""

from __future__ import annotations

import ipaddress
import os
from collections.abc import Iterator

from aegis_tools.control.lockout import config
from aegis_tools.control.lockout.login import ssh_options
from aegis_tools.control.lockout.model import Peer
from aegis_tools.control.lockout.sockets import ESTABLISHED, LISTEN, Network
from aegis_tools.control.lockout.tree import Tree
from aegis_tools.policy.model import Op

RESOLV = ("/etc/resolv.conf", "/run/systemd/resolve/resolv.conf")
ANY = ("0.0.0.0", "::")  # noqa: S104


def find_peers(tree: Tree, network: Network) -> list[Peer]:
    """Return the addresses that recovery needs, each once, worst to lose first.

    Args:
        tree: The host's files.
        network: Its sockets, addresses and routes.
    """
    found = [*_ssh(tree, network), *_own(network), *_around(tree, network)]
    return sorted(dict.fromkeys(found), key=lambda peer: (peer.rank, peer.address))


def _ssh(tree: Tree, network: Network) -> Iterator[Peer]:
    sockets = network.sockets()
    listening = [s for s in sockets if s.state == LISTEN]
    held = network.owners([s.inode for s in listening], "sshd")
    ports = {s.port for s in listening if s.inode in held}
    if list(tree.which(["sshd"])):
        ports |= set(config.ssh_ports(ssh_options(tree)))
    words = os.environ.get("SSH_CONNECTION", "").split()
    if len(words) == 4 and words[3].isdecimal():
        ports.add(int(words[3]))
    own = [*ANY, *(a for a in network.addresses() if not ipaddress.ip_address(a).is_loopback)]
    why = "sshd listens there"
    for port in sorted(ports):
        for address in own:
            yield Peer(address, port, Op.BIND, "tcp", why, ("sshd", f"port {port}"), 0)
    for s in sockets:
        if s.state == ESTABLISHED and s.port in ports:
            chain = ("sshd", f"port {s.port}", f"session from {plain(s.peer)}")
            why = "somebody is logged in from there"
            yield Peer(plain(s.peer), None, Op.EGRESS, "tcp", why, chain, 1)
            why = "somebody is logged in over this address"
            yield Peer(plain(s.address), s.port, Op.BIND, "tcp", why, chain, 2)


def _own(network: Network) -> Iterator[Peer]:
    for address in ("127.0.0.1", "::1", *network.addresses()):
        loopback = ipaddress.ip_address(address).is_loopback
        why = (
            "programs of this host talk to each other over it"
            if loopback
            else ("it is this host's own address")
        )
        for op in (Op.EGRESS, Op.BIND):
            yield Peer(address, None, op, "tcp", why, (), 3 if loopback else 6)


def _around(tree: Tree, network: Network) -> Iterator[Peer]:
    for gateway in network.gateways():
        yield Peer(gateway, None, Op.EGRESS, "tcp", "it is the default gateway", (), 5)
    for path in RESOLV:
        for server in config.nameservers(tree.text(path)):
            for protocol in ("udp", "tcp"):
                chain = (path.rpartition("/")[2], server)
                why = "names are looked up there"
                yield Peer(server, 53, Op.EGRESS, protocol, why, chain, 4)


def plain(address: str) -> str:
    """Return an address as rules know it: a mapped IPv4 address is IPv4."""
    parsed = ipaddress.ip_address(address)
    mapped = parsed.ipv4_mapped if isinstance(parsed, ipaddress.IPv6Address) else None
    return str(mapped or parsed)
