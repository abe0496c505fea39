"""Pictures of what hooks add to calls: a plot a call, a line a kind of rule, by number of rules."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

from aegis_tools.soak.chart import ticks
from aegis_tools.soak.markup import Element, add, make
from benchmarks.calls import KINDS as CALLS
from benchmarks.rulesets import ALL
from benchmarks.rulesets import KINDS as RULES

Row = dict[str, Any]
"""A result of `benchmarks.overhead`."""
COLOURS = {
    "inode": "#0b62c4", "name": "#b3261e", "directory": "#1b7f4d", "cidr": "#7a3fb0",
    "port": "#b06a00", ALL: "#1c2024",
}  # fmt: skip
"""Of kinds of rules; told apart by the shapes of their points, too."""
SHAPES = {"inode": "M-4 0a4 4 0 1 0 8 0a4 4 0 1 0-8 0Z", "name": "M-4-4H4V4H-4Z",
          "directory": "M0-5L5 4H-5Z", "cidr": "M0-5L5 0L0 5L-5 0Z",
          "port": "M0 5L5-4H-5Z", ALL: "M-4-1H-1V-4H1V-1H4V1H1V4H-1V1H-4Z"}  # fmt: skip
WIDTH, HEIGHT, ACROSS = 320, 230, 3
LEFT, RIGHT, TOP, BOTTOM = 46, 14, 34, 40
LEGEND = 34
INK, SOFT, GRID = "#1c2024", "#59626c", "#dde1e6"


class What(NamedTuple):
    """What a picture shows.

    Attributes:
        subject: ``miss`` or ``hit``.
        state: As in the results.
    """

    subject: str
    state: str


def lines_of(rows: Sequence[Row], call: str, what: What) -> dict[str, dict[int, float]]:
    """Return the ratio by number of rules, by kind of rule; that of no rule is of every kind."""
    found: dict[str, dict[int, float]] = {}
    wanted = [row for row in rows if (row["call"], row["subject"]) == (call, what.subject)]
    for row in wanted:
        if row["count"]:
            found.setdefault(row["rules"], {})[row["count"]] = row[what.state]["ratio"]
    for row in wanted:
        if not row["count"]:
            for line in found.values():
                line[0] = row[what.state]["ratio"]
    return {kind: dict(sorted(found[kind].items())) for kind in (*RULES, ALL) if kind in found}


def picture(rows: Sequence[Row], what: What) -> Element:
    """Return the picture of all calls."""
    calls = [call for call in CALLS if lines_of(rows, call, what)]
    down = -(-len(calls) // ACROSS)
    size = (ACROSS * WIDTH, LEGEND + down * HEIGHT)
    root = make("svg", xmlns="http://www.w3.org/2000/svg", viewBox=f"0 0 {size[0]} {size[1]}",
                width=size[0], height=size[1], role="img", font_family="sans-serif",
                font_size=11, aria_label=f"{what.subject} in {what.state}: added")  # fmt: skip
    add(root, "rect", width=size[0], height=size[1], fill="#ffffff")
    _legend(root, {kind for call in calls for kind in lines_of(rows, call, what)})
    for number, call in enumerate(calls):
        x, y = number % ACROSS * WIDTH, LEGEND + number // ACROSS * HEIGHT
        inside = add(root, "g", transform=f"translate({x} {y})")
        _plot(inside, call, lines_of(rows, call, what))
    return root


def _legend(root: Element, kinds: set[str]) -> None:
    x = LEFT
    for kind in (kind for kind in COLOURS if kind in kinds):
        add(root, "path", d=SHAPES[kind], fill=COLOURS[kind], transform=f"translate({x} 18)")
        add(root, "text", kind, x=x + 10, y=22, fill=INK)
        x += 38 + 7 * len(kind)


def _plot(inside: Element, call: str, lines: dict[str, dict[int, float]]) -> None:
    counts = sorted({count for line in lines.values() for count in line})
    most = max(0.1, 1.06 * max(value - 1 for line in lines.values() for value in line.values()))
    least = min(0.0, 1.06 * min(value - 1 for line in lines.values() for value in line.values()))
    wide, high = WIDTH - LEFT - RIGHT, HEIGHT - TOP - BOTTOM
    across = {count: LEFT + wide * (n + 0.5) / len(counts) for n, count in enumerate(counts)}

    def y(value: float) -> float:
        return round(TOP + high * (most - (value - 1)) / (most - least), 1)

    add(inside, "text", call, x=LEFT, y=TOP - 12, font_weight="bold", font_size=12, fill=INK)
    for level in _levels(least, most):
        add(inside, "path", d=f"M{LEFT} {y(1 + level)}H{WIDTH - RIGHT}",
            stroke=SOFT if not level else GRID)  # fmt: skip
        share = f"{round(100 * level, 3):+g}%" if level else "0"
        add(inside, "text", share, x=LEFT - 6, y=y(1 + level) + 4, text_anchor="end", fill=SOFT)
    for count, x in across.items():
        add(inside, "text", f"{count:,}", x=round(x, 1), y=HEIGHT - BOTTOM + 18,
            text_anchor="middle", font_size=10, fill=SOFT)  # fmt: skip
    for kind, line in lines.items():
        points = [(round(across[count], 1), y(value)) for count, value in line.items()]
        add(inside, "path", d="M" + "L".join(f"{a} {b}" for a, b in points), fill="none",
            stroke=COLOURS[kind], stroke_width=1.5)  # fmt: skip
        for a, b in points:
            add(inside, "path", d=SHAPES[kind], fill=COLOURS[kind], transform=f"translate({a} {b})")


def _levels(least: float, most: float) -> Iterator[float]:
    """Yield round shares between the least and the most, with 0."""
    marks = [tick.at for tick in ticks(max(most, -least))]
    yield from (-mark for mark in reversed(marks[1:]) if mark <= -least)
    yield from (mark for mark in marks if mark <= most)
