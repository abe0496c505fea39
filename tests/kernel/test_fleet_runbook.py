"""Runbooks over several hosts: those in trouble recover, a healthy one is left alone.

Light hosts refuse nothing, so what was refused is written into their kernel's own counts.
"""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from fleet_support import Controller
from fleetsim.fleet import Fleet

HOSTS = 3
NUMBERS = range(1, HOSTS + 1)
WRONG, RIGHT = "/srv/app", "/srv/secret"
HIT = f"""
import time
from aegis_tools.control import bootstate
from aegis_tools.control.live import Live
from aegis_tools.kernel.layout import RULE_HITS, Config, uid_of
from aegis_tools.kernel.pins import Pins
from aegis_tools.paths import Paths
from aegis_tools.policy.model import Mode
with Live(Pins(Paths().pins)) as live:
    live.set_config(Config.MODE, 1)
    bootstate.keep(Paths(), live, Mode.ENFORCE)
    now = time.clock_gettime_ns(time.CLOCK_BOOTTIME)
    for rule, blocks in (("manual:path:{WRONG}", WRONG_HITS), ("manual:path:{RIGHT}", 1)):
        if WRONG_HITS:
            key = uid_of(rule).to_bytes(8, "little")
            live.map("rule_hits").set(key, RULE_HITS.pack(blocks, 0, now))
"""


@pytest.fixture(scope="module")
def controller(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Controller]:
    with Fleet(HOSTS) as fleet:
        yield Controller(fleet, tmp_path_factory.mktemp("runbook"))


def begin(controller: Controller, hits: dict[int, int]) -> None:
    """Load every host anew, with two rules by hand; let some have refused what they should not."""
    for number in NUMBERS:
        controller.on(number, "reset")
        controller.on(number, "load")
        controller.on(number, "block", "add", WRONG, RIGHT)
        script = HIT.replace("WRONG_HITS", str(hits.get(number, 0)))
        controller.shell(number, f"rm -rf /var/lib/aegisbpf/incidents\n{sys.executable} - <<'END'\n"
                         f"{script}\nEND")  # fmt: skip


def play(controller: Controller, playbook: str, *words: str, **variables: Any) -> str:
    given = {"aegisbpf_incidents": str(controller.folder / "incidents"), "aegisbpf_since": "60m"}
    return controller.play(playbook, *words, **{**given, **variables})


def rules(controller: Controller, number: int) -> set[str]:
    return {row["target"] for row in controller.on(number, "block", "list")["rules"]}


def mode(controller: Controller, number: int) -> str:
    return str(controller.on(number, "mode")["mode"])


def collected(controller: Controller, number: int) -> list[dict[str, Any]]:
    folder = controller.folder / "incidents" / f"h{number:03}"
    return [json.loads(path.read_text()) for path in sorted(folder.glob("*.json"))]


def test_hosts_that_refuse_what_they_should_not_recover_and_another_is_left_alone(
    controller: Controller,
) -> None:
    begin(controller, {1: 50, 2: 50})
    told = play(controller, "runbook_blocking", "--check", "--diff")
    assert "set the mode to audit" in told
    assert "would be recovered: dry run, nothing was changed" in told
    assert [mode(controller, n) for n in NUMBERS] == ["enforce"] * HOSTS
    assert [rules(controller, n) for n in NUMBERS] == [{WRONG, RIGHT}] * HOSTS
    told = play(controller, "runbook_blocking")
    assert "recovered: nothing is refused any more" in told
    assert "next: aegisbpf incident blocking --reenforce" in told
    assert "- 'nothing to do: no rule has refused anything lately" in told
    assert "DEPRECATION" not in told
    assert [mode(controller, n) for n in NUMBERS] == ["audit", "audit", "enforce"]
    assert [rules(controller, n) for n in NUMBERS] == [{RIGHT}, {RIGHT}, {WRONG, RIGHT}]
    for number in (1, 2):
        [record] = collected(controller, number)
        assert record["rules"][0]["id"] == f"manual:path:{WRONG}"
        assert "block add by" in record["rules"][0]["applied_by"]
        page = next((controller.folder / "incidents" / f"h{number:03}").glob("*.md"))
        assert WRONG in page.read_text()
    assert collected(controller, 3) == []
    again = play(controller, "runbook_blocking")
    assert again.count("changed=0") >= 1, again
    assert [rules(controller, n) for n in NUMBERS] == [{RIGHT}, {RIGHT}, {WRONG, RIGHT}]
    assert len(collected(controller, 1)) == 1


def test_a_runbook_that_is_cut_off_is_finished_by_the_next(controller: Controller) -> None:
    begin(controller, dict.fromkeys(NUMBERS, 50))
    variables = {"aegisbpf_incidents": str(controller.folder / "cut"), "aegisbpf_since": "60m"}
    with controller.started(controller.command("runbook_blocking", **variables)):
        end = time.monotonic() + 120
        while all(mode(controller, n) == "enforce" for n in NUMBERS):
            assert time.monotonic() < end, "no host was changed"
    play(controller, "runbook_blocking")
    assert [mode(controller, n) for n in NUMBERS] == ["audit"] * HOSTS
    assert [rules(controller, n) for n in NUMBERS] == [{RIGHT}] * HOSTS


def test_maps_get_room_and_the_policy_that_did_not_fit_is_live(
    controller: Controller, tmp_path: Path
) -> None:
    text = "".join(f"  - {{id: r{n}, path: /srv/map-full-{n}}}\n" for n in range(20))
    policy = tmp_path / "large.yaml"
    policy.write_text(f"version: 1\nrules:\n{text}")
    for number in NUMBERS:
        controller.on(number, "reset")
        small = () if number == HOSTS else ("--max-deny-paths=8", "--max-rules=8")
        controller.on(number, "load", *small)
    given = {"aegisbpf_policy": str(policy), "aegisbpf_allow_unsigned": True}
    told = play(controller, "runbook_map_full", "--check", **given)
    assert told.count("failed=0") == HOSTS
    assert {controller.on(n, "status")["policy"]["digest"] for n in NUMBERS} == {""}
    play(controller, "runbook_map_full", **given)
    digests = {controller.on(n, "status")["policy"]["digest"] for n in NUMBERS}
    assert len(digests) == 1
    assert digests != {""}
    for number in NUMBERS:
        status = controller.on(number, "status")
        assert status["pending"] is None
        assert status["policy"]["name"] == "large.yaml"
        [record] = collected(controller, number)[-1:]
        assert record["scenario"] == "map-full"
    assert play(controller, "runbook_map_full", **given).count("changed=0") == HOSTS
