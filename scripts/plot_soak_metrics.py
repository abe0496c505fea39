#!/usr/bin/env python3
"""Plot a soak's metrics over time into a PNG: CPU, memory, lost events. Any Python 3.10 does.

scripts/plot_soak_metrics.py                        what scripts/soak_monitor.sh collects
scripts/plot_soak_metrics.py samples.csv soak.png   another file, or a soak's own samples
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Sequence
from itertools import pairwise
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from soakplot.canvas import Canvas, Colour

from aegis_tools.control.files import check_output, named, read_limited, write_atomic
from aegis_tools.errors import AegisError, UsageError
from aegis_tools.soak import chart, columns
from aegis_tools.soak.columns import Sample

METRICS = Path("/var/log/aegisbpf-soak-metrics.csv")
PICTURE = Path("/tmp/aegisbpf-soak-analysis.png")
WIDTH, HEIGHT = 1200, 1000
LEFT, RIGHT, TOP, BOTTOM = 110, 30, 50, 44
INK, SOFT, GRID, DEAD, LINE = (
    (28, 32, 36),
    (89, 98, 108),
    (221, 225, 230),
    (253, 226, 224),
    (11, 98, 196),
)
EDGE = 10
DOT = 4
BINS = 900
COLLECT = "collect metrics with scripts/soak_monitor.sh, or name a soak's samples.csv"
GAP = 4
"""A line breaks where more than so many usual intervals are missing."""
Value = Callable[[Sample], float | None]
PANELS: tuple[tuple[str, str, Value], ...] = (
    ("AegisBPF CPU Usage Over Time", "CPU %", lambda one: one.cpu_pct),
    (
        "AegisBPF Memory Usage Over Time",
        "Memory (MB)",
        lambda one: one.mem_mb if one.present else None,
    ),
    (
        "Ring Buffer Drops Over Time",
        "Ring Buffer Drops",
        lambda one: one.ringbuf_drops,
    ),
)


def draw(samples: Sequence[Sample]) -> bytes:
    """Return the picture of at least one sample, in the order of time."""
    canvas = Canvas(WIDTH, HEIGHT)
    for number, (title, unit, value) in enumerate(PANELS):
        Plot(canvas, samples, number * HEIGHT // len(PANELS)).draw(title, unit, value)
    return canvas.png()


class Plot:
    """One of the plots.

    Args:
        canvas: Where it is drawn.
        samples: What is drawn.
        top: Its upper edge.
    """

    def __init__(self, canvas: Canvas, samples: Sequence[Sample], top: int) -> None:
        self.canvas, self.samples, self.top = canvas, samples, top + TOP
        self.height = HEIGHT // len(PANELS) - TOP - BOTTOM
        self.start = samples[0].timestamp
        self.span = max(1, samples[-1].timestamp - self.start)
        times = [one.timestamp - self.start for one in samples]
        steps = sorted(b - a for a, b in pairwise(times))
        self.usual = steps[len(steps) // 2] if steps else 1
        self.gaps = [(a, b) for a, b in pairwise(times) if b - a > GAP * self.usual]

    def x(self, seconds: float) -> float:
        return LEFT + (WIDTH - LEFT - RIGHT) * seconds / self.span

    def draw(self, title: str, unit: str, value: Value) -> None:
        """Draw the axes and the line."""
        known = [(one.timestamp - self.start, found) for one in self.samples
                 if (found := value(one)) is not None]  # fmt: skip
        unknown = [one.timestamp - self.start for one in self.samples if value(one) is None]
        line = chart.Line(title, "c1", chart.thin(known, self.span, BINS), breaks=unknown)
        self._shade()
        bottom = self.top + self.height
        top = 1.06 * max((one.high for one in line.bins), default=0.0) or 1.0
        self._axes(title, unit, top, bottom)
        for run in chart.runs(line, self.gaps):
            points = [(self.x(one.at), bottom - self.height * one.mid / top) for one in run]
            peaks = [(self.x(one.at), bottom - self.height * one.high / top) for one in run]
            self.canvas.curve(peaks, _pale(LINE), 1.2)
            self.canvas.curve(points, LINE, 2.2)
            if points[-1][0] - points[0][0] < 2 * DOT:  # a line too short to be seen
                for x, y in points:
                    self.canvas.dot(x, y, DOT, LINE)
        if not line.bins:
            self.canvas.text(WIDTH // 2 - 60, self.top + self.height // 2, "no data", SOFT)

    def _shade(self) -> None:
        """Shade when the agent was not there."""
        for at in (one.timestamp - self.start for one in self.samples if not one.present):
            left = round(self.x(at))
            wide = max(2, round(self.x(at + self.usual)) - left)
            self.canvas.box(left, self.top, min(wide, WIDTH - RIGHT - left), self.height, DEAD)

    def _axes(self, title: str, unit: str, top: float, bottom: int) -> None:
        canvas, wide = self.canvas, WIDTH - LEFT - RIGHT
        canvas.text(WIDTH // 2 - len(title) * 6, self.top - 40, title, INK)
        canvas.text(LEFT, self.top - 18, unit, SOFT)
        for tick in chart.ticks(top):
            y = round(bottom - self.height * tick.at / top)
            canvas.box(LEFT, y, wide, 1, GRID)
            canvas.text(LEFT - 10 - 12 * len(tick.label), y - 7, tick.label, SOFT)
        for tick in chart.time_ticks(self.start, self.span):
            x = round(self.x(tick.at))
            canvas.box(x, self.top, 1, self.height, GRID)
            left = min(x - 6 * len(tick.label), WIDTH - 12 * len(tick.label))
            canvas.text(left, bottom + 10, tick.label, SOFT)
        canvas.text(EDGE, bottom + 10, "UTC", SOFT)
        canvas.box(LEFT, bottom, wide, 1, SOFT)


def _pale(colour: Colour) -> Colour:
    red, green, blue = ((value + 2 * 255) // 3 for value in colour)
    return red, green, blue


def read(path: Path) -> list[Sample]:
    """Return the samples of a file.

    Raises:
        UsageError: It cannot be read, or there are none in it.
    """
    if not path.exists():
        raise UsageError(f"there is no file {path}", hint=COLLECT)
    data = read_limited(path, columns.MAX_BYTES, what=f"file {path}", follow=True, error=UsageError)
    samples, problems = columns.parse(data.decode("utf-8", "replace"))
    for problem in problems:
        print(f"{path}: {problem}", file=sys.stderr)
    if not samples:
        raise UsageError(f"{path} has no samples", hint=COLLECT)
    return sorted(samples, key=lambda one: one.timestamp)


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("metrics", type=Path, nargs="?", default=METRICS, metavar="CSV",
                        help="(default: %(default)s)")  # fmt: skip
    parser.add_argument("picture", type=Path, nargs="?", default=PICTURE, metavar="PNG",
                        help="a regular file is replaced (default: %(default)s)")  # fmt: skip
    options = parser.parse_args()
    try:
        check_output(options.picture, what="plot", source=options.metrics)
        picture = draw(read(options.metrics))
        write_atomic(options.picture, picture, what=f"plot {named(options.picture)}", mode=0o644)
    except AegisError as error:
        print(f"{error.message}\n  next: {error.hint}", file=sys.stderr)
        return error.exit_code
    print(f"Saved plot to {options.picture}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
