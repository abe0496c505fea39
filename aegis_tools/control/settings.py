"""The live settings: each one element of the config map, read and written whole."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from aegis_tools.control.live import Live
from aegis_tools.control.posture import MODES, read_posture
from aegis_tools.errors import UsageError
from aegis_tools.kernel.layout import SAMPLE_ALL, Config
from aegis_tools.paths import Paths
from aegis_tools.policy.model import Mode


@dataclass(frozen=True)
class Setting:
    """One setting.

    Attributes:
        name: As the user types it.
        help: What it is, in one line.
        get: Reads it: a number, a text, True or None.
        set: Checks a text and writes it; None for a setting that is only read.
        values: What may be set, for the error message.
    """

    name: str
    help: str
    get: Callable[[Live], Any]
    set: Callable[[Live, Paths, str], None] | None
    values: str


def to_sample(rate: float) -> int:
    """Return the kernel's number for a rate from 0 to 1: events sent of 2^32."""
    return min(SAMPLE_ALL, max(round(rate * SAMPLE_ALL), 1 if rate else 0))


def parse_rate(text: str) -> float:
    """Return a rate from 0 to 1.

    Raises:
        UsageError: It is none.
    """
    try:
        rate = float(text)
    except ValueError:
        rate = math.nan
    if not 0 <= rate <= 1:
        raise UsageError(
            f"{text} is no sample rate", hint="use a number from 0 to 1, such as 0.1 for 10 %"
        )
    return rate


def shown(value: object) -> str:
    """Return a setting's value as ``config get`` prints it."""
    if isinstance(value, bool):
        return "on" if value else "off"
    if isinstance(value, float):
        return f"{value:.6g}"
    return "none" if value is None else str(value)


def _set_rate(live: Live, paths: Paths, text: str) -> None:
    del paths
    live.set_config(Config.SAMPLE, to_sample(parse_rate(text)))


def _set_mode(live: Live, paths: Paths, text: str) -> None:
    from aegis_tools.control.hostmode import switch

    if text not in MODES:
        raise UsageError(f"there is no mode {text}", hint="use audit or enforce")
    switch(paths, live, Mode(text), action="config set")


def _set_disabled(live: Live, paths: Paths, text: str) -> None:
    if text not in ("on", "off"):
        raise UsageError(f"{text} is neither on nor off", hint="use on or off")
    del paths
    live.set_config(Config.DISABLED, text == "on")


SETTINGS = (
    Setting(
        "event-sample-rate",
        "share of matches that send an event; never a share of what is denied",
        lambda live: float(f"{live.config(Config.SAMPLE) / SAMPLE_ALL:.6g}"),
        _set_rate,
        "0 to 1",
    ),
    Setting("mode", "what a match leads to", lambda live: read_posture(live).mode, _set_mode,
            "audit, enforce"),
    Setting(
        "enforce-deadline",
        "seconds until enforce counts as audit; set by applying with a confirmation",
        lambda live: read_posture(live).deadline,
        None,
        "",
    ),
    Setting(
        "disabled",
        "on: every hook returns at once, nothing is denied or reported",
        lambda live: bool(live.config(Config.DISABLED)),
        _set_disabled,
        "on, off",
    ),
)  # fmt: skip


def setting(name: str) -> Setting:
    """Return a setting.

    Raises:
        UsageError: There is none of that name.
    """
    for known in SETTINGS:
        if known.name == name:
            return known
    names = ", ".join(known.name for known in SETTINGS)
    raise UsageError(f"there is no setting {name}", hint=f"settings: {names}")


def change(live: Live, paths: Paths, name: str, text: str) -> bool:
    """Set a setting; return whether it was different. The caller holds the lock.

    Raises:
        UsageError: No such setting, or no such value, or it is only read.
        KernelError: The kernel cannot do it.
    """
    wanted = setting(name)
    if wanted.set is None:
        raise UsageError(f"{name} cannot be set", hint="see: aegisbpf policy apply --help")
    before = wanted.get(live)
    wanted.set(live, paths, text)
    return bool(wanted.get(live) != before)
