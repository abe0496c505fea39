"""Whether a soak that enforces may begin: only after one in shadow has passed."""

from __future__ import annotations

from collections.abc import Sequence

from aegis_tools.control.files import printable
from aegis_tools.errors import AegisError, StateError, UsageError
from aegis_tools.paths import Paths
from aegis_tools.soak.reading import read_soak, soaks
from aegis_tools.soak.verdict import MINIMUM_S, PASS, judge, span

_MOST = 200


def passed_shadow(paths: Paths, digest: str) -> tuple[str, str]:
    """Return the newest soak in shadow of this policy that passed in full, and why there is none.

    Args:
        paths: Where soaks are.
        digest: The live policy's digest, 64 hex digits; empty for none.

    Returns:
        (id, reason): one of them is empty.

    Raises:
        StateError: Soaks cannot be listed.
    """
    if not digest:
        return "", "no policy is live, so none was ever watched in shadow"
    reason = "this policy was never watched in shadow"
    for identifier in soaks(paths)[:_MOST]:
        if not identifier.endswith("-shadow"):
            continue
        try:
            soak = read_soak(paths, identifier)
        except AegisError:
            continue
        policy = soak.settings.policy
        if soak.result is None or policy is None or policy.digest.removeprefix("sha256:") != digest:
            continue
        verdict = judge(soak)
        if verdict.status == PASS and not verdict.short:
            return identifier, ""
        if reason.startswith("this"):
            reason = f"its soak in shadow {identifier} ended with: {verdict.text}"
    return "", reason


def check(paths: Paths, digest: str, override: str) -> str:
    """Return the soak in shadow that lets one that enforces begin; empty with an override.

    Raises:
        StateError: There is none, and no override.
    """
    found, reason = passed_shadow(paths, digest)
    if found or override:
        return found
    least = span(MINIMUM_S["shadow"])
    raise StateError(
        f"a soak that enforces needs one in shadow that passed: {reason}",
        hint=f"run: aegisbpf soak start --scenario shadow --duration {least.replace(' ', '')}"
        "   (or say why not: --override REASON)",
        data={"reason": reason},
    )


def check_expected(paths: Paths, expected: Sequence[str]) -> None:
    """Raise UsageError where denials are expected of a rule that is not live.

    Raises:
        UsageError: No live rule has such an id.
        AegisError: What is loaded is damaged, or not ours.
    """
    if not expected:
        return
    # Here, because it may read the stored policy: only who names rules needs it.
    from aegis_tools.control.live import Live
    from aegis_tools.control.names import Names
    from aegis_tools.kernel.layout import uid_of
    from aegis_tools.kernel.pins import Pins

    with Live(Pins(paths.pins)) as live:
        names = Names(live, paths)
        unknown = [one for one in expected if names.get(uid_of(one)) is None]
    if unknown:
        raise UsageError(
            f"--expect: no live rule has the id '{printable(unknown[0])}'",
            hint="see the ids: aegisbpf rule list",
            detail=names.problem,
        )
