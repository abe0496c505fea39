from __future__ import annotations

import os
import signal
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from aegis_tools.control.lock import locked
from aegis_tools.errors import StateError

pytestmark = pytest.mark.filterwarnings("ignore:.*multi-threaded:DeprecationWarning")


@pytest.fixture(autouse=True)
def _no_descriptor_stays_open() -> Iterator[None]:
    before = len(list(Path("/proc/self/fd").iterdir()))
    yield
    assert len(list(Path("/proc/self/fd").iterdir())) == before


@pytest.fixture
def lock(tmp_path: Path) -> Path:
    return tmp_path / "run/aegisbpf/lock"


@contextmanager
def other_holder(lock: Path, command: str = "policy apply") -> Iterator[int]:
    """A child process that holds the lock until the end of the block."""
    ready, told = os.pipe()
    child = os.fork()
    if child == 0:
        try:
            with locked(lock, command):
                os.write(told, b"x")
                signal.pause()
        finally:
            os._exit(1)
    os.close(told)
    assert os.read(ready, 1) == b"x"
    os.close(ready)
    try:
        yield child
    finally:
        os.kill(child, signal.SIGKILL)
        os.waitpid(child, 0)


def descriptors() -> int:
    return len(list(Path("/proc/self/fd").iterdir()))


class Clock:
    """Time that passes only by sleeping."""

    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now

    def sleep(self, seconds: float) -> None:
        self.now += seconds


def test_the_lock_can_be_taken_again_after_it_was_released(lock: Path) -> None:
    for _ in range(3):
        with locked(lock, "test", timeout=0):
            pass


def test_only_its_owner_can_open_the_lock_for_whoever_can_may_hold_it(lock: Path) -> None:
    before = os.umask(0)
    try:
        with locked(lock, "test"):
            assert lock.stat().st_mode & 0o777 == 0o600
    finally:
        os.umask(before)


def test_waiting_ends_with_the_holder_named(lock: Path) -> None:
    clock = Clock()
    with (
        other_holder(lock, "policy apply \x1b[2J") as child,
        pytest.raises(StateError) as caught,
        locked(lock, "block add", timeout=2, clock=clock, sleep=clock.sleep),
    ):
        pass
    assert f"policy apply \\x1b[2J (process {child})" in caught.value.message
    assert str(child) in caught.value.hint
    assert caught.value.data["pid"] == child
    assert 2 <= clock.now < 3


def test_the_name_of_an_earlier_holder_leaves_no_trace(lock: Path) -> None:
    with locked(lock, "a very long command " * 5):
        pass
    with (
        other_holder(lock, "stats"),
        pytest.raises(StateError, match="command is running: stats"),
        locked(lock, "test", timeout=0),
    ):
        pass


def test_a_holder_killed_with_9_lets_go(lock: Path) -> None:
    with other_holder(lock):
        pass
    with locked(lock, "test", timeout=0):
        pass


def test_a_waiter_gets_the_lock_when_the_holder_ends(lock: Path) -> None:
    clock = Clock()
    with other_holder(lock) as child:

        def end_holder(seconds: float) -> None:
            os.kill(child, signal.SIGKILL)
            os.waitid(os.P_PID, child, os.WEXITED | os.WNOWAIT)
            clock.sleep(seconds)

        with locked(lock, "test", clock=clock, sleep=end_holder):
            assert clock.now < 1


@pytest.mark.parametrize("content", [b"", b"\xff\xfe", b"{}", b'{"pid":"x","command":1}', b"[1]"])
def test_a_holder_that_left_no_name_is_no_problem(lock: Path, content: bytes) -> None:
    with other_holder(lock):
        lock.write_bytes(content)
        with pytest.raises(StateError, match="another"), locked(lock, "test", timeout=0):
            pass


def test_a_lock_file_removed_by_a_cleaner_does_not_let_two_in(lock: Path) -> None:
    with locked(lock, "first", timeout=0):
        lock.unlink()
        with other_holder(lock), pytest.raises(StateError), locked(lock, "third", timeout=0):
            pass


def test_ctrl_c_inside_the_block_releases_the_lock(lock: Path) -> None:
    before = descriptors()
    with pytest.raises(KeyboardInterrupt), locked(lock, "test"):
        raise KeyboardInterrupt
    assert descriptors() == before
    with locked(lock, "test", timeout=0):
        pass


def test_ctrl_c_while_waiting_leaves_nothing_open(lock: Path) -> None:
    def interrupt(_: float) -> None:
        raise KeyboardInterrupt

    with other_holder(lock):
        before = descriptors()
        with pytest.raises(KeyboardInterrupt), locked(lock, "test", sleep=interrupt):
            pass
        assert descriptors() == before


def test_a_child_program_does_not_inherit_the_lock(lock: Path) -> None:
    with locked(lock, "test"):
        ours = [fd for fd in range(1000) if _same(fd, lock)]
        assert [os.get_inheritable(fd) for fd in ours] == [False]


def _same(fd: int, path: Path) -> bool:
    try:
        return os.path.samestat(os.fstat(fd), path.stat())
    except OSError:
        return False


def test_a_link_in_the_place_of_the_lock_is_refused(lock: Path, tmp_path: Path) -> None:
    lock.parent.mkdir(parents=True, mode=0o755)
    victim = tmp_path / "victim"
    victim.write_bytes(b"untouched")
    lock.symlink_to(victim)
    with pytest.raises(StateError, match="cannot take"), locked(lock, "test", timeout=0):
        pass
    assert victim.read_bytes() == b"untouched"
