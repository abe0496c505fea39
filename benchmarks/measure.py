"""Figures with their spread: rounds, medians, ratios, and the machine they are of.

A time by itself says little about another machine. So every figure that counts is a ratio of
two things measured in turns within one run; what disturbs one round disturbs both.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import random
import resource
import statistics
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NoReturn, TypeVar

from aegis_tools.cli.types import positive
from aegis_tools.errors import AegisError
from benchmarks.environment import environment

Row = dict[str, Any]
Item = TypeVar("Item")


@dataclass(frozen=True)
class Spread:
    """What repeated measurements of one thing gave: the middle, and how far they lay apart."""

    median: float
    low: float
    high: float
    rounds: int

    def to_dict(self) -> Row:
        """Return it for JSON."""
        return {"median": self.median, "min": self.low, "max": self.high, "rounds": self.rounds}

    def text(self, scale: float = 1.0, digits: int = 2) -> str:
        """Return ``median (min-max)``, each times ``scale``."""
        middle, low, high = (
            f"{value * scale:.{digits}f}" for value in (self.median, self.low, self.high)
        )
        return f"{middle} ({low}-{high})"


def spread(values: Sequence[float]) -> Spread:
    """Return the spread of some values.

    Raises:
        ValueError: There are none.
    """
    if not values:
        raise ValueError("nothing was measured")
    return Spread(statistics.median(values), min(values), max(values), len(values))


def ratios(values: Sequence[float], bases: Sequence[float]) -> Spread:
    """Return the spread of value to base, round by round.

    Raises:
        ValueError: They are not of the same rounds, or a base is not positive.
    """
    if len(values) != len(bases):
        raise ValueError("a ratio needs both figures of every round")
    if any(base <= 0 for base in bases):
        raise ValueError("a base must be positive")
    return spread([value / base for value, base in zip(values, bases, strict=True)])


def interval(
    values: Sequence[float], *, draws: int = 2000, level: float = 0.95, seed: int = 1
) -> tuple[float, float]:
    """Return the interval of the median, by drawing anew from ``values`` (bootstrap).

    The same values always give the same interval.
    """
    if min(values) == max(values):  # as where instructions are counted
        return values[0], values[0]
    source, count = random.Random(seed), len(values)
    medians = sorted(statistics.median(source.choices(values, k=count)) for _ in range(draws))
    beyond = int(draws * (1 - level) / 2)
    return medians[beyond], medians[-1 - beyond]


def ratio_row(values: Sequence[float], bases: Sequence[float]) -> Row:
    """Return value to base, round by round, for JSON: spread, and the median's 95 % interval."""
    low, high = interval([value / base for value, base in zip(values, bases, strict=True)])
    return {**ratios(values, bases).to_dict(), "low_95": low, "high_95": high}


def slope(sizes: Sequence[float], times: Sequence[float]) -> float:
    """Return the exponent k of the best ``time = a * size**k``: 1 is linear, 2 quadratic."""
    from math import log

    return statistics.linear_regression(list(map(log, sizes)), list(map(log, times))).slope


def in_turns(
    rounds: int, cases: Mapping[str, Callable[[], Item]], *, warm_up: int = 1
) -> dict[str, list[Item]]:
    """Run every case once a round, in an order that turns by one, and return what they gave.

    Args:
        rounds: That count.
        cases: What to run, by name.
        warm_up: Rounds before them that do not.
    """
    found: dict[str, list[Item]] = {name: [] for name in cases}
    names = list(cases)
    for number in range(-warm_up, rounds):
        turn = number % len(names)
        for name in (*names[turn:], *names[:turn]):
            result = cases[name]()
            if number >= 0:
                found[name].append(result)
    return found


@contextlib.contextmanager
def pinned() -> Iterator[int | None]:
    """Keep this process, and what it starts, on one processor meanwhile; yield it.

    On the last one, which has the fewest interrupts of old. None where we may not choose.
    """
    before = os.sched_getaffinity(0)
    try:
        os.sched_setaffinity(0, {max(before)})
    except OSError:
        yield None
        return
    try:
        yield max(before)
    finally:
        os.sched_setaffinity(0, before)


def children_cpu() -> float:
    """Return the processor seconds, user and system, of the children that have ended."""
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


class Parser(argparse.ArgumentParser):
    """A parser that says what is wrong in one line."""

    def error(self, message: str) -> NoReturn:
        """Leave with status 2."""
        self.exit(2, f"error: {message}; run: {self.prog} --help\n")


def run_main(main: Callable[[], None]) -> NoReturn:
    """Run a benchmark and leave: what a person can act on is told in one line, and no traceback."""
    try:
        main()
    except AegisError as error:
        print(f"error: {error.message}" + (error.hint and f"; {error.hint}"), file=sys.stderr)
        sys.exit(error.exit_code)
    except KeyboardInterrupt:
        sys.exit(130)
    sys.exit(0)


def arguments(description: str | None, rounds: int) -> argparse.ArgumentParser:
    """Return a parser with the options that all benchmarks have."""
    parser = Parser(description=(description or "").splitlines()[0])
    parser.add_argument("--json", action="store_true", help="one JSON document, no table")
    parser.add_argument("--rounds", type=positive, default=rounds, help="default: %(default)s")
    return parser


def report(
    rows: Sequence[Row], columns: Sequence[str], notes: Sequence[str], *, as_json: bool
) -> None:
    """Print the results: all of them as JSON, or ``columns`` as a table with notes below.

    A row's ``text`` is what the table shows in place of a figure, by column.
    """
    text = text_of(environment(), rows, columns, notes, as_json=as_json)
    print(text, end="")


def text_of(
    where: Row, rows: Sequence[Row], columns: Sequence[str], notes: Sequence[str], *, as_json: bool
) -> str:
    """Return what :func:`report` prints, of the machine as it was before it was measured."""
    if as_json:
        plain = [{name: each for name, each in row.items() if name != "text"} for row in rows]
        return json.dumps({"environment": where, "results": plain, "notes": notes}, indent=1) + "\n"
    lines = [list(columns), *([_cell(row, name) for name in columns] for row in rows)]
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    shown = ["  ".join(f"{name}: {_plain(value)}" for name, value in where.items())]
    for line in lines:
        cells = (cell.ljust(width) for cell, width in zip(line, widths, strict=True))
        shown.append("  ".join(cells).rstrip())
    return "\n".join([*shown, *(f"* {note}" for note in notes)]) + "\n"


def _plain(value: object) -> object:
    """Mitigations are many words: how many there are is enough for a person."""
    return len(value) if isinstance(value, dict) else value


def _cell(row: Row, name: str) -> str:
    return str(row.get("text", {}).get(name, row.get(name, "-")))
