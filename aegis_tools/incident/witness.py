"""What the kernel and the events tell of refusals, gathered for the one who has to choose."""

from __future__ import annotations

import threading
from collections.abc import Iterable, Mapping
from contextlib import suppress
from typing import NamedTuple

from aegis_tools.agent.eventsource import Files, Journal
from aegis_tools.agent.search import Query, Search, time_text
from aegis_tools.control.history import Entry, History
from aegis_tools.control.live import Live, boot_to_wall_ns
from aegis_tools.control.manual import PREFIX
from aegis_tools.control.names import Names
from aegis_tools.control.pending import known_records
from aegis_tools.control.rows import moment
from aegis_tools.control.steady import Policies
from aegis_tools.control.store import Store
from aegis_tools.errors import AegisError
from aegis_tools.incident import provenance
from aegis_tools.incident.byhand import enforces
from aegis_tools.incident.provenance import Provenance
from aegis_tools.incident.refusals import REFUSED, Seen, Suspect
from aegis_tools.incident.relief import number_of
from aegis_tools.paths import Paths

PATIENCE = 10.0
"""Seconds that events are read; what was found by then is what there is."""
_RULES = 4096
_HISTORY = 2000


class Events(NamedTuple):
    """What events show.

    Attributes:
        by_rule: Refusals by rule id.
        trouble: Why there may be more; empty where all of them were read.
    """

    by_rule: dict[str, Seen]
    trouble: str


def read_events(source: Files | Journal, since: float, *, patience: float = PATIENCE) -> Events:
    """Return the refusals since a time, as far as they are read in time.

    Args:
        source: Where events are.
        since: Unix seconds.
        patience: Seconds to read.
    """
    found: dict[str, Seen] = {}
    trouble = ["not all events could be read in time"]
    guard, stop = threading.Lock(), threading.Event()

    def work() -> None:
        said = ""
        try:
            for batch in Search(Query(since=time_text(since))).among(source.batches()):
                with guard:
                    if stop.is_set():
                        return
                    _add(found, (event for _, event in batch))
        except AegisError as error:
            said = f"events cannot be read: {error.message}"
        except Exception as error:  # of a thread it would be lost
            said = f"events cannot be read: {error}"
        trouble[0] = said

    # By a thread: a journal that does not answer must not keep anybody.
    thread = threading.Thread(target=work, daemon=True)
    thread.start()
    thread.join(patience)
    with guard:
        stop.set()
        return Events(dict(found), trouble[0])


def _add(found: dict[str, Seen], events: Iterable[Mapping[str, object]]) -> None:
    for event in events:
        rule = str(event["rule"])
        if event["action"] in REFUSED and (rule in found or len(found) < _RULES):
            found.setdefault(rule, Seen()).add(event)


def suspects(
    live: Live, names: Names, events: Events, refusers: Mapping[int, tuple[int, int]]
) -> list[Suspect]:
    """Return the rules that have refused something lately, and would again.

    Args:
        live: The loaded maps.
        names: Says what rules are called.
        events: What events show.
        refusers: What the kernel had counted when it was asked first; see ``relief.refusers``.
    """
    told = {number_of(rule) for rule, seen in events.by_rule.items() if seen.count}
    return [
        suspect(live, names, events, uid, refusers.get(uid, (0, 0)))
        for uid in {*refusers, *told}
        if enforces(live, uid)
    ]


def suspect(
    live: Live, names: Names, events: Events, uid: int, hits: tuple[int, int] = (0, 0)
) -> Suspect:
    """Return what is known of one rule; see :func:`suspects`."""
    blocks, last_ns = hits
    name, rule = names.name(uid), names.get(uid)
    if not blocks:
        blocks, _, last_ns = live.hits().get(uid, (0, 0, 0))
    last = (last_ns + boot_to_wall_ns()) / 1e9 if last_ns else 0.0
    seen = events.by_rule.get(name, Seen())
    target = rule.target if rule else ""
    return Suspect(name, uid, target, _source(names, uid), blocks, last, seen)


def _source(names: Names, uid: int) -> str:
    rule = names.get(uid)
    if rule is None:
        return "unknown"
    return "manual" if rule.id.startswith(PREFIX) else "policy"


class Origins:
    """Says where live rules come from; files are read when the first is asked for.

    Args:
        paths: Where they are.
        live: The loaded maps.
        names: Says what rules are called.
    """

    def __init__(self, paths: Paths, live: Live, names: Names) -> None:
        self._store, self._names = Store(paths), names
        self._records = live.manual_rules()
        info = live.info()
        self._digest = info.bundle.hex() if any(info.bundle) else ""
        self._policies = Policies(self._store)
        self._history: tuple[Entry, ...] = ()
        with suppress(AegisError):
            self._history = History(paths.history).read(_HISTORY).entries

    def of(self, uid: int) -> Provenance:
        """Return where a rule comes from."""
        rule = self._names.get(uid)
        if rule is None:
            return Provenance(self._names.name(uid), "unknown")
        if uid in self._records:
            return provenance.by_hand(rule.id, self._records[uid], self._history)
        found = provenance.of_policy(
            rule, self._history, self._policies.rules, live=self._digest, signers=self._signers()
        )
        serial = found.serial or self._serial()
        by = provenance.mode_by(rule.id, self._records.values(), moment)
        return found._replace(serial=serial, mode_by=by)

    def _record(self) -> object:
        with suppress(AegisError):
            return next((r for r in known_records(self._store) if r.digest == self._digest), None)
        return None

    def _signers(self) -> tuple[str, ...]:
        return tuple(getattr(self._record(), "signers", ()))

    def _serial(self) -> int:
        return int(getattr(self._record(), "serial", 0))


def describe(suspect: Suspect, origin: Provenance, probed: int) -> dict[str, object]:
    """Return what the record keeps of a rule.

    Args:
        suspect: The rule, and what it refused.
        origin: Where it comes from.
        probed: How often it matched while the probe was made.
    """
    seen = suspect.seen.to_dict()
    processes = [
        f"{one['process']}[{one['pid']}] {one['unit'] or '-'} {one['operation']} {one['what']}"
        f" ({one['count']} times)"
        for one in seen["processes"]
    ]
    operations = sorted({one["operation"] for one in seen["processes"]})
    who = "; ".join(filter(None, (f"{origin.action} by {origin.by}".strip(), origin.mode_by)))
    return {
        "id": suspect.rule,
        "text": f"{suspect.target} ({suspect.source})",
        "since": moment(origin.since) if origin.since else "",
        "applied_by": who if origin.by or origin.mode_by else "",
        "signers": list(origin.signers),
        "policy": origin.digest,
        "serial": origin.serial,
        "hits": {
            "refused_since_load": suspect.refused,
            "refused_lately": suspect.seen.count,
            "first": suspect.seen.first,
            "last": suspect.seen.last or (moment(suspect.last) if suspect.last else ""),
            "during_probe": probed,
        },
        "processes": processes,
        "operations": operations,
    }


def met(before: Mapping[int, tuple[int, int, int]], live: Live) -> dict[int, int]:
    """Return how often rules have matched since a look at the counts, those that have."""
    now = live.hits()
    rose = {uid: sum(n[:2]) - sum(before.get(uid, (0, 0))[:2]) for uid, n in now.items()}
    return {uid: count for uid, count in rose.items() if count > 0}
