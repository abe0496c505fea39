"""``monitor record``, ``query`` and ``trend`` as commands."""

from __future__ import annotations

import argparse
import contextlib
import io
import json
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from importlib.resources import files
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import jsonschema
import pytest
from hypothesis import given
from hypothesis import strategies as st
from monitor_store_support import BODIES, HOUR, SECOND, event, sqlite_in, without_null, write

from aegis_tools.agent.stream import stop_on_signals
from aegis_tools.cli import monitor_store, monitor_trend
from aegis_tools.cli.main import Parser
from aegis_tools.cli.monitor_live import Following
from aegis_tools.cli.output import App
from aegis_tools.errors import AegisError, UsageError
from aegis_tools.monitors.store.database import Database
from aegis_tools.monitors.store.fields import to_time
from aegis_tools.monitors.store.plot import Panel, amount, sparkline, svg
from aegis_tools.monitors.store.store import Store
from aegis_tools.paths import Paths

NOW = int(time.time()) * SECOND
SVG = "{http://www.w3.org/2000/svg}"


class Ran:
    """What a command printed."""

    def __init__(self, root: Path, *argv: str, events: Sequence[dict[str, Any]] = ()) -> None:
        self.out, self.err = io.StringIO(), io.StringIO()
        words = [word for word in argv if word != "--json"]
        app = App(Paths(root), json="--json" in argv, out=self.out, err=self.err)
        arguments = parser(events).parse_args(words)
        self.code = arguments.run(app, arguments)
        self.text, self.notes = self.out.getvalue(), self.err.getvalue()

    @property
    def lines(self) -> list[Any]:
        """The lines, which are JSON."""
        return [json.loads(line) for line in self.text.splitlines()]


def parser(events: Sequence[dict[str, Any]]) -> argparse.ArgumentParser:
    @contextlib.contextmanager
    def follow(_: App, names: list[str], command: str) -> Iterator[Following]:
        assert set(names) <= {"disk-io"}
        assert command == "monitor record"
        with stop_on_signals() as stop:
            yield Following([events[n : n + 7] for n in range(0, len(events), 7)], stop)

    found = Parser(prog="aegisbpf monitor")
    kinds = found.add_subparsers()
    monitor_store.build_record(kinds.add_parser("record"), follow)
    monitor_store.build_query(kinds.add_parser("query"))
    monitor_trend.build_trend(kinds.add_parser("trend"))
    return found


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """Return the root of a host on which a day of events was stored."""
    store = Store(Database(sqlite_in(tmp_path)))
    events = [
        event("complete", NOW - n * HOUR, bytes=n * 1_000_000, latency_ns=(n % 7 + 1) * 3_000_000)
        for n in range(1, 24) if n % 5
    ]  # fmt: skip
    write(store, *events, *(event(kind, NOW - 60 * SECOND) for kind in BODIES))
    store.database.close()
    return tmp_path


def test_what_is_recorded_is_found_by_query(tmp_path: Path) -> None:
    events = [event(kind, NOW - 5 * SECOND + n) for n, kind in enumerate(BODIES)] * 3
    ran = Ran(tmp_path, "record", "disk-io", "--json", events=[*events, {"monitor": "x"}])
    assert ran.code == 0
    [counts] = ran.lines
    assert sum(counts["stored"].values()) == len(events)
    assert counts["invalid"] == {"unknown": 1}
    found = Ran(tmp_path, "query", "--json").lines
    assert without_null(found) == without_null(events)
    for one in found:
        assert list(one)[:12] == [
            "time", "monitor", "event", "pid", "tid", "ppid", "uid", "gid", "comm", "cgroup",
            "cut", "cause_known",
        ]  # fmt: skip


def test_what_is_found_is_of_the_published_schema(root: Path) -> None:
    schema = files("aegis_tools.monitors").joinpath("event.schema.json").read_text("utf-8")
    store = Store(Database(sqlite_in(root)), host="web1")
    write(store, event(at=NOW, profile="child"), writer="another")
    store.database.close()
    found = Ran(root, "query", "--json").lines
    assert len(found) >= len(BODIES)
    assert {"profile", "host"} < found[-1].keys()
    for one in found:
        jsonschema.validate(one, json.loads(schema))


def test_a_second_recorder_is_refused(root: Path) -> None:
    from aegis_tools.control.lock import locked

    with (
        locked(Paths(root).monitor_store_lock, command="monitor record", timeout=0),
        pytest.raises(AegisError, match="another command is running: monitor record"),
    ):
        Ran(root, "record")


def test_a_person_reads_a_line_an_event(root: Path) -> None:
    ran = Ran(root, "query", "--since", "45m")
    assert len(ran.text.splitlines()) == len(BODIES)
    for part in ("complete", "dd[4000]", "/etc/passwd", "[::1]:50000"):
        assert part in ran.text


def test_query_says_what_it_does_not_show(root: Path) -> None:
    ran = Ran(root, "query", "--limit", "2", "--since", "2d")
    assert len(ran.text.splitlines()) == 2
    assert "only the newest 2 are shown" in ran.notes
    ran = Ran(root, "query", "--comm", "nobody", "--json")
    assert (ran.text, ran.notes) == ("", "no events match\n")


def test_a_name_cannot_drive_the_terminal(tmp_path: Path) -> None:
    Ran(tmp_path, "record", events=[event("open", NOW, comm="a\x1b[2Jb", path="/x\ny")])
    ran = Ran(tmp_path, "query")
    assert "\x1b" not in ran.text
    assert len(ran.text.splitlines()) == 1
    assert Ran(tmp_path, "query", "--json", "--comm", "a\x1b[2Jb").lines


def test_trend_has_every_hour_of_the_history(root: Path) -> None:
    ran = Ran(root, "trend", "--comm", "dd", "--monitor", "disk-io", "--since", "30h", "--json")
    [found] = ran.lines
    assert (found["by"], found["comm"]) == ("comm", "dd")
    [disk] = found["monitors"]
    assert (disk["monitor"], disk["metric"]) == ("disk-io-monitor", "latency")
    starts = [one["hour"] for one in disk["hours"]]
    assert len(starts) in (24, 25)
    assert starts[0] == to_time((NOW - 23 * HOUR) // HOUR * HOUR)
    assert sum(one["count"] for one in disk["hours"]) == 20
    assert sum(disk["histogram"]["counts"]) == 20
    assert len(disk["histogram"]["counts"]) == len(disk["histogram"]["up_to"]) == 8
    by_pid = Ran(
        root, "trend", "--pid", "4000", "--monitor", "disk-io", "--since", "30h", "--json"
    ).lines[0]  # fmt: skip
    assert by_pid["monitors"][0]["hours"] == disk["hours"]
    assert by_pid["monitors"][0]["histogram"] is None


def test_trend_for_a_person_and_as_a_picture(root: Path, tmp_path: Path) -> None:
    plot = tmp_path / "trend.svg"
    ran = Ran(root, "trend", "--comm", "dd", "--metric", "bytes", "--plot", str(plot))
    assert "disk-io-monitor: bytes of dd, by the hour (UTC)" in ran.text
    assert "█" in ran.text
    tree = ElementTree.fromstring(plot.read_text(encoding="utf-8"))
    assert len(tree.findall(f"{SVG}g")) == 5
    assert len(tree.findall(f".//{SVG}rect[@class='bar']")) > 20
    with pytest.raises(AegisError, match="exists already"):
        Ran(root, "trend", "--comm", "dd", "--plot", str(plot))
    with pytest.raises(UsageError, match="as SVG"):
        Ran(root, "trend", "--comm", "dd", "--plot", "trend.png")


def test_trend_of_nobody_says_so(root: Path) -> None:
    ran = Ran(root, "trend", "--profile", "nobody")
    assert ran.notes == "no events match\n"


@pytest.mark.parametrize(
    "argv",
    [
        ("query", "--monitor", "moon"), ("query", "--event", "opened"), ("trend",),
        ("query", "--since", "1h", "--until", "2h"), ("trend", "--comm", "a", "--pid", "1"),
        ("record", "--keep-size", "5"), ("query", "--store", "postgresql://u:pw@h/d"),
        ("query", "--limit", "0"),
    ],
)  # fmt: skip
def test_a_wrong_command_line_is_a_usage_error(root: Path, argv: tuple[str, ...]) -> None:
    with pytest.raises(UsageError):
        Ran(root, *argv)


@given(st.lists(st.integers(0, 1 << 53), max_size=300), st.integers(1, 80))
def test_a_line_of_blocks_fits_and_shows_what_is_there(values: list[int], width: int) -> None:
    line = sparkline(values, width)
    assert len(line) <= width
    assert ("█" in line) == any(values)
    assert (not line.strip()) == (not any(values))


@given(
    st.lists(st.integers(0, 1 << 60), max_size=200), st.sampled_from(["bytes", "ns", ""]), st.text()
)
def test_a_picture_is_always_well_formed(values: list[int], unit: str, title: str) -> None:
    shown = "".join(c for c in title if c.isprintable())
    drawn = svg([Panel(shown, unit, NOW // HOUR * HOUR, values, values[:-1])])
    tree = ElementTree.fromstring(drawn)
    for bar in tree.findall(f".//{SVG}rect[@class='bar']"):
        assert 0 <= float(bar.attrib["y"]) <= float(bar.attrib["y"]) + float(
            bar.attrib["height"]
        ) <= 210  # fmt: skip


@pytest.mark.parametrize(
    ("value", "unit", "text"),
    [
        (0, "bytes", "0 B"), (1023, "bytes", "1023 B"), (1536, "bytes", "1.5 KiB"),
        (12_345_678, "ns", "12.3 ms"), (999_999, "ns", "1 ms"), (3400, "", "3.4 k"), (7, "", "7"),
    ],
)  # fmt: skip
def test_numbers_are_as_a_person_reads_them(value: int, unit: str, text: str) -> None:
    assert amount(value, unit) == text


def test_other_commands_do_not_pay_for_the_store() -> None:
    loaded = (
        "import sys; from aegis_tools.cli import main, monitor_store, monitor_trend, stats; "
        "main.parser_of('stats'); sys.exit('sqlalchemy' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", loaded], check=False).returncode == 0
