"""Read what is live without the lock, and again where a commit came between."""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeVar

from aegis_tools.cli.output import App
from aegis_tools.control.live import Live
from aegis_tools.errors import StateError
from aegis_tools.kernel.pins import Pins

_T = TypeVar("_T")
_TRIES = 20


def read_live(app: App, read: Callable[[Live], _T]) -> _T:
    """Return what ``read`` finds, all of it of one policy.

    Raises:
        StateError: The policy kept changing.
    """
    with Live(Pins(app.paths.pins)) as live:
        for _ in range(_TRIES):
            before = live.slot, live.info()
            try:
                found = read(live)
            except FileNotFoundError:  # the slot's map was freed between its id and its use
                continue
            if (live.slot, live.info()) == before:
                return found
    raise StateError("the policy keeps changing", hint="run the command again")
