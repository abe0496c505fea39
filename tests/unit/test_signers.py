"""Signing by somebody who has the key: what it prints is believed only when it verifies."""

from __future__ import annotations

import base64
from collections.abc import Callable, Sequence

import pytest

from aegis_tools.errors import TrustError
from aegis_tools.policy.bundle import make_bundle, open_bundle
from aegis_tools.policy.keys import PrivateKey
from aegis_tools.policy.signers import CommandSigner

KEY = PrivateKey(bytes(range(32)))
OTHER = PrivateKey(bytes(32))


def kms(form: Callable[[bytes], bytes], key: PrivateKey = KEY) -> CommandSigner:
    def run(argv: Sequence[str], message: bytes) -> bytes:
        assert argv == ("kms", "sign")
        return form(key.sign(message))

    return CommandSigner(KEY.public, ("kms", "sign"), run)


@pytest.mark.parametrize(
    "form",
    [
        lambda signature: signature,
        base64.b64encode,
        lambda signature: base64.b64encode(signature) + b"\n",
    ],
    ids=["raw", "base64", "base64 line"],
)
def test_a_bundle_signed_by_a_command_is_one_of_its_key(form: Callable[[bytes], bytes]) -> None:
    envelope = make_bundle(
        "version: 1\n", policy_name="p.yaml", serial=1, created=1, expires=None, keys=[kms(form)]
    )
    bundle, signers = open_bundle(envelope.to_bytes(), [KEY.public], 1)
    assert bundle.policy == "version: 1\n"
    assert signers == (KEY.public.keyid,)


@pytest.mark.parametrize(
    "form",
    [
        lambda _: b"",
        lambda _: b"not base64 at all!",
        lambda signature: signature[:-1],
        lambda signature: signature[:-1] + bytes([signature[-1] ^ 1]),
        lambda signature: base64.b64encode(signature[1:]),
    ],
    ids=["nothing", "words", "short", "one bit", "short base64"],
)
def test_what_is_no_signature_is_refused(form: Callable[[bytes], bytes]) -> None:
    with pytest.raises(TrustError, match="no valid signature"):
        kms(form).sign(b"message")


def test_the_signature_of_another_key_is_refused() -> None:
    with pytest.raises(TrustError, match="no valid signature"):
        kms(lambda signature: signature, OTHER).sign(b"message")
