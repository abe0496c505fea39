"""``aegisbpf soak report`` and ``compare`` as a person calls them."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import jsonschema
import pytest
import soak_story
from soak_story import Story

from aegis_tools.cli.main import run
from aegis_tools.cli.soak_report import FAILED, SCHEMA, UNDECIDED, exit_code
from aegis_tools.soak.folder import folder
from aegis_tools.soak.happened import Happened
from aegis_tools.soak.reading import Soak

Call = Callable[..., tuple[int, str, str]]


@pytest.fixture
def call(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> Call:
    """Run a command on a host of the test's own."""

    def called(*words: str) -> tuple[int, str, str]:
        code = run(["--root", str(tmp_path), "soak", *words])
        out, err = capsys.readouterr()
        return code, out, err

    return called


def crashed() -> Soak:
    """Return ten minutes in which the agent died."""
    story = Story(600, 5).run(300).tell("crash", "the agent died: signal 11")
    return story.run(60, agent="dead", cpu_pct=None, mem_mb=None).restart("systemd").run(240).end()


def test_a_soak_that_passed_ends_with_0_and_one_that_failed_does_not(
    call: Call, tmp_path: Path
) -> None:
    soak_story.write(tmp_path, soak_story.ten_minutes())
    code, out, err = call("report")
    assert (code, err) == (0, "")
    assert out.startswith("PASS, short: 10 min of 7 d\n  Shadow soak of web-01, 10 min\n")


def test_a_soak_that_failed_says_by_what(call: Call, tmp_path: Path) -> None:
    soak_story.write(tmp_path, crashed())
    code, out, _ = call("report")
    assert code == FAILED
    assert out.startswith("FAIL, short: ")
    assert "next: aegisbpf incident crash-loop --dry-run" in out
    assert "the agent died: signal 11" in out


def test_a_soak_that_runs_has_no_verdict_and_leaves_no_files(call: Call, tmp_path: Path) -> None:
    soak = Story(600, 5).run(300).soak()
    at = folder(soak_story.write(tmp_path, soak), soak.settings.id)
    code, out, _ = call("report")
    assert code == UNDECIDED
    assert "still running" in out.splitlines()[0]
    assert not at.verdict.exists()
    assert not at.report_html.exists()


def test_a_soak_of_which_nothing_tells_how_it_ended_has_no_verdict(
    call: Call, tmp_path: Path
) -> None:
    soak = soak_story.ten_minutes()
    at = folder(soak_story.write(tmp_path, soak), soak.settings.id)
    assert call("report")[0] == 0
    at.result.write_text("{}")
    code, out, _ = call("report")
    assert code == UNDECIDED
    assert out.startswith("INCONCLUSIVE")
    assert "nothing tells how it ended" in out.splitlines()[0]
    assert "still running" not in out


@pytest.mark.parametrize(
    ("status", "state", "code"),
    [("PASS", "done", 0), ("PASS", "stopped", 0), ("PASS", "running", UNDECIDED),
     ("FAIL", "running", FAILED), ("FAIL", "done", FAILED),
     ("INCONCLUSIVE", "done", UNDECIDED)],
)  # fmt: skip
def test_every_verdict_has_its_exit_code(status: str, state: str, code: int) -> None:
    assert exit_code({"verdict": {"status": status}, "soak": {"state": state}}) == code


def test_every_format_is_printed_and_written(call: Call, tmp_path: Path) -> None:
    soak = soak_story.ten_minutes()
    at = folder(soak_story.write(tmp_path, soak), soak.settings.id)
    for name, kept in (("markdown", at.report_markdown), ("html", at.report_html),
                       ("json", at.report_json)):  # fmt: skip
        target = tmp_path / f"out.{name}"
        _, out, _ = call("report", "--format", name)
        assert out == kept.read_text()
        code, told, _ = call("report", soak.settings.id, "--format", name, "--out", str(target))
        assert target.read_text() == kept.read_text()
        assert f"written to {target}" in told
        code, told, err = call("report", "--format", name, "--out", str(target))
        assert code == 8
        assert "it exists already" in err
    assert json.loads(at.verdict.read_text())["soak"] == soak.settings.id


def test_programs_get_one_document(call: Call, tmp_path: Path) -> None:
    soak = soak_story.ten_minutes()
    soak_story.write(tmp_path, soak)
    schema = json.loads(SCHEMA.read_text())
    _, out, _ = call("report", "--json")
    jsonschema.validate(json.loads(out), schema)
    _, out, _ = call("report", "--json", "--format", "markdown")
    assert json.loads(out)["markdown"].startswith("# Shadow soak of web-01")
    _, out, _ = call("report", "--json", "--out", str(tmp_path / "x"))
    assert json.loads(out)["file"] == str(tmp_path / "x")
    _, out, _ = call("report", "--schema")
    assert json.loads(out) == schema


def test_the_schema_is_written_where_it_is_wanted(call: Call, tmp_path: Path) -> None:
    target = tmp_path / "schema.json"
    code, out, _ = call("report", "--schema", "--out", str(target))
    assert (code, out) == (0, f"the schema: written to {target}\n")
    assert target.read_text() == SCHEMA.read_text()
    code, _, err = call("report", "--schema", "--out", str(target))
    assert code == 8
    assert "it exists already" in err


def test_what_is_not_there_is_an_error_with_a_way_on(call: Call, tmp_path: Path) -> None:
    code, _, err = call("report")
    assert code == 2
    assert "there is no soak on this host" in err
    soak_story.write(tmp_path, soak_story.ten_minutes())
    for word in ("20260101T000000Z-shadow", "../../etc", "x"):
        code, _, err = call("report", word)
        assert code == 8
        assert "there is no soak" in err
        assert "aegisbpf soak list" in err
    code, _, err = call("report", "--out", str(tmp_path / "none" / "x"))
    assert code == 8
    assert "its folder does not exist" in err


def test_a_report_is_printed_although_its_files_cannot_be_written(
    call: Call, tmp_path: Path
) -> None:
    soak = soak_story.ten_minutes()
    at = folder(soak_story.write(tmp_path, soak), soak.settings.id)
    at.report_html.mkdir()
    code, out, err = call("report")
    assert code == 0
    assert out.startswith("PASS")
    assert "the files of the soak are as they were" in err


def test_damaged_files_are_told_in_the_report(call: Call, tmp_path: Path) -> None:
    soak = soak_story.ten_minutes()
    at = folder(soak_story.write(tmp_path, soak), soak.settings.id)
    with at.samples.open("a") as file:
        file.write("nonsense\n1,2")
    _, out, _ = call("report", "--format", "markdown")
    assert "## Problems with the files" in out
    assert "line 123 is no row" in out


def test_two_soaks_are_compared(call: Call, tmp_path: Path) -> None:
    soak = soak_story.ten_minutes()
    at = folder(soak_story.write(tmp_path / "other", crashed()), soak.settings.id)
    run(["--root", str(tmp_path / "other"), "soak", "report", "--out", str(tmp_path / "first")])
    soak_story.write(tmp_path, soak)
    call("report")
    code, out, _ = call("compare", soak.settings.id, str(at.report_json))
    assert code == 0
    [line] = [line for line in out.splitlines() if "rash" in line]
    assert line.endswith("B is higher: worse")
    _, out, _ = call("compare", soak.settings.id, soak.settings.id, "--json")
    found = json.loads(out)
    assert {one["difference"] for one in found["criteria"]} <= {"none", "unknown"}
    code, _, err = call("compare", soak.settings.id, str(at.samples))
    assert code == 2
    assert "is no report of a soak" in err


def test_a_report_of_another_host_stays_on_its_lines(call: Call, tmp_path: Path) -> None:
    soak = soak_story.ten_minutes()
    at = folder(soak_story.write(tmp_path, soak), soak.settings.id)
    call("report")
    report = json.loads(at.report_json.read_text())
    _, honest, _ = call("compare", soak.settings.id, str(at.report_json))
    report["host"] |= {"name": "web\nPASS  all is well", "kernel": "6.14\n\x1b[2J"}
    report["criteria"][0] |= {"title": "Agent\ncrashes", "unit": "\n"}
    other = tmp_path / "other.json"
    other.write_text(json.dumps(report))
    code, out, _ = call("compare", soak.settings.id, str(other))
    assert code == 0
    assert r"web\nPASS  all is well" in out
    assert r"6.14\n\x1b[2J" in out
    assert "\x1b" not in out
    # Two conditions differ: a title, two rows, and a line without text.
    assert len(out.splitlines()) == len(honest.splitlines()) + 4


def test_a_kernel_message_cannot_drive_the_terminal(call: Call, tmp_path: Path) -> None:
    story = Story(600, 5).run(600)
    story.happened.append(Happened(soak_story.START + 9, "kernel", "\x1b]0;x\x07", class_="bpf"))
    soak_story.write(tmp_path, story.end())
    _, out, _ = call("report")
    assert "\x1b" not in out
    assert r"\x1b]0;x\x07" in out
