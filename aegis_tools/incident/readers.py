"""Readers of single parts of a host, for ``facts``: units, events, counters, program run time."""

from __future__ import annotations

import contextlib
import os
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

from aegis_tools.agent.eventsource import Journal
from aegis_tools.agent.search import Event, Query, Search, time_text
from aegis_tools.control.bootclock import Seams
from aegis_tools.control.live import Live
from aegis_tools.control.names import Names
from aegis_tools.control.service import ENABLED
from aegis_tools.errors import AegisError, CommandError
from aegis_tools.kernel import syscall
from aegis_tools.kernel.layout import RULE_ATTR, Stat
from aegis_tools.kernel.run import Runner
from aegis_tools.paths import Paths
from aegis_tools.policy.model import Mode

AGENT_UNIT = "aegisbpf.service"
EVENT_SECONDS = 1.5
"""The longest that events are read for."""
_EVENTS = 20000
_TOP = 10
_PROPERTIES = (
    "Id", "LoadState", "ActiveState", "SubState", "UnitFileState", "Result", "NRestarts",
    "ExecMainStatus",
)  # fmt: skip


class Unit(NamedTuple):
    """A systemd unit.

    Attributes:
        name: ``aegisbpf.service``.
        load: ``loaded``, ``not-found`` …
        active: ``active``, ``activating``, ``failed`` …
        sub: ``running``, ``auto-restart`` …
        file: ``enabled`` …
        result: Of its last end: ``success``, ``exit-code`` …
        restarts: By systemd, since it was last started by hand.
        status: The exit code of its main process.
    """

    name: str
    load: str = ""
    active: str = ""
    sub: str = ""
    file: str = ""
    result: str = ""
    restarts: int = 0
    status: int = 0

    @property
    def starts_again(self) -> bool:
        """Whether it is being started once more, having died before that more than once."""
        return self.active == "activating" and self.restarts >= 2


class RuleUse(NamedTuple):
    """How a rule matched.

    Attributes:
        id: Its id, or ``unknown:`` and its number.
        mode: ``audit`` or ``enforce``, the rule's own.
        by_hand: Made by hand, and by no policy.
        blocks: Refusals since the load.
        audits: Matches that were let pass.
        block_rate: Refusals a second between the looks.
        audit_rate: The others.
        ago: Seconds since it matched last; None for never.
    """

    id: str
    mode: str
    by_hand: bool
    blocks: int
    audits: int
    block_rate: float
    audit_rate: float
    ago: float | None


class Refused(NamedTuple):
    """Who was refused what, from events.

    Attributes:
        rule: The rule's id.
        comm: The process.
        unit: Its systemd unit; may be empty.
        operation: ``read`` …
        path: Path or address.
        times: How often.
        first: Time of the first one.
        last: Time of the last one.
    """

    rule: str
    comm: str
    unit: str
    operation: str
    path: str
    times: int
    first: str
    last: str


class Hook(NamedTuple):
    """What a program cost.

    Attributes:
        name: Of the program.
        runs: A second.
        each: Nanoseconds a run.
        share: Of one CPU.
    """

    name: str
    runs: float
    each: float
    share: float


def has_systemd() -> bool:
    """Return whether systemd runs: see sd_booted(3)."""
    return Path("/run/systemd/system").is_dir()


def read_units(run: Runner) -> tuple[Unit, ...]:
    """Return what systemd says of our units.

    Raises:
        CommandError: It does not answer.
    """
    text = run(["systemctl", "show", f"--property={','.join(_PROPERTIES)}", *ENABLED], timeout=10)
    return tuple(parse_units(text))


def parse_units(text: str) -> Iterator[Unit]:
    """Yield the units in the output of ``systemctl show``: paragraphs of ``Name=value``."""
    for paragraph in text.split("\n\n"):
        found = dict(line.partition("=")[::2] for line in paragraph.splitlines() if "=" in line)
        if found.get("Id"):
            yield Unit(
                found["Id"], found.get("LoadState", ""), found.get("ActiveState", ""),
                found.get("SubState", ""), found.get("UnitFileState", ""),
                found.get("Result", ""), _number(found.get("NRestarts")),
                _number(found.get("ExecMainStatus")),
            )  # fmt: skip


def _number(text: str | None) -> int:
    return int(text) if text and text.isascii() and text.isdecimal() and len(text) < 10 else 0


def read_refused(since: float, boot_ns: Callable[[], int]) -> tuple[Refused, ...]:
    """Return who was refused most since a time, from the journal, reading for a moment at most.

    Args:
        since: Unix seconds.
        boot_ns: A clock.

    Raises:
        CommandError: There is no journal.
    """
    end = boot_ns() + int(EVENT_SECONDS * 1e9)
    search = Search(Query(since=time_text(since), action="BLOCK"))
    # From its own view of the unit: what others wrote about it is none of its events.
    with contextlib.closing(_batches(search, since)) as batches:
        return count_refused(_until(batches, end, boot_ns))


def _batches(search: Search, since: float) -> Any:
    return search.among(Journal(AGENT_UNIT, since=since).batches())


def _until(batches: Any, end: int, boot_ns: Callable[[], int]) -> Iterator[Event]:
    read = 0
    for batch in batches:
        for _, event in batch:
            yield event
        read += len(batch)
        if read >= _EVENTS or boot_ns() >= end:
            return


_Key = tuple[str, str, str, str, str]


def count_refused(events: Iterator[Event]) -> tuple[Refused, ...]:
    """Return the most frequent refusals among events."""
    counts: Counter[_Key] = Counter()
    times: dict[_Key, tuple[str, str]] = {}
    for event in events:
        place = event.get("path") or event.get("address", "")
        key = (event["rule"], event["comm"], event["unit"], event["operation"], place)
        first, last = event.get("first") or event["time"], event["time"]
        before = times.get(key, (first, last))
        times[key] = min(before[0], first), max(before[1], last)
        counts[key] += event["count"]
    return tuple(Refused(*key, count, *times[key]) for key, count in counts.most_common(_TOP))


class FirstLook:
    """Counters at one moment, to be compared with those of a later one."""

    def __init__(self, live: Live, seams: Seams) -> None:
        self._seams = seams
        self._live = live
        self.at = seams.boot_ns()
        self.stats = live.stats()
        self.hits = live.hits()

    def hooks_after(self, seconds: float, sleep: Callable[[float], None]) -> tuple[Hook, ...]:
        """Wait, while the kernel measures programs; return what they cost.

        Nothing where it cannot measure (before 5.8) or does not let us; the wait is over all the
        same.
        """
        if not seconds:
            return ()
        try:
            counting = syscall.enable_run_stats()
        except OSError:
            sleep(seconds)
            return ()
        try:
            before = dict(_programs(self._live))
            began = self._seams.boot_ns()
            sleep(seconds)
            taken = max(self._seams.boot_ns() - began, 1)
            after = dict(_programs(self._live))
        finally:
            os.close(counting)
        found = [_hook(name, before.get(name, (0, 0)), after[name], taken) for name in after]
        return tuple(sorted(found, key=lambda hook: -hook.share))

    def second_look(self, live: Live, paths: Paths, recent: float) -> dict[str, Any]:
        """Return counters, rates and rules."""
        now = self._seams.boot_ns()
        stats, hits = live.stats(), live.hits()
        taken = (now - self.at) / 1e9
        rates = {stat: max(0, stats[stat] - self.stats[stat]) / taken if taken else 0.0
                 for stat in Stat}  # fmt: skip
        return {
            "seconds": round(taken, 3),
            "counters": {stat.name.lower(): count for stat, count in stats.items()},
            "rates": {stat.name.lower(): round(rate, 3) for stat, rate in rates.items()},
            "rules": _rules(live, paths, self.hits, hits, now=now, taken=taken, recent=recent),
        }


def first_look(live: Live, seams: Seams) -> FirstLook:
    """Read the counters."""
    return FirstLook(live, seams)


def _programs(live: Live) -> Iterator[tuple[str, tuple[int, int]]]:
    for name in live.pins.names("progs"):
        if name.startswith("aegis_"):
            fd = live.pins.open_program(name)
            try:
                info = syscall.program_info(fd)
            finally:
                os.close(fd)
            yield name, (info["run_cnt"], info["run_time_ns"])


def _hook(name: str, before: tuple[int, int], after: tuple[int, int], taken: int) -> Hook:
    runs, spent = max(0, after[0] - before[0]), max(0, after[1] - before[1])
    return Hook(
        name,
        round(runs * 1e9 / taken, 1),
        round(spent / runs, 1) if runs else 0.0,
        round(spent / taken, 6),
    )


Hits = dict[int, tuple[int, int, int]]


def _rules(
    live: Live, paths: Paths, before: Hits, after: Hits, *, now: int, taken: float, recent: float
) -> tuple[RuleUse, ...]:
    """Return the rules that matched most in between, then those that matched lately."""
    fresh = [uid for uid, (_, _, last) in after.items() if last and now - last <= recent * 1e9]
    grown = {uid: sum(after[uid][:2]) - sum(before.get(uid, (0, 0, 0))[:2]) for uid in fresh}
    top = sorted(fresh, key=lambda uid: (-grown[uid], -after[uid][0], -after[uid][2]))[:_TOP]
    if not top:
        return ()
    modes, names, by_hand = _enforced(live, top), Names(live, paths), live.manual_rules()
    found = []
    for uid in top:
        (blocks, audits, last), was = after[uid], before.get(uid, (0, 0, 0))
        mode = Mode.ENFORCE if uid in modes else Mode.AUDIT
        found.append(
            RuleUse(
                id=_name(names, uid),
                mode=mode.value,
                by_hand=uid in by_hand,
                blocks=blocks,
                audits=audits,
                block_rate=round(max(0, blocks - was[0]) / taken, 3) if taken else 0.0,
                audit_rate=round(max(0, audits - was[1]) / taken, 3) if taken else 0.0,
                ago=round(max(0, now - last) / 1e9, 1),
            )
        )
    return tuple(found)


def _enforced(live: Live, uids: list[int]) -> set[int]:
    """Return those of the rules that refuse, when the host enforces."""
    inner = live.inner("rules")
    if inner is None:
        return set()
    with inner:
        values = {uid: inner.get(uid.to_bytes(8, "little")) for uid in uids}
    return {uid for uid, value in values.items() if value and RULE_ATTR.unpack(value)[0]}


def _name(names: Names, uid: int) -> str:
    with contextlib.suppress(AegisError, CommandError, OSError):
        return names.name(uid)
    return f"unknown:{uid:016x}"
