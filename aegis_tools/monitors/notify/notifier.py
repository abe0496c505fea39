"""All notifications of a host: rationed, queued, sent. Nothing here blocks whoever tells."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from typing import Any

from aegis_tools.monitors.notify.outbox import Outbox
from aegis_tools.monitors.notify.ration import Event, Ration
from aegis_tools.monitors.notify.settings import Settings

Send = Callable[[Mapping[str, Any]], None]


class Notifier:
    """Gives each event to every destination.

    Args:
        sends: How to send, by the name of the destination.
        burst: Notifications of one profile and limit that may come at once.
        every: Seconds in which one more is earned.
        clock: Seconds that only grow.
    """

    def __init__(
        self,
        sends: Mapping[str, Send],
        *,
        burst: int = 5,
        every: float = 10,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._ration = Ration(burst, every)
        self._clock = clock
        self._outboxes = [Outbox(name, send) for name, send in sends.items()]

    def tell(self, event: Event) -> None:
        """Take an event (limit.schema.json)."""
        passed = self._ration.pass_on(event, self._clock())
        if passed is not None:
            self._put(passed)

    def tick(self) -> None:
        """Send what was held back and may go now; call it every few seconds."""
        for event in self._ration.due(self._clock()):
            self._put(event)

    def counts(self) -> dict[str, dict[str, int]]:
        """Return what became of events, by destination; ``suppressed`` is the same for each."""
        suppressed = self._ration.suppressed
        return {one.name: {**one.counts(), "suppressed": suppressed} for one in self._outboxes}

    def close(self, timeout: float = 5.0) -> bool:
        """Send what waits, each destination for at most so long; return whether all was tried."""
        closed = [one.close(timeout) for one in self._outboxes]
        return all(closed)

    def _put(self, event: Event) -> None:
        for one in self._outboxes:
            one.put(event)


def of(settings: Settings) -> Notifier:
    """Return the notifier that settings ask for."""
    from aegis_tools.monitors.notify.dbus import Bus
    from aegis_tools.monitors.notify.journal import Journal
    from aegis_tools.monitors.notify.webhook import Webhook

    sends: dict[str, Send] = {}
    if settings.journal:
        sends["journal"] = Journal()
    if settings.dbus:
        sends["dbus"] = Bus()
    if settings.webhook is not None:
        sends["webhook"] = Webhook(settings.webhook)
    return Notifier(sends, burst=settings.burst, every=settings.every)
