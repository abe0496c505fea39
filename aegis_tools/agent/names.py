"""Numbers in events to the names people know: looked up once, kept, and bounded in number."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from contextlib import suppress

from aegis_tools.agent.enrich import Place, place_of
from aegis_tools.control import manual
from aegis_tools.control.live import Live
from aegis_tools.control.source import stored_policy
from aegis_tools.control.store import Store
from aegis_tools.errors import AegisError
from aegis_tools.kernel.layout import uid_of
from aegis_tools.paths import Paths

TOO_MANY = "(too many addresses)"
"""What stands for a rule where a call named more SCTP addresses than are looked through."""


class RuleNames:
    """Rule ids by uid.

    Args:
        read: Reads all ids of what is live now.
        clock: Seconds that only grow; an unknown uid makes it read again, once a second.
    """

    def __init__(self, read: Callable[[], Mapping[int, str]], clock: Callable[[], float]) -> None:
        self._read = read
        self._clock = clock
        self._next = 0.0
        self._names: Mapping[int, str] = {}

    def get(self, uid: int) -> str:
        """Return the rule's id, or ``unknown:HEX``."""
        name = self._names.get(uid)
        if name is None and self._clock() >= self._next:
            self._next = self._clock() + 1
            self._names = self._read()
            name = self._names.get(uid)
        return name or f"unknown:{uid:016x}"


class RuleIds:
    """Ids of the rules that are live, and of those of the policy before: events may be of it.

    Args:
        paths: Where policies are kept.
        live: The loaded maps.
    """

    def __init__(self, paths: Paths, live: Live) -> None:
        self._store = Store(paths)
        self._live = live
        self._policies: dict[bytes, dict[int, str]] = {}

    def read(self) -> dict[int, str]:
        """Return them by uid; a policy that was read is not read again."""
        try:
            digests = {self._live.info().bundle}
            by_hand = self._live.manual_rules()
        except (AegisError, OSError):  # removed meanwhile: numbers must do
            return {}
        with suppress(AegisError, OSError):
            digests |= {bytes.fromhex(r.digest) for r in self._store.records() if r is not None}
        known = self._policies
        self._policies = {digest: known[digest] for digest in digests if digest in known}
        found: dict[int, str] = {}
        for digest in filter(any, digests):
            if digest not in known:
                with suppress(AegisError, OSError):
                    policy = stored_policy(self._store, digest)
                    self._policies[digest] = {uid_of(rule.id): rule.id for rule in policy.rules}
            found |= self._policies.get(digest, {})
        found |= {uid: manual.id_of(record) for uid, record in by_hand.items()}
        return found | {0: TOO_MANY}


class Places:
    """Where processes run, by cgroup id, the newest ``room`` of them kept.

    Ids are not used again while the host is up, so a path that was found stays true; one
    that was not found may belong to a cgroup in another namespace, and is kept as well.
    """

    def __init__(self, find: Callable[[int], str | None], room: int = 4096) -> None:
        self._find = find
        self._room = room
        self._places: dict[int, Place] = {}

    def get(self, number: int) -> Place:
        """Return the place, with an empty path for a cgroup that is gone."""
        place = self._places.get(number)
        if place is None:
            path = os.fsencode(self._find(number) or "").decode(errors="backslashreplace")
            place = place_of(path)
            if len(self._places) >= self._room:
                del self._places[next(iter(self._places))]
            self._places[number] = place
        return place
