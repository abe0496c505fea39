"""What the hooks add to a call: by kind of call and rule, by number of rules, missed and hit.

    scripts/vm run --icount --kernel 6.12 -- python3 -m benchmarks.overhead --json > 6.12.json
    python -m benchmarks.overhead [--json] [--rounds N] [--rules KIND...] [--counts N...]

As root. In a machine that counts instructions (--icount) a nanosecond is one, and the figures are
the same in every run, so one round will do; elsewhere they are times. A round makes every call with
the links removed, the same again, in audit and in enforce; then in audit and in enforce with the
agent running. Of a miss the median batch counts; of a hit the mean, as an event is also read by
somebody. Without the agent the ring of events is full, and a hit finds no room in it.
"""

from __future__ import annotations

import argparse
import os
import sys
import time
from collections.abc import Iterator, Sequence
from functools import partial
from typing import NamedTuple

from aegis_tools.control.commit import commit
from benchmarks.agent import agent
from benchmarks.calls import KINDS as CALLS
from benchmarks.calls import Told
from benchmarks.compare import compare
from benchmarks.environment import counts_instructions, environment
from benchmarks.hooks import ENFORCE, NONE, Hooks, spent
from benchmarks.measure import Row, arguments, in_turns, pinned, run_main, spread, text_of
from benchmarks.rulesets import ALL, COUNTS, KINDS, Place, calls_of, prepared, ruleset

MACHINE = "AEGIS_VM_KERNEL"
AGAIN = "none again"
NOTHING = "none"
_HIT_TIMES = 3  # the batches of a miss: an event costs most where it is read, later
_COLUMNS = ("rules", "count", "call", "subject", "none", "audit", "enforce", "audit, agent",
            "enforce, agent", "added")  # fmt: skip


class Case(NamedTuple):
    """A call on a subject of a policy."""

    call: str
    subject: str


Figures = dict[Case, float]


def cases_of(kind: str, count: int, wanted: Sequence[str], place: Place) -> dict[Case, str]:
    """Return what is measured with a policy: what each call is made on."""
    found = {}
    for call in (each for each in calls_of(kind) if each in wanted):
        for subject, target in place.subjects(kind, call).items():
            if count or subject == "miss":
                found[Case(call, subject)] = target
    return found


def one_state(hooks: Hooks, place: Place, cases: dict[Case, str], state: str) -> Figures:
    """Return the seconds of a call by case, in a state of the hooks."""
    hooks.be(NONE if state == AGAIN else state)
    return {case: _seconds(place, case, target, state) for case, target in cases.items()}


def _seconds(place: Place, case: Case, target: str, state: str) -> float:
    hit = case.subject == "hit"
    told = place.told(case.call, target, _HIT_TIMES if hit else 1)
    _check(case, state, told)
    return told.mean if hit else told.median


def _check(case: Case, state: str, told: Told) -> None:
    if told.denied is not (case.subject == "hit" and state == ENFORCE):
        raise SystemExit(f"{case.call} of a {case.subject} in {state} was answered {told.answer}")


def measure(
    hooks: Hooks, place: Place, cases: dict[Case, str], rounds: int, *, agents: bool
) -> Iterator[Row]:
    """Measure with the rules that are live; yield a row a case."""
    states = {name: partial(one_state, hooks, place, cases, name)
              for name in (NONE, AGAIN, *hooks.states[1:])}  # fmt: skip
    warm_up = int(not counts_instructions())
    found = in_turns(rounds, states, warm_up=warm_up)
    if agents:
        attached = {name: states[name] for name in hooks.states[1:]}
        with agent(hooks.box):
            told = in_turns(rounds, attached, warm_up=warm_up)
        found |= {f"{name}, agent": each for name, each in told.items()}
    programs = {case: _programs(hooks, place, case, target) for case, target in cases.items()}
    for case in cases:
        by_state = {name: [each[case] for each in rows] for name, rows in found.items()}
        yield row_of(case, by_state, programs[case])


def _programs(hooks: Hooks, place: Place, case: Case, target: str) -> Row:
    hooks.be(hooks.states[-1])
    with spent(hooks) as found:
        place.told(case.call, target)
    return {name: {"runs": runs, "ns_a_run": ns} for name, (runs, ns) in found.items()}


def row_of(case: Case, found: dict[str, list[float]], programs: Row) -> Row:
    """Return what the figures of a case come to, by state."""
    bases, again = found.pop(NONE), found.pop(AGAIN)
    row: Row = {"call": case.call, "subject": case.subject, "none_s": spread(bases).to_dict(),
                "programs": programs}  # fmt: skip
    for name, values in found.items():
        row[name] = {**compare(values, bases, again).to_dict(), "s": spread(values).median}
    return row


def texts_of(row: Row) -> dict[str, str]:
    """Return the cells of a row's table, in nanoseconds or instructions."""
    none = row["none_s"]["median"] * 1e9
    states = {name: row[name] for name in _COLUMNS if isinstance(row.get(name), dict)}
    added = [each["s"] * 1e9 - none for each in states.values()]
    return {
        "none": f"{none:,.0f}",
        **{name: f"{each['ratio']:.3f}" for name, each in states.items()},
        "added": " ".join(f"{each:+,.0f}" for each in added),
    }


def run(options: argparse.Namespace) -> list[Row]:
    """Measure every policy that is asked for."""
    rows: list[Row] = []
    with pinned(), prepared() as (made, place):
        if ENFORCE in made.states and MACHINE not in os.environ:
            raise SystemExit("it denies what it measures: run it in a machine (scripts/vm)")
        for kind, count in policies(options.rules, options.counts):
            began = time.monotonic()
            commit(made.live, ruleset(kind, count, place, made.box.pins))
            live = time.monotonic()
            cases = cases_of(kind, count, options.calls, place)
            for row in measure(made, place, cases, options.rounds, agents=options.agent):
                rows.append({"rules": kind if count else NOTHING, "count": count, **row})
            print(f"{count} {kind}: live in {live - began:.0f} s,"
                  f" measured in {time.monotonic() - live:.0f} s", file=sys.stderr)  # fmt: skip
    return rows


def policies(kinds: Sequence[str], counts: Sequence[int]) -> Iterator[tuple[str, int]]:
    """Yield the policies; that without a rule once, as it is of no kind."""
    if 0 in counts:
        yield ALL, 0
    for kind in kinds:
        yield from ((kind, count) for count in counts if count)


def parser() -> argparse.ArgumentParser:
    """Return the command line."""
    made = arguments(__doc__, rounds=1 if counts_instructions() else 15)
    kinds = (*KINDS, ALL)
    made.add_argument("--rules", nargs="+", choices=kinds, default=kinds, metavar="KIND",
                      help="of: %(choices)s; default: all")  # fmt: skip
    made.add_argument("--counts", nargs="+", type=int, default=COUNTS, metavar="N",
                      help="rules of a policy; default: %(default)s")  # fmt: skip
    made.add_argument("--calls", nargs="+", choices=CALLS, default=tuple(CALLS), metavar="CALL",
                      help="of: %(choices)s; default: all")  # fmt: skip
    made.add_argument("--no-agent", dest="agent", action="store_false", help="leave that out")
    return made


def main() -> None:
    """Run from the command line."""
    options = parser().parse_args()
    if os.geteuid():
        sys.exit("benchmarks need root")
    where = environment()  # before anything of ours is a load
    rows = run(options)
    unit = "instructions" if counts_instructions() else "ns"
    notes = [f"none in {unit}; audit and enforce as ratios to it; added in {unit}, in that order"]
    told = [{**row, "text": texts_of(row)} for row in rows]
    print(text_of(where, told, _COLUMNS, notes, as_json=options.json), end="")


if __name__ == "__main__":
    run_main(main)
