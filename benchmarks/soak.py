"""How often the verdict of a soak is wrong, on simulated ones of every kind.

Run it from the repository; it takes some minutes of both cores for a thousand of each kind.

    python -m benchmarks.soak --rounds 1000 --update docs/soak.md

Of soaks without a fault, it counts those in which any criterion failed: a false alarm. Of those
with one, those in which the right criterion failed (found), and those in which it passed.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import time
from collections import Counter
from collections.abc import Iterable, Sequence
from functools import partial
from multiprocessing import Pool
from pathlib import Path

from aegis_tools.soak import stats
from aegis_tools.soak.verdict import CONFIDENCE, FAIL, INCONCLUSIVE, PASS, judge
from benchmarks import measure
from benchmarks.documents import put
from benchmarks.soak_kinds import (
    AT_THE_LIMIT,
    FAULTS,
    HEALTHY,
    HIDDEN,
    LEAKS,
    Kind,
    make,
)

KINDS = (*HEALTHY, *LEAKS, *HIDDEN, *AT_THE_LIMIT, *FAULTS)
MARK = "simulated soaks"
"""Of the place of the tables in the document."""


def status_of(kind: Kind, seed: int) -> tuple[str, str]:
    """Return the status of what is to fail, or of all of the soak, and what failed in it."""
    verdict = judge(make(kind, seed))
    failed = ", ".join(one.id for one in verdict.criteria if one.status == FAIL)
    if not kind.criterion:
        return verdict.status, failed
    return next(one.status for one in verdict.criteria if one.id == kind.criterion), failed


def row_of(kind: Kind, statuses: Sequence[tuple[str, str]]) -> measure.Row:
    """Return what the soaks of one kind gave."""
    count = Counter(status for status, _ in statuses)
    wrong = PASS if kind.criterion else FAIL
    share = stats.proportion(count[wrong], len(statuses), CONFIDENCE)
    found = stats.proportion(count[FAIL], len(statuses), CONFIDENCE)
    return {
        "kind": kind.name,
        "fault": kind.criterion,
        "leak_mb_day": kind.leak,
        "days": kind.days,
        "interval_s": kind.interval,
        "soaks": len(statuses),
        "pass": count[PASS],
        "fail": count[FAIL],
        "inconclusive": count[INCONCLUSIVE],
        "wrong": share._asdict(),
        "found": found._asdict() if kind.criterion else None,
        "failed": dict(Counter(failed for _, failed in statuses if failed)),
    }


def measured(kinds: Iterable[Kind], rounds: int) -> list[measure.Row]:
    """Judge so many soaks of each kind, on all cores."""
    rows = []
    with Pool(os.cpu_count()) as pool:
        for kind in kinds:
            began = time.monotonic()
            rows.append(row_of(kind, pool.map(partial(status_of, kind), range(rounds))))
            if sys.stderr.isatty():
                print(f"{kind.name}: {time.monotonic() - began:.0f} s", file=sys.stderr)
    return rows


def markdown(rows: Sequence[measure.Row]) -> str:
    """Return the tables of the document."""
    healthy = [row for row in rows if not row["fault"]]
    faults = [row for row in rows if row["fault"]]
    lines = [
        "| without a fault | soaks | FAIL (false alarms) | at most | INCONCLUSIVE | PASS |",
        "|---|---|---|---|---|---|",
        *(
            f"| {row['kind']} | {row['soaks']} | {row['fail']} | {row['wrong']['high']:.2%} "
            f"| {row['inconclusive']} | {row['pass']} |"
            for row in healthy
        ),
        "",
        "| with a fault | what must fail | soaks | FAIL (found) | at least | INCONCLUSIVE "
        "| PASS (missed) | at most |",
        "|---|---|---|---|---|---|---|---|",
        *(
            f"| {row['kind']} | `{row['fault']}` | {row['soaks']} | {row['fail']} "
            f"| {row['found']['low']:.2%} | {row['inconclusive']} | {row['pass']} "
            f"| {row['wrong']['high']:.2%} |"
            for row in faults
        ),
    ]
    return "\n".join(lines)


def main() -> int:
    """Measure and print, or write into a document."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=100, metavar="N", help="soaks of each kind")
    parser.add_argument("--kind", action="append", metavar="NAME", help="only kinds of that name")
    parser.add_argument("--json", action="store_true", help="print JSON")
    parser.add_argument("--update", type=Path, metavar="FILE", help="put the tables into it")
    options = parser.parse_args()
    kinds = [kind for kind in KINDS if not options.kind or kind.name in options.kind]
    if not kinds or options.rounds < 1:
        parser.error("there is nothing to do")
    rows = measured(kinds, options.rounds)
    if options.update:
        put(options.update, MARK, markdown(rows))
    if options.json:
        print(json.dumps({"environment": measure.environment(), "results": rows}, indent=1))
    else:
        print(markdown(rows))
    return 0


if __name__ == "__main__":
    sys.exit(main())
