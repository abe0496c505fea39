"""Notifications: rationed, counted, and whoever tells is never kept waiting."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from aegis_tools.errors import StateError
from aegis_tools.monitors.notify import settings
from aegis_tools.monitors.notify.notifier import Notifier
from aegis_tools.monitors.notify.outbox import Outbox
from aegis_tools.monitors.notify.ration import Ration
from aegis_tools.monitors.notify.words import line, priority
from aegis_tools.paths import Paths

EVENT = {
    "time": "2026-01-02T03:04:05.000006Z", "event": "limit", "state": "exceeded",
    "profile": "child", "limit": "memory", "unit": "bytes", "measured": 600_000_000,
    "threshold": 500_000_000, "action": "terminate", "held": 0, "killed": 0, "done": "terminated",
    "device": None,
    "process": {"pid": 7, "comm": "eater", "uid": 1000},
}  # fmt: skip


class Gate:
    """A destination that takes events only while it is open."""

    def __init__(self) -> None:
        self.open = threading.Event()
        self.entered = threading.Event()
        self.got: list[Mapping[str, Any]] = []

    def __call__(self, event: Mapping[str, Any]) -> None:
        self.entered.set()
        assert self.open.wait(30)
        self.got.append(event)


@contextmanager
def opened(gate: Gate) -> Iterator[Gate]:
    try:
        yield gate
    finally:
        gate.open.set()


def test_a_destination_that_hangs_keeps_nobody_waiting_and_drops_are_counted() -> None:
    with opened(Gate()) as gate:
        outbox = Outbox("x", gate, capacity=3)
        assert outbox.put({"n": 0})
        assert gate.entered.wait(30)
        assert [outbox.put({"n": n}) for n in range(1, 6)] == [True, True, True, False, False]
        assert outbox.counts() == {"accepted": 4, "sent": 0, "failed": 0, "dropped": 2}
        gate.open.set()
        assert outbox.close(30)
    assert [event["n"] for event in gate.got] == [0, 1, 2, 3]
    assert outbox.counts() == {"accepted": 4, "sent": 4, "failed": 0, "dropped": 2}
    assert not outbox.put({})


@pytest.mark.parametrize("error", [OSError("gone"), RuntimeError("a mistake of ours")])
def test_a_destination_that_fails_is_tried_with_the_next_event(error: Exception) -> None:
    got = []

    def send(event: Mapping[str, Any]) -> None:
        if event["n"] == 0:
            raise error
        got.append(event)

    outbox = Outbox("x", send)
    outbox.put({"n": 0})
    outbox.put({"n": 1})
    assert outbox.close(30)
    assert got == [{"n": 1}]
    assert outbox.counts() == {"accepted": 2, "sent": 1, "failed": 1, "dropped": 0}


def test_closing_does_not_wait_for_a_destination_that_hangs() -> None:
    with opened(Gate()) as gate:
        outbox = Outbox("x", gate)
        outbox.put({})
        assert gate.entered.wait(30)
        assert not outbox.close(0.01)


def test_what_was_held_back_is_counted_and_the_last_is_told_of() -> None:
    ration = Ration(burst=2, every=10)
    passed = [ration.pass_on({**EVENT, "measured": n}, 0.0) for n in range(6)]
    assert [event["measured"] for event in passed if event] == [0, 1]
    assert list(ration.due(9.9)) == []
    [last] = ration.due(10.0)
    assert (last["measured"], last["suppressed"]) == (5, 3)
    assert ration.suppressed == 3
    assert list(ration.due(100.0)) == []
    assert ration.pass_on(EVENT, 100.0) == EVENT


def test_one_profile_does_not_use_up_what_another_has() -> None:
    ration = Ration(burst=1, every=10)
    for key in ({"profile": "a"}, {"profile": "b"}, {"limit": "bandwidth"}):
        assert ration.pass_on({**EVENT, **key}, 0.0)
        assert ration.pass_on({**EVENT, **key}, 0.0) is None


@given(st.lists(st.tuples(st.floats(0, 30), st.booleans()), max_size=60), st.integers(1, 5))
def test_every_event_is_sent_suppressed_or_waiting(
    steps: list[tuple[float, bool]], burst: int
) -> None:
    ration, now, given_, sent = Ration(burst, 10.0), 0.0, 0, []
    for pause, tell in steps:
        now += pause
        if tell:
            given_ += 1
            sent += [e for e in (ration.pass_on({**EVENT, "n": given_}, now),) if e]
        sent += ration.due(now)
    waiting = len(list(ration.due(now + 1000)))
    assert given_ == len(sent) + ration.suppressed + waiting
    assert len(sent) <= burst + now / 10 + 1
    assert [e["n"] for e in sent] == sorted(e["n"] for e in sent)


def test_the_notifier_gives_every_destination_everything_that_passes() -> None:
    now = 0.0
    got: dict[str, list[Mapping[str, Any]]] = {"a": [], "b": []}
    notifier = Notifier(
        {"a": got["a"].append, "b": got["b"].append}, burst=1, every=10, clock=lambda: now
    )
    for n in range(3):
        notifier.tell({**EVENT, "measured": n})
    notifier.tick()
    now = 10.0
    notifier.tick()
    assert notifier.close(30)
    assert [event["measured"] for event in got["a"]] == [0, 2]
    assert got["a"] == got["b"]
    expected = {"accepted": 2, "sent": 2, "failed": 0, "dropped": 0, "suppressed": 1}
    assert notifier.counts() == {"a": expected, "b": expected}


def test_an_event_reads_as_one_line() -> None:
    assert line(EVENT) == (
        "profile child: memory 600MB, limit 500MB, a process was ended (eater, process 7)"
    )
    assert line({**EVENT, "suppressed": 3}).endswith("; 3 more of these")
    slow = {**EVENT, "limit": "disk-bandwidth", "measured": 160_000_000, "threshold": 80_000_000}
    assert line({**slow, "device": "8:16", "action": "throttle", "done": "throttled"}) == (
        "profile child: disk-bandwidth of disk 8:16 20MBps, limit 10MBps, held back"
        " (eater, process 7)"
    )
    ended = {**EVENT, "state": "ended"}
    assert line(ended) == "profile child: memory is below 500MB again"
    assert priority(EVENT) < priority(ended)
    trouble = {"event": "limit-trouble", "message": "m", "hint": "h"}
    assert line(trouble) == "limits: m; next: h"


def config(tmp_path: Path, found: object) -> settings.Settings:
    paths = Paths(tmp_path)
    paths.etc.mkdir(parents=True)
    paths.notify_config.write_text(found if isinstance(found, str) else json.dumps(found))
    return settings.load(paths)


def test_without_a_file_the_journal_and_the_bus_are_told(tmp_path: Path) -> None:
    assert settings.load(Paths(tmp_path)) == settings.Settings()


def test_settings_say_who_is_told(tmp_path: Path) -> None:
    hook = {"url": "https://alerts.example/a?b=c", "secret_file": "/etc/x", "header": "X-Key"}
    found = config(tmp_path, {"version": 1, "dbus": False, "burst": 2, "webhook": hook})
    assert (found.journal, found.dbus, found.burst, found.every) == (True, False, 2, 10)
    assert found.webhook is not None
    assert (found.webhook.url, found.webhook.header) == (hook["url"], "X-Key")
    assert found.webhook.secret_file == Path("/etc/x")


@pytest.mark.parametrize(
    "change",
    [
        {"version": 2}, {"journal": 1}, {"burst": 0}, {"every_seconds": "1"}, {"mail": True},
        {"webhook": {}}, {"webhook": "https://a"}, {"webhook": {"url": "file:///etc/shadow"}},
        {"webhook": {"url": "https://u:secret@a/"}}, {"webhook": {"url": "https:///x"}},
        {"webhook": {"url": "https://a/ b"}}, {"webhook": {"url": "https://a/\r\nX: y"}},
        {"webhook": {"url": "https://a", "header": "a:b"}},
        {"webhook": {"url": "https://a", "secret_file": "etc/x"}},
        {"webhook": {"url": "https://a", "secret": "in here"}},
    ],
    ids=json.dumps,
)  # fmt: skip
def test_settings_that_make_no_sense_are_refused(change: dict[str, Any], tmp_path: Path) -> None:
    with pytest.raises(StateError, match="settings of notifications are damaged") as refused:
        config(tmp_path, {"version": 1, **change})
    assert "secret@" not in refused.value.message


def test_settings_that_are_no_json_are_refused(tmp_path: Path) -> None:
    with pytest.raises(StateError):
        config(tmp_path, "{")
