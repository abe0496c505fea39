"""Let a host enforce again, in a confirm window; back to audit where the service fails again."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Mapping, Sequence

from aegis_tools.control import bootclock, confirm, fallback, hostmode, staging
from aegis_tools.control.live import Live
from aegis_tools.control.lockout import check as proof
from aegis_tools.control.lockout import probe as login
from aegis_tools.control.mode import check_can_enforce
from aegis_tools.errors import AegisError, CommandError, ProbeError
from aegis_tools.incident import probe as probing
from aegis_tools.incident.case import Case
from aegis_tools.incident.probe import Probe
from aegis_tools.incident.record import Record
from aegis_tools.incident.relief import refusers
from aegis_tools.policy.model import Mode

ACTION = "incident blocking"


def ask_service(case: Case, probes: Sequence[Probe], patience: float) -> None:
    """Ask the service, again and again while there is patience.

    Raises:
        CommandError: It does not answer.
    """
    found = probing.attempt(
        probes,
        patience=patience,
        runner=case.seams.run,
        clock=lambda: case.seconds,
        sleep=case.sleep,
    )
    case.record.fact("probe", [one.to_dict() for one in found])
    bad = [one for one in found if not one.ok]
    if bad:
        raise CommandError(
            f"the service does not answer: {bad[0].probe.text()}: {bad[0].said}",
            hint="see: aegisbpf incident show last",
            data={"probe": [one.to_dict() for one in found]},
        )


def enforce(
    case: Case,
    live: Live,
    *,
    name_of: Callable[[int], str],
    within: int,
    log_in: bool,
    ask: Callable[[], None],
) -> None:
    """Set enforce until that is confirmed. The caller holds the lock.

    Args:
        case: The run.
        live: The loaded maps.
        name_of: Says what rules are called.
        within: Seconds to confirm it.
        log_in: Also try a login, sudo and the like before and after.
        ask: Asks the service; raises CommandError where it does not answer.

    Raises:
        KernelError: Nothing can be refused here.
        HeldError, UnconfirmedError, LockoutError: As ``mode enforce``; the host stays in audit.
        ProbeError: Something does not work any more; the host is back in audit.
    """
    paths, seams = case.paths, case.seams
    check_can_enforce(live)
    fallback.check(paths)
    hostmode.settle_first(paths, live, seams=seams)
    proof.refuse(proof.check_live(paths, live, name_of))
    worked = login.attempt(login.checks(paths.run)) if log_in else []
    began = seams.boot_ns()
    # Another run looks at what is refused after this.
    case.record.fact("settled", {"boot": bootclock.boot_id(paths), "ns": began})
    staging.stage_mode(paths, live, Mode.ENFORCE, within=within, action=ACTION, seams=seams)
    try:
        _prove(case, worked, ask)
    except BaseException as error:
        why = error.message if isinstance(error, AegisError) else "it was interrupted"
        confirm.revert(paths, live, why=why, seams=seams)
        with contextlib.suppress(AegisError, OSError):
            if found := refusers(live, began):
                blame(case.record, found)
        raise


def _prove(case: Case, worked: list[login.Outcome], ask: Callable[[], None]) -> None:
    """Try what worked before, and ask the service, while the host enforces."""
    after = login.attempt(login.checks(case.paths.run)) if worked else []
    broken = [one.name for one in login.broken(worked, after)]
    try:
        ask()
    except CommandError as error:
        broken.append(error.message)
    if broken:
        raise ProbeError(
            f"back to audit at once, because while it enforced: {'; '.join(broken)}",
            hint="see which other rule refuses it: aegisbpf incident blocking",
            data={"failed": broken},
        )


def blame(record: Record, found: Mapping[int, tuple[int, int]]) -> None:
    """Let the next choice be among these rules; what an earlier run chose was something else.

    Args:
        record: Where it is kept.
        found: See ``relief.refusers``.
    """
    record.fact("refusers", {f"{uid:016x}": list(hit) for uid, hit in found.items()})
    for name, nothing in (("met", {}), ("rule", ""), ("fix", None)):
        record.fact(name, nothing)
