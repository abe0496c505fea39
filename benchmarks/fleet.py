"""What playbooks take over a fleet of light hosts, as ratios to ``ansible -m ping`` over the same.

    python -m benchmarks.fleet [--json] [--rounds N] [--hosts 10 50 100] [--forks N]

Every host has an sshd, files and maps of its own, on this machine: what they take of its
processors is in the times that pass, so ratios count, and what the controller itself takes, which
is told apart (processor seconds of Ansible and its children). ``first`` brings hosts on which only
the program is to the desired state, once a fleet; the others are in turns: ``site`` and
``status`` change nothing, ``rollout`` brings a new policy to all in one wave without a soak time.
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
from tempfile import TemporaryDirectory
from typing import NamedTuple

from benchmarks.measure import Row, arguments, children_cpu, in_turns, ratios, report, slope, spread

REPOSITORY = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(REPOSITORY / "scripts"))

BIN = Path(sys.executable).parent
_COLUMNS = ("what", "hosts", "s", "to ping", "s a host", "controller cpu s a host")


class Timing(NamedTuple):
    """Seconds that passed, and of processors on the controller."""

    wall: float
    cpu: float


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
        done = subprocess.run(
            [BIN / program, "-i", self.inventory, *words],
            cwd=REPOSITORY,
            env=self.environment,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            check=False,
        )
        if done.returncode:
            raise SystemExit(f"{program} {words[0]} failed:\n{done.stdout[-4000:]}")
        return Timing(time.perf_counter() - start, children_cpu() - cpu)


def measure(hosts: int, rounds: int, forks: int) -> list[Row]:
    """Measure everything over so many hosts."""
    from fleetsim.fleet import Fleet

    with ExitStack() as stack:
        fleet = stack.enter_context(Fleet(hosts))
        folder = Path(stack.enter_context(TemporaryDirectory(prefix="aegis-fleet-")))
        inventory = folder / "inventory.json"
        inventory.write_text(json.dumps(fleet.inventory()), encoding="utf-8")
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
    return {
        "what": what,
        "hosts": hosts,
        "seconds": wall.to_dict(),
        "to_ping": to_ping.to_dict(),
        "controller_cpu_seconds_a_host": cpu.to_dict(),
        "text": {"s": wall.text(digits=1), "to ping": to_ping.text(),
                 "s a host": f"{wall.median / hosts:.2f}",
                 "controller cpu s a host": cpu.text()},
    }  # fmt: skip


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
    options = parser.parse_args()
    rows: list[Row] = []
    for hosts in options.hosts:
        rows += measure(hosts, options.rounds, options.forks)
    report(rows, _COLUMNS, [f"{options.forks} forks", *growth(rows)], as_json=options.json)
    return 0


if __name__ == "__main__":
    sys.exit(main())
