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
from aegis_tools.incident.redact import redact
from aegis_tools.kernel.run import Runner, run

TIMEOUT = 5.0
"""Seconds that one try of one probe may take."""
PAUSE = 1.0
SETTLE = 1.0
"""Seconds that a unit must stay active: one that dies at its start is active for an instant."""
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
        """Return it in a few words, without a password in them."""
        return f"{self.kind} {redact(self.what)}"

    def option(self) -> str:
        """Return the option of ``incident blocking`` that asks for it, but for a password."""
        return f"--probe-{self.kind} {shlex.quote(redact(self.what))}"


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
    found = [_try(one, runner, sleep) for one in probes]
    while not answers(found) and clock() < end:
        sleep(PAUSE)
        found = [one if one.ok else _try(one.probe, runner, sleep) for one in found]
    return found


def _try(probe: Probe, runner: Runner, sleep: Callable[[float], None]) -> Answer:
    if probe.kind == "url":
        ok, said = _in_time(lambda: _get(probe.what))
    elif probe.kind == "command":
        ok, said = _call(shlex.split(probe.what))
    else:
        ok, said = _ask(probe.what, runner, sleep)
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


class _Unit(NamedTuple):
    """ActiveState, SubState and InvocationID of a unit; the last is another one at each start."""

    active: str
    sub: str
    start: str

    def text(self) -> str:
        return f"is {self.active}" + (f" ({self.sub})" if self.sub not in ("", self.active) else "")


def _ask(name: str, runner: Runner, sleep: Callable[[float], None]) -> tuple[bool, str]:
    first = _unit(name, runner)
    if first.active != "active":
        return False, first.text()
    sleep(SETTLE)
    now = _unit(name, runner)
    if now.active == "active" and now.start != first.start:
        return False, "is active, but was started anew meanwhile: it dies again and again"
    return now.active == "active", now.text()


def _unit(name: str, runner: Runner) -> _Unit:
    """Ask systemd; ``unknown`` where it does not answer."""
    properties = "ActiveState,SubState,InvocationID"
    try:
        text = runner(["systemctl", "show", f"--property={properties}", name], timeout=5)
    except CommandError:
        text = ""
    facts = dict(line.partition("=")[::2] for line in text.splitlines())
    active = facts.get("ActiveState", "") or "unknown"
    return _Unit(active, facts.get("SubState", ""), facts.get("InvocationID", ""))


def start_failed(probes: Iterable[Probe], *, start: bool, runner: Runner = run) -> list[str]:
    """Return the probed units that have failed; ``start`` them again where that is wanted.

    What was denied a file at its start stays failed when it is denied no more; and one that systemd
    starts again by itself may wait for that longer than anybody wants to.
    """
    states = {one.what: _unit(one.what, runner) for one in probes if one.kind == "unit"}
    # systemd refuses to start what waits for its restart.
    verbs = {"failed": "start", "auto-restart": "restart"}
    failed = {name: verbs[unit.sub] for name, unit in states.items() if unit.sub in verbs}
    for name, verb in failed.items() if start else ():
        for words in (["reset-failed"], [verb, "--no-block"]):
            try:
                runner(["systemctl", *words, name], timeout=5)
            except CommandError:
                continue
    return list(failed)
