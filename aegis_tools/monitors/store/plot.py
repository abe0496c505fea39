"""Hours as a picture: a line of blocks for a terminal, or an SVG that any browser shows."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime, timedelta, timezone
from typing import NamedTuple
from xml.sax.saxutils import escape

_BLOCKS = "▁▂▃▄▅▆▇█"
_WIDTH, _PANEL, _LEFT, _RIGHT, _TOP, _BOTTOM = 900, 210, 84, 24, 46, 34
_TICKS = 4
_DAY_HOURS = (1, 2, 3, 6, 12, 24, 48, 168, 336, 720, 2160, 8760)
_STYLE = (
    "text{font:12px system-ui,'DejaVu Sans',sans-serif;fill:#5d6670}"
    ".title{font-size:15px;font-weight:600;fill:#1c2024}.grid{stroke:#dde1e6}"
    ".bar{fill:#0b62c4}.most{fill:none;stroke:#c5221f;stroke-width:1.5}.key{fill:#c5221f}"
)


class Panel(NamedTuple):
    """One chart of a picture.

    Attributes:
        title: What it shows.
        unit: ``bytes``, ``ns`` or empty for a plain number.
        start: Of the first hour, microseconds since 1970.
        values: One an hour, drawn as bars.
        most: The largest single one of each hour, drawn as a line; or nothing.
    """

    title: str
    unit: str
    start: int
    values: Sequence[int]
    most: Sequence[int] = ()


def sparkline(values: Sequence[int], width: int = 72) -> str:
    """Return a line of blocks; of more values than fit, the largest of each group is shown."""
    group = -(-len(values) // width) or 1
    shown = [max(values[n : n + group]) for n in range(0, len(values), group)]
    top = max(shown, default=0) or 1
    return "".join(_BLOCKS[min(value * 8 // top, 7)] if value else " " for value in shown)


def amount(value: float, unit: str) -> str:
    """Return a number as a person reads it: ``1.5 MiB``, ``12.3 ms``, ``3.4 k``."""
    steps = {
        "bytes": (1024, ("B", "KiB", "MiB", "GiB", "TiB", "PiB")),
        "ns": (1000, ("ns", "µs", "ms", "s", "ks")),
    }.get(unit, (1000, ("", "k", "M", "G", "T")))
    step, names = steps
    number = 0
    while round(value, 1) >= step and number < len(names) - 1:
        value, number = value / step, number + 1
    text = f"{value:.1f}".removesuffix(".0") if number else f"{value:.0f}"
    return f"{text} {names[number]}".rstrip()


def hour_text(start: int) -> str:
    """Return the hour's beginning: ``2027-01-31 18:00``."""
    found = datetime.fromtimestamp(0, timezone.utc) + timedelta(microseconds=start)
    return found.strftime("%Y-%m-%d %H:%M")


def svg(panels: Sequence[Panel]) -> str:
    """Return a picture of all panels, one below the other."""
    height = _PANEL * max(len(panels), 1)
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" width="{_WIDTH}" height="{height}" '
        f'viewBox="0 0 {_WIDTH} {height}" role="img">',
        f"<style>{_STYLE}</style>",
        f'<rect width="{_WIDTH}" height="{height}" fill="#fff"/>',
    ]
    for number, panel in enumerate(panels):
        parts.append(f'<g transform="translate(0 {number * _PANEL})">')
        parts += _panel(panel)
        parts.append("</g>")
    return "\n".join([*parts, "</svg>", ""])


def _panel(panel: Panel) -> list[str]:
    top = _rounded(max([*panel.values, *panel.most], default=0), panel.unit)
    parts = [f'<text class="title" x="{_LEFT}" y="24">{escape(panel.title)}</text>']
    for tick in range(_TICKS + 1):
        y = _y(tick / _TICKS)
        label = amount(top * tick / _TICKS, panel.unit)
        parts.append(f'<path class="grid" d="M{_LEFT} {y}H{_WIDTH - _RIGHT}"/>')
        parts.append(f'<text x="{_LEFT - 8}" y="{y + 4}" text-anchor="end">{label}</text>')
    count = max(len(panel.values), 1)
    wide = (_WIDTH - _LEFT - _RIGHT) / count
    for number, value in enumerate(panel.values):
        if value:
            x, y = _LEFT + number * wide, _y(value / top)
            parts.append(
                f'<rect class="bar" x="{x:.1f}" y="{y}" width="{max(wide * 0.86, 0.5):.1f}" '
                f'height="{_y(0) - y:.1f}"><title>{hour_text(_at(panel, number))} UTC: '
                f"{amount(value, panel.unit)}</title></rect>"
            )
    parts += _most(panel, wide, top)
    return parts + _times(panel, wide)


def _most(panel: Panel, wide: float, top: int) -> list[str]:
    if not any(panel.most):
        return []
    points = " ".join(
        f"{_LEFT + (number + 0.43) * wide:.1f},{_y(value / top)}"
        for number, value in enumerate(panel.most)
    )
    key = f'<text class="key" x="{_WIDTH - _RIGHT}" y="24" text-anchor="end">line: longest</text>'
    return [f'<polyline class="most" points="{points}"/>', key]


def _times(panel: Panel, wide: float) -> list[str]:
    """Return labels of round hours, so many as can be read beside each other."""
    step = next((hours for hours in _DAY_HOURS if hours * wide >= 110), _DAY_HOURS[-1])
    parts = []
    for number in range(len(panel.values)):
        if _at(panel, number) // (3600 * 1_000_000) % step:
            continue
        x = _LEFT + number * wide
        if x <= _WIDTH - _RIGHT - 40:
            label = hour_text(_at(panel, number))[5:]
            parts.append(f'<path class="grid" d="M{x:.1f} {_y(0)}v5"/>')
            parts.append(f'<text x="{x:.1f}" y="{_y(0) + 19:.1f}">{label}</text>')
    return parts


def _at(panel: Panel, number: int) -> int:
    return panel.start + number * 3600 * 1_000_000


def _y(share: float) -> float:
    return round(_PANEL - _BOTTOM - share * (_PANEL - _TOP - _BOTTOM), 1)


def _rounded(value: int, unit: str) -> int:
    """Return a round number that is no smaller: the top of the axis."""
    base = 1024 if unit == "bytes" else 1000
    scale = 1
    while value > scale * base:
        scale *= base
    steps: tuple[int, ...] = (1, 2, 4, 8, 16, 32, 64, 128, 256, 512, 1024)
    if base == 1000:
        steps = (1, 2, 4, 8, 12, 20, 40, 80, 120, 200, 400, 800, 1000)
    return next((step * scale for step in steps if step * scale >= value), value)
