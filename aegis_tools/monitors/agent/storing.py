"""Events to the store, as far as one is wanted and to be had; the rest goes on without it."""

from __future__ import annotations

import contextlib
import socket
import time
from collections import Counter
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from aegis_tools.control.lock import locked
from aegis_tools.errors import AegisError
from aegis_tools.monitors.agent.saying import Saying
from aegis_tools.monitors.agent.settings import Keeping
from aegis_tools.monitors.reading import AGENT
from aegis_tools.paths import Paths

if TYPE_CHECKING:
    from aegis_tools.monitors.store.place import Place
    from aegis_tools.monitors.store.retention import Keep
    from aegis_tools.monitors.store.writer import Writer

Event = dict[str, Any]
AGAIN = 5.0
"""Seconds until it is tried again to have a store."""
_MICRO = 1_000_000
_COUNTED = ("stored", "dropped", "invalid")


class Storing:
    """The store of the agent.

    Args:
        paths: Of which host.
        saying: What goes wrong is said there.
        profile_of: Returns the name of the profile an event belongs to; in another thread.
    """

    def __init__(
        self, paths: Paths, saying: Saying, profile_of: Callable[[Event], str | None]
    ) -> None:
        self._paths = paths
        self._saying = saying
        self._profile_of = profile_of
        self._keeping: Keeping | None = None
        self._stack = contextlib.ExitStack()
        self._writer: Writer | None = None
        self._place: Place | None = None
        self._failing = ""
        self._again = 0.0
        self._past: dict[str, Counter[str]] = {name: Counter() for name in _COUNTED}

    def want(self, keeping: Keeping | None) -> None:
        """Begin to store, go on with other limits, or end it."""
        self._keeping, self._again = keeping, 0.0
        if keeping is None or self._moved():
            self.close(1.0)
        elif self._writer is not None:
            self._writer.keep = _keep(keeping)
        self.look()

    def look(self) -> None:
        """Have a store, where one is wanted and it could not be had until now."""
        now = time.monotonic()
        if self._keeping is None or self._writer is not None or now < self._again:
            return
        self._again = now + AGAIN
        try:
            with contextlib.ExitStack() as stack:
                self._open(stack, self._keeping)
                self._stack = stack.pop_all()
        except AegisError as error:
            self._failing = error.message
            self._saying.trouble("store", error)
        else:
            self._failing = ""
            self._saying.fine("store", "the monitors' store works again")

    def offer(self, event: Event) -> None:
        """Take an event; it is dropped, and counted, where there is no room for it."""
        if self._writer is not None:
            self._writer.offer(event)
        elif self._keeping is not None:
            self._past["dropped"][event["monitor"]] += 1

    def facts(self) -> dict[str, Any] | None:
        """Return what the heartbeat says; None where nothing is to be stored."""
        if self._keeping is None:
            return None
        failing = self._writer.failing if self._writer is not None else None
        return {
            "place": self._place.shown if self._place is not None else "",
            **{name: dict(self._counts(name)) for name in _COUNTED},
            "waiting": self._writer.waiting if self._writer is not None else 0,
            "failing": (failing.message if failing is not None else self._failing) or None,
        }

    def close(self, timeout: float) -> None:
        """Store what waits, for so many seconds at most."""
        writer, stack = self._writer, self._stack
        if writer is None:
            return
        writer.close(timeout)
        for name in _COUNTED:
            self._past[name] = self._counts(name)
        self._writer = None
        stack.close()

    def _counts(self, name: str) -> Counter[str]:
        now = getattr(self._writer.counts, name) if self._writer is not None else Counter[str]()
        return self._past[name] + Counter(now)

    def _open(self, stack: contextlib.ExitStack, keeping: Keeping) -> None:
        from aegis_tools.monitors.store import place
        from aegis_tools.monitors.store.database import Database
        from aegis_tools.monitors.store.store import Store
        from aegis_tools.monitors.store.writer import Writer

        self._place = place.find(self._paths)
        stack.enter_context(locked(self._paths.monitor_store_lock, AGENT, timeout=0))
        database = Database(self._place)
        host = "" if database.is_sqlite else socket.gethostname()
        store = Store(database, host=host, profile_of=self._profile_of)  # type: ignore[arg-type]
        self._writer = Writer(store, keep=_keep(keeping), tell=self._saying.note)
        self._writer.start()

    def _moved(self) -> bool:
        """Return whether the store is to be in another place than the one that is open."""
        from aegis_tools.monitors.store import place

        if self._writer is None:
            return False
        try:
            return place.find(self._paths) != self._place
        except AegisError:
            return True


def _keep(keeping: Keeping) -> Keep:
    from aegis_tools.monitors.store.retention import Keep

    return Keep(keeping.events * _MICRO, keeping.hourly * _MICRO, keeping.size)
