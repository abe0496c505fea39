"""How often the verdict of a comparison is wrong, on machines with made-up noise, and on this one.

    python -m benchmarks.noise [--json] [--rounds N] [--pairs N] [--here N]

Two runs of the same code must agree that nothing changed; a change must be found. Each kind of
machine drifts: a round is as a whole faster or slower than the one before. Here, the same call is
measured as if it were two: with nothing loaded, whatever else the machine does.
"""

from __future__ import annotations

import math
import random
from collections.abc import Iterator

from benchmarks.compare import Comparison, against, compare
from benchmarks.measure import Row, arguments, pinned, report, run_main
from benchmarks.syscalls import one_round, plain

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


def row_of(
    machine: str, change: float, pairs: int, differ: float, right: float | None = None
) -> Row:
    """Return a row of the table; of the same code, who does not differ is right."""
    right = 1 - differ if right is None else right
    text = {"said to differ": f"{differ:.2%}", "said what it is": f"{right:.2%}"}
    return {"machine": machine, "change": change, "pairs": pairs, "differ": differ,
            "right": right, "text": text}  # fmt: skip


def here(rounds: int, pairs: int) -> float:
    """Return how often two runs of the same call are said to differ on this machine."""
    with pinned(), plain() as place:

        def call() -> float:
            return one_round(place, ["open"])["open"]

        found = [against(rounds, call, {"same": call})[2]["same"] for _ in range(pairs)]
    return sum(one.differs for one in found) / pairs


def main() -> None:
    """Run from the command line."""
    parser = arguments(__doc__, rounds=15)
    parser.add_argument("--pairs", type=int, default=2000, help="%(default)s")
    parser.add_argument("--here", type=int, default=0, metavar="N", help="pairs on this machine")
    options = parser.parse_args()
    rows: list[Row] = []
    if options.here:
        rows.append(row_of("this one", 1.0, options.here, here(options.rounds, options.here)))
    for kind in KINDS:
        for change in (1.0, 1.05, 1.1, 1.2):
            found = rates(kind, change, options.rounds, options.pairs, draws=500)
            rows.append(row_of(kind, change, options.pairs, *found))
    notes = [f"{kind}: {what}" for kind, what in KINDS.items()]
    report(rows, _COLUMNS, notes, as_json=options.json)


if __name__ == "__main__":
    run_main(main)
