"""Soaks of a group: begun, looked at, ended and reported by the playbook, over light hosts."""

from __future__ import annotations

import io
import json
import subprocess
import tarfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import jsonschema
import pytest
import soak_story
from fleet_support import REPOSITORY, Controller
from fleetsim.fleet import Fleet
from soak_story import DAY, HOST, Story

HOSTS = 6
"""Five that have soaked, and one that has not."""
SETTINGS = {"aegisbpf_soak_duration": "1h", "aegisbpf_soak_interval": "1s"}
PROGRAM = "/opt/aegisbpf/current/bin/aegisbpf"
SCHEMA = REPOSITORY / "aegis_tools" / "soak" / "report.schema.json"


@pytest.fixture(scope="module")
def controller(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Controller]:
    with Fleet(HOSTS) as fleet:
        found = Controller(fleet, tmp_path_factory.mktemp("soak"))
        for number in range(1, HOSTS):
            put(found, number, soaked(number), tmp_path_factory.mktemp(f"h{number}"))
        yield found


def soaked(number: int) -> soak_story.Soak:
    """Return a host's week; the agent of the third was started again and again."""
    story = Story(7 * DAY, 3600, host=replace(HOST, name=f"<b>h{number:03}</b>"))
    for _ in range(7):
        story.run(DAY)
        if number == 3:
            story.restart("systemd")
    return story.end()


def put(controller: Controller, number: int, soak: soak_story.Soak, folder: Path) -> None:
    """Lay a soak's files on a host, as its turns would have."""
    soak_story.write(folder, soak)
    packed = io.BytesIO()
    with tarfile.open(fileobj=packed, mode="w") as archive:
        archive.add(folder / "var/lib/aegisbpf/soaks", "soaks")
    command = "umask 077; mkdir -p /var/lib/aegisbpf && tar -x --no-same-owner -C /var/lib/aegisbpf"
    argv = [*controller.reach(number), command]
    subprocess.run(argv, input=packed.getvalue(), check=True)


def changes(told: str) -> list[int]:
    """Return how many tasks changed each host, in the order of the recap."""
    recap = told.partition("PLAY RECAP")[2]
    return [int(part.split()[0]) for part in recap.split("changed=")[1:]]


def report(controller: Controller, *words: str, status: int = 0, **given: Any) -> tuple[str, Path]:
    """Let the playbook report; return what it told, and where the report is."""
    folder = controller.folder / "soaked"
    variables = {"aegisbpf_soak_action": "report", "aegisbpf_soak_reports": str(folder), **given}
    return controller.play("soak", *words, status=status, **variables), folder


def test_one_report_has_every_host_and_who_sticks_out_first(controller: Controller) -> None:
    told, folder = report(controller, "--check")
    assert not folder.exists()
    assert changes(told)[0] == 1
    told, folder = report(controller)
    assert f"report: {folder}/fleet.html" in told
    assert changes(told) == [1, 0, 0, 0, 0, 0]
    found = json.loads((folder / "fleet.json").read_text())
    assert [row["host"] for row in found["hosts"]][:2] in (["h003", "h006"], ["h006", "h003"])
    rows = {row["host"]: row for row in found["hosts"]}
    assert rows["h003"]["why"][0].startswith("Restarts of the agent: 7, the hosts' median 0")
    assert rows["h006"]["why"] == [
        "there is no soak on this host; next: run: aegisbpf soak start --help"
    ]
    assert rows["h003"]["page"] == "hosts/h003.html"
    page = (folder / "hosts/h003.html").read_text()
    assert "&lt;b&gt;h003&lt;/b&gt;" in page
    assert "<b>h003" not in page
    jsonschema.validate(
        json.loads((folder / "hosts/h003.json").read_text()), json.loads(SCHEMA.read_text())
    )
    assert changes(report(controller)[0]) == [0] * HOSTS


def test_a_gate_fails_for_hosts_that_have_not_passed(controller: Controller) -> None:
    told, _ = report(controller, "--limit", "h006", status=2, aegisbpf_soak_must_pass=True)
    assert "there is no soak on this host" in told


def test_a_host_that_cannot_be_reached_is_a_line_of_the_report(controller: Controller) -> None:
    nobody = controller.folder / "nobody.ini"
    nobody.write_text(f"nobody ansible_host={controller.fleet.address(200)}\n")
    words = ("-i", str(nobody), "--limit", "h001,nobody")
    told, folder = report(controller, *words, aegisbpf_soak_pages=False)
    rows = {row["host"]: row for row in json.loads((folder / "fleet.json").read_text())["hosts"]}
    assert rows["nobody"]["status"] == "MISSING"
    assert rows["nobody"]["why"][0].startswith("it cannot be reached"), told
    assert rows["h001"]["page"] is None


LIES = ('{"format": 1}', '{"soak": {"id": 3, "state": ""}, "verdict": {"text": "", "status": 1}}')


@pytest.mark.parametrize("answer", LIES)
def test_what_a_host_makes_up_is_no_report(controller: Controller, answer: str) -> None:
    lie = f"printf '#!/bin/sh\\necho %s\\n' \"'{answer}'\" > /run/liar; chmod 755 /run/liar"
    controller.shell(6, f"{lie}; readlink {PROGRAM} > /run/truth; ln -sf /run/liar {PROGRAM}")
    try:
        told, folder = report(controller, "--limit", "h001,h006")
    finally:
        controller.shell(6, f'ln -sf "$(cat /run/truth)" {PROGRAM}')
    rows = {row["host"]: row for row in json.loads((folder / "fleet.json").read_text())["hosts"]}
    assert rows["h006"]["status"] == "MISSING", told


@contextmanager
def as_with_systemd(controller: Controller, number: int) -> Iterator[None]:
    """Let a host look like one whose timers could make the turns; only to ask what it would do."""
    controller.shell(number, "mkdir -p /run/systemd/system")
    yield
    controller.shell(number, "rmdir /run/systemd/system /run/systemd")


@contextmanager
def soaking(controller: Controller, number: int) -> Iterator[None]:
    """Let a host soak in the foreground, as one without systemd does."""
    command = f"{PROGRAM} soak start --scenario shadow --duration 1h --interval 1s --foreground"
    with subprocess.Popen(
        [*controller.reach(number), command],
        stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
    ) as process:  # fmt: skip
        try:
            end = time.monotonic() + 60
            while not controller.on(number, "soak", "status").get("running"):
                assert process.poll() is None, process.stdout and process.stdout.read()
                assert time.monotonic() < end
            yield
        finally:
            process.kill()


def test_a_soak_is_begun_looked_at_and_ended(controller: Controller) -> None:
    controller.on(4, "load")
    limit = ("--limit", "h004")
    told = controller.play("soak", *limit, status=2, aegisbpf_soak_action="start", **SETTINGS)
    assert "add: --foreground" in told
    with as_with_systemd(controller, 4):
        start = ("--check", *limit)
        told = controller.play("soak", *start, aegisbpf_soak_action="start", **SETTINGS)
    assert "would begin a soak: shadow, 1h" in told
    assert changes(told) == [1]
    with soaking(controller, 4):
        told = controller.play("soak", *limit, aegisbpf_soak_action="start", **SETTINGS)
        assert changes(told) == [0]
        with as_with_systemd(controller, 4):
            longer = {**SETTINGS, "aegisbpf_soak_duration": "2h"}
            told = controller.play("soak", *start, status=2, aegisbpf_soak_action="start", **longer)
        assert "-shadow is running" in told
        told = controller.play("soak", *limit)
        assert "-shadow: running, " in told
        assert changes(told) == [0]
        told = controller.play("soak", "--check", *limit, aegisbpf_soak_action="stop")
        assert changes(told) == [1]
        assert controller.on(4, "soak", "status")["running"]
        told = controller.play("soak", *limit, aegisbpf_soak_action="stop")
        assert changes(told) == [1]
    assert changes(controller.play("soak", *limit, aegisbpf_soak_action="stop")) == [0]
    told, folder = report(controller, *limit)
    found = json.loads((folder / "hosts/h004.json").read_text())
    assert found["soak"]["state"] == "stopped"
    assert found["samples"]["made"] >= 1
    assert {span[2] for span in found["series"]["canary"]} == {"ok"}


def test_the_seeds_lines_collect_and_plot(controller: Controller) -> None:
    """The seed's quick start: the sampler a few times, then the plot."""
    script = (
        f"cd {REPOSITORY}\n"
        "for turn in 1 2 3; do sh scripts/soak_monitor.sh || true; done\n"
        "python3 scripts/plot_soak_metrics.py\n"
        "head -c 8 /tmp/aegisbpf-soak-analysis.png | od -An -c\n"
    )
    told = controller.shell(5, script)
    assert "Saved plot to /tmp/aegisbpf-soak-analysis.png" in told
    assert r"211   P   N   G  \r  \n 032  \n" in told
