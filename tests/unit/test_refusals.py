"""Which rule it is, where it comes from, and how the service is asked: judged without a kernel."""

from __future__ import annotations

import http.server
import threading
import time
from collections.abc import Iterator
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from aegis_tools.control.history import Entry
from aegis_tools.errors import CommandError, UsageError
from aegis_tools.incident import probe, provenance
from aegis_tools.incident.byhand import put_back
from aegis_tools.incident.provenance import by_hand, mode_by, of_policy
from aegis_tools.incident.refusals import PROCESSES, Seen, Suspect, choose
from aegis_tools.incident.relief import number_of, settled_ns
from aegis_tools.kernel.layout import ManualRule, uid_of
from aegis_tools.policy.model import Kind, Op, Rule, Signal

DIGESTS = {name: name * 64 for name in "abc"}


def suspect(rule: str, *, lately: int = 0, refused: int = 1) -> Suspect:
    return Suspect(rule, uid_of(rule), f"/srv/{rule}", "policy", refused, 1e9, Seen(lately))


def event(**more: Any) -> dict[str, Any]:
    known = {"time": "2026-01-01T00:00:05.000000Z", "comm": "nginx", "unit": "nginx.service",
             "operation": "open", "path": "/srv/x", "pid": 7, "count": 1}  # fmt: skip
    return {**known, **more}


def test_what_refused_most_lately_is_chosen_not_what_refused_most_ever() -> None:
    found = choose([suspect("old", refused=900), suspect("new", lately=5, refused=5)], ())
    assert found.suspect is not None
    assert (found.suspect.rule, found.why) == ("new", "it refused most: 5 times")


def test_without_events_the_kernels_count_decides() -> None:
    found = choose([suspect("a", refused=3), suspect("b", refused=7)], ())
    assert found.suspect is not None
    assert found.suspect.rule == "b"


@pytest.mark.parametrize(
    ("met", "chosen"),
    [(("a",), "a"), (("b",), None), (("a", "b"), None), ((), "a"), (("elsewhere",), "a")],
)
def test_nothing_is_chosen_against_what_the_probe_shows(
    met: tuple[str, ...], chosen: str | None
) -> None:
    both = [suspect("a", lately=9), suspect("b", lately=2)]
    found = choose(both, {uid_of(rule) for rule in met})
    assert (found.suspect and found.suspect.rule) == chosen
    assert found.why


def test_rules_that_refused_as_often_are_for_a_person_to_choose_from() -> None:
    both = [suspect("a", lately=2), suspect("b", lately=2)]
    assert choose(both, ()).suspect is None
    named = choose(both, {uid_of("b")}, named="b")
    assert named.suspect is not None
    assert named.suspect.rule == "b"
    assert choose(both, (), named="c").suspect is None
    assert choose([], ()).suspect is None


def test_processes_of_a_rule_are_counted_and_bounded() -> None:
    seen = Seen()
    for number in range(9000):
        seen.add(event(comm=f"worker-{number}", first="2026-01-01T00:00:01.000000Z"))
    seen.add(event(count=20000, comm="worker-1"))
    found = seen.to_dict()
    assert found["refused"] == 29000
    assert len(found["processes"]) == PROCESSES
    assert found["processes"][0] == {
        "process": "worker-1", "pid": 7, "unit": "nginx.service", "operation": "open",
        "what": "/srv/x", "count": 20001,
    }  # fmt: skip
    assert (found["first"][-11:], found["last"][-11:]) == ("0:01.000000Z"[1:], "0:05.000000Z"[1:])


def apply(digest: str, when: int, **more: Any) -> Entry:
    known: dict[str, Any] = {"action": "policy apply", "digest": DIGESTS[digest], "uid": 0}
    return Entry(time=when, **{**known, **more})


RULE = Rule("r1", Kind.PATH, "/srv/x", Op.READ)
RULES = {
    DIGESTS["a"]: {"r1": RULE},
    DIGESTS["b"]: {"r1": RULE},
    DIGESTS["c"]: {"other": RULE._replace(id="other")},
}


def origin(*history: Entry) -> provenance.Provenance:
    return of_policy(RULE, history[::-1], RULES.get, live=DIGESTS["b"], signers=("key1",))


def test_a_rule_is_since_the_apply_that_brought_it() -> None:
    found = origin(
        apply("c", 1), apply("a", 2, sudo_user="ann", uid=0), apply("b", 3, serial=7, uid=12)
    )
    assert (found.since, found.by, found.serial, found.signers) == (2, "ann (uid 0)", 7, ("key1",))
    assert found.digest == DIGESTS["b"]


def test_an_apply_that_was_undone_or_failed_brought_nothing() -> None:
    undone = origin(
        apply("a", 1), apply("a", 2, action="policy revert"), apply("c", 3),
        apply("b", 4, uid=12), apply("b", 5, action="policy confirm"),
    )  # fmt: skip
    assert (undone.since, undone.by) == (4, "uid 12")
    reverted = origin(apply("a", 1), apply("a", 2, action="policy revert"), apply("b", 4))
    assert reverted.since == 4
    assert origin(apply("a", 1), apply("b", 2, result="trust"), apply("b", 3)).since == 1


def test_without_a_history_the_signers_are_known_nevertheless() -> None:
    found = origin()
    assert (found.since, found.by, found.signers) == (0, "", ("key1",))
    assert found.to_dict()["since"] is None


def test_a_rule_made_by_hand_is_the_kernels_own_to_tell_of() -> None:
    rule = "manual:path:/srv/x"
    record = ManualRule(5 * 10**9, 33, 1, 1, 0, 0, "path:/srv/x")
    assert by_hand(rule, record, ()).by == "uid 33"
    others = Entry(4, "block add", note="manual:path:/srv/x2")
    mine = Entry(5, "block add", sudo_user="ann", note=f"manual:path:/srv/y, {rule}")
    found = by_hand(rule, record, (others, mine))
    assert (found.since, found.by, found.action) == (5, "ann (uid 0)", "block add")


def test_who_promoted_a_rule_is_told() -> None:
    record = ManualRule(5 * 10**9, 33, 0, 1, 0, 0, "mode:r1")
    assert mode_by("r1", [record], str) == "promoted by uid 33 at 5.0"
    assert mode_by("r2", [record], str) == ""


def test_a_fix_says_how_it_is_undone() -> None:
    made = Rule("manual:path:/srv/a b", Kind.PATH, "/srv/a b", Op.READ | Op.WRITE)
    back = "aegisbpf block add '/srv/a b' --operations read,write"
    assert put_back(made, "remove") == back
    assert put_back(made._replace(signal=Signal.KILL), "remove") == f"{back} --signal kill"
    number = Rule("manual:inode:1:2", Kind.INODE, "1:2", Op.EXEC)
    assert "--inode 1:2" in put_back(number, "remove")
    assert put_back(RULE, "demote") == "aegisbpf rule promote r1 --force"
    assert put_back(None, "demote") == ""


@given(st.text(max_size=40))
def test_a_rules_number_comes_from_its_id(text: str) -> None:
    assert number_of(text) == uid_of(text) or text.startswith("unknown:")
    assert number_of(f"unknown:{uid_of('x'):016x}") == uid_of("x")


def test_only_the_newest_look_of_this_boot_counts() -> None:
    older, newer = ({"settled": {"boot": "b1", "ns": n}} for n in (5, 9))
    assert settled_ns([{}, newer, older], "b1") == 9
    assert settled_ns([newer], "b2") == 0
    assert settled_ns([], "b1") == 0


@pytest.mark.parametrize(
    "text", ["ftp://x/", "http://", "http:///x", "/health", "http://a b/", "", "http://[x"]
)
def test_what_is_no_url_is_refused(text: str) -> None:
    with pytest.raises(UsageError):
        probe.url(text)


@pytest.mark.parametrize("text", ["", "  ", "a 'b", "''"])
def test_what_is_no_command_is_refused(text: str) -> None:
    with pytest.raises(UsageError):
        probe.command(text)


@pytest.mark.parametrize("text", ["", "-x", "a b", "a/b", "a;b"])
def test_what_is_no_unit_is_refused(text: str) -> None:
    with pytest.raises(UsageError):
        probe.unit(text)


def test_a_unit_is_a_service_unless_it_says_otherwise() -> None:
    assert probe.unit("nginx").what == "nginx.service"
    assert probe.unit("my-x@1.socket").what == "my-x@1.socket"


class Web(http.server.BaseHTTPRequestHandler):
    """Answers /200 with 200, and so on."""

    def do_GET(self) -> None:
        self.send_response(int(self.path[1:]))
        self.end_headers()

    def log_message(self, *_: object) -> None:
        """Nobody reads it."""


@pytest.fixture
def web() -> Iterator[str]:
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Web) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        yield f"http://127.0.0.1:{server.server_address[1]}"
        server.shutdown()
        thread.join()


@pytest.mark.parametrize(("status", "ok"), [(200, True), (204, True), (404, False), (503, False)])
def test_a_url_is_asked(web: str, status: int, ok: bool) -> None:
    (found,) = probe.attempt([probe.url(f"{web}/{status}")])
    assert (found.ok, found.said) == (ok, f"status {status}")


def test_a_url_that_nobody_serves_is_no_answer() -> None:
    (found,) = probe.attempt([probe.url("http://127.0.0.1:1/")])
    assert not found.ok
    assert found.said


@pytest.mark.parametrize(
    ("command", "ok", "said"),
    [
        ("true", True, "status 0"),
        ("sh -c 'echo why it is; exit 3'", False, "status 3 why it is"),
        ("/no/such/program", False, "cannot be started"),
        ("echo $HOME '*'", True, "status 0 $HOME *"),
    ],
)
def test_a_command_is_run_without_a_shell(command: str, ok: bool, said: str) -> None:
    (found,) = probe.attempt([probe.command(command)])
    assert found.ok is ok
    assert found.said.startswith(said)


def test_a_command_that_hangs_is_ended_with_its_children(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(probe, "TIMEOUT", 0.2)
    (found,) = probe.attempt([probe.command("sh -c 'sleep 1000 & echo $!; wait'")])
    assert not found.ok
    assert "did not end" in found.said


SUB_STATES = {"active": "running", "activating": "start", "inactive": "dead"}


def units(states: dict[str, list[str]], asked: list[list[str]]) -> Any:
    """Return a systemctl: each look at a unit takes the next of its states; the last one stays.

    A state is ActiveState, or ``auto-restart``; after a colon is what names the start.
    """

    def run(argv: list[str], *, timeout: float = 60) -> str:
        del timeout
        asked.append(argv)
        if argv[1] != "show":
            return ""
        left = states[argv[-1]]
        state, _, start = (left.pop(0) if len(left) > 1 else left[0]).partition(":")
        active = "activating" if state == "auto-restart" else state
        sub = SUB_STATES.get(state, state)
        return f"ActiveState={active}\nSubState={sub}\nInvocationID={start}\n"

    return run


def test_what_fails_is_tried_again_for_a_while_and_what_answers_is_not() -> None:
    asked: list[list[str]] = []
    runner = units({"a.service": ["active"], "b.service": ["activating", "active"]}, asked)
    now = iter(range(100))
    found = probe.attempt(
        [probe.unit("a"), probe.unit("b")],
        patience=10,
        runner=runner,
        clock=lambda: next(now),
        sleep=lambda _: None,
    )
    assert probe.answers(found)
    assert [argv[-1] for argv in asked] == ["a.service"] * 2 + ["b.service"] * 3


@pytest.mark.parametrize(
    ("looks", "said"),
    [
        (["active:1", "activating:1"], "is activating (start)"),
        (["active:1", "active:2"], "is active, but was started anew"),
        (["auto-restart"], "is activating (auto-restart)"),
    ],
)
def test_a_unit_that_is_up_for_an_instant_does_not_answer(looks: list[str], said: str) -> None:
    runner = units({"a.service": looks}, [])
    (found,) = probe.attempt([probe.unit("a")], runner=runner, sleep=lambda _: None)
    assert not found.ok
    assert found.said.startswith(said)


def test_patience_ends() -> None:
    asked: list[list[str]] = []
    now = iter(range(100))
    found = probe.attempt(
        [probe.unit("a")], patience=3, runner=units({"a.service": ["failed"]}, asked),
        clock=lambda: next(now), sleep=lambda _: None,
    )  # fmt: skip
    assert (found[0].ok, found[0].said) == (False, "is failed")
    assert len(asked) < 6


def test_only_a_unit_that_has_failed_or_waits_to_be_started_is_started() -> None:
    asked: list[list[str]] = []
    probes = [*map(probe.unit, "abc"), probe.command("true")]
    states = {"a.service": ["failed"], "b.service": ["inactive"], "c.service": ["auto-restart"]}
    runner, found = units(states, asked), ["a.service", "c.service"]
    assert probe.start_failed(probes, start=False, runner=runner) == found
    assert all(argv[1] == "show" for argv in asked)
    probe.start_failed(probes, start=True, runner=runner)
    assert ["systemctl", "start", "--no-block", "a.service"] in asked
    assert ["systemctl", "restart", "--no-block", "c.service"] in asked
    assert not any("b.service" in argv for argv in asked if argv[1] != "show")


def test_a_systemd_that_does_not_answer_is_no_answer() -> None:
    def broken(argv: Any, *, timeout: float = 60) -> str:
        del argv, timeout
        raise CommandError("no", hint="no")

    (found,) = probe.attempt([probe.unit("a")], runner=broken)
    assert (found.ok, found.said) == (False, "is unknown")


def test_no_answer_comes_late(monkeypatch: pytest.MonkeyPatch) -> None:
    def work() -> tuple[bool, str]:
        time.sleep(30)
        return True, ""

    monkeypatch.setattr(probe, "TIMEOUT", 0.1)
    ok, said = probe._in_time(work)
    assert not ok
    assert "no answer" in said
