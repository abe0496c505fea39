"""What an error says: the problem and the way out, nothing of the inside, and commands that exist.

Read from the source, because most errors are raised only when something is broken.
"""

from __future__ import annotations

import ast
import re
import shlex
from collections.abc import Iterator
from pathlib import Path

import pytest
from repository import REPOSITORY

from aegis_tools import errors
from aegis_tools.cli.main import COMMANDS, parser_of, run
from aegis_tools.control.lockout.model import Hit, Refusal
from aegis_tools.errors import AegisError, UsageError

PACKAGE = REPOSITORY / "aegis_tools"
CLASSES = {
    name: found
    for name, found in vars(errors).items()
    if isinstance(found, type) and issubclass(found, AegisError)
}
INSIDE = re.compile(
    r"errno|traceback|\bfds?\b|file descriptor|\buid\b|\bstat\(|bpf\(2\)|\bsyscall\b|map id"
    r"|NoneType|\bexception\b|/sys/|/proc/|/run/|/var/lib|\.py\b|0x[0-9a-f]|repr\(",
    re.IGNORECASE,
)
NUMBER = re.compile(r"\bE[A-Z]{4,}\b")
CAUGHT = {"error", "exc", "e", "err"}
GAP = "GAP1"


class Site:
    """A place where an error is made."""

    def __init__(self, path: Path, call: ast.Call, handlers: list[str]) -> None:
        self.where = f"{path.relative_to(REPOSITORY)}:{call.lineno}"
        self.name = getattr(call.func, "id", "")
        self.keywords = {word.arg: word.value for word in call.keywords}
        self.message = call.args[0] if call.args else None
        self.handlers = handlers


def trees() -> Iterator[tuple[Path, ast.Module]]:
    for path in sorted(PACKAGE.rglob("*.py")):
        if path.name != "errors.py":
            yield path, ast.parse(path.read_text(encoding="utf-8"))


def sites() -> Iterator[Site]:
    for path, tree in trees():
        caught: dict[ast.AST, str] = {}
        for handler in (node for node in ast.walk(tree) if isinstance(node, ast.ExceptHandler)):
            for inner in ast.walk(handler):
                caught[inner] = ast.unparse(handler.type) if handler.type else "BaseException"
        for node in ast.walk(tree):
            if isinstance(node, ast.Call) and getattr(node.func, "id", "") in CLASSES:
                yield Site(path, node, [caught.get(node, "")])


WORDED = ("NotLoadedError", "LockoutError")
"""Errors that bring their own words."""
SITES = [site for site in sites() if site.name not in WORDED]


def literals(node: ast.AST | None) -> str:
    """Return the text of an expression as far as it is written down, with gaps for the rest."""
    if isinstance(node, ast.Constant):
        return str(node.value)
    if isinstance(node, ast.JoinedStr):
        return "".join(
            literals(part) if isinstance(part, ast.Constant) else GAP for part in node.values
        )
    if isinstance(node, ast.BinOp):
        return literals(node.left) + literals(node.right)
    if isinstance(node, ast.IfExp):
        return f"{literals(node.body)} {literals(node.orelse)}"
    return GAP


def raw_errors(node: ast.AST) -> Iterator[str]:
    """Yield the caught exceptions that an expression prints as they are."""
    if isinstance(node, ast.Name) and node.id in CAUGHT:
        yield node.id
    for part in ast.walk(node):
        values = [part.value] if isinstance(part, ast.FormattedValue) else []
        if isinstance(part, ast.Call) and getattr(part.func, "id", "") in ("str", "repr"):
            values = part.args
        yield from (v.id for v in values if isinstance(v, ast.Name) and v.id in CAUGHT)


def test_there_are_many_errors_to_look_at() -> None:
    assert len(SITES) > 100
    assert {site.name for site in SITES} >= {
        "UsageError", "PolicyError", "KernelError", "StateError", "CommandError", "DriftError",
    }  # fmt: skip


@pytest.mark.parametrize("site", SITES, ids=lambda site: site.where)
def test_an_error_names_the_problem_and_the_way_out_and_nothing_of_the_inside(site: Site) -> None:
    assert site.message is not None, "an error needs a message"
    message = literals(site.message)
    assert message.strip(), "an error needs a message"
    assert "\n" not in message
    assert not INSIDE.search(message), message
    assert not NUMBER.search(message), message
    assert "hint" in site.keywords, f"{message!r} does not say what to do"
    hint = site.keywords["hint"]
    assert literals(hint).strip(), f"{message!r} does not say what to do"
    assert not INSIDE.search(literals(hint)), literals(hint)
    for part in (site.message, hint):
        if list(raw_errors(part)):  # ours, of a parser, says what is wrong with a text
            assert all("OSError" not in kind for kind in site.handlers), ast.unparse(part)


@pytest.mark.parametrize("kind", CLASSES.values(), ids=lambda kind: kind.__name__)
def test_every_class_has_its_code_and_keeps_its_inside_to_itself(kind: type[AegisError]) -> None:
    if kind is errors.NotLoadedError:
        error: AegisError = errors.NotLoadedError()
    elif kind is errors.LockoutError:
        error = errors.LockoutError(
            [Refusal("r7", True, (Hit("/lib/x", "sshd needs it", ("sshd", "x"), 1),), 3)]
        )
        assert error.hint
    else:
        error = kind("what is wrong", hint="what to do", detail="the inside", data={"n": 1})
        assert error.to_dict()["detail"] == "the inside"
        assert error.to_dict()["n"] == 1
    assert str(error) == error.message
    assert "inside" not in error.message + error.hint
    assert 1 <= error.exit_code <= 9
    assert error.to_dict()["exit_code"] == error.exit_code
    assert error.code


COMMAND = re.compile(r"(?:^|: |`|&& |; |\| |\bor |\buse |\bthen |\brun )aegisbpf ([a-z][^\n]*)")
END = re.compile(r" &&| \|\||\||;|\)|,? then\b| \(|\(|, [a-z]| > | ->|   |`$|` ")


def strings() -> Iterator[tuple[str, str]]:
    """Yield every text of the package but docstrings, with its place."""
    for path, tree in trees():
        docs = {
            id(node.body[0].value)
            for node in ast.walk(tree)
            if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef)
            and node.body
            and isinstance(node.body[0], ast.Expr)
        }
        inner = {
            id(part)
            for node in ast.walk(tree)
            if isinstance(node, ast.JoinedStr)
            for part in ast.walk(node)
            if part is not node
        }
        for node in ast.walk(tree):
            if isinstance(node, ast.Constant | ast.JoinedStr) and id(node) not in docs | inner:
                yield f"{path.relative_to(REPOSITORY)}:{node.lineno}", literals(node)


def commands(text: str) -> Iterator[str]:
    """Yield the command lines of ours in a text, without ``aegisbpf``."""
    for found in COMMAND.finditer(text):
        yield END.split(found[1], maxsplit=1)[0].strip().rstrip(".")
        yield from commands(found[1])


NAMED = sorted({(where, line) for where, text in strings() for line in commands(text)})


def fault(line: str) -> str:
    """Return why a command line of ours cannot be one; empty where only values are missing."""
    words = shlex.split(line)
    if words[0] == GAP:
        return ""
    if words[0] not in COMMANDS:
        return f"there is no command {words[0]}"
    known = ["--json", "--verbose"]
    try:
        parser_of(words[0]).parse_args([word for word in words[1:] if word not in known])
    except UsageError as error:
        wrong = "invalid choice" in error.message or "unrecognized" in error.message
        return error.message if wrong and GAP not in error.message else ""
    except SystemExit:
        return ""  # --help
    return ""


def test_there_are_many_commands_to_look_at() -> None:
    assert len(NAMED) > 60


@pytest.mark.parametrize(("where", "line"), NAMED, ids=lambda text: text[:60])
def test_every_command_that_is_named_exists(
    where: str, line: str, capsys: pytest.CaptureFixture[str]
) -> None:
    found = fault(line)
    capsys.readouterr()
    assert not found, f"{where}: aegisbpf {line}: {found}"


@pytest.mark.parametrize(
    "line", ["playbook", "allow cgroup look", "policy past", "load --no-such", "block list x"]
)
def test_commands_that_do_not_exist_are_found(line: str) -> None:
    assert fault(line)


def broken(*_: object) -> int:
    raise RuntimeError("an inner matter at /var/lib/x")


@pytest.mark.parametrize("options", [(), ("--verbose",), ("--json",)])
def test_what_nobody_expected_is_one_line_and_exit_1(
    options: tuple[str, ...], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("aegis_tools.cli.config.run_get", broken, raising=False)
    monkeypatch.setitem(COMMANDS, "broken", ("broken_command", "for this test"))
    monkeypatch.setattr("aegis_tools.cli.main.parser_of", lambda _: broken())
    assert run(["broken", *options]) == 1
    out, err = capsys.readouterr()
    inside = "an inner matter" in out + err
    assert inside == bool(options)
    if not options:
        assert len(err.splitlines()) == 2
        assert "report" in err
