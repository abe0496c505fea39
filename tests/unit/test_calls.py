"""The program that makes one system call over and over, on this kernel."""

from __future__ import annotations

import errno
from pathlib import Path
from socket import MSG_DONTWAIT

import pytest

from benchmarks.calls import FILES, KINDS, NETWORK, Calls, Told, build, free_port, place, receiver
from benchmarks.programs import ProgramError


@pytest.fixture(scope="module")
def calls(tmp_path_factory: pytest.TempPathFactory) -> Calls:
    return build(tmp_path_factory.mktemp("calls"))


def target_of(kind: str, calls: Calls, folder: Path) -> str:
    (folder / "file").write_text("x")
    closed = place(free_port())
    return {"exec": str(calls.program), **dict.fromkeys(NETWORK, closed)}.get(
        kind, str(folder / "file")
    )


@pytest.mark.parametrize("kind", KINDS)
def test_a_call_that_nobody_refuses_is_made_and_timed(
    kind: str, calls: Calls, tmp_path: Path
) -> None:
    told = calls.run(KINDS[kind].letter, 2, 3, target_of(kind, calls, tmp_path))
    expected = {"exec": 0, "connect": -errno.ECONNREFUSED, "bind": 0, "send": 1}
    assert told.answer == expected.get(kind, told.answer)
    assert kind not in ("open", "stat+open") or told.answer >= 0
    assert not told.denied
    assert len(told.batches) == 3
    assert 0 < min(told.batches) <= told.median <= max(told.batches) < 1


@pytest.mark.parametrize("kind", FILES)
def test_the_answer_is_the_kernel_s(kind: str, calls: Calls, tmp_path: Path) -> None:
    told = calls.run(KINDS[kind].letter, 1, 1, str(tmp_path / "missing"))
    assert told.answer == -errno.ENOENT


def test_a_port_that_is_taken_is_an_answer_too(calls: Calls) -> None:
    with receiver(host=3) as other:
        taken = place(other.getsockname()[1], host=3)
        assert calls.run("b", 1, 1, taken).answer == -errno.EADDRINUSE


def test_what_is_sent_is_received(calls: Calls) -> None:
    with receiver(host=2) as socket:
        target = place(socket.getsockname()[1], host=2)
        assert calls.run("u", 500, 3, target, socket.fileno()).answer == 1
        with pytest.raises(BlockingIOError):
            socket.recv(1, MSG_DONTWAIT)


def test_a_run_that_cannot_be_is_an_error(calls: Calls) -> None:
    with pytest.raises(ProgramError, match="could not work"):
        calls.run("r", 1, 1, "/missing")
    with pytest.raises(ProgramError, match="could not work"):
        calls.run("g", 1, 5000, "x")


def test_the_best_batch_is_a_call_s_time(calls: Calls) -> None:
    assert 0 < calls.best("g", "x", 0.01) < 1e-3


def test_a_batch_that_was_disturbed_does_not_move_the_median() -> None:
    told = Told(-errno.EPERM, [1.0, 1.0, 9.0])
    assert (told.median, told.denied) == (1.0, True)
    assert told.mean == pytest.approx(11 / 3)
