from __future__ import annotations

import base64
import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from aegis_tools.errors import TrustError
from aegis_tools.policy import dsse
from aegis_tools.policy.keys import PrivateKey, PublicKey

TYPE = "application/vnd.aegis.policy+json"
ALICE = PrivateKey(b"a" * 32, "alice")
BOB = PrivateKey(b"b" * 32, "bob")
MALLORY = PrivateKey(b"m" * 32, "mallory")
TRUSTED = [ALICE.public, BOB.public]

# RFC 8032 section 7.1, TEST 1 to 3: seed, public key, message, signature.
RFC8032 = [
    (
        "9d61b19deffd5a60ba844af492ec2cc44449c5697b326919703bac031cae7f60",
        "d75a980182b10ab7d54bfed3c964073a0ee172f3daa62325af021a68f707511a",
        "",
        "e5564300c360ac729086e2cc806e828a84877f1eb8e5d974d873e065224901555fb8821590a33bacc61e39701cf9b4"
        "6bd25bf5f0595bbe24655141438e7a100b",
    ),
    (
        "4ccd089b28ff96da9db6c346ec114e0f5b8a319f35aba624da8cf6ed4fb8a6fb",
        "3d4017c3e843895a92b70aa74d1b7ebc9c982ccf2ec4968cc0cd55f12af4660c",
        "72",
        "92a009a9f0d4cab8720e820b5f642540a2b27b5416503f8fb3762223ebdb69da085ac1e43e15996e458f3613d0f11d"
        "8c387b2eaeb4302aeeb00d291612bb0c00",
    ),
    (
        "c5aa8df43f9f837bedb7442f31dcb7b166d38535076f094b85ce3a2e0b4458f7",
        "fc51cd8e6218a1a38da47ed00230f0580816ed13ba3303ac5deb911548908025",
        "af82",
        "6291d657deec24024827e69c3abe01a30ce548a284743a445e3680d7db5ac3ac18ff9b538d16f290ae67f760984dc6"
        "594a7c15e9716ed28dc027beceea1ec40a",
    ),
]


def envelope(payload: bytes = b"content", *keys: PrivateKey) -> dsse.Envelope:
    return dsse.sign(payload, TYPE, keys or [ALICE])


def changed(original: dsse.Envelope, **fields: Any) -> bytes:
    return json.dumps({**json.loads(original.to_bytes()), **fields}).encode()


def verify(data: bytes | dsse.Envelope, threshold: int = 1) -> tuple[bytes, tuple[str, ...]]:
    parsed = data if isinstance(data, dsse.Envelope) else dsse.Envelope.from_bytes(data)
    return dsse.verify(parsed, TRUSTED, threshold, payload_type=TYPE)


@pytest.mark.parametrize(("seed", "public", "message", "signature"), RFC8032)
def test_ed25519_gives_the_known_answers(
    seed: str, public: str, message: str, signature: str
) -> None:
    key = PrivateKey(bytes.fromhex(seed))
    assert key.public.raw.hex() == public
    assert key.sign(bytes.fromhex(message)).hex() == signature
    assert key.public.verify(bytes.fromhex(message), bytes.fromhex(signature))
    assert not key.public.verify(bytes.fromhex(message) + b"x", bytes.fromhex(signature))


def test_a_signature_with_a_second_spelling_of_its_scalar_is_refused() -> None:
    order = 2**252 + 27742317777372353535851937790883648493
    good = ALICE.sign(b"m")
    scalar = int.from_bytes(good[32:], "little") + order
    assert not ALICE.public.verify(b"m", good[:32] + scalar.to_bytes(32, "little"))


def test_a_signature_of_the_wrong_length_is_no_signature() -> None:
    good = ALICE.sign(b"m")
    assert not ALICE.public.verify(b"m", good[:-1])
    assert not ALICE.public.verify(b"m", good + b"\0")
    assert not ALICE.public.verify(b"m", b"")


def test_pae_is_that_of_the_specification() -> None:
    encoded = dsse.pae("http://example.com/HelloWorld", b"hello world")
    assert encoded == b"DSSEv1 29 http://example.com/HelloWorld 11 hello world"


def test_pae_counts_bytes_not_characters() -> None:
    assert dsse.pae("é", "é!".encode()) == b"DSSEv1 2 \xc3\xa9 3 \xc3\xa9!"


@given(st.text(max_size=6), st.binary(max_size=6), st.text(max_size=6), st.binary(max_size=6))
def test_no_two_contents_are_signed_as_the_same_bytes(
    type_a: str, body_a: bytes, type_b: str, body_b: bytes
) -> None:
    same = dsse.pae(type_a, body_a) == dsse.pae(type_b, body_b)
    assert same == ((type_a, body_a) == (type_b, body_b))


def test_an_envelope_survives_being_written_and_read() -> None:
    made = envelope(b"\x00\xff any bytes", ALICE, BOB)
    assert dsse.Envelope.from_bytes(made.to_bytes()) == made
    assert verify(made.to_bytes()) == (
        b"\x00\xff any bytes",
        tuple(sorted([ALICE.public.keyid, BOB.public.keyid])),
    )


def test_the_envelope_that_the_specification_prints_is_read() -> None:
    parsed = dsse.Envelope.from_bytes(
        b'{"payload": "aGVsbG8gd29ybGQ=", "payloadType": "http://example.com/HelloWorld", '
        b'"signatures": [{"sig": "A3JqsQGtVsJ2O2xqrI5IcnXip5GToJ3F+FnZ+O88SjtR6rDAajabZKciJTfU'
        b'iHqJPcIAriEGAHTVeCUjW2JIZA=="}]}'
    )
    assert (parsed.payload, parsed.signatures[0].keyid) == (b"hello world", "")


def test_the_url_safe_alphabet_is_read_as_well() -> None:
    for payload, safe in (
        (b"\xfb\xef\xbe", "----"),
        (b"\xff" * 3, "____"),
        (b"\xfb\xff\xfe", "-__-"),
    ):
        assert verify(changed(envelope(payload), payload=safe))[0] == payload


def test_unknown_fields_of_the_envelope_are_ignored() -> None:
    assert verify(changed(envelope(), comment="anything"))[0] == b"content"


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"null",
        b"[]",
        b'"text"',
        b"{}",
        b"\xff\xfe{\x00}\x00",
        b"\xef\xbb\xbf{}",
        b'{"payload":"","payload":"","payloadType":"t","signatures":[{"sig":""}]}',
        b'{"payload":"","payloadType":"t","signatures":[{"sig":"","sig":""}]}',
        b'{"payload":"","payloadType":"t","signatures":[]}',
        b'{"payload":"","payloadType":"t","signatures":{}}',
        b'{"payload":"","payloadType":"t","signatures":["x"]}',
        b'{"payload":"","payloadType":"t","signatures":[{}]}',
        b'{"payload":"","payloadType":"t","signatures":[{"sig":"","keyid":7}]}',
        b'{"payload":"","payloadType":"t","signatures":[{"sig":"","keyid":"\\u001b[2J"}]}',
        b'{"payload":"","payloadType":5,"signatures":[{"sig":""}]}',
        b'{"payload":null,"payloadType":"t","signatures":[{"sig":""}]}',
        b'{"payload":"","payloadType":"\\ud800","signatures":[{"sig":""}]}',
        b'{"payload":"","payloadType":"t","signatures":[{"sig":""}],"x":NaN}',
        b'{"payload":"","payloadType":"t","signatures":[{"sig":""}],"x":1.5}',
        b'{"payload":"","payloadType":"t","signatures":[{"sig":""}],"x":' + b"9" * 10000 + b"}",
        b'{"payload":"","payloadType":"t","signatures":[{"sig":""}],"x":-' + b"9" * 21 + b"}",
        b'{"payload":"","payloadType":"t","signatures":[{"sig":""}]} trailing',
        b'{"payload":"","payloadType":"' + b"t" * 300 + b'","signatures":[{"sig":""}]}',
        b"[" * 100_000,
        b'{"a":' * 100_000,
    ],
)
def test_what_is_not_an_envelope_is_refused_clearly(data: bytes) -> None:
    with pytest.raises(dsse.MalformedEnvelopeError) as caught:
        dsse.Envelope.from_bytes(data)
    assert caught.value.message
    assert caught.value.hint


@pytest.mark.parametrize(
    "text",
    ["YQ", "YQ=", "YQ===", "YR==", "Y Q==", "YQ==\n", "YQ==YQ==", "+__+", "-//-", "é", "====", "Y"],
)
def test_base64_has_one_spelling(text: str) -> None:
    with pytest.raises(dsse.MalformedEnvelopeError):
        dsse.Envelope.from_bytes(changed(envelope(), payload=text))


def test_an_envelope_larger_than_64_mib_is_refused_before_it_is_parsed() -> None:
    with pytest.raises(dsse.MalformedEnvelopeError, match="64 MiB"):
        dsse.Envelope.from_bytes(bytes(dsse.MAX_ENVELOPE + 1))
    with pytest.raises(dsse.MalformedEnvelopeError, match="strict JSON"):
        dsse.Envelope.from_bytes(bytes(dsse.MAX_ENVELOPE))


def test_type_and_key_id_may_have_256_characters_and_no_more() -> None:
    made = envelope()
    for length, refused in ((256, False), (257, True)):
        for fields in (
            {"payloadType": "t" * length},
            {"signatures": [{"keyid": "k" * length, "sig": ""}]},
        ):
            if refused:
                with pytest.raises(dsse.MalformedEnvelopeError):
                    dsse.Envelope.from_bytes(changed(made, **fields))
            else:
                dsse.Envelope.from_bytes(changed(made, **fields))


def test_32_signatures_are_accepted_and_33_are_not() -> None:
    one = {"keyid": "", "sig": ""}
    dsse.Envelope.from_bytes(changed(envelope(), signatures=[one] * 32))
    with pytest.raises(dsse.MalformedEnvelopeError):
        dsse.Envelope.from_bytes(changed(envelope(), signatures=[one] * 33))


def test_signing_with_no_key_is_refused() -> None:
    with pytest.raises(dsse.MalformedEnvelopeError):
        dsse.sign(b"x", TYPE, [])


def test_a_changed_payload_is_refused() -> None:
    data = changed(envelope(b"deny a"), payload=base64.b64encode(b"deny b").decode())
    with pytest.raises(dsse.BadSignatureError) as caught:
        verify(data)
    assert caught.value.exit_code == 4
    assert caught.value.code == "trust_bad_signature"


def test_another_payload_type_is_refused_even_when_it_is_signed() -> None:
    with pytest.raises(dsse.WrongPayloadTypeError):
        verify(dsse.sign(b"content", "application/json", [ALICE]))
    with pytest.raises(dsse.WrongPayloadTypeError):
        verify(changed(envelope(), payloadType="application/json"))


def test_a_signature_made_for_another_type_does_not_count() -> None:
    other = dsse.sign(b"content", "application/json", [ALICE])
    with pytest.raises(dsse.BadSignatureError):
        verify(changed(other, payloadType=TYPE))


def test_an_unknown_signer_is_refused() -> None:
    with pytest.raises(dsse.UnknownSignerError) as caught:
        verify(envelope(b"content", MALLORY))
    assert "no key that this host trusts" in caught.value.message
    assert MALLORY.public.keyid in caught.value.detail


def test_a_host_that_trusts_nobody_says_so() -> None:
    with pytest.raises(dsse.UnknownSignerError, match="no signing key yet"):
        dsse.verify(envelope(), [], 1, payload_type=TYPE)


def test_a_key_id_proves_nothing() -> None:
    forged = dsse.Signature(ALICE.public.keyid, MALLORY.sign(dsse.pae(TYPE, b"content")))
    with pytest.raises(dsse.BadSignatureError):
        verify(dsse.Envelope(b"content", TYPE, (forged,)))


def test_a_signature_without_a_key_id_is_tried_with_every_key() -> None:
    unnamed = dsse.Signature("", BOB.sign(dsse.pae(TYPE, b"content")))
    _, signers = verify(dsse.Envelope(b"content", TYPE, (unnamed,)))
    assert signers == (BOB.public.keyid,)


def test_signatures_without_key_ids_cannot_cost_unlimited_work() -> None:
    many = [PublicKey(PrivateKey(bytes([i]) * 32).public.raw) for i in range(3, 40)]
    hostile = dsse.Envelope(b"x", TYPE, (dsse.Signature("", bytes(64)),) * 32)
    with pytest.raises(dsse.MalformedEnvelopeError):
        dsse.verify(hostile, many, 1, payload_type=TYPE)
    with pytest.raises(dsse.UnknownSignerError):
        dsse.verify(hostile, many[:2], 1, payload_type=TYPE)


def test_a_threshold_needs_that_many_different_keys() -> None:
    with pytest.raises(dsse.UnderThresholdError) as caught:
        verify(envelope(b"content", ALICE), threshold=2)
    assert caught.value.data["verified"] == [ALICE.public.keyid]
    assert len(verify(envelope(b"content", ALICE, BOB), threshold=2)[1]) == 2


def test_one_key_that_signs_twice_counts_once() -> None:
    good = envelope().signatures[0]
    unnamed = dsse.Signature("", good.sig)
    twice = dsse.Envelope(b"content", TYPE, (good, good, unnamed))
    with pytest.raises(dsse.UnderThresholdError):
        verify(twice, threshold=2)


def test_the_same_key_trusted_twice_counts_once() -> None:
    same = [ALICE.public, PublicKey(ALICE.public.raw, "another comment")]
    with pytest.raises(dsse.UnderThresholdError):
        dsse.verify(envelope(), same, 2, payload_type=TYPE)


def test_a_bad_signature_beside_a_good_one_changes_nothing() -> None:
    good = envelope().signatures[0]
    bad = dsse.Signature(good.keyid, bytes(64))
    assert verify(dsse.Envelope(b"content", TYPE, (bad, good)))[1] == (good.keyid,)


def test_a_threshold_below_one_is_a_mistake_of_the_caller() -> None:
    with pytest.raises(ValueError, match="threshold"):
        verify(envelope(), threshold=0)


def test_owners_can_sign_one_after_another() -> None:
    first = dsse.Envelope.from_bytes(envelope(b"content", ALICE).to_bytes())
    both = dsse.cosign(first, [BOB, ALICE])
    assert len(both.signatures) == 2
    assert len(verify(both, threshold=2)[1]) == 2


@given(st.binary(max_size=200))
def test_random_bytes_are_refused_and_nothing_else_happens(data: bytes) -> None:
    with pytest.raises(TrustError):
        dsse.Envelope.from_bytes(data)


VALID = envelope(b'{"serial":1}', ALICE, BOB).to_bytes()


@given(
    at=st.integers(0, len(VALID) - 1),
    cut=st.integers(0, 8),
    insert=st.one_of(st.binary(max_size=8), st.sampled_from([b'"', b"{", b"\\u0000", b"=", b"-"])),
)
def test_a_mutated_envelope_is_refused_or_still_means_the_same(
    at: int, cut: int, insert: bytes
) -> None:
    data = VALID[:at] + insert + VALID[at + cut :]
    try:
        payload, signers = verify(data)
    except TrustError:
        return
    assert payload == b'{"serial":1}'
    assert set(signers) <= {ALICE.public.keyid, BOB.public.keyid}
