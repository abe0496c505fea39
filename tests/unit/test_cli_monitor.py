"""What ``aegisbpf monitor`` prints, and that it is there at once."""

from __future__ import annotations

import errno
import io
import json
import subprocess
import sys
from pathlib import Path

import pytest
from monitor_records import disk_record, exec_record, exit_record, file_record, net_record
from repository import REPOSITORY

from aegis_tools.cli.main import failed, run
from aegis_tools.cli.monitor_live import _draw, _screen, human, readable, rows
from aegis_tools.cli.output import App
from aegis_tools.monitors.decode import Decoder
from aegis_tools.monitors.registry import MONITORS
from aegis_tools.monitors.top import Use
from aegis_tools.paths import Paths

LIGHT = """
import sys
from aegis_tools.cli.main import failed, run
assert run(["--root", sys.argv[1], "monitor", "list"]) == 0
heavy = {"sqlalchemy", "prometheus_client", "yaml", "nacl", "sh", "pyroute2", "sqlite3", "hashlib"}
print(sorted(heavy & set(sys.modules)), file=sys.stderr)
"""
LOADED = {"disk-io-monitor", "network-monitor"}


def test_the_list_needs_nothing_that_takes_time(tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-c", LIGHT, str(tmp_path)],
        cwd=REPOSITORY, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert (done.returncode, done.stderr) == (0, "[]\n")
    assert done.stdout.splitlines()[0].split() == ["MONITOR", "LOADED", "AS", "TELLS", "OF"]
    assert len(done.stdout.splitlines()) == 6


def test_the_list_says_which_events_there_are(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(["--json", "--root", str(tmp_path), "monitor", "list"]) == 0
    listed = {one["monitor"]: one for one in json.loads(capsys.readouterr().out)["monitors"]}
    assert set(listed) == set(MONITORS)
    assert listed["disk-io-monitor"]["events"] == ["issue", "complete", "queue"]
    assert not any(one["loaded"] for one in listed.values())
    assert Path(listed["process-monitor"]["prebuilt"]).read_bytes()[:4] == b"\x7fELF"


def shown(monitor: str, record: bytes) -> str:
    """Return what follows who did it in the line of an event."""
    decoder = Decoder(lambda _, path: path)
    line = readable(decoder.decode(MONITORS[f"{monitor}-monitor"], record))
    return line.split("cat[10]  ", 1)[1]


@pytest.mark.parametrize(
    ("monitor", "record", "text"),
    [
        ("process", exec_record(args=b"cat\0a b\0"), "uid 1000  /usr/bin/cat: cat 'a b'"),
        ("process", exit_record(2 << 8), "status 2 after 1.500 s"),
        ("process", exit_record(9), "killed by SIGKILL after 1.500 s"),
        ("process", exit_record(100), "killed by signal 100 after 1.500 s"),
        ("filesystem", file_record(1, names=b"x\0", result=3), "/x  descriptor 3"),
        ("filesystem", file_record(2, moved=9, result=9), "254:1 inode 42  9 bytes"),
        ("filesystem", file_record(3, result=-28), "254:1 inode 42  ENOSPC"),
        ("filesystem", file_record(4), "254:1 inode 42"),
        ("network", net_record(2, "10.0.0.1", "10.0.0.2", moved=5),
         "tcp 10.0.0.1:40000 → 10.0.0.2:443  5 bytes"),
        ("network", net_record(1, "::1", "2001:db8::2"), "tcp [::1]:40000 → [2001:db8::2]:443"),
        ("network", net_record(2, "10.0.0.1", "10.0.0.2", result=-104),
         "tcp 10.0.0.1:40000 → 10.0.0.2:443  ECONNRESET"),
        ("disk-io", disk_record(), "254:0 write 4096 bytes at 2048  7.000 ms"),
        ("disk-io", disk_record(latency=0, error=-5), "254:0 write 4096 bytes at 2048  error -5"),
    ],
)  # fmt: skip
def test_an_event_is_a_line(monitor: str, record: bytes, text: str) -> None:
    assert shown(monitor, record) == text


def test_nothing_in_an_event_can_drive_a_terminal() -> None:
    assert "\x1b" not in shown("process", exec_record(args=b"\x1b[2J\0\r\n\0"))


@pytest.mark.parametrize(
    ("number", "text"),
    [(0, "0"), (999, "999"), (1000, "1.0K"), (1536, "1.5K"), (20 << 20, "20M"), (5 << 50, "5120T")],
)
def test_bytes_have_few_digits(number: float, text: str) -> None:
    assert human(number) == text


def uses() -> list[Use]:
    busy = Use(10, "fio\x1b[2J", read=4096, requests=2, latency_ns=4_000_000, sent=2048)
    busy.latency_max_ns, busy.resident = 3_000_000, 1 << 20
    return [busy, Use(0, "")]


def test_a_table_has_a_place_for_what_no_monitor_tells() -> None:
    lines = [line.split() for line in rows(uses(), 2, LOADED).splitlines()]
    assert lines[1] == [
        "10", "fio\\x1b[2J", "1.0M", "-", "-", "2.0K", "0", "2.00", "3.00", "1.0K", "0",
    ]  # fmt: skip
    assert lines[2][0] == "-"
    assert rows([], 2, LOADED) == "(nothing)"


def test_a_terminal_is_drawn_on_and_left_as_it_was() -> None:
    out = io.StringIO()
    app = App(out=out)
    with _screen(app, wanted=True):
        _draw(app, uses(), "io", 2, LOADED, screen=True)
    text = out.getvalue()
    assert text.startswith("\x1b[?1049h\x1b[?25l\x1b[H")
    assert text.endswith("\x1b[?25h\x1b[?1049l")
    assert "\x1b[2J" not in text
    assert "by io, a second, over 2 s" in text


def test_elsewhere_than_on_a_terminal_it_is_text_or_json() -> None:
    out = io.StringIO()
    with _screen(App(out=out), wanted=False):
        _draw(App(out=out), uses(), "io", 2, LOADED, screen=False)
        assert "\x1b" not in out.getvalue()
        assert out.getvalue().endswith("\n\n")
        out.truncate(out.seek(0))
        _draw(App(out=out, json=True), uses(), "io", 2, LOADED, screen=False)
    told = json.loads(out.getvalue())
    assert (told["by"], told["monitors"]) == ("io", sorted(LOADED))
    assert told["processes"][0]["read"] == 4096


def test_what_is_mounted_read_only_is_named_so(tmp_path: Path) -> None:
    err = io.StringIO()
    error = OSError(errno.EROFS, "Read-only file system", "/x/pins")
    assert failed(App(Paths(tmp_path), out=io.StringIO(), err=err), error) == 6
    assert "a file system is mounted read-only: /x/pins" in err.getvalue()
    assert "findmnt" in err.getvalue()
