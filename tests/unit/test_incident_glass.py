"""What a broken glass leaves is an incident like every other, whatever is in it."""

from __future__ import annotations

import json
from pathlib import Path

import jsonschema
import pytest
from hypothesis import given
from hypothesis import strategies as st
from incident_support import Clock, host

from aegis_tools.cli.main import run
from aegis_tools.errors import StateError
from aegis_tools.incident import content, glass, shelf
from aegis_tools.incident.markdown import to_markdown
from aegis_tools.incident.record import Record
from aegis_tools.incident.shelf import Shelf
from aegis_tools.paths import Paths

ID = "20261121T170102Z-break-glass"
SCHEMA = json.loads(Path(glass.__file__).with_name("incident.schema.json").read_text())
HEAD = "host: web-1\nkernel: 6.1.0-28-amd64\nby: alice\n"
PROVEN = "ENDED, and proven: aegisbpf refuses nothing any more\n"


@pytest.fixture
def paths(tmp_path: Path) -> Paths:
    return host(tmp_path)


def leave(paths: Paths, text: str | bytes, identifier: str = ID) -> Path:
    folder = paths.incidents / identifier
    folder.mkdir(parents=True, mode=0o700)
    record = folder / glass.RECORD
    record.write_bytes(text if isinstance(text, bytes) else text.encode())
    record.chmod(0o600)
    return record


def aegis(paths: Paths, capsys: pytest.CaptureFixture[str], *words: str) -> str:
    assert run(["--root", str(paths.root), "incident", *words]) == 0
    return capsys.readouterr().out


def test_it_is_listed_and_shown(paths: Paths, capsys: pytest.CaptureFixture[str]) -> None:
    leave(paths, f"{HEAD}the hooks are switched off\n{PROVEN}")
    (row,) = json.loads(aegis(paths, capsys, "list", "--json"))["incidents"]
    assert (row["id"], row["result"], row["host"]) == (ID, "recovered", "web-1")
    assert row["began"] == "2026-11-21T17:01:02.000Z"
    assert "ENDED, and proven" in aegis(paths, capsys, "list")
    shown = aegis(paths, capsys, "show", "last")
    assert "web-1, Linux 6.1.0-28-amd64" in shown
    assert "by alice" in shown
    assert "the hooks are switched off" in shown
    assert "ended by hand" in aegis(paths, capsys, "show", ID, "--markdown")
    jsonschema.validate(Shelf(paths).read(ID).to_dict(), SCHEMA)


@pytest.mark.parametrize(
    ("verdict", "result"),
    [
        (PROVEN, "recovered"),
        ("NOT ENDED. End who holds it\n", "not-recovered"),
        ("ended, as far as can be seen; NOT PROVEN\n", ""),
        ("", ""),
        (f"STILL REFUSED: /a {PROVEN}", ""),
        (f"{PROVEN}NOT ENDED", "not-recovered"),
    ],
)
def test_only_a_proof_is_a_recovery(paths: Paths, verdict: str, result: str) -> None:
    leave(paths, HEAD + verdict)
    held = Shelf(paths).read(ID)
    assert (held.result, held.open) == (result, not result)


@pytest.mark.parametrize("left", range(len(HEAD)))
def test_a_disk_that_was_full_may_have_cut_it_anywhere(left: int) -> None:
    held = glass.parse(ID, HEAD[:left].encode())
    assert held.open
    assert held.actions[0]["message"] == "broke the glass"


@given(st.binary(max_size=400) | st.text(max_size=400).map(lambda one: (HEAD + one).encode()))
def test_whatever_it_says_can_be_kept_and_drives_no_terminal(data: bytes) -> None:
    held = glass.parse(ID, data)
    assert content.parse(held.to_bytes()).to_dict() == held.to_dict()
    jsonschema.validate(held.to_dict(), SCHEMA)
    texts = [
        held.host,
        held.kernel,
        held.by["sudo_user"],
        *(one["message"] for one in held.actions),
    ]
    assert not any(c < " " or c in "\x7f\x9b\u202e\u2028" for text in texts for c in text)
    assert "\x1b" not in to_markdown(held.to_dict())


def test_of_a_long_one_begin_and_verdict_stay() -> None:
    text = HEAD + "x" * 5000 + "\n" + "a line\n" * 9000 + PROVEN
    held = glass.parse(ID, text.encode())
    assert len(held.actions) < 250
    assert max(len(one["message"]) for one in held.actions) < 1100
    assert (held.result, held.actions[-1]["message"]) == ("recovered", PROVEN.strip())
    assert any("lines left out" in one["message"] for one in held.actions)


def test_one_that_no_shell_wrote_is_said_to_be_unreadable(paths: Paths) -> None:
    leave(paths, b"x" * (glass.MAX_BYTES + 1))
    leave(paths, HEAD, "20269921T170102Z-break-glass")
    (paths.incidents / "20261121T180102Z-break-glass").mkdir()
    leave(paths, HEAD, "20261121T190102Z-break-glass").chmod(0o666)
    linked = leave(paths, HEAD, "20261121T200102Z-break-glass")
    linked.unlink()
    linked.symlink_to("/etc/passwd")
    leave(paths, HEAD, "20261121T210102Z-blocking")
    assert [(bool(one.fault), one.content) for one in Shelf(paths).all()] == [(True, None)] * 6
    with pytest.raises(StateError, match="larger than"):
        Shelf(paths).read(ID)


def test_a_note_keeps_what_it_said(paths: Paths) -> None:
    record = leave(paths, f"{HEAD}the pins are gone\nended, as far as can be seen; NOT PROVEN\n")
    with Record.open(paths, ID, clock=Clock().seams) as opened:
        opened.saw("note", "looked: nothing is refused")
        opened.close("recovered")
    held = Shelf(paths).read(ID)
    assert held.result == "recovered"
    assert [one["message"] for one in held.actions][1] == "the pins are gone"
    assert record.exists()
    assert (paths.incidents / ID / shelf.RECORD).exists()
