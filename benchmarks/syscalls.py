"""What single system calls take on this machine; with --with-agent, also what Aegis adds to them.

    python -m benchmarks.syscalls [--json] [--out FILE] [--rounds N] [--calls CALL...]
    python -m benchmarks.syscalls --with-agent

Without the agent it needs no root, loads nothing, and measures everything twice, so that it shows
what noise there is. With it, as root, every round measures without anything of ours, the same
again, and with hooks and agent: what is called matches no rule, and nothing is ever denied.
"""

from __future__ import annotations

import argparse
import contextlib
import os
import sys
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path

from aegis_tools.control.commit import commit
from aegis_tools.control.files import check_output, named, write_atomic
from aegis_tools.kernel.loader import LoadOptions
from benchmarks.agent import agent
from benchmarks.calls import KINDS as CALLS
from benchmarks.calls import build
from benchmarks.compare import Comparison, compare
from benchmarks.environment import environment
from benchmarks.hooks import AUDIT, NONE
from benchmarks.measure import (
    Row,
    arguments,
    in_turns,
    interval,
    pinned,
    run_main,
    spread,
    text_of,
)
from benchmarks.rulesets import ALL, Place, places, prepared, ruleset

LOADED = Path("/sys/fs/bpf/aegis")
_WITHOUT, _AGAIN, _WITH = "without", "without, again", "with"
_COLUMNS = ("call", "without ns", "with ns", "with / without", "verdict")
_PLAIN = ("call", "without ns", "95 %", "again / first")

Figures = dict[str, float]


def one_round(place: Place, calls: Sequence[str]) -> Figures:
    """Return the nanoseconds of each call, on what no rule names."""
    found = {}
    for call in calls:
        found[call] = place.told(call, place.subjects(ALL, call)["miss"]).median * 1e9
    return found


@contextlib.contextmanager
def plain() -> Iterator[Place]:
    """Yield something to call on, with nothing loaded."""
    with tempfile.TemporaryDirectory(prefix="aegis-bench-") as name:
        folder = Path(name)
        with places(folder, build(folder)) as place:
            yield place


def without_agent(options: argparse.Namespace) -> list[Row]:
    """Measure this machine as it is, twice a round."""
    with pinned(), plain() as place:
        cases = dict.fromkeys((_WITHOUT, _AGAIN), lambda: one_round(place, options.calls))
        found = in_turns(options.rounds, cases)
    return [plain_row(call, *([one[call] for one in found[name]] for name in cases))
            for call in options.calls]  # fmt: skip


def with_agent(options: argparse.Namespace) -> list[Row]:
    """Measure without and with hooks and agent, in turns."""

    def without() -> Figures:
        made.be(NONE)
        return one_round(place, options.calls)

    def attached() -> Figures:
        made.be(AUDIT)
        with agent(made.box):
            return one_round(place, options.calls)

    with pinned(), prepared(LoadOptions()) as (made, place):
        commit(made.live, ruleset(ALL, 1, place, made.box.pins))
        found = in_turns(options.rounds, {_WITHOUT: without, _AGAIN: without, _WITH: attached})
    return [row_of(call, *([one[call] for one in each] for each in found.values()))
            for call in options.calls]  # fmt: skip


def _figure(values: Sequence[float]) -> Row:
    low, high = interval(values)
    return {**spread(values).to_dict(), "low_95": low, "high_95": high}


def plain_row(call: str, first: Sequence[float], again: Sequence[float]) -> Row:
    """Return what a call takes, and how far two measurements of it are apart."""
    one = _figure(first)
    control = spread([b / a for a, b in zip(first, again, strict=True)])
    return {
        "call": call, "without_ns": one, "again_to_first": control.to_dict(),
        "text": {"without ns": f"{one['median']:,.0f}",
                 "95 %": f"{one['low_95']:,.0f}-{one['high_95']:,.0f}",
                 "again / first": control.text(digits=3)},
    }  # fmt: skip


def row_of(
    call: str, bases: Sequence[float], again: Sequence[float], values: Sequence[float]
) -> Row:
    """Return what is added to a call, with its verdict."""
    compared: Comparison = compare(values, bases, again)
    without, with_ = _figure(bases), _figure(values)
    return {
        "call": call, "without_ns": without, "with_ns": with_,
        "with_to_without": compared.to_dict(),
        "text": {"without ns": f"{without['median']:,.0f}", "with ns": f"{with_['median']:,.0f}",
                 "with / without": compared.text(), "verdict": compared.verdict},
    }  # fmt: skip


def notes_of(options: argparse.Namespace) -> list[str]:
    """Return what a reader of the figures has to know."""
    found = ["a call is all of it: open and close; socket, connect and close, and so on"]
    if options.with_agent:
        found.append("in brackets the 99 % interval, widened by what the control is off")
    if LOADED.exists():
        found.append("Aegis is loaded on this host: its hooks are part of both figures")
    return found


def parser() -> argparse.ArgumentParser:
    """Return the command line."""
    made = arguments(__doc__, rounds=15)
    made.prog = os.environ.get("AEGIS_BENCHMARK", made.prog)  # the script that a person called
    made.add_argument("--out", type=Path, metavar="FILE",
                      help="write there, not to the terminal; a file is replaced")  # fmt: skip
    made.add_argument("--calls", nargs="+", choices=CALLS, default=["open", "connect"],
                      metavar="CALL", help="of: %(choices)s; default: %(default)s")  # fmt: skip
    made.add_argument("--with-agent", action="store_true",
                      help="and with Aegis; needs root; perf_open_bench.sh and "
                      "perf_connect_bench.sh do with WITH_AGENT=1, bench_syscall.sh always",
                      )  # fmt: skip
    return made


def main() -> None:
    """Run from the command line."""
    options = parser().parse_args()
    if options.out:
        check_output(options.out, what="results")
    if options.with_agent and os.geteuid():
        sys.exit("with the agent it needs root: what it measures is loaded into the kernel")
    where = environment()  # before anything of ours is a load
    rows = with_agent(options) if options.with_agent else without_agent(options)
    columns = _COLUMNS if options.with_agent else _PLAIN
    text = text_of(where, rows, columns, notes_of(options), as_json=options.json)
    if options.out:
        what = f"results {named(options.out)}"
        write_atomic(options.out.absolute(), text.encode(), what=what, mode=0o644)
    else:
        print(text, end="")


if __name__ == "__main__":
    run_main(main)
