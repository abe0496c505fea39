"""Policies of so many rules, one of which names what is there to be hit; and what no rule names.

What fills a policy up is what makes a lookup longest: names and inodes that do not exist,
directories that do, networks that begin as the address that is looked up does, ports of TCP and of
UDP.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import islice
from pathlib import Path

from aegis_tools.control.resolve import Rules, resolve
from aegis_tools.kernel.inode_keys import Identifier
from aegis_tools.kernel.loader import LoadOptions
from aegis_tools.kernel.pins import Pins
from aegis_tools.policy.model import Kind, Op, Policy, Rule
from aegis_tools.policy.targets import implied_id
from benchmarks.calls import FILES, NETWORK, Calls, Told, build, free_port, place, receiver
from benchmarks.calls import KINDS as CALLS
from benchmarks.hooks import Hooks, hooks

COUNTS = (0, 1, 100, 1000, 10_000, 65_536)
CAPACITIES = {**dict.fromkeys(("deny_cidr_v4_map", "deny_port_map", "deny_dir_map"), 70_000),
              "rules": 400_000}  # fmt: skip
"""Room for the largest, where the default has less."""
FILE_OPS = Op.READ | Op.WRITE | Op.EXEC
NET_OPS = Op.EGRESS | Op.BIND
_DEVICE = 250 << 20 | 7
_DIRECTORIES = 256  # in one


@dataclass(frozen=True)
class Place:
    """Files and ports that rules name, or do not.

    Attributes:
        folder: Of all of them.
        calls: The program, which is what is opened and executed.
        port: That no rule names.
        ruled_port: The other.
        receivers: Sockets, by the place they are bound to.
    """

    folder: Path
    calls: Calls
    port: int
    ruled_port: int
    receivers: dict[str, int]

    @property
    def hit(self) -> Path:
        """A program that is named."""
        return self.folder / "hit/at/program"

    @property
    def beside(self) -> Path:
        """A program in the same directory, which is not."""
        return self.folder / "hit/at/beside"

    @property
    def miss(self) -> Path:
        """A program as deep as these, elsewhere."""
        return self.folder / "miss/at/program"

    def subjects(self, kind: str, call: str) -> dict[str, str]:
        """Return what a call is made on, by what the rules of a kind make of it."""
        if call in FILES:
            paths = {"miss": self.miss, "hit": self.hit}
            if kind == "name":
                paths["beside"] = self.beside
            return {name: str(path) for name, path in paths.items()}
        host = 3 if call == "bind" else 1  # where something receives, nobody else can be bound
        if kind == "port":
            return {"miss": place(self.port, host), "hit": place(self.ruled_port, host)}
        ruled = self.ruled_port if call == "bind" else self.port
        return {"miss": place(self.port, host), "hit": place(ruled, host=2)}

    def told(self, call: str, subject: str, times: int = 1) -> Told:
        """Make calls of a kind on one of its subjects, ``times`` the batches of a run."""
        kind = CALLS[call]
        return self.calls.run(
            kind.letter, kind.calls, times * kind.batches, subject, self.receivers.get(subject)
        )


@contextlib.contextmanager
def prepared(options: LoadOptions | None = None) -> Iterator[tuple[Hooks, Place]]:
    """Yield the hooks, loaded with room for every policy if nothing else, and a place for it."""
    with hooks(options or LoadOptions(capacities=CAPACITIES)) as made:
        folder = made.box.folder / "place"
        folder.mkdir()
        with places(folder, build(made.box.folder)) as place:
            yield made, place


@contextlib.contextmanager
def places(folder: Path, calls: Calls) -> Iterator[Place]:
    """Make files, and sockets that receive."""
    with contextlib.ExitStack() as stack:
        port, ruled = islice({free_port(): 0 for _ in range(99)}, 2)
        found = {}
        for each, host in ((port, 1), (ruled, 1), (port, 2)):
            found[place(each, host)] = stack.enter_context(receiver(host, each)).fileno()
        made = Place(folder, calls, port, ruled, found)
        for path in (made.hit, made.beside, made.miss):
            path.parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(calls.program, path)
        yield made


def _inodes(place: Place) -> Iterator[tuple[Kind, str]]:
    info = place.hit.stat()
    yield Kind.INODE, f"{os.major(info.st_dev) << 20 | os.minor(info.st_dev)}:{info.st_ino}"
    for number in range(1_000_000, 2_000_000):
        yield Kind.INODE, f"{_DEVICE}:{number}"


def _names(place: Place) -> Iterator[tuple[Kind, str]]:
    yield Kind.PATH, str(place.hit)
    other = place.folder / "names"
    other.mkdir(exist_ok=True)
    for number in range(1_000_000):
        yield Kind.PATH, f"{other}/file-{number:06}"


def _directories(place: Place) -> Iterator[tuple[Kind, str]]:
    yield Kind.DIRECTORY, f"{place.hit.parent}/"
    for number in range(1_000_000):
        made = place.folder / "dirs" / str(number // _DIRECTORIES) / str(number)
        made.mkdir(parents=not number % _DIRECTORIES, exist_ok=True)
        yield Kind.DIRECTORY, f"{made}/"


def _networks(_place: Place) -> Iterator[tuple[Kind, str]]:
    yield Kind.CIDR, "127.0.0.2/32"
    for number in range(1, 1 << 17):  # 127.0.0.0/24 is left out
        yield Kind.CIDR, f"127.{number >> 9}.{number >> 1 & 255}.{(number & 1) << 7}/25"


def _ports(place: Place) -> Iterator[tuple[Kind, str]]:
    yield Kind.PORT, f"{place.ruled_port}:any"
    for protocol in ("tcp", "udp"):
        for number in range(1, 1 << 16):
            if number not in (place.port, place.ruled_port):
                yield Kind.PORT, f"{number}:{protocol}"


KINDS: dict[str, Callable[[Place], Iterator[tuple[Kind, str]]]] = {
    "inode": _inodes,
    "name": _names,
    "directory": _directories,
    "cidr": _networks,
    "port": _ports,
}
ALL = "all kinds"
"""As many rules of each kind: what an open or a connect misses is looked up in every map."""


def calls_of(kind: str) -> tuple[str, ...]:
    """Return the calls that rules of a kind are about."""
    if kind == ALL:
        return (*FILES, *NETWORK)
    return NETWORK if kind in ("cidr", "port") else FILES


def ruleset(kind: str, count: int, place: Place, pins: Pins) -> Rules:
    """Compile a policy of ``count`` rules of a kind; the first names what is there to be hit."""
    wanted = KINDS.values() if kind == ALL else [KINDS[kind]]
    named = [each for make in wanted for each in islice(make(place), count)]
    policy = Policy(tuple(_rule(*each) for each in named), (), 1)
    with Identifier(pins) as identifier:
        return resolve(policy, identifier, {}, now=time.time(), fallback=pins.is_fallback())


def _rule(kind: Kind, target: str) -> Rule:
    operations = NET_OPS if kind in (Kind.CIDR, Kind.PORT) else FILE_OPS
    return Rule(implied_id(kind, target, operations, ()), kind, target, operations)
