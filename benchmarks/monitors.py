"""What the five monitors cost: the same work with and without them, in turns.

    python -m benchmarks.monitors [--json] [--rounds N] [--seconds S] [--work NAME] [--with CASE]
    scripts/vm run --kernel 7.2 -- python3 -m benchmarks.monitors --json
    python -m benchmarks.monitors --markdown FILE.json...

As root, with sysbench, fio and iperf3. A round does each work once without any monitor and once a
case: all five attached, each of them alone, or all with `monitor record` storing what they tell.
A figure is rate with / rate without of the same round. Where nobody stores, the rings are emptied
unread, so that every record is made in full. Nothing is filtered: less is told of, and paid, with a
filter.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import signal
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import FrameType
from typing import Any, NamedTuple

from aegis_tools.monitors.registry import MONITORS, Monitor
from benchmarks.environment import environment, head
from benchmarks.loaded import Bench, bench, run_statistics
from benchmarks.measure import (
    Row,
    arguments,
    children_cpu,
    in_turns,
    ratio_row,
    report,
    run_main,
    spread,
)
from benchmarks.sandbox import empty_sandbox, expedited
from benchmarks.workloads import Workload, missing, workloads

LIMITS = {"cpu": 0.95, "io": 0.90, "network": 0.95}
"""What must be left of the rate, by kind of work: the criteria of the monitors' plan."""
RECORDED = "all, recorded"
_SETTLE = 0.1  # seconds in which the kernel ends what attaching and detaching left to do
_COLUMNS = (
    "work",
    "monitors",
    "without",
    "with / without",
    "95 %",
    "per cpu, 95 %",
    "limit",
    "met",
)
_ENDS = (signal.SIGINT, signal.SIGTERM)


def cases_of(monitors: Sequence[Monitor], wanted: Sequence[str]) -> dict[str, list[Monitor]]:
    """Return the cases by name, and which monitors each attaches; all where none is wanted."""
    every = {
        "all": list(monitors), **{one.name: [one] for one in monitors}, RECORDED: list(monitors)
    }  # fmt: skip
    named = {name.removesuffix("-monitor"): name for name in every}
    named["recorded"] = named.pop(RECORDED)
    try:
        return {name: every[name] for name in (named[one] for one in wanted or named)}
    except KeyError as error:
        raise SystemExit(f"there is no case {error}; one of: {', '.join(named)}") from None


class Rate(NamedTuple):
    """What a run came to.

    Attributes:
        second: Work in a second.
        cpu: Work in a second of processor time, of all who work; 0 where that is not known.
    """

    second: float
    cpu: float


def one_rate(
    made: Bench, work: Workload, case: str, monitors: list[Monitor], seconds: float
) -> Rate:
    """Return the rates of some work in one case."""
    with made.attached(monitors), contextlib.ExitStack() as stack:
        if case == RECORDED:
            stack.enter_context(made.recorded(monitors))
        elif monitors:
            stack.enter_context(made.emptied(monitors))
        time.sleep(_SETTLE)
        before = children_cpu() + work.cpu()
        done = work.run(seconds)
        return Rate(done.rate, done.amount / (children_cpu() + work.cpu() - before))


def measure(
    made: Bench, work: Workload, cases: Mapping[str, list[Monitor]], rounds: int, seconds: float
) -> list[Row]:
    """Measure one kind of work in turns; return a row a case."""

    def runner(name: str, monitors: list[Monitor]) -> Any:
        return lambda: one_rate(made, work, name, monitors, seconds)

    every = {"": [], **cases}
    found = in_turns(rounds, {name: runner(name, which) for name, which in every.items()})
    return [row_of(work, name, found[name], found[""]) for name in cases]


def row_of(work: Workload, case: str, rates: Sequence[Rate], bases: Sequence[Rate]) -> Row:
    """Return what the rates of one case come to, against those without a monitor."""
    seconds, base = [one.second for one in rates], [one.second for one in bases]
    ratio, limit = ratio_row(seconds, base), LIMITS.get(work.kind)
    row: Row = {"work": work.name, "kind": work.kind, "unit": work.unit, "monitors": case,
                "limit": limit, "without": spread(base).to_dict(),
                "with": spread(seconds).to_dict(),
                "with_to_without": ratio, "cpu_with_to_without": None,
                "met": _met(ratio, limit)}  # fmt: skip
    if all(one.cpu for one in bases):
        row["cpu_with_to_without"] = ratio_row([r.cpu for r in rates], [b.cpu for b in bases])
    row["text"] = texts_of(row)
    return row


def _met(ratio: Row, limit: float | None) -> bool | None:
    return None if limit is None else bool(ratio["median"] > limit)


def texts_of(row: Row) -> dict[str, str]:
    """Return the cells of a row's table."""
    ratio, cpu, limit = row["with_to_without"], row["cpu_with_to_without"], row["limit"]
    sure = limit is not None and (ratio["low_95"] > limit) == (ratio["high_95"] > limit)
    met = {None: "", True: "yes", False: "NO"}[row["met"]]
    return {
        "without": f"{row['without']['median']:,.4g} {row['unit']}",
        "with / without": f"{ratio['median']:.3f} ({ratio['min']:.2f}-{ratio['max']:.2f})",
        "95 %": f"{ratio['low_95']:.3f}-{ratio['high_95']:.3f}",
        "per cpu, 95 %": f"{cpu['low_95']:.3f}-{cpu['high_95']:.3f}" if cpu else "",
        "limit": "" if limit is None else f"> {limit:.2f}",
        "met": met if sure or not met else f"{met}, within the spread",
    }


def costs(made: Bench, works: Sequence[Workload], seconds: float) -> list[Row]:
    """Return what each monitor takes: memory, and time a run over all kinds of work."""
    before = {one.name: made.facts(one) for one in made.monitors}
    with run_statistics(), made.attached(made.monitors), made.emptied(made.monitors):
        began = time.monotonic()
        for work in works:
            work.run(seconds)
        took = time.monotonic() - began
        after = {one.name: made.facts(one) for one in made.monitors}
    return [cost_of(before[one.name], after[one.name], took) for one in made.monitors]


def cost_of(before: Row, after: Row, seconds: float) -> Row:
    """Return the cost of one monitor, from two of its ``facts`` and the time between them."""
    programs: Row = {}
    for old, new in zip(before["programs"], after["programs"], strict=True):
        runs, spent = new["run_cnt"] - old["run_cnt"], new["run_time_ns"] - old["run_time_ns"]
        if runs:
            programs[new["name"]] = {"runs": runs, "ns_a_run": spent / runs}
    return {
        "monitor": after["monitor"], "variant": after["variant"], "seconds": seconds,
        "memory_bytes": after["memory_bytes"] - after["ring"]["bytes"],
        "ring_bytes": after["ring"]["bytes"],
        "programs": programs,
        "cores": sum(p["runs"] * p["ns_a_run"] for p in programs.values()) / seconds / 1e9,
        "counters": {name: value - before["counters"][name]
                     for name, value in after["counters"].items()},
    }  # fmt: skip


def cost_line(row: Row) -> str:
    """Return a cost for a person."""
    runs = ", ".join(f"{name} {one['ns_a_run']:.0f}" for name, one in row["programs"].items())
    return (
        f"{row['monitor']} ({row['variant']}): {row['memory_bytes'] / 1024:,.0f} KiB "
        f"and a ring of {row['ring_bytes'] >> 10} KiB; ns a run: {runs or 'none'}"
    )


def run(options: argparse.Namespace) -> tuple[list[Row], list[Row]]:
    """Measure everything; return the ratios, and the costs by monitor."""
    monitors = list(MONITORS.values())
    cases = cases_of(monitors, options.case)
    with expedited(), empty_sandbox() as box, bench(box, monitors) as made:
        place = box.folder / "work"
        place.mkdir()
        with workloads(place, options.folder) as every:
            unknown = sorted(set(options.work) - set(every))
            if unknown:
                raise SystemExit(f"there is no work {unknown[0]!r}; one of: {', '.join(every)}")
            works = [every[name] for name in options.work or every]
            rows: list[Row] = []
            for work in works:
                start = time.monotonic()
                rows += measure(made, work, cases, options.rounds, options.seconds)
                took = time.monotonic() - start
                print(f"{work.name}: measured in {took:.0f} s", file=sys.stderr)
            return rows, costs(made, works, options.seconds)


def markdown(documents: Sequence[Row]) -> str:
    """Return the tables of saved results, for docs/performance.md."""
    lines: list[str] = []
    for each in documents:
        cells = [[row["work"], row["monitors"], *texts_of(row).values()] for row in each["results"]]
        lines += [_head(each), "", *_table(_COLUMNS, cells), "", *_cost_table(each["costs"]), ""]
    return "\n".join(lines)


def _head(document: Row) -> str:
    rounds = document["results"][0]["without"]["rounds"]
    return f"{head(document['environment'])}; {rounds} rounds."


def _cost_table(rows: Sequence[Row]) -> list[str]:
    cells = []
    for row in rows:
        told = row["programs"].items()
        cells.append([
            row["monitor"], row["variant"],
            f"{row['memory_bytes'] / 1024:,.0f} + {row['ring_bytes'] >> 10}",
            f"{sum(one['runs'] for _, one in told) / row['seconds'] / 1000:,.1f}",
            f"{100 * row['cores']:.2f}",
            ", ".join(f"`{name}` {one['ns_a_run']:.0f}" for name, one in told) or "-",
        ])  # fmt: skip
    head = ("monitor", "variant", "memory KiB + ring", "1,000 runs/s", "% of a core", "ns a run")
    return _table(head, cells)


def _table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> list[str]:
    return ["| " + " | ".join(each) + " |" for each in (head, ["---"] * len(head), *rows)]


def parser() -> argparse.ArgumentParser:
    """Return the command line."""
    made = arguments(__doc__, rounds=5)
    made.add_argument("--seconds", type=float, default=0.5, help="of each run (%(default)s)")
    made.add_argument("--work", action="append", default=[], metavar="NAME", help="only this")
    made.add_argument(
        "--with", action="append", default=[], dest="case", metavar="CASE",
        help="all, one of process filesystem network memory disk-io, or recorded",
    )  # fmt: skip
    made.add_argument("--folder", type=Path, metavar="DIR",
                      help="on the disk to measure; without, an ext4 in memory")  # fmt: skip
    made.add_argument("--markdown", nargs="+", type=Path, metavar="FILE",
                      help="only print what --json has saved, as tables")  # fmt: skip
    return made


def _end(number: int, _frame: FrameType | None) -> None:
    """Clean up all that was made, and let nobody interrupt that."""
    for each in _ENDS:
        signal.signal(each, signal.SIG_IGN)
    sys.exit(128 + number)


def main() -> None:
    """Run from the command line."""
    options = parser().parse_args()
    if options.markdown:
        print(markdown([json.loads(path.read_text("utf-8")) for path in options.markdown]))
        return
    if os.geteuid():
        sys.exit("benchmarks need root")
    if missing():
        sys.exit(f"these packages are missing: apt-get install {' '.join(missing())}")
    for number in _ENDS:
        signal.signal(number, _end)
    where = environment()  # before anything of ours is a load
    rows, spent = run(options)
    notes = ["ratios are of the same round; on an emulated processor they say little"]
    if options.json:
        plain = [{name: value for name, value in row.items() if name != "text"} for row in rows]
        json.dump({"environment": where, "results": plain, "costs": spent, "notes": notes},
                  sys.stdout, indent=1)  # fmt: skip
        print()
        return
    report(rows, _COLUMNS, [*map(cost_line, spent), *notes], as_json=False)


if __name__ == "__main__":
    run_main(main)
