"""What the hooks add to whole work: a build with its commits, a web server, a database.

    scripts/vm run --icount --kernel 6.12 -- python3 -m benchmarks.mixes
    python -m benchmarks.mixes [--json] [--rounds N] [--count N] [NAME...]

As root, in a machine. The work is that of soaks (`aegis_tools.soak.work`), whose programs and files
no rule names; a round of it is made without the hooks, so again, in audit and in enforce, with so
many rules of every kind.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from functools import partial
from time import monotonic

from aegis_tools.control.commit import commit
from aegis_tools.soak.work import WORK, Round
from benchmarks.compare import FEWEST, against
from benchmarks.environment import counts_instructions, environment
from benchmarks.hooks import NONE, Hooks
from benchmarks.measure import Row, arguments, pinned, run_main, spread, text_of
from benchmarks.overhead import MACHINE
from benchmarks.rulesets import ALL, prepared, ruleset

TIMES = {"developer": 1, "web": 4, "database": 100}
"""How often a round of a soak's work is done in a round: one of the database is short, and no two
are alike.
"""
_COLUMNS = ("work", "none", "audit", "enforce", "verdict")


def one_round(made: Hooks, times: int, work: Round, state: str) -> float:
    """Return how long so many rounds of a work take in a state of the hooks."""
    made.be(state)
    began = monotonic()
    for _ in range(times):
        work()
    return monotonic() - began


def measure(made: Hooks, name: str, rounds: int) -> Row:
    """Return what the hooks add to one kind of work."""
    folder = made.box.folder / name
    folder.mkdir()
    with WORK[name](folder, made.box.paths) as work:
        one = partial(one_round, made, TIMES[name], work)
        cases = {state: partial(one, state) for state in made.states[1:]}
        bases, _, found = against(rounds, partial(one, NONE), cases)
    row: Row = {"work": name, "none_s": spread(bases).to_dict()}
    return {**row, **{state: each.to_dict() for state, each in found.items()}}


def texts_of(row: Row) -> dict[str, str]:
    """Return the cells of a row's table."""
    states = {name: row[name] for name in _COLUMNS if isinstance(row.get(name), dict)}
    shown = {name: f"{each['ratio']:.3f} ({each['low_99']:.3f}-{each['high_99']:.3f})"
             for name, each in states.items()}  # fmt: skip
    verdicts = sorted({each["verdict"] for each in states.values()})
    none = f"{row['none_s']['median'] * 1e3:,.1f}"
    return {**shown, "none": none, "verdict": ", ".join(verdicts)}


def run(names: Sequence[str], rounds: int, count: int) -> list[Row]:
    """Measure each kind of work."""
    if MACHINE not in os.environ:
        raise SystemExit("it denies what it measures: run it in a machine (scripts/vm)")
    with pinned(), prepared() as (made, place):
        commit(made.live, ruleset(ALL, count, place, made.box.pins))
        return [measure(made, name, rounds) for name in names]


def main() -> None:
    """Run from the command line."""
    parser = arguments(__doc__, rounds=FEWEST)
    parser.add_argument("--count", type=int, default=1000, help="rules of each kind")
    parser.add_argument("names", nargs="*", choices=[[], *TIMES], metavar="NAME",
                        help=f"of {', '.join(TIMES)}; default: all")  # fmt: skip
    options = parser.parse_args()
    if os.geteuid():
        sys.exit("benchmarks need root")
    where = environment()
    rows = run(options.names or tuple(TIMES), options.rounds, options.count)
    unit = "million instructions" if counts_instructions() else "ms"
    notes = [f"none in {unit} a round; audit and enforce as ratios to it, with 99 % intervals"]
    told = [{**row, "text": texts_of(row)} for row in rows]
    print(text_of(where, told, _COLUMNS, notes, as_json=options.json), end="")


if __name__ == "__main__":
    run_main(main)
