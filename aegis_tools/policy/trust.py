"""Whether this host may take a bundle now: serial, validity, group. Pure decisions.

Rules, for each group by itself:

* a serial below the highest that was accepted is refused (an old policy cannot come back);
* the same serial with the same digest is accepted again (a restart, a second run, must work);
* the same serial with another digest is refused (two policies claim one place);
* before ``not_before`` and from ``expires`` on, a bundle is refused.

A host that ever took signed policies goes on asking for signatures when its last key is gone: an
empty folder of keys may be an accident, or somebody's first step.
"""

from __future__ import annotations

import hmac
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from aegis_tools.errors import StateError, TrustError
from aegis_tools.policy import strictjson
from aegis_tools.policy.bundle import CLOCK_SKEW, DEFAULT_GROUP, GROUP_NAME, MAX_SERIAL, Bundle

MAX_THRESHOLD = 32
"""Keys that can be asked to sign one bundle."""

_FORMAT = 1
_BIG_JUMP = 2**32
_AHEAD = 86400  # seconds
_SOON = 7 * 86400
_HEX = re.compile(r"[0-9a-f]{64}")


class NotYetValidError(TrustError):
    """The bundle becomes valid later."""

    code = "trust_not_yet_valid"


class ExpiredError(TrustError):
    """The bundle's time is over."""

    code = "trust_expired"


class WrongGroupError(TrustError):
    """The bundle is for other hosts."""

    code = "trust_wrong_group"


class SerialTooLowError(TrustError):
    """A later bundle has been accepted already."""

    code = "trust_serial_too_low"


class SerialReusedError(TrustError):
    """Another policy with the same serial has been accepted already."""

    code = "trust_serial_reused"


@dataclass(frozen=True)
class Seen:
    """The highest accepted serial of a group, and the digest of the bundle that had it."""

    serial: int
    digest: str


@dataclass(frozen=True)
class TrustState:
    """What a host remembers of the bundles it accepted: per group, the highest serial."""

    groups: Mapping[str, Seen] = field(default_factory=dict)

    def to_bytes(self) -> bytes:
        """Return the state as ``serials.json`` holds it."""
        groups = {g: {"serial": s.serial, "digest": s.digest} for g, s in self.groups.items()}
        return strictjson.dumps({"format": _FORMAT, "groups": groups}) + b"\n"

    @classmethod
    def from_bytes(cls, data: bytes) -> TrustState:
        """Read ``serials.json``.

        Raises:
            StateError: Damaged. An empty state in its place would let every old bundle back in.
        """
        try:
            top = strictjson.loads(data)
            if top["format"] != _FORMAT or top.keys() != {"format", "groups"}:
                raise ValueError("unknown form")
            return cls({str(group): _seen(entry) for group, entry in top["groups"].items()})
        except (ValueError, LookupError, TypeError, AttributeError) as error:
            raise damaged_serials(str(error)) from None


@dataclass(frozen=True)
class TrustConfig:
    """How this host decides.

    Args:
        threshold: How many trusted keys must have signed a bundle.
        group: The only group whose bundles are accepted here.
        require_signature: Whether a policy without signature is refused.
    """

    threshold: int = 1
    group: str = DEFAULT_GROUP
    require_signature: bool = False

    def to_bytes(self) -> bytes:
        """Return the settings as ``trust.json`` holds them."""
        return strictjson.dumps(vars(self)) + b"\n"

    @classmethod
    def from_bytes(cls, data: bytes) -> TrustConfig:
        """Read ``trust.json``; what it leaves out has its default.

        Raises:
            StateError: Not an object of these settings, each in its range.
        """
        try:
            settings = strictjson.loads(data)
            config = cls(**settings)
        except (ValueError, TypeError) as error:
            raise _bad_config(str(error)) from None
        if not strictjson.is_integer(config.threshold, 1, MAX_THRESHOLD):
            raise _bad_config(f"threshold must be 1 to {MAX_THRESHOLD}")
        if not isinstance(config.group, str) or not GROUP_NAME.fullmatch(config.group):
            raise _bad_config("group must be 1 to 64 letters, digits, dots, dashes or underscores")
        if not isinstance(config.require_signature, bool):
            raise _bad_config("require_signature must be true or false")
        return config


def check(bundle: Bundle, *, now: int, group: str, state: TrustState) -> TrustState:
    """Decide on a bundle whose signatures are verified.

    Args:
        bundle: From ``bundle.open_bundle``.
        now: Unix seconds.
        group: The host's group.
        state: What was accepted before.

    Returns:
        The state to remember once the bundle is accepted.

    Raises:
        WrongGroupError, NotYetValidError, ExpiredError, SerialTooLowError, SerialReusedError: As
        named.
    """
    _check_group(bundle, group)
    if now < bundle.not_before:
        raise NotYetValidError(
            f"the bundle is not valid yet (in {bundle.not_before - now} s)",
            hint="check this host's clock with: date; or wait",
            data={"not_before": bundle.not_before, "now": now},
        )
    if bundle.expires is not None and now >= bundle.expires:
        raise ExpiredError(
            f"the bundle expired {now - bundle.expires} s ago",
            hint="check this host's clock with: date; or sign the policy again",
            data={"expires": bundle.expires, "now": now},
        )
    _check_serial(bundle, state)
    seen = Seen(bundle.serial, bundle.digest)
    return TrustState({**state.groups, bundle.group: seen})


def why_signed_only(config: TrustConfig, *, keys: int, state: TrustState) -> str:
    """Return why this host refuses a policy without signature; nothing if it takes one.

    Args:
        config: The host's settings.
        keys: How many keys it trusts now.
        state: What was accepted before.
    """
    if keys:
        return "this host trusts signing keys"
    if config.require_signature:
        return "this host is set to require signatures"
    if config.threshold > 1:
        return f"this host is set to ask for {config.threshold} signatures"
    return "this host accepted signed policies before" if state.groups else ""


def recheck(bundle: Bundle, *, group: str, state: TrustState) -> None:
    """Decide on a verified bundle of this host's own store, for a boot or a rollback.

    Its validity was checked when it was accepted; ``outside_validity`` tells about now. A clock
    that is wrong, or an expiry while the host ran, must not leave the host without any policy. The
    serial may be lower (a rollback), but never above what was accepted, and the highest serial
    still has one digest.

    Raises:
        WrongGroupError, SerialTooLowError, SerialReusedError: As named; ``SerialTooLowError`` when
        the store is ahead of the state.
    """
    _check_group(bundle, group)
    seen = state.groups.get(group)
    if seen is None or bundle.serial > seen.serial:
        raise SerialTooLowError(
            "the stored bundle was never accepted on this host",
            hint="apply it as a new one with: aegisbpf policy apply",
            data=_serials(bundle, seen),
        )
    if bundle.serial == seen.serial:
        _check_serial(bundle, state)


def outside_validity(bundle: Bundle, *, now: int) -> str:
    """Return what to warn of where a stored bundle is taken outside its time; else nothing."""
    if bundle.expires is not None and now >= bundle.expires:
        return f"it expired {_span(now - bundle.expires)} ago: sign the policy again"
    if now < bundle.not_before:
        return f"it is valid only in {_span(bundle.not_before - now)}: check the clock"
    return ""


def _span(seconds: int) -> str:
    for unit, size in (("d", 86400), ("h", 3600), ("min", 60)):
        if seconds >= 2 * size:
            return f"{seconds // size} {unit}"
    return f"{seconds} s"


def warnings(bundle: Bundle, *, now: int, state: TrustState) -> list[str]:
    """Return what is legal about a bundle but better known before it is accepted."""
    found = []
    seen = state.groups.get(bundle.group)
    latest = (now + _AHEAD) * 1000  # the highest serial that a clock could have made
    if bundle.serial == MAX_SERIAL:
        found.append("its serial is the highest there is: no other bundle can ever follow it")
    elif bundle.serial - (seen.serial if seen else 0) >= _BIG_JUMP and bundle.serial > latest:
        found.append(
            f"its serial leaps to {bundle.serial}: every later bundle must have a higher one"
        )
    if bundle.expires is None:
        found.append("it never expires: a copy can be replayed to a new host at any time")
    elif bundle.expires - now < _SOON:
        found.append(f"it expires in {max(0, bundle.expires - now) // 3600} h")
    if bundle.created > now + CLOCK_SKEW:
        found.append("it says it was created in the future: compare the clocks")
    return found


def damaged_serials(detail: str) -> StateError:
    """Return the error for a lost or damaged ``serials.json``."""
    return StateError(
        "the record of accepted serials is lost or damaged: an old policy could come back",
        hint="restore it from a backup, or start anew with: aegisbpf keys reset-serials",
        detail=detail,
    )


def _check_group(bundle: Bundle, group: str) -> None:
    if bundle.group != group:
        raise WrongGroupError(
            f"the bundle is for group {bundle.group}, this host is in {group}",
            hint="sign the policy for this group, or see: aegisbpf keys trust --help",
            data={"bundle_group": bundle.group, "host_group": group},
        )


def _check_serial(bundle: Bundle, state: TrustState) -> None:
    seen = state.groups.get(bundle.group)
    if seen is None or bundle.serial > seen.serial:
        return
    if bundle.serial < seen.serial:
        raise SerialTooLowError(
            f"the bundle is old: serial {bundle.serial}, this host has accepted {seen.serial}",
            hint=f"sign the policy again with serial {min(seen.serial + 1, MAX_SERIAL)} or higher",
            data=_serials(bundle, seen),
        )
    if not hmac.compare_digest(bundle.digest.encode(), seen.digest.encode()):
        raise SerialReusedError(
            f"another policy with serial {bundle.serial} was accepted here before",
            hint=f"sign the policy again with serial {min(seen.serial + 1, MAX_SERIAL)} or higher",
            data=_serials(bundle, seen),
        )


def _serials(bundle: Bundle, seen: Seen | None) -> dict[str, Any]:
    return {"serial": bundle.serial, "accepted_serial": seen.serial if seen else 0}


def _seen(entry: Any) -> Seen:
    serial, digest = entry["serial"], entry["digest"]
    if entry.keys() != {"serial", "digest"} or not strictjson.is_integer(serial, 1, MAX_SERIAL):
        raise ValueError("a serial is out of range")
    if not isinstance(digest, str) or not _HEX.fullmatch(digest):
        raise ValueError("a digest is not one")
    return Seen(serial, digest)


def _bad_config(reason: str) -> StateError:
    return StateError(
        "the trust settings of this host are not usable",
        hint='write it like {"threshold": 1, "group": "default", "require_signature": true}',
        detail=f"trust.json: {reason}",
    )
