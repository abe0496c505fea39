"""The report as one HTML page that needs nothing else: no network, no script to be read.

Everything that a host or a person named is escaped, and a policy in the page lets no other script
or style in than its own, and nothing be fetched.
"""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from aegis_tools.rollout import timeline
from aegis_tools.rollout.hosts import OUTCOMES

HERE = Path(__file__).parent
TONES = {
    "unreachable": "bad",
    "unconfirmed": "bad",
    "failed": "bad",
    "rolled-back": "warn",
    "straggler": "warn",
    "stopped": "idle",
    "untouched": "idle",
    "would-change": "info",
    "changed": "good",
    "unchanged": "same",
}
RESULTS = {
    "ok": ("good", "done"),
    "failed": ("bad", "failed"),
    "unreachable": ("bad", "hosts unreachable"),
    "interrupted": ("bad", "interrupted"),
    "running": ("warn", "not finished"),
}
MOST_LOOKS = 30
"""Looks that are listed one by one, of hosts that failed; the JSON has all of all."""


def render(report: Mapping[str, Any], *, beside: str = "") -> str:
    """Return the page.

    Args:
        report: What :func:`aegis_tools.rollout.report.build` returned.
        beside: The name of the JSON file that lies beside it.
    """
    from jinja2 import Environment, FileSystemLoader, StrictUndefined

    environment = Environment(
        loader=FileSystemLoader(HERE),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters.update(short=short, lasted=lasted, clock=clock)
    style, script = (HERE / name for name in ("page.css", "page.js"))
    sources = {path.suffix[1:]: path.read_text(encoding="utf-8") for path in (style, script)}
    longest = max((timeline.seconds_of(h["gate"]["looks"]) for h in report["hosts"]), default=0.0)
    return environment.get_template("page.html.j2").render(
        report=report,
        beside=beside,
        style=sources["css"],
        script=sources["js"],
        hashes={kind: digest(text) for kind, text in sources.items()},
        outcomes=OUTCOMES,
        tones=TONES,
        result=RESULTS[report["result"]],
        drawn={h["name"]: timeline.draw(h["gate"]["looks"], longest) for h in report["hosts"]},
        box=timeline,
        telling=("unconfirmed", "unreachable", "stopped"),
        most=MOST_LOOKS,
    )


def digest(text: str) -> str:
    """Return what a page's policy names an inline script or style by."""
    return "sha256-" + base64.b64encode(hashlib.sha256(text.encode()).digest()).decode("ascii")


def short(value: str | None) -> str:
    """Return the first digits of a digest."""
    return value[:10] if value else "none"


def lasted(seconds: float | None) -> str:
    """Return a duration as a person says it."""
    if seconds is None:
        return ""
    if seconds < 60:
        return f"{seconds:.0f} s" if seconds >= 10 else f"{seconds:.1f} s"
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours} h {minutes:02} min" if hours else f"{minutes} min {rest:02} s"


def clock(value: str) -> str:
    """Return a moment for reading: to the second, in UTC."""
    return f"{value[:10]} {value[11:19]} UTC"
