"""Steps of a procedure: done where needed, told in a dry run, repeated without harm."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from incident_support import Clock, case, host

from aegis_tools.cli.incident_run import execute
from aegis_tools.cli.main import run
from aegis_tools.cli.output import App
from aegis_tools.control.lock import locked
from aegis_tools.errors import CommandError, KernelError, StateError
from aegis_tools.incident.case import Case, Outcome
from aegis_tools.incident.shelf import Shelf
from aegis_tools.paths import Paths


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def paths(tmp_path: Path) -> Paths:
    return host(tmp_path)


def test_a_step_that_is_needed_is_done_and_written_down(paths: Paths, clock: Clock) -> None:
    it = case(paths, clock)
    step = it.step("audit", "set the mode to audit", lambda: clock.sleep(2) or 7, rules=3)
    assert (step.state, step.value, step.seconds, step.did) == ("done", 7, 2.0, True)
    assert it.changed
    assert it.record.done("audit")
    it.record.release()


def test_one_that_is_not_needed_leaves_no_trace(paths: Paths, clock: Clock) -> None:
    it = case(paths, clock)
    step = it.step("audit", "set the mode to audit", pytest.fail, needed=lambda: False)
    assert (step.state, it.changed) == ("not-needed", False)
    assert not paths.incidents.exists()


def test_a_dry_run_says_what_it_would_do_and_looks(paths: Paths, clock: Clock) -> None:
    it = case(paths, clock, dry_run=True)
    step = it.step("audit", "set the mode to audit", pytest.fail, lock=True)
    look = it.look("mode", "read the mode", lambda: "enforce")
    assert (step.state, look.value, it.changed) == ("would", "enforce", True)
    assert not paths.incidents.exists()
    assert not paths.lock.exists()


def test_a_look_changes_nothing_and_may_fail(paths: Paths, clock: Clock) -> None:
    it = case(paths, clock)

    def fails() -> None:
        raise CommandError("journalctl is not installed")

    step = it.look("journal", "read the journal", fails)
    assert (step.state, step.value, step.error) == ("failed", None, "journalctl is not installed")
    assert not it.changed
    with pytest.raises(CommandError):
        it.look("journal", "read the journal", fails, optional=False)


@pytest.mark.parametrize("error", [KernelError("refused"), OSError(1, "not permitted")])
def test_a_step_that_fails_is_in_the_record_which_stays_open(
    paths: Paths, clock: Clock, error: Exception
) -> None:
    def fails() -> None:
        raise error

    it = case(paths, clock)
    with pytest.raises((KernelError, StateError)):
        it.step("fix", "take the rule out", fails)
    it.record.release()
    (found,) = Shelf(paths).all()
    assert found.content is not None
    assert found.content.open
    assert [one["ok"] for one in found.content.actions] == [False]
    again = case(paths, clock)
    assert again.record.continued
    assert again.step("fix", "take the rule out", fails, optional=True).state == "failed"
    again.record.release()


def test_an_urgent_step_is_done_before_anything_is_written(paths: Paths, clock: Clock) -> None:
    seen = []
    it = case(paths, clock)
    it.step("audit", "a", lambda: seen.append(paths.incidents.exists()), urgent=True)
    it.step("fix", "b", lambda: seen.append(paths.incidents.exists()))
    it.record.release()
    assert seen == [False, True]


def test_a_step_holds_the_lock(paths: Paths, clock: Clock) -> None:
    it = case(paths, clock)

    def held() -> bool:
        with (
            pytest.raises(StateError, match="incident blocking"),
            locked(paths.lock, "other", timeout=0),
        ):
            pass
        return True

    assert it.step("fix", "b", held, lock=True, needed=held).value
    it.record.release()


def test_waiting_ends_when_it_is_so_or_the_time_is_over(paths: Paths, clock: Clock) -> None:
    it = case(paths, clock)
    began = it.seconds
    assert it.wait(lambda: it.seconds >= began + 3, seconds=10)
    assert it.seconds == began + 3
    assert not it.wait(lambda: False, seconds=5)
    assert it.seconds == began + 8


def app(paths: Paths, capsys: pytest.CaptureFixture[str], **options: bool) -> App:
    del capsys  # so that the streams of App are those it watches
    return App(paths=paths, **options)


def test_a_procedure_answers_in_one_document(
    paths: Paths, capsys: pytest.CaptureFixture[str]
) -> None:
    def procedure(it: Case) -> Outcome:
        it.step("audit", "set the mode to audit", lambda: None)
        return Outcome(True, "recovered", "the host is in audit", next=("aegisbpf mode enforce",))

    assert execute(app(paths, capsys, json=True), "blocking", procedure) == 0
    found = json.loads(capsys.readouterr().out)
    assert (found["found"], found["changed"], found["result"]) == (True, True, "recovered")
    assert found["id"] == Shelf(paths).ids()[0]
    assert found["steps"][0]["state"] == "done"
    assert found["record"]["result"] == "recovered"


def test_a_person_sees_each_step_the_record_and_what_comes_next(
    paths: Paths, capsys: pytest.CaptureFixture[str]
) -> None:
    def procedure(it: Case) -> Outcome:
        it.step("audit", "set the mode to audit", lambda: None)
        it.step("fix", "take the rule out", lambda: None, needed=False)
        return Outcome(True, "recovered", "nothing is refused any more", next=("aegisbpf why X",))

    execute(app(paths, capsys), "blocking", procedure)
    told = capsys.readouterr()
    identifier = Shelf(paths).ids()[0]
    assert told.out.splitlines() == [
        "blocking: recovered: nothing is refused any more",
        "  done        set the mode to audit",
        "  not needed  take the rule out",
        f"record: aegisbpf incident show {identifier}",
        "  next: aegisbpf why X",
    ]
    assert told.err == "… set the mode to audit\n"


def test_a_healthy_host_is_left_as_it_is(paths: Paths, capsys: pytest.CaptureFixture[str]) -> None:
    outcome = Outcome(False, "nothing-to-do", "nothing is refused")
    assert execute(app(paths, capsys, json=True), "blocking", lambda _: outcome) == 0
    found = json.loads(capsys.readouterr().out)
    assert (found["changed"], found["id"]) == (False, "")
    assert not paths.incidents.exists()


def test_an_error_carries_what_was_done_before_it(
    paths: Paths, capsys: pytest.CaptureFixture[str]
) -> None:
    def procedure(it: Case) -> Outcome:
        it.step("audit", "set the mode to audit", lambda: None)
        raise KernelError("the kernel refused", hint="see: dmesg")

    with pytest.raises(KernelError) as caught:
        execute(app(paths, capsys, json=True), "blocking", procedure)
    found = caught.value.to_dict()
    assert (found["error"], found["changed"]) == ("kernel", True)
    assert found["steps"][0]["state"] == "done"
    assert Shelf(paths).read(found["id"]).open


def test_a_host_that_was_not_recovered_is_an_error_and_the_record_says_so(
    paths: Paths, capsys: pytest.CaptureFixture[str]
) -> None:
    error = CommandError("the service still does not answer", hint="escalate")
    outcome = Outcome(True, "not-recovered", "the service still fails", error=error)
    with pytest.raises(CommandError):
        execute(app(paths, capsys), "blocking", lambda _: outcome)
    assert Shelf(paths).read(Shelf(paths).ids()[0]).result == "not-recovered"
    assert "not recovered" in capsys.readouterr().out


def test_a_record_that_cannot_be_written_is_a_warning(
    paths: Paths, capsys: pytest.CaptureFixture[str]
) -> None:
    paths.incidents.write_text("in the way")

    def procedure(it: Case) -> Outcome:
        it.step("audit", "set the mode to audit", lambda: None)
        return Outcome(True, "recovered", "the host is in audit")

    execute(app(paths, capsys, json=True), "blocking", procedure)
    told = capsys.readouterr()
    found = json.loads(told.out)
    assert found["warnings"]
    assert (found["id"], found["record"]["result"]) == ("", "recovered")
    assert "warning: the record is not on the disk" in told.err


def test_records_are_listed_shown_noted_and_ended(
    paths: Paths, clock: Clock, capsys: pytest.CaptureFixture[str]
) -> None:
    def aegis(*argv: str) -> str:
        assert run(["--root", str(paths.root), "incident", *argv]) == 0
        return capsys.readouterr().out

    assert aegis("list") == "no incident is recorded here\n"
    it = case(paths, clock)
    it.step("audit", "set the mode to audit", lambda: None)
    it.record.release()
    assert "OPEN" in aegis("list")
    assert "set the mode to audit" in aegis("show", "last")
    assert "noted" in aegis("note", "last", "the vendor | is <told>")
    assert "closed" in aegis("close", it.record.id)
    assert "has ended already" in aegis("close", "last")
    page = aegis("show", "last", "--markdown")
    assert page.startswith("# Incident: Enforcement blocking legitimate work\n")
    assert "the vendor \\| is \\<told\\>" in page
    summary = json.loads(aegis("list", "--json"))["incidents"][0]
    assert (summary["id"], summary["result"]) == (it.record.id, "recovered")
    assert json.loads(aegis("show", "last", "--json"))["id"] == it.record.id


@pytest.mark.parametrize(
    ("argv", "code"),
    [
        (("show", "last"), 2),
        (("show", "../../etc"), 2),
        (("note", "last", " "), 2),
        (("close", "20270115T080000Z-blocking"), 2),
        (("bundle", "-o", "/tmp"), 2),
        (("no-such",), 2),
    ],
)
def test_what_is_not_there_is_a_usage_error(
    paths: Paths, capsys: pytest.CaptureFixture[str], argv: tuple[str, ...], code: int
) -> None:
    assert run(["--root", str(paths.root), "incident", *argv]) == code
    assert "next:" in capsys.readouterr().err
