"""The canary: what is a miss, and what of the agent is a death."""

from __future__ import annotations

import errno
import os
from collections.abc import Sequence
from pathlib import Path

import pytest

from aegis_tools.control import starts
from aegis_tools.control.bootclock import Seams
from aegis_tools.control.heartbeat import FORMAT, renew
from aegis_tools.control.lock import locked
from aegis_tools.errors import CommandError
from aegis_tools.paths import Paths
from aegis_tools.soak import agent, canary, placing
from aegis_tools.soak.agent import Seen, told
from aegis_tools.soak.state import Agent

WHEN = (1_768_471_200.0, 5000.0)
BEFORE = Agent(pid=10, start_s=100.0, cpu_s=5.0, seen_s=4940.0, restarts=1)


@pytest.mark.parametrize(
    ("mode", "refused", "hits", "why"),
    [
        ("enforce", errno.EPERM, 1, ""),
        ("enforce", errno.EPERM, 7, ""),
        ("enforce", 0, 1, "it was opened"),
        ("enforce", errno.ENOENT, 1, "it was refused otherwise: no such file or directory"),
        ("enforce", errno.EPERM, 0, "its rule has not matched"),
        ("audit", 0, 1, ""),
        ("held", 0, 1, ""),
        ("audit", 0, 0, "its rule has not matched"),
        ("audit", errno.EPERM, 1, "it was refused although nothing is: operation not permitted"),
        ("held", errno.EPERM, 1, "it was refused although nothing is: operation not permitted"),
        ("enforce", canary._KILLED, 1, "it was refused otherwise: who opened it was killed"),
    ],
)
def test_anything_but_what_the_mode_says_is_a_miss(
    mode: str, refused: int, hits: int, why: str
) -> None:
    assert canary.judge(mode, refused, hits) == why


def test_opening_says_why_it_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "canary"
    assert canary.open_in_child(path) == errno.ENOENT
    path.write_bytes(placing.TEXT)
    assert canary.open_in_child(path) == 0
    path.unlink()
    path.symlink_to(path)
    assert canary.open_in_child(path) == errno.ELOOP


def test_a_turn_knows_the_rule_by_its_id_alone(tmp_path: Path) -> None:
    assert canary.rule_id(tmp_path) == placing.rule(tmp_path).id


def running(pid: int, start: float = 4950.0) -> Seen:
    return Seen("running", pid, start, 1.0, 5000.0)


def kinds(before: Agent, now: Seen, restarts: int | None, *, badly: bool = False) -> list[str]:
    found = told(before, now, restarts, badly=badly, when=WHEN)
    return [f"{one.kind} {one.class_}".strip() for one in found]


def test_the_same_process_is_no_news() -> None:
    assert kinds(BEFORE, running(10, 100.0), 1) == []
    assert kinds(Agent(), Seen("none"), None) == []
    assert kinds(BEFORE, Seen("stopped"), 1) == []


def test_a_death_is_told_once_and_what_systemd_did_about_it() -> None:
    dead = Seen("dead", 10)
    assert kinds(BEFORE, dead, 1) == ["crash"]
    mourned = agent.remembered(BEFORE, dead, 1)
    assert kinds(mourned, dead, 1) == []
    assert kinds(mourned, Seen("dead", 11), 1) == ["crash"]
    assert kinds(mourned, running(11), 2) == ["restart systemd"]
    assert kinds(mourned, running(12), 3) == ["crash", "restart systemd"]
    assert kinds(mourned, running(11), 0) == ["restart ordered"]
    assert not agent.remembered(mourned, running(11), 2).mourned


def test_a_death_between_two_turns_is_known_by_systemds_count() -> None:
    assert kinds(BEFORE, running(11), 2) == ["crash", "restart systemd"]
    found = told(BEFORE, running(11), 4, badly=False, when=WHEN)
    assert found[0].text == "the agent died 3 times"


def test_a_restart_in_order_is_no_death() -> None:
    assert kinds(BEFORE, running(11), 0) == ["restart ordered"]
    assert kinds(BEFORE, running(11), None) == ["restart ordered"]
    # One that systemd does not run leaves a start behind that did not end.
    assert kinds(BEFORE, running(11), None, badly=True) == ["crash", "restart ordered"]


def test_an_agent_that_is_there_for_the_first_time_is_no_news_unless_it_has_died_before() -> None:
    assert kinds(Agent(), running(11), 0) == []
    assert kinds(Agent(), running(11), None) == []
    assert kinds(Agent(), running(11), 2) == ["crash", "restart systemd"]


def test_a_process_number_that_is_used_again_is_another_process() -> None:
    assert agent.changed(BEFORE, running(10, 4950.0))
    assert agent.cpu_percent(BEFORE, running(10, 4950.0)) is None


def test_processor_time_is_a_share_of_the_time_between_two_looks() -> None:
    now = Seen("running", 10, 100.0, 5.6, 5000.0)
    assert agent.cpu_percent(BEFORE, now) == pytest.approx(1.0)
    assert agent.cpu_percent(BEFORE, Seen("dead", 10)) is None


def test_a_start_that_did_not_end_is_of_the_agent_before(tmp_path: Path) -> None:
    paths = Paths(tmp_path)
    starts.began(paths, int(101e9))
    assert agent.ended_badly(paths, BEFORE, running(11, 200.0))
    assert not agent.ended_badly(paths, BEFORE, running(11, 100.5))
    assert not agent.ended_badly(paths, BEFORE._replace(start_s=150.0), running(11, 200.0))


def test_it_is_looked_at_by_its_own_sign_of_life(tmp_path: Path) -> None:
    paths = Paths(tmp_path)
    assert agent.look(paths, Agent()).state == "none"
    assert agent.look(paths, BEFORE).state == "stopped"
    with locked(paths.events_lock, "run"):
        renew(paths.agent_status, {"format": FORMAT, "pid": os.getpid(), "ring": 7,
                                   "updated_boot_ns": agent.SYSTEM.boot_ns()})  # fmt: skip
        seen = agent.look(paths, Agent())
    assert (seen.state, seen.pid, seen.ring) == ("running", os.getpid(), 7)
    assert 0 < (seen.anonymous or 0) <= (seen.rss or 0)
    assert 0 < seen.start_s < seen.seen_s
    assert seen.cpu_s > 0
    assert agent.look(paths, Agent()).state == "dead"


def test_one_that_gives_no_sign_is_waited_for_and_then_hangs(tmp_path: Path) -> None:
    paths, now = Paths(tmp_path), [100.0]
    seams = Seams(boot_ns=lambda: int(now[0] * 1e9))

    def beat(at: float) -> None:
        facts = {"format": FORMAT, "pid": os.getpid(), "updated_boot_ns": int(at * 1e9)}
        renew(paths.agent_status, facts)

    def sleep(seconds: float) -> None:
        now[0] += seconds
        if now[0] > 202:  # it was only asleep, as the host was
            beat(now[0])

    with locked(paths.events_lock, "run"):
        beat(80.0)
        assert agent.look(paths, Agent(), seams=seams, sleep=sleep).state == "dead"
        assert now[0] == 100 + agent.PATIENCE_SECONDS
        now[0] = 200.0
        assert agent.look(paths, Agent(), seams=seams, sleep=sleep).state == "running"


def test_systemd_is_asked_for_its_own_agent_only() -> None:
    class Says:
        def __init__(self, text: str) -> None:
            self.text = text

        def __call__(self, argv: Sequence[str], *, timeout: float = 60) -> str:
            if not self.text:
                raise CommandError(f"{argv[0]} failed in {timeout}", hint="try again")
            return self.text

    assert agent.read_restarts(Says("MainPID=10\nNRestarts=3\n"), 10) == 3
    assert agent.read_restarts(Says("MainPID=9\nNRestarts=3\n"), 10) is None
    assert agent.read_restarts(Says("MainPID=10\nNRestarts=\n"), 10) is None
    assert agent.read_restarts(Says(""), 10) is None


def test_the_ring_is_no_memory_of_the_agents() -> None:
    page = os.sysconf("SC_PAGE_SIZE")
    assert agent.without_ring((10 << 20) + (2 << 18) + 2 * page, 1 << 18) == 10 << 20
    assert agent.without_ring(4096, 1 << 18) == 4096


def test_only_the_ring_that_the_agent_reads_is_taken_from_its_memory() -> None:
    seen = agent.Seen("running", 7, rss=10 << 20, ring=3)
    assert agent.resident(seen, 3, 1 << 18) == agent.without_ring(10 << 20, 1 << 18)
    assert agent.resident(seen, 4, 1 << 18) == 10 << 20
    assert agent.resident(agent.Seen("dead", 7), 0, 1 << 18) is None
