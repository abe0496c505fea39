"""What the lockout proof adds to a plan: with the host searched anew, and with what is remembered.

    python -m benchmarks.lockout [--json] [--rounds N]

Whole processes of ``policy plan``: of a policy without a rule, which needs no proof; of one rule,
with what recovery needs remembered from the plan before; of the same with that forgotten. What
the proof adds is the difference to the first, in processor time, which a busy machine disturbs
less than the time that passes. The host that is searched is this one.
"""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import NamedTuple

from benchmarks.measure import Row, arguments, children_cpu, in_turns, report, run_main, spread
from benchmarks.sandbox import Sandbox, sandbox

_COLUMNS = ("plan", "ms", "cpu ms", "the proof's cpu ms")


class Timing(NamedTuple):
    """Seconds that passed, and of processors."""

    wall: float
    cpu: float


def plan(box: Sandbox, bundle: Path, *, forget: bool = False) -> Timing:
    """Time a plan, with what recovery needs forgotten before it, or as it is."""
    if forget:
        for path in remembered(box):
            path.unlink()
    cpu, start = children_cpu(), time.perf_counter()
    done = box.run("policy", "plan", str(bundle))
    took, used = time.perf_counter() - start, children_cpu() - cpu
    if done.returncode:
        raise SystemExit(f"policy plan failed: {done.stderr.decode()}")
    if forget and not remembered(box):
        raise SystemExit("the plan remembers nothing, so it has proved nothing")
    return Timing(took, used)


def remembered(box: Sandbox) -> list[Path]:
    """Return the files of what recovery needs."""
    return list(box.paths.run.glob("needs.*"))


def run(rounds: int) -> list[Row]:
    """Measure the three plans in turns."""
    with sandbox() as box:
        file = box.folder / "file"
        file.touch()
        none = box.bundle((), "deny_path").rename(box.folder / "none.bundle")
        one = box.bundle([str(file)], "deny_path")
        plan(box, one)
        cases: dict[str, Callable[[], Timing]] = {
            "no rule": partial(plan, box, none),
            "one rule, remembered": partial(plan, box, one),
            "one rule, searched": partial(plan, box, one, forget=True),
        }
        found = in_turns(rounds, cases)
    return [row(name, timings, found["no rule"]) for name, timings in found.items()]


def row(name: str, timings: list[Timing], without: list[Timing]) -> Row:
    """Return the figures of one plan."""
    wall, cpu = spread([each.wall for each in timings]), spread([each.cpu for each in timings])
    added = spread([a.cpu - b.cpu for a, b in zip(timings, without, strict=True)])
    return {
        "plan": name, "wall_s": wall.to_dict(), "cpu_s": cpu.to_dict(), "added_s": added.to_dict(),
        "text": {"ms": wall.text(1000, 0), "cpu ms": cpu.text(1000, 0),
                 "the proof's cpu ms": added.text(1000, 0) if timings is not without else "-"},
    }  # fmt: skip


def main() -> None:
    """Run from the command line."""
    options = arguments(__doc__, rounds=9).parse_args()
    if os.geteuid():
        sys.exit("benchmarks need root")
    report(run(options.rounds), _COLUMNS, [], as_json=options.json)


if __name__ == "__main__":
    run_main(main)
