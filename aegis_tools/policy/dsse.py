"""Signed envelopes: DSSE v1 (github.com/secure-systems-lab/dsse, protocol 1.0.2) with Ed25519.

What is signed is an encoding that carries the byte length of each part, so no byte can move from
one part to another under the same signature::

    "DSSEv1" SP LEN(type) SP type SP LEN(payload) SP payload

Fields of the envelope that this module does not know are ignored, as the specification asks:
nothing outside the payload is signed, so nothing outside it may carry meaning. ``keyid`` is a hint
which key to try, no more.
"""

from __future__ import annotations

import base64
import binascii
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from typing import Any

from aegis_tools.errors import TrustError
from aegis_tools.policy import strictjson
from aegis_tools.policy.keys import PublicKey
from aegis_tools.policy.signers import Signer

MAX_ENVELOPE = 64 << 20
MAX_SIGNATURES = 32
_MAX_ATTEMPTS = 64  # without a limit, signatures that name no key cost one pass for each key
_MAX_TYPE = 256


class MalformedEnvelopeError(TrustError):
    """The bytes are not a DSSE envelope."""

    code = "trust_malformed_envelope"

    def __init__(self, reason: str) -> None:
        super().__init__(
            f"this is not a signed policy bundle: {reason}",
            hint="copy it again, or sign the policy with: aegisbpf policy sign",
        )


class WrongPayloadTypeError(TrustError):
    """The envelope is for another kind of document."""

    code = "trust_payload_type"


class UnknownSignerError(TrustError):
    """No signature is by a trusted key."""

    code = "trust_unknown_signer"


class BadSignatureError(TrustError):
    """A signature that claims to be by a trusted key is not over this content."""

    code = "trust_bad_signature"


class UnderThresholdError(TrustError):
    """Fewer trusted keys signed than this host asks for."""

    code = "trust_under_threshold"


@dataclass(frozen=True)
class Signature:
    """One signature: ``keyid`` is 64 hex digits or empty, ``sig`` 64 bytes if it is one of ours."""

    keyid: str
    sig: bytes


@dataclass(frozen=True)
class Envelope:
    """A payload with its signatures, checked for form only."""

    payload: bytes
    payload_type: str
    signatures: tuple[Signature, ...]

    def to_bytes(self) -> bytes:
        """Return the envelope as the JSON that travels."""
        return strictjson.dumps(
            {
                "payload": base64.b64encode(self.payload).decode(),
                "payloadType": self.payload_type,
                "signatures": [
                    {"keyid": s.keyid, "sig": base64.b64encode(s.sig).decode()}
                    for s in self.signatures
                ],
            }
        )

    @classmethod
    def from_bytes(cls, data: bytes) -> Envelope:
        """Parse an envelope, without verifying anything.

        Raises:
            MalformedEnvelopeError: Too large, not the JSON of an envelope, a key twice, base64 that
                is not canonical, no signature or more than 32.
        """
        if len(data) > MAX_ENVELOPE:
            raise MalformedEnvelopeError("it is larger than 64 MiB")
        try:
            top = strictjson.loads(data)
        except ValueError:
            raise MalformedEnvelopeError("it is not strict JSON") from None
        payload_type = _field(top, "payloadType")
        signatures = top.get("signatures")
        if not isinstance(signatures, list) or not 1 <= len(signatures) <= MAX_SIGNATURES:
            raise MalformedEnvelopeError(f"it needs 1 to {MAX_SIGNATURES} signatures")
        if len(payload_type) > _MAX_TYPE:
            raise MalformedEnvelopeError("its payload type is too long")
        return cls(
            _decode(_field(top, "payload")),
            payload_type,
            tuple(_signature(entry) for entry in signatures),
        )


def pae(payload_type: str, payload: bytes) -> bytes:
    """Return the bytes that are signed. Lengths are of the encoded bytes, not of characters."""
    kind = payload_type.encode()
    return b"DSSEv1 %d %s %d %s" % (len(kind), kind, len(payload), payload)


def sign(payload: bytes, payload_type: str, keys: Sequence[Signer]) -> Envelope:
    """Return an envelope signed by every key of ``keys``.

    Raises:
        MalformedEnvelopeError: No key, or more than 32.
    """
    return cosign(Envelope(payload, payload_type, ()), keys)


def cosign(envelope: Envelope, keys: Sequence[Signer]) -> Envelope:
    """Add signatures, for key owners who do not share a machine; a key's older one is replaced.

    Raises:
        MalformedEnvelopeError: The result would have no signature, or more than 32.
    """
    message = pae(envelope.payload_type, envelope.payload)
    new = {key.public.keyid: key.sign(message) for key in keys}
    kept = [s for s in envelope.signatures if s.keyid not in new]
    signatures = (*kept, *(Signature(keyid, sig) for keyid, sig in new.items()))
    if not 1 <= len(signatures) <= MAX_SIGNATURES:
        raise MalformedEnvelopeError(f"it needs 1 to {MAX_SIGNATURES} signatures")
    return replace(envelope, signatures=signatures)


def verify(
    envelope: Envelope, trusted: Iterable[PublicKey], threshold: int, *, payload_type: str
) -> tuple[bytes, tuple[str, ...]]:
    """Check that enough trusted keys signed.

    A key counts once, however often it signed and whatever the ``keyid`` says. A bad signature does
    not spoil good ones: anybody on the way could add one.

    Args:
        envelope: What arrived.
        trusted: The keys of this host.
        threshold: How many different keys of ``trusted`` must have signed; at least 1.
        payload_type: The only type that is accepted.

    Returns:
        The payload and the ids of the keys that signed it, sorted.

    Raises:
        WrongPayloadTypeError, UnknownSignerError, BadSignatureError, UnderThresholdError: As named.
    """
    if threshold < 1:
        raise ValueError("threshold must be at least 1")
    if envelope.payload_type != payload_type:
        raise WrongPayloadTypeError(
            "the signed file is not an Aegis policy bundle",
            hint="sign a policy with: aegisbpf policy sign",
            detail=f"payload type {envelope.payload_type!r}",
        )
    keys = {key.keyid: key for key in trusted}
    signers = _signers(envelope, keys)
    if len(signers) < threshold:
        raise _refusal(envelope, keys, signers, threshold)
    return envelope.payload, tuple(sorted(signers))


def _signers(envelope: Envelope, keys: dict[str, PublicKey]) -> set[str]:
    """Return the ids of the keys that did sign."""
    message = pae(envelope.payload_type, envelope.payload)
    good: set[str] = set()
    tried = 0
    for signature in envelope.signatures:
        candidates = [signature.keyid] if signature.keyid else list(keys)
        for keyid in candidates:
            if keyid not in keys or keyid in good:
                continue
            tried += 1
            if tried > _MAX_ATTEMPTS:
                raise MalformedEnvelopeError("too many of its signatures name no key")
            if keys[keyid].verify(message, signature.sig):
                good.add(keyid)
                break
    return good


def _refusal(
    envelope: Envelope, keys: dict[str, PublicKey], signers: set[str], threshold: int
) -> TrustError:
    claimed = sorted({s.keyid for s in envelope.signatures if s.keyid})
    data = {"signed_by": claimed, "verified": sorted(signers), "threshold": threshold}
    if signers:
        return UnderThresholdError(
            f"{len(signers)} of the {threshold} trusted signatures that this host asks for",
            hint="let another key owner add a signature: aegisbpf policy cosign",
            data=data,
        )
    if keys.keys() & set(claimed):
        return BadSignatureError(
            "the signature does not match the content: the bundle was changed after signing",
            hint="do not apply it; fetch the bundle again from where it was signed",
            data=data,
        )
    if not keys:
        return UnknownSignerError(
            "this host trusts no signing key yet",
            hint="add one with: aegisbpf keys add KEY.pub",
            data=data,
        )
    return UnknownSignerError(
        "the bundle is signed by no key that this host trusts",
        hint="compare with: aegisbpf keys list; add a key with: aegisbpf keys add KEY.pub",
        detail="signed by " + ", ".join(k[:64] for k in claimed),
        data=data,
    )


def _field(entry: Any, name: str) -> str:
    value = entry.get(name) if isinstance(entry, dict) else None
    if not isinstance(value, str):
        raise MalformedEnvelopeError(f"it has no text field {name}")
    return value


def _signature(entry: Any) -> Signature:
    sig = _decode(_field(entry, "sig"))
    keyid = entry.get("keyid") or ""
    if not isinstance(keyid, str) or len(keyid) > _MAX_TYPE or not keyid.isprintable():
        raise MalformedEnvelopeError("a key id is not a short text")
    return Signature(keyid, sig)


def _decode(text: str) -> bytes:
    """Decode base64 in either alphabet; each value has one spelling, padding included."""
    if "-" in text or "_" in text:
        if "+" in text or "/" in text:
            raise MalformedEnvelopeError("it mixes two base64 alphabets")
        text = text.replace("-", "+").replace("_", "/")
    try:
        data = base64.b64decode(text, validate=True)
    except (binascii.Error, ValueError):
        raise MalformedEnvelopeError("its base64 is damaged") from None
    if base64.b64encode(data) != text.encode():
        raise MalformedEnvelopeError("its base64 is not canonical")
    return data
