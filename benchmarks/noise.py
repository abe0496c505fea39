"""How often the verdict of a comparison is wrong, on machines with made-up noise.

    python -m benchmarks.noise [--json] [--rounds N] [--pairs N]

Two runs of the same code must agree that nothing changed; a change must be found. Each kind of
machine drifts: a round is as a whole faster or slower than the one before.
"""

from __future__ import annotations

import math
import random
from collections.abc import Iterator

from benchmarks.compare import Comparison, compare
from benchmarks.measure import Row, arguments, report, run_main

KINDS = {
    "quiet": "each figure off by 1 %",
    "noisy": "each figure off by 5 %",
    "long tails": "each off by 2 %, and a fifth of them disturbed, by a half on average",
    "bursts": "each off by 2 %, and half as much again while a burst lasts, of up to 6 figures",
}
DRIFT = 0.02
_COLUMNS = ("machine", "change", "pairs", "said to differ", "said what it is")


def factors(kind: str, source: random.Random) -> Iterator[float]:
    """Yield what disturbs figure after figure."""
    burst = 0
    while True:
        sigma = {"quiet": 0.01, "noisy": 0.05}.get(kind, 0.02)
        factor = math.exp(source.gauss(0, sigma))
        if kind == "long tails" and source.random() < 0.2:
            factor *= 1 + source.expovariate(2)
        if kind == "bursts":
            burst = source.randint(1, 6) if not burst and source.random() < 0.08 else burst
            factor *= 1.5 if burst else 1
            burst = max(0, burst - 1)
        yield factor


def one_pair(
    kind: str, change: float, rounds: int, source: random.Random, draws: int = 2000
) -> Comparison:
    """Return the verdict on code that takes ``change`` times as long, on such a machine."""
    disturbed, speed = factors(kind, source), 1.0
    found: dict[str, list[float]] = {"base": [], "again": [], "value": []}
    for number in range(rounds):
        speed *= math.exp(source.gauss(0, DRIFT))
        turn = number % len(found)
        names = list(found)
        for name in (*names[turn:], *names[:turn]):
            found[name].append(speed * next(disturbed) * (change if name == "value" else 1))
    return compare(found["value"], found["base"], found["again"], draws=draws)


def rates(
    kind: str, change: float, rounds: int, pairs: int, *, draws: int = 2000
) -> tuple[float, float]:
    """Return how often two runs are said to differ, and how often in the way they do."""
    source = random.Random(f"{kind} {change} {rounds}")
    found = [one_pair(kind, change, rounds, source, draws) for _ in range(pairs)]
    differ = [one for one in found if one.differs]
    right = [one for one in differ if (one.ratio > 1) == (change > 1)]
    return len(differ) / pairs, (len(right) if change != 1 else pairs - len(differ)) / pairs


def main() -> None:
    """Run from the command line."""
    parser = arguments(__doc__, rounds=15)
    parser.add_argument("--pairs", type=int, default=2000, help="%(default)s")
    options = parser.parse_args()
    rows: list[Row] = []
    for kind in KINDS:
        for change in (1.0, 1.05, 1.1, 1.2):
            differ, right = rates(kind, change, options.rounds, options.pairs, draws=500)
            rows.append({
                "machine": kind, "change": change, "pairs": options.pairs, "differ": differ,
                "right": right,
                "text": {"said to differ": f"{differ:.2%}", "said what it is": f"{right:.2%}"},
            })  # fmt: skip
    notes = [f"{kind}: {what}" for kind, what in KINDS.items()]
    report(rows, _COLUMNS, notes, as_json=options.json)


if __name__ == "__main__":
    run_main(main)
