"""Targets: one canonical text a kind, so that equal text means the same thing is denied.

Canonical text is what :class:`~aegis_tools.policy.model.Kind` lists. Nothing here touches the
file system or the network; whether a target exists is the resolver's question.
"""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Callable, Container

from aegis_tools.policy.model import FILE_OPS, NET_OPS, OPEN_OPS, Kind, Op

PATH_MAX = 4096
"""Bytes of a path with its closing NUL, as the kernel counts (linux/limits.h)."""
NAME_MAX = 255
"""Bytes of one component (linux/limits.h)."""

FILE_KINDS = frozenset({Kind.PATH, Kind.DIRECTORY, Kind.INODE})

_OCTET = r"(?:25[0-5]|2[0-4]\d|1\d\d|[1-9]?\d)"
_plain_ipv4 = re.compile(rf"{_OCTET}(?:\.{_OCTET}){{3}}", re.ASCII).fullmatch
_leading_zero = re.compile(r"(?:^|[.:])0\d+\.|\.0\d", re.ASCII).search
_plain_inode = re.compile(r"(?:0|[1-9]\d{0,8}):[1-9]\d{0,18}", re.ASCII).fullmatch
_number = re.compile(r"0|[1-9]\d{0,19}", re.ASCII).fullmatch
_NEVER_IN_PATHS = "\0\n\r"
_PROTOCOLS = ("tcp", "udp", "any")
_DIRECTIONS = {
    "egress": Op.EGRESS,
    "connect": Op.EGRESS,
    "bind": Op.BIND,
    "both": Op.EGRESS | Op.BIND,
}


def allowed_operations(kind: Kind) -> Op:
    """Return the operations that a rule of this kind can deny."""
    return FILE_OPS if kind in FILE_KINDS else NET_OPS


def default_operations(kind: Kind) -> Op:
    """Return the operations a rule denies when its author names none."""
    if kind in FILE_KINDS:
        return OPEN_OPS
    return NET_OPS if kind is Kind.PORT else Op.EGRESS


def operation_names(operations: Op) -> list[str]:
    """Return the names of the operations in bit order: ``["read", "write"]``."""
    return [op.name.lower() for op in Op if op & operations and op.name]


def direction(operations: Op) -> str:
    """Return the word of a port rule's direction: ``egress``, ``bind`` or ``both``."""
    return "both" if operations == NET_OPS else "+".join(operation_names(operations))


def implied_id(kind: Kind, target: str, operations: Op, taken: Container[str]) -> str:
    """Return the id of a rule that has none: ``path:/x``, or where taken ``path:/x:read+write``."""
    name = f"{kind.value}:{target}"
    if name not in taken:
        return name
    return f"{name}:{'+'.join(operation_names(operations))}"


def canonical(kind: Kind, text: str) -> str:
    """Return the canonical target.

    Args:
        kind: What the text names.
        text: As the author wrote it, without surrounding blanks.

    Raises:
        ValueError: The text is no such target; the message says why, and what would be right.
    """
    return CANONICAL[kind](text)


def path(text: str) -> str:
    """Return an absolute path without ``//``, ``/./`` or a trailing slash."""
    if text[:1] == "/" != text[-1] and _is_folded(text):
        return text
    folded = _absolute(text)
    if text[-1] == "/" or folded == "/":
        raise ValueError(
            "a path that ends in '/' is a directory: drop the slash, or make it a directory rule"
        )
    return folded


def directory(text: str) -> str:
    """Return an absolute path, as :func:`path`, that ends in one slash."""
    folded = _absolute(text)
    return folded if folded == "/" else folded + "/"


def _absolute(text: str) -> str:
    if text[:1] != "/":
        raise ValueError("a path must be absolute: begin it with '/'")
    if _is_folded(text):
        return text.rstrip("/") or "/"
    if any(character in text for character in _NEVER_IN_PATHS):
        raise ValueError("a path cannot hold a NUL, a newline or a carriage return")
    names = [name for name in text.split("/") if name not in {"", "."}]
    if ".." in names:
        raise ValueError("a path cannot hold '..': write the path it means")
    try:
        if any(len(name.encode()) > NAME_MAX for name in names):
            raise ValueError(f"a name in the path is longer than {NAME_MAX} bytes")
        folded = "/" + "/".join(names)
        if len(folded.encode()) > PATH_MAX - 2:  # room for the NUL and a directory's slash
            raise ValueError(f"the path is longer than {PATH_MAX - 2} bytes")
    except UnicodeEncodeError:
        raise ValueError("the path is not UTF-8: name the file by its inode instead") from None
    return folded


def _is_folded(text: str) -> bool:
    """Return whether a short plain path is canonical, but for a slash at its end."""
    return (
        text.isascii()
        and len(text) <= NAME_MAX
        and not ("//" in text or "/." in text or "\0" in text or "\n" in text or "\r" in text)
    )


def inode(text: str) -> str:
    """Return ``dev:ino``: 32 and 64 bits, decimal; dev is ``(major << 20) | minor``."""
    if _plain_inode(text):
        return text
    dev_text, colon, ino_text = text.partition(":")
    if not colon or not _number(dev_text) or not _number(ino_text):
        raise ValueError("an inode is written dev:ino, decimal numbers without leading zeros")
    dev, ino = int(dev_text), int(ino_text)
    if dev >= 1 << 32:
        raise ValueError("the device number does not fit 32 bits")
    if not 0 < ino < 1 << 64:
        raise ValueError("the inode number must be from 1 to 2^64-1")
    return f"{dev}:{ino}"


def ip(text: str) -> str:
    """Return one address; ``::ffff:10.0.0.1`` is ``10.0.0.1``."""
    return text if _plain_ipv4(text) else str(_address(text))


def _address(text: str) -> ipaddress.IPv4Address | ipaddress.IPv6Address:
    if "/" in text:
        raise ValueError(
            "this is a network: write it as a CIDR rule, or leave off the prefix length"
        )
    if "%" in text:
        raise ValueError("an address cannot hold a zone ('%eth0')")
    if _leading_zero(text):
        raise ValueError("a number in the address has a leading zero: write it without")
    try:
        address = ipaddress.ip_address(text)
    except ValueError:
        raise ValueError("this is no IPv4 or IPv6 address") from None
    mapped = getattr(address, "ipv4_mapped", None)
    return mapped or address


def cidr(text: str) -> str:
    """Return ``network/length``; a mapped IPv6 network of /96 and longer is the IPv4 network."""
    address_text, slash, length_text = text.partition("/")
    if not slash:
        raise ValueError("a CIDR needs a prefix length, like 10.0.0.0/8; one address is an IP rule")
    if not _number(length_text) or len(length_text) > 3:
        raise ValueError("the prefix length after '/' must be a decimal number")
    written = _address_as_written(address_text)
    if int(length_text) > written.max_prefixlen:
        raise ValueError(f"the prefix length goes up to {written.max_prefixlen} here")
    network = ipaddress.ip_network((written, int(length_text)), strict=False)
    if network.network_address != written:
        raise ValueError(f"bits are set right of the prefix: the network is {_unmapped(network)}")
    return _unmapped(network)


def _address_as_written(text: str) -> ipaddress.IPv4Address | ipaddress.IPv6Address:
    unmapped = _address(text)
    return ipaddress.IPv6Address(text) if ":" in text else unmapped


def _unmapped(network: ipaddress.IPv4Network | ipaddress.IPv6Network) -> str:
    mapped = getattr(network.network_address, "ipv4_mapped", None)
    if mapped is None or network.prefixlen < 96:
        return str(network)
    return f"{mapped}/{network.prefixlen - 96}"


def port(text: str) -> str:
    """Return ``port:protocol``; a text with a direction is refused, see :func:`port_rule`."""
    if text.count(":") > 1:
        raise ValueError("a direction has no place here: write port or port:protocol")
    return port_rule(text)[0]


def port_rule(text: str) -> tuple[str, Op]:
    """Parse ``port[:protocol[:direction]]``.

    Returns:
        The canonical target (``22:tcp``) and the operations of the direction.

    Raises:
        ValueError: As :func:`canonical`.
    """
    parts = text.split(":")
    if parts[0] in _PROTOCOLS:
        raise ValueError("the port comes first: write 22:tcp, not tcp:22")
    if len(parts) > 3:
        raise ValueError("a port rule is written port[:protocol[:direction]], like 22:tcp:bind")
    direction = parts[2] if len(parts) == 3 else "both"
    if direction not in _DIRECTIONS:
        raise ValueError("the direction must be egress, connect, bind or both")
    return f"{_port(parts[0])}:{_protocol(parts[1:2])}", _DIRECTIONS[direction]


def ip_port(text: str) -> str:
    """Return ``ip:port:protocol``, an IPv6 address in brackets."""
    if text.startswith("["):
        address_text, bracket, rest = text[1:].partition("]")
        if not bracket or not rest.startswith(":"):
            raise ValueError("an IPv6 address and port are written [2001:db8::1]:443")
        if ":" not in address_text:
            raise ValueError("only an IPv6 address stands in brackets")
        parts = rest[1:].split(":")
    else:
        if text.count(":") > 2:
            raise ValueError("an IPv6 address stands in brackets: [2001:db8::1]:443")
        address_text, _, rest = text.partition(":")
        parts = rest.split(":")
    if len(parts) > 2:
        raise ValueError(
            "an address and port are written ip:port[:protocol], like 10.0.0.1:443:tcp"
        )
    address = _address(address_text)
    shown = str(address) if address.version == 4 else f"[{address}]"
    return f"{shown}:{_port(parts[0])}:{_protocol(parts[1:])}"


def _port(text: str) -> int:
    if not _number(text) or not 1 <= int(text) <= 65535:
        raise ValueError("a port is a number from 1 to 65535, without leading zeros")
    return int(text)


def _protocol(parts: list[str]) -> str:
    if not parts:
        return "any"
    if parts[0] not in _PROTOCOLS:
        raise ValueError("the protocol must be tcp, udp or any")
    return parts[0]


def cgroup(text: str) -> str:
    """Return a cgroup path from the cgroup root (``/system.slice``), or ``cgid:N``.

    A relative path is taken from the cgroup root.
    """
    if text.startswith("cgid:"):
        digits = text[5:].strip(" \t")
        if not _number(digits) or not 0 < int(digits) < 1 << 64:
            raise ValueError("a cgroup id is written cgid:N, N from 1 to 2^64-1")
        return f"cgid:{int(digits)}"
    if not text or text != text.strip(" \t"):
        raise ValueError("a cgroup path cannot be empty, or begin or end with a blank")
    return _absolute(text if text.startswith("/") else "/" + text)


def split_ports(target: str) -> tuple[str, int, str]:
    """Take a canonical PORT or IP_PORT target apart.

    Returns:
        Address (``""`` for PORT; no brackets), port, protocol.
    """
    rest, protocol = target.rsplit(":", 1)
    address, _, port_text = rest.rpartition(":")
    return address.strip("[]"), int(port_text), protocol


CANONICAL: dict[Kind, Callable[[str], str]] = {
    Kind.PATH: path,
    Kind.DIRECTORY: directory,
    Kind.INODE: inode,
    Kind.IP: ip,
    Kind.CIDR: cidr,
    Kind.PORT: port,
    Kind.IP_PORT: ip_port,
}
"""The function of each kind, for loops that cannot afford :func:`canonical`'s look-up."""
