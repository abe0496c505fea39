"""The kinds of tests: which command runs each, and which file says what it found."""

from __future__ import annotations

import os
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

REPOSITORY = Path(__file__).resolve().parent.parent.parent
SYSTEM_TESTS = REPOSITORY / "tests" / "system"
SYSTEM_IMAGE = "system image"
SCENARIOS = REPOSITORY / "molecule"
SCENARIO_IMAGE = "molecule image"
MACHINE_SECONDS = 3600
MACHINE_MIB = 2048
"""What scripts/vm gives a machine by default."""


class Job(NamedTuple):
    """One command.

    Attributes:
        name: ``unit``, or ``vm 6.1``.
        argv: The command.
        results: The JUnit file that it writes.
        quiet: Its output goes to a log beside the results, shown where it fails.
        prepares: It only makes what others need, and writes no results.
        after: The commands that have to have ended, by name; such as began before it.
        lane: Where it waits most of its time: it is run beside the others, one of its lane at a
            time.
    """

    name: str
    argv: tuple[str, ...]
    results: Path
    quiet: bool = False
    prepares: bool = False
    after: tuple[str, ...] = ()
    lane: str = ""


KINDS = ("check", "unit", "kernel", "vm", "counted", "system", "molecule", "long")
LONG = (
    "molecule boot", "molecule rollout", "molecule runbook", "system boot",
    "system demo", "system incident", "system kernel_upgrade",
)  # fmt: skip
"""What takes so long that it is a kind of its own: `make test` leaves it to `make long`."""
COUNTED = ("6.12", "7.2")
"""Kernels on which instructions are counted: a call's differ little from one to the next."""
FLEETS = ("test_fleet_*.py", "test_report.py", "test_rollout.py", "test_site.py")
"""Of tests/kernel: playbooks over many hosts, which wait for each other and for time to pass."""
SOAKS = "system soaks"
LANES = {"kernel fleets": "kernel", "kernel": "kernel", "system soak": "soak", SOAKS: "soak"}
"""What waits more than it works, and the lane it is in."""
TOGETHER = ("vm", "kernel", "molecule", "system", "long", "counted", "unit")
"""Run side by side: one process that does most of the work each. The longest begin first, so
that no core is left without work for long."""


class Stage(NamedTuple):
    """What is run side by side.

    Attributes:
        name: Of its kinds.
        jobs: The commands, in the order in which they begin.
        empty: Kinds that were asked for and have no command.
    """

    name: str
    jobs: list[Job]
    empty: list[str]


def stages(kinds: Sequence[str], results: Path, kernels: Sequence[str]) -> list[Stage]:
    """Return what is run one after the other: short kinds each alone, the others in one stage."""
    alone = [[kind] for kind in KINDS if kind in kinds and kind not in TOGETHER]
    together = [kind for kind in TOGETHER if kind in kinds]
    found = []
    for names in [*alone, together] if together else alone:
        wanted = {kind: jobs(kind, results, kernels) for kind in names}
        empty = [kind for kind, each in wanted.items() if not each]
        found.append(Stage(", ".join(names), ordered(wanted, results), empty))
    return found


def jobs(kind: str, results: Path, kernels: Sequence[str]) -> list[Job]:
    """Return the commands of one kind."""
    python = sys.executable
    file = results / f"{kind}.xml"
    pytest = (python, "-m", "pytest", "--quiet", f"--junitxml={file}")
    if kind == "check":
        return [Job(kind, (python, "scripts/check", f"--junit={file}"), file)]
    if kind == "unit":
        return [
            Job(kind, (*pytest, "-m", "not kernel and not vm and not system"), file, quiet=True)
        ]
    if kind == "kernel":
        return kernel_jobs(results)
    if kind in ("molecule", "system", "long"):
        scenarios = sorted(path.parent.name for path in SCENARIOS.glob("*/molecule.yml"))
        found = [molecule_job(name, results) for name in scenarios]
        found += [system_job(path, results) for path in sorted(SYSTEM_TESTS.glob("test_*.py"))]
        return [
            job for job in found if kind == ("long" if job.name in LONG else job.name.split()[0])
        ]
    vm = [python, "scripts/vm", "test", f"--junit={results}", f"--timeout={MACHINE_SECONDS}"]
    if kind == "counted":
        vm.append("--icount")
        kernels = [name for name in kernels if name in COUNTED]
    return [
        Job(f"{kind} {name}", (*vm, "--kernel", name), results / f"{kind}-{name}.xml", quiet=True)
        for name in kernels
    ]


def kernel_jobs(results: Path) -> list[Job]:
    """Return the commands that run tests/kernel: those of fleets, and the others."""
    folder = Path("tests/kernel")
    fleets = sorted(
        folder / each.name for name in FLEETS for each in (REPOSITORY / folder).glob(name)
    )
    chosen = {
        "kernel fleets": list(map(str, fleets)),
        "kernel": [str(folder), *(f"--ignore={path}" for path in fleets)],
    }
    found = []
    for name, words in chosen.items():
        file = results / f"{name.replace(' ', '-')}.xml"
        argv = (sys.executable, "-m", "pytest", "--quiet", f"--junitxml={file}", "-m", "kernel")
        found.append(Job(name, (*argv, *words), file, quiet=True, lane=LANES[name]))
    return found


def ordered(wanted: Mapping[str, list[Job]], results: Path) -> list[Job]:
    """Return the commands of some kinds, and before them those that make what they start from.

    The machine of the scenarios is made on the disk of the others, so it comes later. Three
    soaks at once begin when the machines have ended, where some tests give an effect two seconds.
    """
    machines = tuple(job.name for job in wanted.get("vm", ()))
    found = [
        job._replace(after=(*job.after, *machines)) if job.name == SOAKS else job
        for each in wanted.values()
        for job in each
    ]
    needed = {name for job in found for name in job.after}
    if SCENARIO_IMAGE in needed:
        argv = ("scripts/molecule", "--build")
        found.insert(len(wanted.get("vm", ())), image_job(SCENARIO_IMAGE, argv, results))
    if SYSTEM_IMAGE in needed:
        found.insert(0, image_job(SYSTEM_IMAGE, ("scripts/system-vm", "build"), results))
    return found


def image_job(name: str, argv: tuple[str, ...], results: Path) -> Job:
    """Return a command that makes what is missing of what others start from."""
    file = results / f"{name.replace(' ', '-')}.xml"
    return Job(name, (sys.executable, *argv), file, quiet=True, prepares=True)


def system_job(path: Path, results: Path) -> Job:
    """Return the command that runs one file of tests/system; each test starts its machine."""
    name = path.stem.removeprefix("test_")
    file = results / f"system-{name}.xml"
    pytest = (sys.executable, "-m", "pytest", "--quiet", f"--junitxml={file}")
    argv = (*pytest, "-m", "system", str(path.relative_to(REPOSITORY)))
    name = f"system {name}"
    return Job(name, argv, file, quiet=True, after=(SYSTEM_IMAGE,), lane=LANES.get(name, ""))


def molecule_job(name: str, results: Path) -> Job:
    """Return the command that runs one scenario, which starts its machines."""
    file = results / f"molecule-{name}.xml"
    argv = (sys.executable, "scripts/molecule", name, f"--junit={file}")
    return Job(f"molecule {name}", argv, file, quiet=True, after=(SCENARIO_IMAGE,))


def machines_at_once(memory_mib: int, cores: int) -> int:
    """Return how many commands this host carries side by side: 2 at most.

    One of them may have three machines, of which a single one works at a time; some memory is left.
    """
    return 2 if cores >= 2 and memory_mib >= 5 * MACHINE_MIB else 1


def host_memory_mib() -> int:
    """Return the memory that is there to be used."""
    for line in Path("/proc/meminfo").read_text(encoding="ascii").splitlines():
        if line.startswith("MemAvailable:"):
            return int(line.split()[1]) // 1024
    return 0


def host_cores() -> int:
    """Return the cores this process may use."""
    return len(os.sched_getaffinity(0))
