"""The configuration files that decide what a login needs. Pure: text in, names out.

Each parser takes whatever it is given; what it does not understand it leaves out.
"""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Iterable, Iterator
from typing import NamedTuple


class PamLine(NamedTuple):
    """A line of a PAM service file (pam.conf(5)).

    Attributes:
        module: ``pam_unix.so``, or an absolute path; empty for an include.
        include: The service that is included; empty for a module.
        files: Absolute paths among the arguments.
    """

    module: str
    include: str
    files: tuple[str, ...]


class User(NamedTuple):
    """A line of passwd(5)."""

    name: str
    uid: int
    gid: int
    home: str
    shell: str


def lines(text: str) -> Iterator[str]:
    """Yield lines without comments and blanks; a backslash at the end continues a line."""
    for line in text.replace("\\\n", " ").splitlines():
        bare = line.partition("#")[0].strip()
        if bare:
            yield bare


def pam(text: str) -> list[PamLine]:
    """Parse a file of ``/etc/pam.d``."""
    found = []
    for line in lines(text):
        if line.startswith("@include"):
            name = line[8:].strip()
            if name:
                found.append(PamLine("", name, ()))
            continue
        match = re.match(r"-?\S+\s+(\[[^\]]*\]|\S+)\s+(\S+)(.*)", line)
        if not match:
            continue
        control, module, rest = match.groups()
        if control in ("include", "substack"):
            found.append(PamLine("", module, ()))
            continue
        words = [word.strip("[]").rpartition("=")[2] for word in rest.split()]
        found.append(PamLine(module, "", tuple(w for w in words if w.startswith("/"))))
    return found


def nss(text: str) -> dict[str, list[str]]:
    """Parse nsswitch.conf(5): the services by database, without their ``[action]`` parts."""
    found: dict[str, list[str]] = {}
    for line in lines(text):
        database, separator, rest = line.partition(":")
        if separator and re.fullmatch(r"\w+", database.strip()):
            words = re.sub(r"\[[^\]]*\]?", " ", rest).split()
            names = [word for word in words if re.fullmatch(r"\w+", word)]
            found.setdefault(database.strip(), []).extend(names)
    return found


def sshd(text: str) -> list[tuple[str, str]]:
    """Parse sshd_config(5): (keyword in lower case, value) in order, Match blocks included."""
    found = []
    for line in lines(text):
        match = re.match(r"(\w+)\s*[=\s]\s*(.*)", line)
        if match and (value := match[2].strip().strip('"')):
            found.append((match[1].lower(), value))
    return found


def ssh_ports(options: Iterable[tuple[str, str]]) -> list[int]:
    """Return the ports that sshd is configured to listen on; 22 where none is named."""
    found = []
    for keyword, value in options:
        word = value.split()[0]
        if keyword == "listenaddress":
            word = word.rpartition(":")[2] if word.count(":") == 1 or "]:" in word else ""
        elif keyword != "port":
            continue
        if word.isascii() and word.isdecimal() and len(word) < 6 and 0 < int(word) < 65536:
            found.append(int(word))
    return list(dict.fromkeys(found)) or [22]


def users(text: str) -> list[User]:
    """Parse passwd(5)."""
    found = []
    for line in text.splitlines():
        parts = line.split(":")
        if len(parts) == 7 and _number(parts[2]) and _number(parts[3]):
            found.append(User(parts[0], int(parts[2]), int(parts[3]), parts[5], parts[6].strip()))
    return found


def groups(text: str) -> dict[str, tuple[int, list[str]]]:
    """Parse group(5): number and members by name."""
    found = {}
    for line in text.splitlines():
        parts = line.split(":")
        if len(parts) == 4 and _number(parts[2]):
            found[parts[0]] = (
                int(parts[2]),
                [name for name in parts[3].strip().split(",") if name],
            )
    return found


def sudoers(text: str) -> tuple[set[str], set[str], list[str]]:
    """Parse sudoers(5) as far as needed: users, groups, and files or folders included."""
    names: set[str] = set()
    members: set[str] = set()
    includes: list[str] = []
    text = re.sub(r"(?m)^\s*#include(dir)?\b", r"@include\1", text)
    for line in lines(text):
        first, rest = (*line.split(None, 1), "")[:2]
        if first in ("@include", "@includedir"):
            includes.append(rest.strip().strip('"'))
        elif "=" in rest and not first.startswith("Defaults") and not first.endswith("_Alias"):
            for word in first.split(","):
                (members if word.startswith("%") else names).add(word.lstrip("%"))
        elif first == "User_Alias":
            names.update(rest.partition("=")[2].replace(",", " ").split())
    return names, members, [path for path in includes if path.startswith("/")]


def nameservers(text: str) -> list[str]:
    """Parse resolv.conf(5): the addresses of its name servers, without zones."""
    found = []
    for line in text.splitlines():
        words = line.split()
        if len(words) > 1 and words[0] == "nameserver":
            address = words[1].partition("%")[0]
            try:
                found.append(str(ipaddress.ip_address(address)))
            except ValueError:
                continue
    return found


def shebang(head: str) -> str:
    """Return the interpreter that a script's first line names; empty where there is none."""
    if not head.startswith("#!"):
        return ""
    words = head.split("\n", 1)[0][2:].split()
    return words[0] if words and words[0].startswith("/") else ""


def _number(text: str) -> bool:
    return text.isascii() and text.isdecimal() and len(text) < 11
