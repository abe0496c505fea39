"""Programs we run: what becomes of their errors, and of them when we die."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from aegis_tools.errors import CommandError
from aegis_tools.kernel.run import run, stream

SECONDS = f"60.{os.getpid():07}"
"""Tells our sleepers from those of tests that run at the same time."""
SLEEP = f"""
from aegis_tools.kernel.run import run
run(["sleep", "{SECONDS}"])
"""


def sleeping() -> list[Path]:
    """Return the processes that sleep for us."""
    wanted = f"sleep\0{SECONDS}\0".encode()  # after the folder it was found in
    found = []
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            if path.read_bytes().endswith(wanted):
                found.append(path)
        except OSError:
            continue
    return found


def wait_until(count: int) -> None:
    """Wait until so many processes sleep for us."""
    end = time.monotonic() + 10
    while len(sleeping()) != count and time.monotonic() < end:
        time.sleep(0.02)
    assert len(sleeping()) == count


def test_output_is_returned() -> None:
    assert run(["echo", "hello"]) == "hello\n"


def test_a_program_that_fails_is_an_error_with_its_output() -> None:
    with pytest.raises(CommandError, match=r"^ls failed$") as caught:
        run(["ls", "/nowhere-at-all"])
    assert "No such file" in caught.value.detail


def test_a_program_that_does_not_exist_is_told_of() -> None:
    with pytest.raises(CommandError, match="not installed"):
        run(["no-such-program-anywhere"])


def test_a_program_that_the_kernel_refuses_to_start_is_told_of(tmp_path: Path) -> None:
    program = tmp_path / "no-program"
    program.write_text("neither ELF nor a script")
    program.chmod(0o755)
    with pytest.raises(CommandError, match="cannot be started") as caught:
        run([str(program)])
    assert caught.value.hint.endswith(f"aegisbpf why {program}")
    with pytest.raises(CommandError, match="cannot be started"), stream([str(program)]):
        raise AssertionError("it runs")


def test_a_program_that_takes_too_long_is_ended() -> None:
    with pytest.raises(CommandError, match="did not finish"):
        run(["sleep", SECONDS], timeout=0.2)
    wait_until(0)


def test_a_program_dies_with_the_one_that_started_it() -> None:
    parent = subprocess.Popen([sys.executable, "-c", SLEEP], stdin=subprocess.DEVNULL)
    try:
        wait_until(1)
    finally:
        parent.send_signal(signal.SIGKILL)
        parent.wait()
    wait_until(0)


def test_output_is_streamed_to_its_end() -> None:
    with stream(["seq", "1", "50000"]) as fd:
        found = b"".join(iter(lambda: os.read(fd, 65536), b""))
    assert found.splitlines()[-1] == b"50000"


def test_leaving_a_stream_ends_the_program() -> None:
    with stream(["sleep", SECONDS]):
        wait_until(1)
    wait_until(0)
    with pytest.raises(KeyError), stream(["sleep", SECONDS]):
        raise KeyError
    wait_until(0)


def test_a_stream_that_ends_badly_is_an_error_with_what_it_said() -> None:
    with pytest.raises(CommandError, match=r"^ls failed$") as caught, stream(["ls", "/none"]) as fd:
        assert os.read(fd, 100) == b""
    assert "No such file" in caught.value.detail
    with pytest.raises(CommandError, match="not installed"), stream(["no-such-program-anywhere"]):
        pass
