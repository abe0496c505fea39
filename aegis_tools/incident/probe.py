"""The operator's probe: what tells that the affected service answers.

A URL, a command or a systemd unit. A command is a list of words, never a shell's line. Every try is
bounded in time, whatever the service, the name server or the command does.
"""

from __future__ import annotations

import contextlib
import os
import shlex
import signal
import subprocess
import threading
import time
from collections.abc import Callable, Iterable, Sequence
from typing import NamedTuple
from urllib.parse import urlsplit

from aegis_tools.control.files import printable
from aegis_tools.errors import CommandError, UsageError
from aegis_tools.kernel.run import Runner, run

TIMEOUT = 5.0
"""Seconds that one try of one probe may take."""
PAUSE = 1.0
_SAID = 300


class Probe(NamedTuple):
    """What is tried.

    Attributes:
        kind: ``url``, ``command`` or ``unit``.
        what: The URL, the command as a person writes it, or the unit's name.
    """

    kind: str
    what: str

    def text(self) -> str:
        """Return it in a few words."""
        return f"{self.kind} {self.what}"


class Answer(NamedTuple):
    """What became of a probe.

    Attributes:
        probe: It.
        ok: Whether the service answers.
        said: Why not, or what it answered, in one line.
    """

    probe: Probe
    ok: bool
    said: str

    def to_dict(self) -> dict[str, object]:
        """Return it as ``--json`` and the record have it."""
        return {"probe": self.probe.text(), "ok": self.ok, "said": self.said}


def url(text: str) -> Probe:
    """Return the probe of a URL: that it is answered with a status below 400.

    Raises:
        UsageError: It is no URL of HTTP.
    """
    try:
        parts = urlsplit(text)
        good = parts.scheme in ("http", "https") and bool(parts.hostname)
    except ValueError:
        good = False
    if not good or not text.isprintable() or " " in text:
        raise UsageError(
            f"{text[:60]!r} is no URL to probe", hint="example: --probe-url http://127.0.0.1/health"
        )
    return Probe("url", text)


def command(text: str) -> Probe:
    """Return the probe of a command: that it ends with status 0.

    Raises:
        UsageError: Its quotes do not match, or there is nothing of it.
    """
    try:
        words = shlex.split(text)
    except ValueError:
        words = []
    if not words or not words[0]:
        raise UsageError(
            f"{text[:60]!r} is no command to probe",
            hint="example: --probe-command 'pg_isready -q'",
        )
    return Probe("command", text)


def unit(text: str) -> Probe:
    """Return the probe of a systemd unit: that it is active.

    Raises:
        UsageError: It is no name of one.
    """
    if not text or text.startswith("-") or not all(c.isalnum() or c in ":-_.\\@" for c in text):
        raise UsageError(
            f"{text[:60]!r} is no unit to probe", hint="example: --probe-unit nginx.service"
        )
    return Probe("unit", text if "." in text else f"{text}.service")


def answers(answer: Iterable[Answer]) -> bool:
    """Return whether every one of them was good."""
    return all(one.ok for one in answer)


def attempt(
    probes: Sequence[Probe],
    *,
    patience: float = 0,
    runner: Runner = run,
    clock: Callable[[], float] = time.monotonic,
    sleep: Callable[[float], None] = time.sleep,
) -> list[Answer]:
    """Try all probes; those that fail again and again, until all are good or the time is over.

    Args:
        probes: What to try.
        patience: Seconds in which a try may be begun; 0 = each is tried once.
        runner: Starts systemctl.
        clock: Seconds that only grow.
        sleep: Waits seconds.
    """
    end = clock() + patience
    found = [_try(one, runner) for one in probes]
    while not answers(found) and clock() < end:
        sleep(PAUSE)
        found = [one if one.ok else _try(one.probe, runner) for one in found]
    return found


def _try(probe: Probe, runner: Runner) -> Answer:
    if probe.kind == "url":
        ok, said = _in_time(lambda: _get(probe.what))
    elif probe.kind == "command":
        ok, said = _call(shlex.split(probe.what))
    else:
        ok, said = _ask(probe.what, runner)
    return Answer(probe, ok, printable(" ".join(said.split()), _SAID))


def _in_time(work: Callable[[], tuple[bool, str]]) -> tuple[bool, str]:
    """Return what ``work`` does, unless it takes too long: a name server's time is not ours."""
    found: list[tuple[bool, str]] = []
    thread = threading.Thread(target=lambda: found.append(work()), daemon=True)
    thread.start()
    thread.join(TIMEOUT + 0.5)
    return found[0] if found else (False, f"no answer within {TIMEOUT:.0f} s")


def _get(address: str) -> tuple[bool, str]:
    from http.client import HTTPException
    from urllib import error, request

    # No proxy of whoever runs this: the host itself is asked.
    opener = request.build_opener(request.ProxyHandler({}))
    try:
        with opener.open(address, timeout=TIMEOUT) as answer:
            return True, f"status {answer.status}"
    except error.HTTPError as refused:
        with refused:
            return False, f"status {refused.code}"
    except (OSError, ValueError, HTTPException) as failed:
        return False, str(failed) or type(failed).__name__


def _call(argv: Sequence[str]) -> tuple[bool, str]:
    # In memory: there may be no room on any disk. Not a pipe, which a grandchild would keep open.
    output = os.memfd_create("probe", os.MFD_CLOEXEC)
    try:
        process = subprocess.Popen(
            argv,
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=output,
            start_new_session=True,
        )
        try:
            status = process.wait(TIMEOUT)
        except subprocess.TimeoutExpired:
            return False, f"did not end within {TIMEOUT:.0f} s"
        finally:
            _end(process)
        said = os.pread(output, _SAID, max(os.fstat(output).st_size - _SAID, 0))
        return status == 0, f"status {status} {said.decode(errors='replace')}"
    except (OSError, ValueError) as error:
        return False, f"cannot be started: {error}"
    finally:
        os.close(output)


def _end(process: subprocess.Popen[bytes]) -> None:
    """Let nothing of a command outlive it that has not left its session."""
    with contextlib.suppress(OSError):
        os.killpg(process.pid, signal.SIGKILL)
    process.wait()


def _ask(name: str, runner: Runner) -> tuple[bool, str]:
    state = unit_state(name, runner)
    return state == "active", f"is {state}"


def unit_state(name: str, runner: Runner = run) -> str:
    """Return a unit's ActiveState; ``unknown`` where systemd does not answer."""
    try:
        text = runner(["systemctl", "show", "--property=ActiveState", "--value", name], timeout=5)
    except CommandError:
        return "unknown"
    return text.strip() or "unknown"


def start_failed(probes: Iterable[Probe], *, start: bool, runner: Runner = run) -> list[str]:
    """Return the probed units that have failed; ``start`` them again where that is wanted.

    What was denied a file at its start stays failed when it is denied no more.
    """
    units = [one.what for one in probes if one.kind == "unit"]
    failed = [name for name in units if unit_state(name, runner) == "failed"]
    for name in failed if start else ():
        for words in (["reset-failed"], ["start", "--no-block"]):
            try:
                runner(["systemctl", *words, name], timeout=5)
            except CommandError:
                continue
    return failed
