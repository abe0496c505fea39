"""Soaks as they would have been written, turn by turn: a host's story, told without a host."""

from __future__ import annotations

import random
from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path

from aegis_tools.paths import Paths
from aegis_tools.soak import columns, happened, hits
from aegis_tools.soak.columns import Sample
from aegis_tools.soak.folder import folder
from aegis_tools.soak.happened import Happened
from aegis_tools.soak.hits import Hit
from aegis_tools.soak.reading import Soak
from aegis_tools.soak.settings import Host, PolicyFacts, Result, Settings, new_id

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
        self.events, self.lost, self.matched = 0, 0, dict.fromkeys(RULES, 0)
        self.samples: list[Sample] = []
        self.happened = [self.event("begun", "shadow soak for 14 d")]
        self.hits: list[Hit] = []
        self.result: Result | None = None

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
        mem = self.level + 0.25 * busy + noise.gauss(0, 0.05)
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
    return paths


def all_kinds() -> Iterable[tuple[str, Soak]]:
    """Return every story by its name."""
    return (("passed", passed()), ("leaked", leaked()), ("gaps", full_of_gaps()),
            ("short", ten_minutes()))  # fmt: skip
