"""Soaks as they would have been written, turn by turn: a host's story, told without a host."""

from __future__ import annotations

import json
import random
from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path
from typing import Any

from aegis_tools.paths import Paths
from aegis_tools.soak import columns, happened, hits
from aegis_tools.soak.brief import Brief, brief
from aegis_tools.soak.columns import Sample
from aegis_tools.soak.folder import folder
from aegis_tools.soak.happened import Happened
from aegis_tools.soak.hits import Hit
from aegis_tools.soak.reading import Soak
from aegis_tools.soak.report import build, to_json
from aegis_tools.soak.settings import Host, PolicyFacts, Result, Settings, new_id
from aegis_tools.soak.verdict import MINIMUM_S, Criterion, Verdict

START = 1_768_471_200.0  # 2026-01-15 10:00 UTC
DAY = 86400
DIGEST = "5f" * 32
HOST = Host("web-01", "6.14.0-37-generic", 20, "i9-13900H", 32_768, "", "0.1.0")
RULES = ("/etc/shadow", "/root/.ssh/id_rsa", "secrets", "legacy-vpn")


class Story:
    """A soak that is told turn by turn; noise comes from its own seed.

    Args:
        seconds: How long it is to run.
        interval: Seconds between two turns.
        scenario: Its scenario.
        start: Unix seconds at which it begins.
    """

    def __init__(
        self,
        seconds: int = 14 * DAY,
        interval: int = 300,
        scenario: str = "shadow",
        **given: object,
    ) -> None:
        self.random = random.Random(20_260_115)
        mode = "enforce" if scenario == "enforce" else "audit"
        values: dict[str, object] = {
            "id": new_id(scenario, START), "scenario": scenario, "started": START,
            "duration_s": seconds, "interval_s": interval, "boot": "0badcafe", "boot_s": 5000.0,
            "mode": mode, "workload": "developer", "policy": PolicyFacts(DIGEST, 7, ("ann", "bob")),
            "host": HOST, **given,
        }  # fmt: skip
        self.settings = Settings(**values)  # type: ignore[arg-type]
        self.at, self.boot, self.boot_s = 0.0, "0badcafe", 5000.0
        self.pid, self.began_s, self.restarts = 4711, 100.0, 0
        self.level, self.leak, self.cpu, self.probe = 8.2, 0.0, 0.8, 11.0
        self.noise = 0.05
        self.events, self.lost, self.matched = 0, 0, dict.fromkeys(RULES, 0)
        self.samples: list[Sample] = []
        self.happened = [self.event("begun", "shadow soak for 14 d")]
        self.hits: list[Hit] = []
        self.result: Result | None = None
        self.samples.append(replace(self._sample(), cpu_pct=None))

    def event(self, kind: str, text: str = "", class_: str = "", after: float = 0.0) -> Happened:
        """Return something that happens now, or a little later."""
        return Happened(START + self.at + after, kind, text, self.boot_s + after, class_)

    def run(self, seconds: float, **fixed: object) -> Story:
        """Take turns for so long.

        Args:
            seconds: How long.
            fixed: Fields that every sample has like this.
        """
        step = self.settings.interval_s
        for _ in range(int(seconds / step)):
            self._pass(step)
            self.samples.append(replace(self._sample(), **fixed))  # type: ignore[arg-type]
        return self

    def skip(self, seconds: float) -> Story:
        """Let time pass without turns."""
        self._pass(seconds)
        return self

    def restart(self, class_: str = "ordered") -> Story:
        """Let the agent be started again."""
        self.pid, self.began_s, self.level = self.pid + 50, self.boot_s, 7.6
        self.happened.append(self.event("restart", "the agent has another process", class_))
        return self

    def reboot(self) -> Story:
        """Let the host be booted: three minutes."""
        self.at += 180
        self.boot, self.boot_s, self.began_s = f"{self.random.getrandbits(32):08x}", 60.0, 20.0
        self.events = self.lost = 0
        self.matched = dict.fromkeys(RULES, 0)
        self.level = 7.9
        self.happened.append(self.event("reboot", "another boot"))
        return self

    def tell(self, kind: str, text: str, class_: str = "") -> Story:
        """Let something happen."""
        self.happened.append(self.event(kind, text, class_))
        return self

    def end(self, state: str = "done") -> Soak:
        """End it."""
        self.result = Result(state, START + self.at)
        self.happened.append(self.event("ended" if state == "done" else "stopped", ""))
        return self.soak()

    def soak(self) -> Soak:
        """Return it as it is read now."""
        return Soak(self.settings, tuple(self.samples), tuple(self.happened), tuple(self.hits),
                    START + self.at, self.result)  # fmt: skip

    def _pass(self, seconds: float) -> None:
        self.at += seconds
        self.boot_s += seconds
        self.level += self.leak * seconds / DAY
        new = int(seconds * (0.6 + 0.4 * self._daytime()))
        self.events += new
        for rule, share in zip(RULES, (0.01, 0.002, 0.0005, 0.0), strict=True):
            self.matched[rule] += (grown := int(new * share * self.random.random() * 2))
            if grown:
                self.hits.append(Hit(int(START + self.at), rule, 0, self.matched[rule]))

    def _daytime(self) -> float:
        hour = (START + self.at) % DAY / 3600
        return 1.0 if 8 <= hour < 19 else 0.2

    def _sample(self) -> Sample:
        busy, noise = self._daytime(), self.random
        mem = self.level + 0.25 * busy + noise.gauss(0, self.noise)
        return Sample(
            int(START + self.at),
            cpu_pct=round(max(0.0, self.cpu * (0.4 + busy) + noise.gauss(0, 0.12)), 3),
            mem_mb=round(mem, 3), blocks=0, ringbuf_drops=self.lost, map_deny_path=42,
            map_deny_inode=118, map_allow_cgroup=3, boot=self.boot, boot_s=self.boot_s,
            agent="running", agent_pid=self.pid, agent_start_s=self.began_s, restarts=0,
            mode=self.settings.mode, policy=DIGEST[:12], audits=sum(self.matched.values()),
            events=self.events, map_fill=0.0123, canary="ok",
            probe_us=round(self.probe * (1 + abs(noise.gauss(0, 0.04))), 2),
            bpf_runs=self.events * 40, bpf_ns=self.events * 40 * 210,
            mem_agent_anon_mb=round(mem * 0.7, 3), load1=round(busy, 2), turn_ms=80.0,
        )  # fmt: skip


def passed() -> Soak:
    """Return two weeks in order, with a restart and a boot in between."""
    story = Story()
    story.run(4 * DAY).restart().run(5 * DAY).reboot().run(5 * DAY - 3600)
    return story.run(3600).end()


def leaked() -> Soak:
    """Return a week in which the agent's memory grows by 3 MB a day, and it dies of it once."""
    story = Story(7 * DAY)
    story.leak = 8.0
    story.run(4.5 * DAY).tell("crash", "the agent was killed: out of memory")
    story.tell("kernel", "Out of memory: Killed process 4711 (aegisbpf)", "oom")
    story.run(1800, agent="dead", cpu_pct=None, mem_mb=None, canary="miss")
    story.tell("canary-miss", "the denied file was opened and no event came")
    return story.restart("systemd").run(2.5 * DAY - 1800).end()


def full_of_gaps() -> Soak:
    """Return a week of which a third was not watched."""
    story = Story(7 * DAY)
    for hours in (14, 3, 20, 9, 30, 2):
        story.run(hours * 3600).skip(hours * 1800)
        story.tell("gap", f"{hours * 6} turns are missing")
    return story.run(7 * DAY - story.at).end()


def ten_minutes() -> Soak:
    """Return a soak as CI runs it: ten minutes, a turn every five seconds."""
    story = Story(600, 5, workload="git", note="continuous integration")
    story.noise = 0.0
    return story.run(600).end()


def write(root: Path, soak: Soak) -> Paths:
    """Write a soak's files below a root, as its turns would have, and return where they are."""
    paths = Paths(root)
    at = folder(paths, soak.settings.id)
    at.path.mkdir(parents=True, mode=0o700)
    at.settings.write_bytes(soak.settings.to_bytes())
    at.samples.write_text(columns.HEADER + "".join(map(columns.format_row, soak.samples)))
    at.happened.write_text("".join(map(happened.format_line, soak.happened)))
    at.hits.write_text(hits.HEADER + "".join(map(hits.format_row, soak.hits)))
    if soak.result:
        at.result.write_bytes(soak.result.to_bytes())
    else:
        paths.soak_running.write_text(f"{soak.settings.id}\n")
    return paths


def all_kinds() -> Iterable[tuple[str, Soak]]:
    """Return every story by its name."""
    return (("passed", passed()), ("leaked", leaked()), ("gaps", full_of_gaps()),
            ("short", ten_minutes()))  # fmt: skip


def criterion(identifier: str, status: str = "PASS", **given: object) -> Criterion:
    """Return a criterion; of a few the figures that a report shows."""
    known: dict[str, tuple[object, ...]] = {
        "crashes": ("Agent crashes", "0", "", 0.0, None, None),
        "cpu_sustained": ("CPU, sustained", "< 2 %", "%", 0.62, 0.61, 0.63),
        "cpu_p99": ("CPU, 99th percentile", "< 5 %", "%", 1.36, 1.33, 1.4),
        "mem_level": ("Memory", "< 50 MB", "MB", 8.5, 8.4, 8.6),
        "mem_growth": ("Memory growth", "< 1 MB/day", "MB/day", 0.01, -0.02, 0.05),
        "drops": ("Lost events", "< 0.01 %", "%", 0.0, 0.0, 0.0004),
        "canary": ("Canary misses", "0", "", 0.0, None, None),
        "coverage": ("Turns that were made", ">= 95 %", "%", 99.9, None, None),
    }
    names = ("title", "limit", "unit", "value", "low", "high")
    values: dict[str, object] = dict(zip(names, known[identifier], strict=True))
    values |= {"id": identifier, "samples": 4032, "status": status, "why": "as it should be"}
    return Criterion(**{**values, **given})  # type: ignore[arg-type]


def verdict(soak: Soak, *changed: Criterion) -> Verdict:
    """Return a verdict in which all is well but what is given."""
    by_id = {one.id: one for one in changed}
    names = ("crashes", "cpu_sustained", "cpu_p99", "mem_level", "mem_growth", "drops", "canary",
             "coverage")  # fmt: skip
    criteria = tuple(by_id.get(name) or criterion(name) for name in names)
    found = {one.status for one in criteria}
    status = next((one for one in ("FAIL", "INCONCLUSIVE") if one in found), "PASS")
    scenario = soak.settings.scenario
    length = min(max(0.0, soak.until - soak.settings.started), soak.settings.duration_s)
    return Verdict(
        soak.settings.id, scenario, status, criteria, length,
        MINIMUM_S[scenario], soak.until, soak.running, soak.settings.override,
    )  # fmt: skip


GREW = criterion("mem_growth", "FAIL", value=8.02, low=7.9, high=8.1, why="it grows in every piece")
DIED = criterion("crashes", "FAIL", value=1.0, why="it died once, first after 4 d 12:00")
UNWATCHED = criterion("coverage", "INCONCLUSIVE", value=66.1, why="a third was not watched")


def report_of(name: str) -> dict[str, Any]:
    """Return the report of a story by its name."""
    soak = dict(all_kinds())[name]
    wrong = {"leaked": (GREW, DIED), "gaps": (UNWATCHED,)}.get(name, ())
    return build(soak, verdict(soak, *wrong))


def hosts(count: int) -> dict[str, Brief | str]:
    """Return the soaks of a fleet of alike hosts; the 17th leaks, and the 23rd is busy."""
    noise = random.Random(30)
    soak = ten_minutes()
    found: dict[str, Brief | str] = {}
    for number in range(1, count + 1):
        growth, p99 = noise.gauss(0, 0.02), 1.3 + noise.gauss(0, 0.05)
        changed = [
            criterion("mem_growth", value=growth, low=growth - 0.05, high=growth + 0.05),
            criterion("cpu_p99", value=6.2 - 2 if number == 23 else p99),
            replace(GREW, value=3.1, low=3.0, high=3.2) if number == 17 else criterion("canary"),
        ]
        report = build(soak, replace(verdict(soak, *changed), length_s=7.0 * DAY))
        found[f"h{number:03}"] = brief(json.loads(to_json(report)))
    return found
