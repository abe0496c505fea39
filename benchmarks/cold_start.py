"""What a command costs from a cold start, against an interpreter that does nothing.

    python -m benchmarks.cold_start [--json] [--rounds N]

Whole processes, in turns with ``python3 -c pass`` of the same interpreter, with 1 rule live and
with 65,536: a command whose cost grows with the policy shows here.
"""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Callable
from functools import partial
from typing import NamedTuple

from aegis_tools.cli.main import COMMANDS
from aegis_tools.errors import BootError, KernelError
from benchmarks.apply import apply, inode_lines
from benchmarks.measure import (
    Row,
    arguments,
    children_cpu,
    in_turns,
    interval,
    ratios,
    report,
    run_main,
    spread,
)
from benchmarks.sandbox import REPOSITORY, Sandbox, sandbox

AIM = 6.0
_COLUMNS = ("command", "rules live", "ms", "nothing ms", "command / nothing", "under 6",
            "cpu / nothing")  # fmt: skip


class Cost(NamedTuple):
    """Seconds that passed, and of processors."""

    wall: float
    cpu: float


def cost(box: Sandbox, command: list[str]) -> Cost:
    """Return what a command takes; one that fails ends the benchmark.

    But ``health``: it says by its exit code that the host is not well, as in the audit fallback.
    """
    cpu, start = children_cpu(), time.perf_counter()
    done = subprocess.run(command, cwd=REPOSITORY, env=box.environment, check=False,
                          stdout=subprocess.DEVNULL, stderr=subprocess.PIPE)  # fmt: skip
    end = time.perf_counter()
    told = done.returncode in (BootError.exit_code, KernelError.exit_code) and "health" in command
    if done.returncode and not told:
        raise SystemExit(f"{' '.join(command[3:])} failed: {done.stderr.decode()}")
    return Cost(end - start, children_cpu() - cpu)


class Adding:
    """``block add`` of another file each time; the rule is taken away again, untimed."""

    def __init__(self, box: Sandbox) -> None:
        self._box = box
        self._number = 0

    def __call__(self) -> Cost:
        self._number += 1
        path = self._box.folder / f"added-{self._number}"
        path.touch()
        took = cost(self._box, self._box.command("block", "add", str(path)))
        self._box.run("block", "del", str(path))
        return took


def cases(box: Sandbox) -> tuple[dict[str, Callable[[], Cost]], list[str]]:
    """Return what to time by name, and which commands this version does not have."""
    found: dict[str, Callable[[], Cost]] = {
        "nothing": lambda: cost(box, [sys.executable, "-c", "pass"]),
        "--version": lambda: cost(box, box.command("--version")),
    }
    wanted: dict[str, Callable[[], Cost]] = {
        "stats": partial(_timed, box, "stats"),
        "health": partial(_timed, box, "health"),
        "block add": Adding(box),
    }
    missing = []
    for name, case in wanted.items():
        if _exists(box, name.split()[0]):
            found[name] = case
        else:
            missing.append(f"{name}: this version has no such command yet; not measured")
    return found, missing


def _timed(box: Sandbox, name: str) -> Cost:
    return cost(box, box.command(name))


def _exists(box: Sandbox, name: str) -> bool:
    return name in COMMANDS and box.run(name, "--help").returncode == 0


def measure(wanted: dict[str, Callable[[], Cost]], live: int, rounds: int) -> list[Row]:
    """Measure with the rules that are live."""
    found = in_turns(rounds, wanted, warm_up=2)
    rows = []
    walls = {name: [each.wall for each in costs] for name, costs in found.items()}
    cpus = {name: [each.cpu for each in costs] for name, costs in found.items()}
    for name in [name for name in found if name != "nothing"]:
        ratio = ratios(walls[name], walls["nothing"])
        cpu = ratios(cpus[name], cpus["nothing"])
        parts = zip(walls[name], walls["nothing"], strict=True)
        low, high = interval([a / b for a, b in parts])
        row: Row = {
            "command": name, "rules live": live, "s": spread(walls[name]).to_dict(),
            "nothing_s": spread(walls["nothing"]).to_dict(), "cpu_ratio": cpu.to_dict(),
            "ratio": {**ratio.to_dict(), "low_95": low, "high_95": high}, "met": ratio.median < AIM,
        }  # fmt: skip
        row["text"] = {
            "ms": spread(walls[name]).text(1000, 0), "cpu / nothing": cpu.text(1, 1),
            "nothing ms": spread(walls["nothing"]).text(1000, 1),
            "command / nothing": ratio.text(1, 1), "under 6": "yes" if row["met"] else "NO",
        }  # fmt: skip
        rows.append(row)
    return rows


def run(sizes: list[int], rounds: int) -> tuple[list[Row], list[str]]:
    """Measure everything; return the results and what to know about them."""
    rows: list[Row] = []
    with sandbox() as box:
        wanted, notes = cases(box)
        for size in sizes:
            # One place in the map is left for the rule that `block add` adds.
            apply(box, box.bundle(inode_lines(min(size, 65535)), "deny_inode"))
            rows += measure(wanted, size, rounds)
        if box.pins.is_fallback():
            notes.append("LSM programs cannot be loaded here: measured with the audit fallback, "
                         "which also looks at every system call of the commands")  # fmt: skip
    return rows, notes


def main() -> None:
    """Run from the command line."""
    parser = arguments(__doc__, rounds=15)
    parser.add_argument("--sizes", default="1,65536")
    options = parser.parse_args()
    if os.geteuid():
        sys.exit("benchmarks need root")
    rows, notes = run([int(n) for n in options.sizes.split(",")], options.rounds)
    report(rows, _COLUMNS, notes, as_json=options.json)


if __name__ == "__main__":
    run_main(main)
