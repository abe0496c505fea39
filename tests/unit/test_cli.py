"""What every command line has in common: help, usage errors, JSON, the terminal."""

from __future__ import annotations

import argparse
import io
import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from repository import REPOSITORY

from aegis_tools.cli.completion import for_both_names
from aegis_tools.cli.main import COMMANDS, parser_of, run
from aegis_tools.cli.output import App, plain
from aegis_tools.cli.policy_sign import _expires
from aegis_tools.control.health import fallback_check
from aegis_tools.errors import PolicyError
from aegis_tools.incident.scenarios import ORDER


def parsers(parser: argparse.ArgumentParser) -> Iterator[argparse.ArgumentParser]:
    """Yield a parser and those of all its subcommands."""
    yield parser
    for action in parser._actions:
        if isinstance(action, argparse._SubParsersAction):
            for below in action.choices.values():
                yield from parsers(below)


@pytest.mark.parametrize("command", COMMANDS)
def test_the_help_of_every_command_and_group_has_an_example(command: str) -> None:
    for parser in parsers(parser_of(command)):
        assert "example" in parser.format_help(), parser.prog


@pytest.mark.parametrize("command", COMMANDS)
def test_a_help_says_what_the_command_does_and_keeps_the_lines_of_its_examples(
    command: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "60")
    for parser in parsers(parser_of(command)):
        assert parser.description, parser.prog
        assert (parser.epilog or "") in parser.format_help(), parser.prog


@pytest.mark.parametrize("line", ["help block add", "--help block add", "-h block add"])
def test_help_shows_the_help_of_the_command_it_names(
    line: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as ended:
        run(line.split())
    assert ended.value.code == 0
    assert "usage: aegisbpf block add" in capsys.readouterr().out


@pytest.mark.parametrize(
    "argv",
    [
        ["keys", "generate", ""],
        ["keys", "add", ""],
        ["policy", "lint", ""],
        ["policy", "plan", ""],
        ["policy", "export", ""],
        ["policy", "convert", "x", "--to", "yaml", "--output", ""],
        ["footprint", ""],
        ["metrics", "--out", ""],
        ["block", "restore", ""],
        ["history", "--limit", "-1"],
        ["history", "--limit", "0"],
        ["policy", "history", "--limit", "-1"],
        ["policy", "history", "--limit", "0"],
        ["load", "--max-rules", "0"],
        ["load", "--max-rules", "-1"],
        ["load", "--max-rules", "9" * 30],
        ["load", "--ringbuf-size", "1000"],
        ["load", "--ringbuf-size", "5000"],
        ["footprint", "--deny-inodes", "-1"],
        ["footprint", "--deny-inodes", "9" * 5000],
        ["help", "no-such-command"],
        ["keys", "trust", "--threshold", "0"],
        ["keys", "trust", "--threshold", "33"],
        ["keys", "trust", "--group", "a b"],
    ],
)
def test_an_argument_that_means_nothing_is_a_usage_error(
    argv: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(["--json", "--root", str(tmp_path), *argv]) == 2
    assert json.loads(capsys.readouterr().out)["error"] == "usage"
    assert list(tmp_path.iterdir()) == []


def test_a_converted_policy_is_json_with_json_and_a_file_without(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    policy = tmp_path / "policy.conf"
    policy.write_text("version=1\n[deny_path]\n/srv/a\n")
    assert run(["policy", "convert", str(policy), "--to", "yaml"]) == 0
    text = capsys.readouterr().out
    assert run(["policy", "convert", str(policy), "--to", "yaml", "--json"]) == 0
    assert json.loads(capsys.readouterr().out) == {"policy": text}
    assert "path: /srv/a" in text


def test_a_locale_that_cannot_say_it_changes_no_output(tmp_path: Path) -> None:
    policy = tmp_path / "policy.conf"
    policy.write_text("version=1\n[deny_path]\n/srv/\u00e4\u2192\n", encoding="utf-8")
    command = [sys.executable, "-m", "aegis_tools", "policy", "convert", str(policy)]
    done = subprocess.run(
        [*command, "--to", "text"],
        cwd=REPOSITORY,
        env={"LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0", "PYTHONPATH": "."},
        capture_output=True,
        check=True,
    )
    assert "/srv/\u00e4\u2192\n".encode() in done.stdout


def test_an_output_in_a_folder_that_is_not_there_says_so(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(["keys", "generate", str(tmp_path / "absent" / "ops")]) == 8
    said = capsys.readouterr().err
    assert "its folder does not exist" in said
    assert "make the folder first" in said


def test_what_could_drive_a_terminal_is_escaped_in_text_and_kept_in_json() -> None:
    name = "/srv/a\u00a0b\x1b[2J\x7f\udcff\u202e\u2028"
    out, err = io.StringIO(), io.StringIO()
    app = App(out=out, err=err)
    app.show({}, f"{name}\tnever\n{name}")
    app.note(name)
    assert (
        out.getvalue() == "/srv/a\u00a0b\\x1b[2J\\x7f\\xff\\u202e\\u2028\tnever\n"
        "/srv/a\u00a0b\\x1b[2J\\x7f\\xff\\u202e\\u2028\n"
    )
    assert "\x1b" not in err.getvalue()
    assert plain("a\nb\t") == "a\\nb\\t"
    out = io.StringIO()
    App(json=True, out=out).show({"name": name}, "")
    assert json.loads(out.getvalue())["name"] == name


@pytest.mark.parametrize("text", ["0", "0d", "1999-12-31", "2020-01-01T00:00:00Z"])
def test_a_policy_is_not_signed_for_a_time_that_is_over(text: str) -> None:
    with pytest.raises(PolicyError, match="expired at once"):
        _expires(text, 1_700_000_000)
    assert _expires("1s", 100) == 101


def test_health_says_why_the_fallback_is_loaded() -> None:
    absent, refused = fallback_check(lsm_active=False), fallback_check(lsm_active=True)
    assert "not in this boot's list" in absent.message
    assert "refused LSM programs" in refused.message
    assert ["lsm enable" in check.hint for check in (absent, refused)] == [True, False]
    assert all("cannot enforce" in check.message for check in (absent, refused))


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_both_names_of_the_program_are_completed(
    shell: str, capsys: pytest.CaptureFixture[str]
) -> None:
    pytest.importorskip("shtab")
    assert run(["completion", shell]) == 0
    script = capsys.readouterr().out
    wanted = {
        "bash": " aegisbpf aegis-tools\n",
        "zsh": "#compdef aegisbpf aegis-tools\n",
        "fish": "complete -c aegis-tools -w aegisbpf\n",
    }
    assert wanted[shell] in script
    assert for_both_names(script, "bash").count("\n") == script.count("\n")


def test_ctrl_c_while_the_program_starts_leaves_no_traceback() -> None:
    code = (
        "import sys, importlib.abc\n"
        "class Finder(importlib.abc.MetaPathFinder):\n"
        "    def find_spec(self, name, path, target=None):\n"
        "        if name == 'aegis_tools.cli.main': raise KeyboardInterrupt\n"
        "sys.meta_path.insert(0, Finder())\n"
        "from aegis_tools.__main__ import main\n"
        "main()\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=REPOSITORY, capture_output=True, text=True, check=False
    )
    assert (done.returncode, done.stderr) == (130, "")


@pytest.mark.parametrize("scenario", ORDER)
def test_who_is_not_root_is_not_told_that_there_is_nothing_to_do(
    scenario: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("os.geteuid", lambda: 1000)
    monkeypatch.setattr("aegis_tools.cli.incident_blocking.first", lambda *_: None)
    assert run(["incident", scenario, "--dry-run"]) == 6
    told = capsys.readouterr()
    assert told.out == ""
    assert f"next: sudo aegisbpf incident {scenario}" in told.err


def test_trusting_a_key_can_be_tried(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    root = tmp_path / "root"
    root.mkdir()
    assert run(["keys", "generate", str(tmp_path / "ops")]) == 0
    capsys.readouterr()
    assert run(["--json", "--root", str(root), "keys", "add", f"{tmp_path}/ops.pub",
                "--dry-run"]) == 0  # fmt: skip
    assert json.loads(capsys.readouterr().out)["would_change"] is True
    assert list(root.iterdir()) == []


@pytest.mark.parametrize("option", ["--i", "--i-know", "--reset-it", "--confirm"])
def test_an_option_is_written_out(option: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["policy", "apply", option, "policy.conf"]) == 2
    assert option in capsys.readouterr().err
