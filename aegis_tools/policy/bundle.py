"""The signed policy: what the payload of an envelope says.

Every claim about a policy is inside the signed payload, one JSON object with exactly these fields:

===========  =====================================================================================
format       1
serial       1 to 2**64 - 1; a host takes no lower one than the highest it has accepted; what
             ``aegisbpf policy sign`` makes by itself are Unix milliseconds
created      Unix seconds
not_before   Unix seconds; not valid earlier
expires      Unix seconds, later than ``not_before``; or the word ``"never"``, which must be meant
group        the hosts it is for, ``default`` unless said otherwise
policy_name  a file name, without folder; its suffix decides the policy's format
policy       the policy's text, any UTF-8
===========  =====================================================================================

A field that is missing or unknown is refused: an unknown one may be a restriction that this version
would not keep. The digest of a bundle is the SHA-256 of the payload's bytes, so it does not change
with signatures.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from aegis_tools.errors import PolicyError, TrustError
from aegis_tools.policy import dsse, strictjson
from aegis_tools.policy.keys import PublicKey
from aegis_tools.policy.signers import Signer

PAYLOAD_TYPE = "application/vnd.aegis.policy+json"
DEFAULT_GROUP = "default"
MAX_SERIAL = 2**64 - 1
CLOCK_SKEW = 300  # seconds that clocks of a fleet are allowed to differ
_FORMAT = 1
_LAST_SECOND = 253402300799  # 9999-12-31 23:59:59, so that every time can be printed
_NEVER = "never"
_NAME = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.+-]{0,127}", re.ASCII)
GROUP_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]{0,63}", re.ASCII)
_FIELDS = {
    "format",
    "serial",
    "created",
    "not_before",
    "expires",
    "group",
    "policy_name",
    "policy",
}


class MalformedBundleError(TrustError):
    """The signed payload does not hold what a policy bundle must."""

    code = "trust_malformed_bundle"

    def __init__(self, reason: str) -> None:
        super().__init__(
            f"the policy bundle is not usable: {reason}",
            hint="sign the policy again with: aegisbpf policy sign",
        )


@dataclass(frozen=True)
class Bundle:
    """The claims of a payload. Times are Unix seconds; ``expires`` is ``None`` for never.

    ``digest`` is the SHA-256 of the payload, 64 hex digits.
    """

    serial: int
    created: int
    not_before: int
    expires: int | None
    group: str
    policy_name: str
    policy: str
    digest: str


def make_bundle(
    policy: str,
    *,
    policy_name: str,
    serial: int,
    created: int,
    expires: int | None,
    not_before: int | None = None,
    group: str = DEFAULT_GROUP,
    keys: Sequence[Signer],
) -> dsse.Envelope:
    """Sign a policy.

    Args:
        policy: The text of the policy file.
        policy_name: The file's name, without folder.
        serial: Higher than that of every bundle signed before for this group.
        created: Now, in Unix seconds.
        expires: Unix seconds, or ``None`` for a bundle that never expires.
        not_before: Unix seconds; when left out, five minutes before ``created``, so that a host
            whose clock is a little behind accepts the bundle at once.
        group: The hosts it is for.
        keys: The keys to sign with, at least one.

    Raises:
        PolicyError: A claim is out of its range, or the bundle would be larger than 64 MiB.
    """
    claims = {
        "format": _FORMAT,
        "serial": serial,
        "created": created,
        "not_before": max(0, created - CLOCK_SKEW) if not_before is None else not_before,
        "expires": _NEVER if expires is None else expires,
        "group": group,
        "policy_name": policy_name,
        "policy": policy,
    }
    if reason := _fault(claims):
        raise PolicyError(
            f"the policy cannot be signed like this: {reason}",
            hint="see: aegisbpf policy sign --help",
        )
    try:
        payload = strictjson.dumps(claims)
    except ValueError:
        raise PolicyError(
            "the policy is not UTF-8 text", hint="save the file as UTF-8 and sign again"
        ) from None
    if len(payload) > dsse.MAX_ENVELOPE // 4 * 3 - 65536:
        raise PolicyError(
            "the policy is too large to be signed", hint="keep a policy file below 40 MiB"
        )
    return dsse.sign(payload, PAYLOAD_TYPE, keys)


def read_bundle(envelope: dsse.Envelope) -> Bundle:
    """Read the claims of an envelope WITHOUT verifying it: to show or compare, never to apply.

    Raises:
        MalformedBundleError: The payload is not that of a policy bundle.
    """
    if envelope.payload_type != PAYLOAD_TYPE:
        raise MalformedBundleError("it is another kind of document")
    return _parse(envelope.payload)


def open_bundle(
    data: bytes, trusted: Iterable[PublicKey], threshold: int
) -> tuple[Bundle, tuple[str, ...]]:
    """Verify the bytes of an envelope, and only then read what they say.

    This proves who signed; whether the claims are acceptable here and now is for ``trust.check``.

    Args:
        data: The file as it arrived.
        trusted: The keys of this host.
        threshold: How many of them must have signed.

    Returns:
        The bundle and the ids of its signers.

    Raises:
        TrustError: One of the subclasses of ``dsse``, or ``MalformedBundleError``.
    """
    envelope = dsse.Envelope.from_bytes(data)
    payload, signers = dsse.verify(envelope, trusted, threshold, payload_type=PAYLOAD_TYPE)
    return _parse(payload), signers


def digest_of(payload: bytes) -> str:
    """Return the digest by which a payload or an unsigned policy is known: SHA-256 in hex."""
    return hashlib.sha256(payload).hexdigest()


def _parse(payload: bytes) -> Bundle:
    try:
        claims = strictjson.loads(payload)
    except ValueError:
        raise MalformedBundleError("its content is not strict JSON") from None
    if not isinstance(claims, dict):
        raise MalformedBundleError("its content is not an object")
    if reason := _fault(claims):
        raise MalformedBundleError(reason)
    expires = None if claims["expires"] == _NEVER else claims["expires"]
    rest = {k: v for k, v in claims.items() if k not in ("format", "expires")}
    return Bundle(**rest, expires=expires, digest=digest_of(payload))


def _fault(claims: dict[str, Any]) -> str:
    """Return what is wrong with the claims; nothing if they are in order."""
    if claims.get("format") != _FORMAT or isinstance(claims.get("format"), bool):
        return "its format is not 1; this program may be too old for it"
    if claims.keys() != _FIELDS:
        return f"its fields are not as they must be: {_names(claims.keys() ^ _FIELDS)}"
    if not strictjson.is_integer(claims["serial"], 1, MAX_SERIAL):
        return "the serial must be a whole number from 1 to 18446744073709551615"
    return _fault_of_time(claims) or _fault_of_text(claims)


def _fault_of_time(claims: dict[str, Any]) -> str:
    for name in ("created", "not_before"):
        if not strictjson.is_integer(claims[name], 0, _LAST_SECOND):
            return f"{name} must be Unix seconds"
    expires = claims["expires"]
    if expires == _NEVER:
        return ""
    if not strictjson.is_integer(expires, 1, _LAST_SECOND):
        return 'expires must be Unix seconds, or "never" where that is meant'
    if expires <= claims["not_before"]:
        return "it would expire before it becomes valid"
    return ""


def _fault_of_text(claims: dict[str, Any]) -> str:
    group, name = claims["group"], claims["policy_name"]
    if not isinstance(group, str) or not GROUP_NAME.fullmatch(group):
        return "the group must be 1 to 64 letters, digits, dots, dashes or underscores"
    if not isinstance(name, str) or not _NAME.fullmatch(name):
        return "the policy name must be a plain file name of at most 128 letters, digits or _.+-"
    if not isinstance(claims["policy"], str):
        return "the policy must be text"
    return ""


def _names(names: set[str]) -> str:
    shown = ", ".join(sorted(repr(name[:40]) for name in names)[:5])
    return shown.encode("ascii", "backslashreplace").decode()
