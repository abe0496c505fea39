"""A panel as SVG inside a page; its colours are the page's style sheet's."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence

from aegis_tools.soak import chart
from aegis_tools.soak.chart import Bin, Panel, Tick
from aegis_tools.soak.markup import Element, add, make

WIDTH, LEFT, RIGHT, TOP, BOTTOM = 960, 64, 12, 24, 24
HEIGHT = 190
"""Of the area between the axes."""
ROW = 30
"""Of one row of states."""
NOTHING = 48
"""Where there is nothing to draw."""
INNER = WIDTH - LEFT - RIGHT
_SIGN = 7.5
"""Radius of the disc that marks a moment."""


class _Scale:
    """Where seconds and values lie between the axes, in pixels."""

    def __init__(self, panel: Panel) -> None:
        self.rows = len(panel.strips)
        self.height = self.rows * ROW if self.rows else NOTHING if panel.none else HEIGHT
        self.top = chart.top_of(panel)
        self.span = panel.span

    def x(self, seconds: float) -> float:
        return round(INNER * seconds / self.span, 1)

    def y(self, value: float) -> float:
        return round(self.height * (1 - value / self.top), 1)


def draw(panel: Panel) -> Element:
    """Return the picture. Its words are its alternative text."""
    scale = _Scale(panel)
    height = TOP + scale.height + BOTTOM
    root = make(
        "svg", viewBox=f"0 0 {WIDTH} {height}", class_="plot", role="img", aria_label=panel.words
    )
    if panel.none:
        add(root, "rect", class_="empty", x=LEFT, y=TOP, width=INNER, height=scale.height)
        middle = TOP + scale.height / 2 + 4
        add(root, "text", panel.none, class_="none", x=LEFT + INNER / 2, y=middle)
        return root
    _axes(root, panel, scale)
    # A picture inside of a picture is cut off at its own edges.
    inside = add(root, "svg", x=LEFT, y=TOP, width=INNER, height=scale.height)
    _gaps(inside, panel, scale)
    _bars(inside, panel, scale)
    for line in panel.lines:
        _line(inside, line, panel, scale)
    _trends(inside, panel, scale)
    _strips(inside, panel, scale)
    _limits(inside, panel, scale)
    _marks(root, panel, scale)
    return root


def _axes(root: Element, panel: Panel, scale: _Scale) -> None:
    bottom = TOP + scale.height
    for number, (name, _) in enumerate(panel.strips):
        add(root, "text", name, class_="name", x=LEFT - 8, y=TOP + number * ROW + ROW / 2 + 4)
    if not panel.strips:
        for tick in chart.ticks(scale.top, whole=panel.whole):
            y = TOP + scale.y(tick.at)
            add(root, "path", class_="grid", d=f"M{LEFT} {y}h{INNER}")
            add(root, "text", tick.label, class_="name", x=LEFT - 8, y=y + 4)
    _times(root, chart.time_ticks(panel.start, panel.span), bottom, scale)
    add(root, "path", class_="axis", d=f"M{LEFT} {bottom}h{INNER}")


def _times(root: Element, ticks: Sequence[Tick], bottom: float, scale: _Scale) -> None:
    for tick in ticks:
        x = LEFT + scale.x(tick.at)
        add(root, "path", class_="grid", d=f"M{x} {TOP}V{bottom + 5}")
        if LEFT + 12 <= x <= WIDTH - 26:
            add(root, "text", tick.label, class_="time", x=x, y=bottom + 18)


def _gaps(inside: Element, panel: Panel, scale: _Scale) -> None:
    for start, end in panel.gaps:
        x, wide = scale.x(start), max(1.5, scale.x(end) - scale.x(start))
        add(inside, "rect", class_="gap", x=x, y=0, width=round(wide, 1), height=scale.height)


def _line(inside: Element, line: chart.Line, panel: Panel, scale: _Scale) -> None:
    for run in chart.runs(line, panel.gaps):
        if len(run) == 1:
            x, y = scale.x(run[0].at), scale.y(run[0].mid)
            add(inside, "circle", class_=f"dot {line.tone}", cx=x, cy=y, r=2)
            continue
        if line.band:
            add(inside, "path", class_=f"band {line.tone}", d=_band(run, scale))
        add(inside, "path", class_=f"line {line.tone}", d=_path(run, scale, lambda one: one.mid))


def _path(run: Iterable[Bin], scale: _Scale, value: Callable[[Bin], float]) -> str:
    return "M" + "L".join(f"{scale.x(one.at)} {scale.y(value(one))}" for one in run)


def _band(run: Sequence[Bin], scale: _Scale) -> str:
    above = _path(run, scale, lambda one: one.high)
    below = _path(reversed(run), scale, lambda one: one.low)
    return f"{above}L{below[1:]}Z"


def _trends(inside: Element, panel: Panel, scale: _Scale) -> None:
    for piece in panel.trends:
        add(inside, "path", class_="wedge", d=_band(piece, scale))
        add(inside, "path", class_="trend", d=_path(piece, scale, lambda one: one.mid))


def _bars(inside: Element, panel: Panel, scale: _Scale) -> None:
    if not panel.bars:
        return
    wide = max(0.8, scale.x(panel.bars.width) * 0.86)
    for number, start in enumerate(panel.bars.starts):
        below = 0
        for name, tone, counts in panel.bars.layers:
            if counts[number]:
                low, high = scale.y(below), scale.y(below + counts[number])
                box = add(inside, "rect", class_=f"bar {tone}", x=scale.x(start), y=high,
                          width=round(wide, 1), height=round(low - high, 1))  # fmt: skip
                add(box, "title", f"{name}: {counts[number]:,}")
                below += counts[number]


def _strips(inside: Element, panel: Panel, scale: _Scale) -> None:
    for number, (name, spans) in enumerate(panel.strips):
        for span in spans:
            tone = TONES.get(span.state, "idle")
            # What is well is a narrow band, what is not fills its row: told apart without colours.
            tall = {"good": 10, "idle": 4}.get(tone, 22)
            x, wide = scale.x(span.start), scale.x(span.end) - scale.x(span.start)
            y = number * ROW + (ROW - tall) / 2
            box = add(inside, "rect", class_=f"state {tone}", x=x, y=y,
                      width=round(max(1.5, wide), 1), height=tall)  # fmt: skip
            add(box, "title", f"{name}: {span.state}")


TONES = {
    "running": "good", "ok": "good", "dead": "bad", "miss": "bad", "stopped": "warn",
    "held": "warn", "none": "idle",
}  # fmt: skip
"""How states are shown."""


def _limits(inside: Element, panel: Panel, scale: _Scale) -> None:
    for limit in panel.limits:
        y = scale.y(limit.value)
        add(inside, "path", class_=f"line {limit.tone}", d=f"M0 {y}h{INNER}")
        add(inside, "text", limit.text, class_=f"level {limit.tone}", x=INNER - 4,
            y=y - 4 if y > 16 else y + 13)  # fmt: skip


def _marks(root: Element, panel: Panel, scale: _Scale) -> None:
    near = 2 * _SIGN * panel.span / INNER
    for group in chart.gather(panel.marks, near):
        worst = min(group, key=lambda mark: _BADNESS.index(mark.tone))
        x = round(LEFT + scale.x(group[0].at), 1)
        found = add(root, "g", class_=f"mark {worst.tone}")
        words = [mark.text for mark in group[:8]]
        more = [f"and {len(group) - 8} more"] if len(group) > 8 else []
        add(found, "title", "; ".join([*words, *more]))
        add(found, "path", d=f"M{x} {TOP - 4}V{TOP + scale.height}")
        add(found, "circle", cx=x, cy=TOP - 4 - _SIGN, r=_SIGN)
        sign = worst.sign if len({mark.sign for mark in group}) == 1 else "+"
        add(found, "text", sign, x=x, y=TOP - _SIGN)


_BADNESS = ("bad", "warn", "info", "good")
