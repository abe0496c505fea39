"""Soaks on whole systems: begun here, made by the machine's own timer, waited for and read.

Several can run at once, each on a machine of its own::

    running = [begin(machine, wanted) for machine, wanted in ...]
    outcomes = [one.outcome() for one in running]

While it waits it asks seldom; and a workload gets ``cpu_percent`` of a core at most, for the
processors are emulated.
"""

from __future__ import annotations

import json
import shlex
import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from vmharness.system.machine import Machine

from aegis_tools.soak import columns, happened, hits
from aegis_tools.soak.columns import Sample
from aegis_tools.soak.happened import Happened
from aegis_tools.soak.hits import Hit

POLICY = "/etc/aegisbpf/policy.conf"
SECRETS = tuple(f"/srv/secret{number}" for number in range(5))
FOLDER = "/var/lib/aegisbpf/soaks"
TIMER = "aegis-soak.timer"
WORKLOAD = "aegis-soak-workload.service"
EMULATED = {"cpu_sustained", "cpu_p99", "slowness"}
"""Criteria that say more of an emulated processor, and of what runs beside it, than of a soak."""
ASK_SECONDS = 15.0
PATIENCE_SECONDS = 600.0
"""After its time: an emulated host makes a report slowly, beside others."""


@dataclass(frozen=True)
class Wanted:
    """A soak.

    Attributes:
        scenario: ``shadow``, ``enforce`` or ``stress``.
        seconds: How long.
        interval: Seconds between turns; a turn takes a second or two of an emulated processor.
        workload: One of ``settings.WORKLOADS``.
        cpu_percent: Of a core that the workload may take.
        words: More of the command line; one that enforces has its override anyway.
    """

    scenario: str = "shadow"
    seconds: int = 180
    interval: int = 10
    workload: str = "none"
    cpu_percent: int = 15
    words: tuple[str, ...] = ()

    def command(self) -> list[str]:
        """Return the words after ``aegisbpf``."""
        given = [f"--duration={self.seconds}", f"--interval={self.interval}"]
        if self.scenario == "enforce":
            given += ["--override", "a trial"]
            given += [word for path in SECRETS for word in ("--expect", f"path:{path}")]
        given += [f"--workload={self.workload}", *self.words]
        return ["soak", "start", f"--scenario={self.scenario}", *given]


@dataclass(frozen=True)
class Outcome:
    """What a soak left.

    Attributes:
        id: Its id.
        state: ``done`` or ``stopped``.
        status: The document of ``soak status``.
        verdict: Of those, the verdict.
        samples: Its rows.
        happened: What happened.
        hits: What rules matched.
        files: The names in its folder.
    """

    id: str
    state: str
    status: dict[str, Any]
    verdict: dict[str, Any]
    samples: tuple[Sample, ...]
    happened: tuple[Happened, ...]
    hits: tuple[Hit, ...]
    files: tuple[str, ...]

    @property
    def kinds(self) -> list[str]:
        """What happened, by kind."""
        return [one.kind for one in self.happened]

    def criterion(self, name: str) -> str:
        """Return the status of a criterion."""
        return next(one["status"] for one in self.verdict["criteria"] if one["id"] == name)

    @property
    def failed(self) -> set[str]:
        """The criteria that failed, but for those that an emulated processor cannot meet."""
        found = {one["id"] for one in self.verdict["criteria"] if one["status"] == "FAIL"}
        return found - EMULATED

    def summary(self) -> str:
        """Return it in some lines, for the output of a test."""
        lines = [f"{self.id}: {self.verdict['text']}, {len(self.samples)} turns, {self.kinds}"]
        for one in self.verdict["criteria"]:
            lines.append(f"  {one['status']:12} {one['id']}: {one['value']} ({one['why']})")
        return "\n".join(lines)


class Running:
    """A soak that runs on a machine."""

    def __init__(self, machine: Machine, wanted: Wanted, identifier: str) -> None:
        self.machine, self.wanted, self.id = machine, wanted, identifier

    def get(self, name: str) -> str:
        """Return a file of it; empty where it is not there."""
        return self.machine.run(f"cat {FOLDER}/{self.id}/{name} 2>/dev/null", check=False).stdout

    def rows(self) -> list[Sample]:
        """Return its rows so far."""
        return columns.parse(self.get("samples.csv"))[0]

    def until_turns(self, count: int, seconds: float = PATIENCE_SECONDS) -> list[Sample]:
        """Wait until so many turns were made, and return their rows."""
        end = time.monotonic() + seconds
        while len(found := self.rows()) < count:
            assert time.monotonic() < end, self.why()
            time.sleep(2)
        return found

    def why(self) -> str:
        """Return what a person would look at where it does not go on."""
        look = "aegisbpf soak status; systemctl status --no-pager 'aegis-soak*' aegisbpf"
        return self.machine.run(
            f"{look}; journalctl --no-pager -n 60 -u aegis-soak.service", check=False
        ).stdout

    def outcome(self) -> Outcome:
        """Wait for its end, and return what it left."""
        left = self.machine.aegis("soak", "status", self.id)["left_seconds"]
        time.sleep(left)
        end = time.monotonic() + PATIENCE_SECONDS
        while is_active(self.machine, TIMER) or not self.get("result.json"):
            assert time.monotonic() < end, self.why()
            time.sleep(ASK_SECONDS / 3)
        status = self.machine.aegis("soak", "status", self.id)
        return Outcome(
            id=self.id,
            state=str(json.loads(self.get("result.json"))["state"]),
            status=status,
            verdict=status["verdict"],
            samples=tuple(self.rows()),
            happened=tuple(happened.parse(self.get("happened.ndjson"))[0]),
            hits=tuple(hits.parse(self.get("hits.csv"))[0]),
            files=tuple(self.machine.run(f"ls -A {FOLDER}/{self.id}").stdout.split()),
        )


def prepare(machine: Machine, scenario: str) -> None:
    """Let a loaded machine be as a soak of a scenario wants it: units, policy, agent, mode."""
    for path in SECRETS:
        machine.put(path, "secret\n")
    lines = "\n".join(SECRETS)
    machine.put(POLICY, f"version=1\n[deny_path]\n{lines}\n")
    machine.aegis("policy", "apply", POLICY)
    machine.run("aegisbpf service install --now", seconds=PATIENCE_SECONDS)
    machine.aegis("mode", "enforce" if scenario == "enforce" else "audit")


def begin(machine: Machine, wanted: Wanted) -> Running:
    """Begin a soak on a machine that is as it wants it."""
    answer = machine.aegis(*wanted.command(), seconds=PATIENCE_SECONDS)
    assert answer["first"]["sample"]["canary"] == "ok", answer
    if wanted.workload != "none":
        limit(machine, wanted.cpu_percent)
    return Running(machine, wanted, answer["id"])


def limit(machine: Machine, cpu_percent: int) -> None:
    """Give the workload less of a core than it may have on a host of its own."""
    machine.run(f"systemctl set-property --runtime {WORKLOAD} CPUQuota={cpu_percent}%")


def is_active(machine: Machine, unit: str) -> bool:
    """Return whether systemd runs a unit, or begins or ends it."""
    found = machine.run(f"systemctl is-active {shlex.quote(unit)}", check=False).stdout.strip()
    return found not in ("inactive", "failed")


def properties(machine: Machine, unit: str, names: Sequence[str]) -> dict[str, str]:
    """Return properties of a unit."""
    text = machine.run(f"systemctl show --property={','.join(names)} {unit}").stdout
    return dict(line.partition("=")[::2] for line in text.splitlines())
