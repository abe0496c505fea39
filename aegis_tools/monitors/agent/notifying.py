"""The notifier, which new settings replace while it runs; its counts go on."""

from __future__ import annotations

import threading
from collections import Counter
from typing import Any

from aegis_tools.monitors.notify import notifier
from aegis_tools.monitors.notify.settings import Settings

PATIENCE = 2.0
"""Seconds that each destination has to send what waits."""


class Notifying:
    """Notifications, by settings that may change.

    Args:
        settings: Who is told.
    """

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._now = notifier.of(settings)
        self._past: dict[str, Counter[str]] = {}

    def tell(self, event: dict[str, Any]) -> None:
        """Take an event (limit.schema.json); never blocks."""
        self._now.tell(event)

    def tick(self) -> None:
        """Send what was held back and may go now."""
        self._now.tick()

    def change(self, settings: Settings) -> bool:
        """Tell others from now on; return whether they are others. What waits is still sent."""
        if settings == self._settings:
            return False
        before, self._now, self._settings = self._now, notifier.of(settings), settings
        for name, counts in before.counts().items():
            self._past[name] = self._past.get(name, Counter()) + Counter(counts)
        threading.Thread(target=before.close, args=(PATIENCE,), daemon=True).start()
        return True

    def counts(self) -> dict[str, dict[str, int]]:
        """Return what became of events, by destination."""
        found = {name: Counter(counts) for name, counts in self._past.items()}
        for name, counts in self._now.counts().items():
            found.setdefault(name, Counter()).update(counts)
        return {name: dict(counts) for name, counts in found.items()}

    def close(self) -> None:
        """Send what waits."""
        self._now.close(PATIENCE)
