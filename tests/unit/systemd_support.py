"""A systemd that only pretends, with one unit that dies, and the procedure run against it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

from aegis_tools.control.bootclock import Seams
from aegis_tools.errors import CommandError
from aegis_tools.incident import crash_loop, unit
from aegis_tools.incident.case import Case, Outcome
from aegis_tools.incident.record import Record
from aegis_tools.kernel.run import run
from aegis_tools.paths import Paths

BAD_OPTION = (
    "2026-11-21T12:00:00+00:00 host aegisbpf[7]: aegisbpf: unrecognized arguments: --no-such\n"
    "2026-11-21T12:00:00+00:00 host systemd[1]: aegisbpf.service: Main process exited, "
    "code=exited, status=2/INVALIDARGUMENT\n"
)


class Killed(BaseException):
    """What a SIGKILL would be."""


@dataclass
class Systemd:
    """A systemd with one unit, whose start fails unless it is a safe one.

    Attributes:
        paths: Where the drop-in would be.
        looping: The unit dies and is started again.
        runs: It runs.
        safe_works: A safe start lives.
        dies_after: Looks after which it dies in spite of that.
        kill_before: The command before which the procedure is killed.
        boot_failed: What loads at boot has failed.
        journal: What the unit has logged.
    """

    paths: Paths
    looping: bool = True
    runs: bool = False
    safe_works: bool = True
    normal_works: bool = False
    dies_after: int = 1000
    kill_before: str = ""
    restarts: int = 7
    boot_failed: bool = False
    journal: str = BAD_OPTION
    said: list[str] = field(default_factory=list)

    def __call__(self, argv: Sequence[str], *, timeout: float = 60) -> str:
        del timeout
        line = " ".join(argv)
        if self.kill_before and self.kill_before in line:
            self.kill_before = ""
            raise Killed
        if argv[0] == "bpftool":
            return run(argv, timeout=300)
        if argv[0] != "systemctl":
            return self.journal if "-u" in argv else ""
        self.said.append(argv[1])
        if argv[-1] == unit.BOOT:
            self.boot_failed = self.boot_failed and argv[1] != "restart"
            return f"LoadState=loaded\nActiveState={'failed' if self.boot_failed else 'active'}\n"
        return str(getattr(self, f"on_{argv[1].replace('-', '_')}", lambda: "")())

    def on_show(self) -> str:
        if self.runs:
            self.dies_after -= 1
            self.runs = self.dies_after > 0
            self.looping = not self.runs
        if self.looping and not self.runs:
            self.restarts += 1
        active = "active" if self.runs else "activating" if self.looping else "inactive"
        sub = "running" if self.runs else "auto-restart" if self.looping else "dead"
        return (
            f"LoadState=loaded\nActiveState={active}\nSubState={sub}\nResult=exit-code\n"
            f"NRestarts={self.restarts}\nMainPID={8 if self.runs else 0}\n"
            "ExecMainCode=1\nExecMainStatus=2\n"
        )

    def on_stop(self) -> str:
        self.looping = self.runs = False
        return ""

    def on_start(self) -> str:
        safe = unit.is_safe(self.paths)
        if not (self.safe_works if safe else self.normal_works):
            self.looping = True
            raise CommandError("systemctl failed", hint="x")
        self.runs, self.restarts = True, 0
        return ""


def clock() -> tuple[Callable[[], int], Callable[[float], None]]:
    """Return a boot clock and a sleep that moves it."""
    now = [10**9]

    def sleep(seconds: float) -> None:
        now[0] += int(seconds * 1e9)

    return lambda: now[0], sleep


def procedure(
    systemd: Systemd, work: Callable[..., Outcome] = crash_loop.run, **more: Any
) -> tuple[Outcome, dict[str, Any]]:
    """Run the procedure as the command does; return its outcome and answer."""
    boot_ns, sleep = clock()
    seams = Seams(boot_ns=boot_ns, run=systemd)
    dry = more.pop("dry_run", False)
    with Record.begin(systemd.paths, "crash-loop", clock=seams, dry_run=dry) as record:
        case = Case(systemd.paths, record, dry_run=dry, seams=seams, sleep=sleep)
        if work is crash_loop.run:
            more["systemd"] = lambda _: True
        outcome = work(case, stable_for=5, **more)
        record.close(outcome.result)
        return outcome, case.answer(outcome)


def states(answer: dict[str, Any]) -> dict[str, str]:
    return {step["action"]: step["state"] for step in answer["steps"]}
