"""``aegisbpf policy suggest`` on real maps: it reads, it proposes, it changes nothing."""

from __future__ import annotations

import json
import os
import time
from pathlib import Path
from typing import Any

import pytest

from aegis_tools.cli.main import run
from aegis_tools.control.live import Live
from aegis_tools.kernel.pins import Pins
from aegis_tools.paths import Paths

POLICY = """\
version: 1
rules:
  - {id: quiet, path: /srv/quiet, mode: audit}
  - {id: one, path: SECRET, mode: audit}
  - {id: two, path: /srv/two, mode: audit}
  - {id: three, path: /srv/three, mode: enforce}
"""
BACKUP = "/system.slice/backup.service"


@pytest.fixture
def secret(paths: Paths, loaded: Pins, tmp_path: Path) -> Path:
    del loaded
    secret = tmp_path / "secret"
    secret.write_text("x")
    policy = tmp_path / "policy.yaml"
    policy.write_text(POLICY.replace("SECRET", str(secret)))
    assert run(["--root", str(paths.root), "policy", "apply", str(policy)]) == 0
    return secret


@pytest.fixture
def events(tmp_path: Path) -> Path:
    """Return a file that shows a backup meeting three rules."""
    lines = []
    for rule in ("one", "two", "three"):
        event: dict[str, Any] = dict.fromkeys(("host", "operation", "parent_comm", "bundle"), "")
        now = time.strftime("%Y-%m-%dT%H:%M:%S.000000Z", time.gmtime())
        event = {"time": now, "type": "file", "action": "AUDIT", "reason": "rule-audit", **event}
        event |= {"comm": "tar", "cgroup": BACKUP, "unit": "backup.service", "rule": rule}
        event |= {"pid": 1, "ppid": 1, "uid": 0, "count": 40, "path": f"/srv/{rule}"}
        lines.append(json.dumps(event, separators=(",", ":")))
    path = tmp_path / "events.jsonl"
    path.write_text("\n".join(lines) + "\n")
    return path


def suggest(paths: Paths, events: Path, capsys: pytest.CaptureFixture[str], *more: str) -> str:
    capsys.readouterr()
    argv = ["--root", str(paths.root), "policy", "suggest", "--file", str(events), *more]
    assert run(argv) == 0
    return capsys.readouterr().out


def test_what_events_and_counters_speak_for_is_proposed(
    paths: Paths, secret: Path, events: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with Live(Pins(paths.pins)) as live:
        before = live.all_entries()
    os.close(os.open(secret, os.O_RDONLY))
    report = json.loads(suggest(paths, events, capsys, "--json"))
    [found] = report["suggestions"]
    assert (found["kind"], found["target"]) == ("allow-cgroup", BACKUP)
    assert found["command"] == f"aegisbpf allow cgroup add {BACKUP}"
    withheld = {each["target"]: each["why"] for each in report["withheld"]}
    assert set(withheld) == {"quiet", "one", "two"}
    assert "audit fallback" in withheld["quiet"].lower()  # which does not see every match
    assert report["events"] == 120
    assert BACKUP in report["diff"]
    with Live(Pins(paths.pins)) as live:
        assert live.all_entries() == before


def test_a_person_gets_evidence_and_a_change_to_review(
    paths: Paths, secret: Path, events: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    del secret
    text = suggest(paths, events, capsys)
    assert "Nothing is changed by this command" in text
    assert "120 matches of 3 rules" in text
    assert "not proposed:" in text
    assert "--- live policy" in text
    assert suggest(paths, events, capsys, "--format", "diff").startswith("--- live policy")


def test_the_proposed_policy_is_one_that_can_be_planned(
    paths: Paths, secret: Path, events: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    del secret
    proposed = tmp_path / "proposed.yaml"
    proposed.write_text(suggest(paths, events, capsys, "--format", "yaml"))
    assert run(["--root", str(paths.root), "policy", "plan", str(proposed)]) == 0
    assert BACKUP in capsys.readouterr().out


def test_nothing_loaded_has_its_exit_code(
    paths: Paths, events: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(["--root", str(paths.root), "policy", "suggest", "--file", str(events)]) == 6
    assert "aegisbpf load" in capsys.readouterr().err
