"""Programs we run: what becomes of their errors, and of them when we die."""

from __future__ import annotations

import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from aegis_tools.errors import CommandError
from aegis_tools.kernel.run import run

SLEEP = """
from aegis_tools.kernel.run import run
run(["sleep", "67.25"])
"""


def sleeping() -> list[Path]:
    """Return the processes that sleep for us."""
    wanted = b"sleep\x0067.25\x00"
    found = []
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            if path.read_bytes() == wanted:
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


def test_a_program_that_takes_too_long_is_ended() -> None:
    with pytest.raises(CommandError, match="did not finish"):
        run(["sleep", "67.25"], timeout=0.2)
    wait_until(0)


def test_a_program_dies_with_the_one_that_started_it() -> None:
    parent = subprocess.Popen([sys.executable, "-c", SLEEP], stdin=subprocess.DEVNULL)
    wait_until(1)
    parent.send_signal(signal.SIGKILL)
    parent.wait()
    wait_until(0)
