"""``aegisbpf events`` as a person and a program meet it."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from pathlib import Path

import pytest
from event_records import file_record, net_record

from aegis_tools.agent.decode import Decoder
from aegis_tools.cli.eventoptions import moment
from aegis_tools.cli.main import run
from aegis_tools.errors import UsageError

REPOSITORY = Path(__file__).parents[2]


@pytest.fixture
def path(tmp_path: Path) -> Path:
    """Return a file with a torn line, two events of now, and a storm."""
    now = time.time_ns()
    decoder = Decoder(rule=lambda uid: f"r{uid}", offset_ns=0)
    path = tmp_path / "events.jsonl"
    path.write_bytes(
        b'rn"}\n'
        + decoder.line(file_record(at=now - 10**9, rule=1, comm=b"\x1b[2Jx"))
        + decoder.line(net_record(bytes(15) + b"\1", at=now, rule=2, action=1, reason=1))
        + decoder.line(file_record(at=now, rule=1), 99, now - 10**9)
    )
    return path


def output(path: Path, capsys: pytest.CaptureFixture[str], *more: str) -> tuple[str, str]:
    assert run(["events", "--file", str(path), *more]) == 0
    out, err = capsys.readouterr()
    return out, err


def test_a_line_an_event_for_a_person(path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out, err = output(path, capsys)
    first, second, third = out.splitlines()
    assert "BLOCK  read dev:" in first or "BLOCK  read /etc/shadow  \\x1b[2Jx[10]" in first
    assert "AUDIT (rule-audit)  egress [::1]:443/tcp" in second
    assert third.endswith("rule r1  (99 times)")
    assert err == "warning: 1 lines are no whole events and were passed over\n"


def test_json_is_what_was_written(path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out, _ = output(path, capsys, "--json")
    assert out.encode() == b"".join(path.read_bytes().splitlines(keepends=True)[1:])


def test_a_limit_keeps_the_newest(path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out, _ = output(path, capsys, "--json", "--limit", "1")
    assert json.loads(out)["count"] == 99


def test_top_counts_repetitions(path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out, _ = output(path, capsys, "--top", "1")
    assert out.startswith("101 events since ")
    assert "100     r1" in out
    out, _ = output(path, capsys, "--top", "--json")
    assert json.loads(out)["top"]["rule"] == [
        {"value": "r1", "events": 100}, {"value": "r2", "events": 1},
    ]  # fmt: skip


def test_nothing_found_is_nothing_printed(path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for options in (
        ("--rule", "none"),
        ("--json", "--action", "kill"),
        ("--limit", "3", "--comm", "z"),
    ):
        out, err = output(path, capsys, *options)
        assert (out, err.splitlines()[0]) == ("", "no events match")


def test_a_wrong_action_is_told_as_it_was_written(
    path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(["events", "--file", str(path), "--action", "nope"]) == 2
    assert "'nope'" in capsys.readouterr().err
    assert output(path, capsys, "--json", "--action", "Audit")[0]


def test_the_schema_is_printed(capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["events", "--schema"]) == 0
    assert json.loads(capsys.readouterr().out)["title"] == "An event of aegisbpf"


def test_new_events_are_followed(path: Path) -> None:
    process = subprocess.Popen(
        [sys.executable, "-m", "aegis_tools", "events", "--file", path, "--follow", "--json"],
        cwd=REPOSITORY, stdout=subprocess.PIPE,
    )  # fmt: skip
    assert process.stdout is not None
    try:
        decoder = Decoder(offset_ns=time.time_ns())
        for number in range(1, 10**6):
            with path.open("ab") as file:
                file.write(decoder.line(file_record(pid=number)))
            time.sleep(0.05)
            if number == 1:
                fd = process.stdout.fileno()
            import select

            if select.select([fd], [], [], 0)[0]:
                break
        assert json.loads(process.stdout.readline())["pid"] >= 1
    finally:
        process.kill()
        process.wait()
        process.stdout.close()


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("15m", 1_000_000 - 900), ("7d", 1_000_000 - 7 * 86400), ("90", 999_910),
        ("2026-01-01", 1_767_225_600), ("2026-01-01T12:00:00Z", 1_767_268_800),
        ("2026-01-01T12:00:00+02:00", 1_767_261_600), ("2026-01-01T12:00:00.5z", 1_767_268_800.5),
    ],
)  # fmt: skip
def test_moments(text: str, expected: float) -> None:
    if text.endswith(".5z") and sys.version_info < (3, 11):
        text, expected = "2026-01-01T12:00:00z", 1_767_268_800
    assert moment(text, 1_000_000) == expected


@pytest.mark.parametrize("text", ["yesterday", "2026-13-01", "1-1", "", "12:00:00Z", "-5m"])
def test_what_is_no_moment_is_refused(text: str) -> None:
    with pytest.raises(UsageError):
        moment(text, 0)


@pytest.mark.parametrize(
    "argv",
    [
        ["--follow", "--until", "1h"], ["--top", "0"], ["--follow", "--top"], ["--limit", "x"],
        ["--action", "DENY"], ["--since", "soon"],
        ["--since", "1h", "--until", "2h"],
    ],
)  # fmt: skip
def test_senseless_options_are_refused(argv: list[str], path: Path) -> None:
    assert run(["events", "--file", str(path), *argv]) == 2


def test_a_missing_file_has_its_exit_code(tmp_path: Path) -> None:
    assert run(["events", "--file", str(tmp_path / "none")]) == 8
