"""What a kernel of the matrix has to go through: the figures that tests/vm/budget/ keeps.

    scripts/vm run --kernel 6.12 -- python3 -m benchmarks.budget > tests/vm/budget/6.12.json
    scripts/vm run --icount --kernel 6.12 -- python3 -m benchmarks.budget \\
        > tests/vm/budget/6.12-calls.json

Of each program the instructions that were verified and the bytes that came of it; in a machine that
counts instructions, those that are added to a call which no rule matches. The tests hold them.
"""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path
from typing import Protocol

from aegis_tools.control.commit import commit
from aegis_tools.kernel import loader, syscall
from aegis_tools.kernel.features import Features
from aegis_tools.kernel.loader import LoadOptions
from aegis_tools.monitors.registry import MONITORS
from benchmarks.calls import NETWORK
from benchmarks.environment import counts_instructions
from benchmarks.hooks import AUDIT, NONE
from benchmarks.loaded import bench
from benchmarks.measure import pinned, run_main
from benchmarks.rulesets import ALL, Place, prepared, ruleset
from benchmarks.sandbox import empty_sandbox, sandbox

MANY = 1000
CALLS = ("open", "send")
"""Of which the kernel does as much each time; connect and bind look for who else has a port."""
POLICIES = (
    ("no rule", ALL, 0), ("inode", "inode", 1), ("name", "name", 1), ("directory", "directory", 1),
    ("cidr", "cidr", 1), ("port", "port", 1),
    *((f"{MANY} {kind}", kind, MANY) for kind in ("inode", "name", "cidr", "port")),
)  # fmt: skip
"""Name, kind and number of rules of what a miss is counted with."""
_NO_LSM = Features(release="", lsms=(), btf=True, disabled=False)

Sizes = dict[str, dict[str, int]]


class HasPrograms(Protocol):
    """Pins with programs."""

    def names(self, part: str) -> list[str]:
        """Return what is pinned."""

    def path(self, part: str, name: str = "") -> Path:
        """Return where."""


def sizes_of(pins: HasPrograms, prefix: str = "") -> Sizes:
    """Return the sizes of pinned programs, by name."""
    found = {}
    for name in pins.names("progs"):
        program = syscall.obj_get(str(pins.path("progs", name)))
        try:
            found[prefix + name] = {
                "verified": syscall.program_info(program)["verified_insns"],
                "bytes": syscall.program_sizes(program)["xlated_len"],
            }
        finally:
            os.close(program)
    return found


def others() -> Sizes:
    """Load the audit fallback and the monitors, each as this kernel takes it; return the sizes."""
    with empty_sandbox() as box:
        loader.load(box.pins, _NO_LSM, LoadOptions())
        try:
            found = sizes_of(box.pins, "fallback/")
        finally:
            box.pins.remove_all()
        for monitor in MONITORS.values():
            with bench(box, [monitor]) as made:
                found |= sizes_of(made.pins(monitor), f"{monitor.name}/")
    return found


def programs() -> Sizes:
    """Load everything there is; return the sizes."""
    with sandbox() as box:
        found = sizes_of(box.pins)
    return {**found, **others()}


def misses() -> dict[str, dict[str, float]]:
    """Return the instructions of each call without hooks, and what policies add, on a miss.

    ``none again`` is what a second count of ``none`` differs by.
    """
    with pinned(), prepared() as (made, place):
        made.be(NONE)
        bases = {name: _count(place, name) for name in CALLS}
        again = {name: _count(place, name) - bases[name] for name in CALLS}
        found = {"none": bases, "none again": again}
        made.be(AUDIT)
        for title, kind, count in POLICIES:
            commit(made.live, ruleset(kind, count, place, made.box.pins))
            found[title] = {
                name: round(_count(place, name) - bases[name], 2)
                for name in CALLS
                if kind == ALL or (name in NETWORK) == (kind in ("cidr", "port"))
            }
    return found


def _count(place: Place, call: str) -> float:
    return round(place.told(call, place.subjects(ALL, call)["miss"]).median * 1e9, 2)


def main() -> None:
    """Run from the command line."""
    if os.geteuid():
        sys.exit("it needs root")
    found = misses() if counts_instructions() else programs()
    json.dump(found, sys.stdout, indent=1, sort_keys=not counts_instructions())
    print()


if __name__ == "__main__":
    run_main(main)
