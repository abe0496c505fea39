"""The end where this host refuses nothing: if the service fails, it fails of something else."""

from __future__ import annotations

import shlex
from collections.abc import Iterable, Sequence

from aegis_tools.errors import CommandError
from aegis_tools.incident import again
from aegis_tools.incident.case import Case, Outcome
from aegis_tools.incident.probe import Probe


def not_ours(case: Case, probes: Sequence[Probe], why: str, *, loaded: bool = True) -> Outcome:
    """Ask the service nevertheless, and return the end.

    Args:
        case: The run.
        probes: What tells that the service answers.
        why: Why nothing is refused.
        loaded: Something of ours is in the kernel, so it may have refused something earlier.
    """
    if probes:
        found = case.look(
            "probe", "ask the affected service", lambda: again.ask_service(case, probes, 0)
        )
        if found.state == "failed":
            return Outcome(
                False,
                "not-recovered",
                f"nothing was changed: {why}, and the service does not answer",
                error=CommandError(
                    f"the service does not answer, but {why}: look at the service itself",
                    hint=_further_back() if loaded else _its_journal(probes),
                    detail=found.error,
                ),
            )
    return Outcome(False, "nothing-to-do", f"nothing to do: {why}")


def _further_back() -> str:
    return (
        "look further back: aegisbpf incident blocking --since 24h; "
        "or see what is refused now: aegisbpf events --since 1h --action block"
    )


def _its_journal(probes: Iterable[Probe]) -> str:
    unit = next((shlex.quote(one.what) for one in probes if one.kind == "unit"), "")
    return f"see its journal: journalctl -b {f'-u {unit}' if unit else '-p err'}"
