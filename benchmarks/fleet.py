"""What playbooks take over a fleet of light hosts, as ratios to ``ansible -m ping`` over the same.

    python -m benchmarks.fleet [--json] [--rounds N] [--hosts 10 50 100] [--forks N] [--wait S]

Every host has an sshd, files and maps of its own, on this machine: what they take of its
processors is in the times that pass, so ratios count, and what the controller itself takes, which
is told apart: processor seconds of Ansible with its children, and of its first process alone, which
does one thing at a time. ``first`` brings hosts on which only the program is to the desired state,
once a fleet; the others are in turns: ``site`` and ``status`` change nothing, ``rollout`` brings a
new policy to all in one wave without a soak time.

With ``--wait`` every host sleeps before each answer, as one that is slow or far away: then hosts
and forks decide, not this machine's processors. ``model`` is what the times of the two smallest
fleets let expect of the others.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections.abc import Callable
from contextlib import ExitStack
from functools import partial
from itertools import count
from pathlib import Path
from tempfile import TemporaryDirectory, TemporaryFile
from typing import NamedTuple

from benchmarks.measure import Row, arguments, children_cpu, in_turns, ratios, report, slope, spread

REPOSITORY = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(REPOSITORY / "scripts"))

BIN = Path(sys.executable).parent
_COLUMNS = ("what", "hosts", "s", "model", "to ping", "cpu s a host", "first process s a host")
_TICKS = os.sysconf("SC_CLK_TCK")


class Timing(NamedTuple):
    """Seconds that passed, of processors on the controller, and those of the first process."""

    wall: float
    cpu: float
    first: float


class Costs(NamedTuple):
    """What a playbook takes.

    Attributes:
        start: Seconds that do not depend on the hosts.
        turn: Seconds in which so many hosts as there are forks are through.
        first: Processor seconds of Ansible's first process, a host.
    """

    start: float
    turn: float
    first: float = 0

    def seconds(self, hosts: int, forks: int) -> float:
        """Return how long it takes: hosts in turns, or Ansible's first process, if it is slower."""
        return self.start + max(hosts / forks * self.turn, hosts * self.first)


def costs(small: tuple[int, float], large: tuple[int, float], forks: int) -> Costs:
    """Return the costs that two fleets show, given as (hosts, seconds)."""
    a_host = (large[1] - small[1]) / (large[0] - small[0])
    return Costs(small[1] - small[0] * a_host, forks * a_host)


class Controller:
    """Where playbooks are started.

    Args:
        inventory: Of the fleet.
        folder: For keys and bundles.
        forks: How many hosts are worked on at once.
    """

    def __init__(self, inventory: Path, folder: Path, forks: int) -> None:
        self.inventory, self.folder = inventory, folder
        self.environment = {
            **os.environ,
            "ANSIBLE_CONFIG": str(REPOSITORY / "ansible.cfg"),
            "ANSIBLE_FORKS": str(forks),
            "ANSIBLE_HOME": str(folder),
            "PATH": f"{BIN}:{os.environ['PATH']}",
        }
        self._numbers = count(1)
        self._aegisbpf("keys", "generate", "ops")
        self.bundle = self.sign()

    def sign(self) -> Path:
        """Return a new bundle, of a rule that none before had."""
        number = next(self._numbers)
        policy = self.folder / "policy.yaml"
        policy.write_text(f"version: 1\nrules:\n  - {{id: r{number}, path: /srv/{number}}}\n")
        bundle = self.folder / f"{number}.bundle"
        self._aegisbpf("policy", "sign", policy, "--key", "ops.key", "--output", bundle)
        return bundle

    def _aegisbpf(self, *words: str | Path) -> None:
        argv = [BIN / "aegisbpf", *words]
        subprocess.run(argv, cwd=self.folder, check=True, stdout=subprocess.DEVNULL)

    def module(self, *words: str) -> Timing:
        """Run one module everywhere."""
        return self._run("ansible", "all", *words)

    def play(self, playbook: str) -> Timing:
        """Run a playbook for the newest bundle."""
        given = {
            "aegisbpf_allow_fallback": True,
            "aegisbpf_service_managed": False,
            "aegisbpf_trusted_keys": [str(self.folder / "ops.pub")],
            "aegisbpf_policy": str(self.bundle),
            "aegisbpf_waves": ["100%"],
            "aegisbpf_baseline_seconds": 0,
            "aegisbpf_soak_seconds": 0,
            "aegisbpf_report": "none",
        }
        return self._run("ansible-playbook", f"playbooks/{playbook}.yml", "-e", json.dumps(given))

    def roll(self) -> Timing:
        """Roll a new policy out."""
        self.bundle = self.sign()
        return self.play("rollout")

    def _run(self, program: str, *words: str) -> Timing:
        cpu, start = children_cpu(), time.perf_counter()
        with TemporaryFile("w+") as output:
            process = subprocess.Popen(
                [BIN / program, "-i", self.inventory, *words],
                cwd=REPOSITORY,
                env=self.environment,
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
            )
            # Not reaped yet, so what it took itself can still be read.
            os.waitid(os.P_PID, process.pid, os.WEXITED | os.WNOWAIT)
            first = own_cpu(process.pid)
            if process.wait():
                output.seek(0)
                raise SystemExit(f"{program} {words[0]} failed:\n{output.read()[-4000:]}")
        return Timing(time.perf_counter() - start, children_cpu() - cpu, first)


def own_cpu(pid: int) -> float:
    """Return the processor seconds of a process without its children (proc(5), utime, stime)."""
    fields = Path(f"/proc/{pid}/stat").read_text(encoding="utf-8").rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / _TICKS


def slow(folder: Path, variables: Row, seconds: float) -> None:
    """Let every Python that is started on a host sleep first."""
    python = folder / "python"
    python.write_text(f'#!/bin/sh\nsleep {seconds}\nexec /usr/bin/python3 "$@"\n')
    python.chmod(0o755)
    variables["ansible_python_interpreter"] = str(python)


def measure(hosts: int, rounds: int, forks: int, wait: float) -> list[Row]:
    """Measure everything over so many hosts."""
    from fleetsim.fleet import Fleet

    with ExitStack() as stack:
        fleet = stack.enter_context(Fleet(hosts))
        folder = Path(stack.enter_context(TemporaryDirectory(prefix="aegis-fleet-")))
        inventory, listed = folder / "inventory.json", fleet.inventory()
        if wait:
            slow(fleet.folder, listed["all"]["vars"], wait)
        inventory.write_text(json.dumps(listed), encoding="utf-8")
        controller = Controller(inventory, folder, forks)
        ping = partial(controller.module, "-m", "ansible.builtin.ping")
        ping()
        program = "/opt/aegisbpf/current/bin/aegisbpf load"
        controller.module("-m", "ansible.builtin.command", "-a", program)
        first = controller.play("site")
        cases: dict[str, Callable[[], Timing]] = {
            "ping": ping,
            "status": partial(controller.play, "status"),
            "site": partial(controller.play, "site"),
            "rollout": controller.roll,
        }
        found = in_turns(rounds, cases, warm_up=0)
    pings = found["ping"]
    middle = sorted(pings)[len(pings) // 2]
    rows = [row(name, hosts, found[name], pings) for name in cases]
    return [*rows, row("first", hosts, [first], [middle])]


def row(what: str, hosts: int, times: list[Timing], pings: list[Timing]) -> Row:
    """Return a line of the table."""
    wall = spread([one.wall for one in times])
    to_ping = ratios([one.wall for one in times], [one.wall for one in pings])
    cpu = spread([one.cpu / hosts for one in times])
    first = spread([one.first / hosts for one in times])
    return {
        "what": what,
        "hosts": hosts,
        "seconds": wall.to_dict(),
        "to_ping": to_ping.to_dict(),
        "controller_cpu_seconds_a_host": cpu.to_dict(),
        "first_process_seconds_a_host": first.to_dict(),
        "text": {"s": wall.text(digits=1), "model": "", "to ping": to_ping.text(),
                 "cpu s a host": cpu.text(), "first process s a host": first.text(digits=3)},
    }  # fmt: skip


def expect(rows: list[Row], forks: int) -> None:
    """Write what the two smallest fleets let expect into the rows of the others."""
    for name in dict.fromkeys(row["what"] for row in rows):
        of = sorted((row for row in rows if row["what"] == name), key=lambda row: row["hosts"])
        points = [(row["hosts"], row["seconds"]["median"]) for row in of]
        for row in of[2:]:
            first = row["first_process_seconds_a_host"]["median"]
            known = costs(points[0], points[1], forks)._replace(first=first)
            seconds = known.seconds(row["hosts"], forks)
            row["model_seconds"] = seconds
            row["text"]["model"] = f"{seconds:.1f}"


def growth(rows: list[Row]) -> list[str]:
    """Return how the times grow with the number of hosts: an exponent of 1 is linear."""
    found = []
    for name in dict.fromkeys(row["what"] for row in rows):
        of = [row for row in rows if row["what"] == name]
        if len(of) > 1:
            exponent = slope([row["hosts"] for row in of], [r["seconds"]["median"] for r in of])
            found.append(f"{name}: time grows with hosts to the power of {exponent:.2f}")
    return found


def main() -> int:
    parser = arguments(__doc__, rounds=3)
    parser.add_argument("--hosts", type=int, nargs="+", default=[10, 50, 100])
    parser.add_argument("--forks", type=int, default=25, help="default: %(default)s")
    parser.add_argument("--wait", type=float, default=0, help="seconds before every answer")
    options = parser.parse_args()
    rows: list[Row] = []
    for hosts in options.hosts:
        rows += measure(hosts, options.rounds, options.forks, options.wait)
    expect(rows, options.forks)
    report(
        rows,
        _COLUMNS,
        [f"{options.forks} forks, hosts that wait {options.wait:g} s", *growth(rows)],
        as_json=options.json,
    )
    return 0


if __name__ == "__main__":
    sys.exit(main())
