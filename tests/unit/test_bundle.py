from __future__ import annotations

import json
import time
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from aegis_tools.errors import PolicyError, TrustError
from aegis_tools.policy import dsse
from aegis_tools.policy.bundle import (
    MAX_SERIAL,
    PAYLOAD_TYPE,
    Bundle,
    MalformedBundleError,
    digest_of,
    make_bundle,
    open_bundle,
    read_bundle,
)
from aegis_tools.policy.keys import PrivateKey

KEY = PrivateKey(b"k" * 32)
NOW = 1_700_000_000
CLAIMS: dict[str, Any] = {
    "format": 1,
    "serial": 7,
    "created": NOW,
    "not_before": NOW,
    "expires": NOW + 100,
    "group": "default",
    "policy_name": "policy.conf",
    "policy": "version=1\n",
}


def made(policy: str = "version=1\n", **changes: Any) -> dsse.Envelope:
    claims: dict[str, Any] = {
        "policy_name": "policy.conf",
        "serial": 7,
        "created": NOW,
        "expires": NOW + 100,
        "keys": [KEY],
    }
    return make_bundle(policy, **{**claims, **changes})


def opened(envelope: dsse.Envelope) -> Bundle:
    return open_bundle(envelope.to_bytes(), [KEY.public], 1)[0]


def signed(payload: bytes) -> bytes:
    """An envelope by the trusted key over any payload: a signer with other or broken software."""
    return dsse.sign(payload, PAYLOAD_TYPE, [KEY]).to_bytes()


def signed_claims(**changes: Any) -> bytes:
    return signed(json.dumps({**CLAIMS, **changes}).encode())


def test_a_bundle_says_after_verifying_what_was_signed() -> None:
    text = 'version=1\n# \u00e9\u0000\u2028 \U0001f512 "quoted" \\\r\n'
    bundle, signers = open_bundle(
        made(text, group="web", not_before=NOW + 5).to_bytes(), [KEY.public], 1
    )
    assert signers == (KEY.public.keyid,)
    assert bundle.policy == text
    assert (bundle.serial, bundle.created, bundle.not_before) == (7, NOW, NOW + 5)
    assert (bundle.expires, bundle.group, bundle.policy_name) == (NOW + 100, "web", "policy.conf")


def test_the_payload_is_canonical_so_the_same_claims_have_the_same_digest() -> None:
    first, again = made(), made()
    assert first.payload == again.payload
    assert b": " not in first.payload
    assert opened(first).digest == digest_of(first.payload) == opened(again).digest


def test_the_digest_does_not_change_with_the_signatures() -> None:
    envelope = made()
    more = dsse.cosign(envelope, [PrivateKey(b"z" * 32)])
    assert read_bundle(more).digest == read_bundle(envelope).digest


def test_a_fresh_bundle_is_valid_where_the_clock_is_a_little_behind() -> None:
    assert opened(made()).not_before == NOW - 300
    assert opened(made(created=10)).not_before == 0


def test_never_expiring_must_be_said_in_words() -> None:
    assert b'"expires":"never"' in made(expires=None).payload
    assert opened(made(expires=None)).expires is None
    with pytest.raises(PolicyError, match="never"):
        made(expires=0)
    with pytest.raises(MalformedBundleError, match="never"):
        open_bundle(signed_claims(expires=0), [KEY.public], 1)


@pytest.mark.parametrize(
    "changes",
    [
        {"serial": 0},
        {"serial": -1},
        {"serial": MAX_SERIAL + 1},
        {"serial": True},
        {"serial": "7"},
        {"serial": None},
        {"created": -1},
        {"created": 10**13},
        {"not_before": "now"},
        {"expires": NOW},
        {"expires": NOW - 1},
        {"expires": "Never"},
        {"expires": None},
        {"expires": True},
        {"group": ""},
        {"group": "a b"},
        {"group": "x" * 65},
        {"group": "\u202eweb"},
        {"group": ["web"]},
        {"policy_name": "../etc/passwd"},
        {"policy_name": "/etc/policy.conf"},
        {"policy_name": ".hidden"},
        {"policy_name": "a\nb"},
        {"policy_name": "policy.conf\n"},
        {"policy_name": ""},
        {"policy": 5},
        {"policy": None},
        {"format": 2},
        {"format": True},
        {"hosts": ["only-this-one"]},
    ],
)
def test_signed_claims_out_of_their_range_are_refused_clearly(changes: dict[str, Any]) -> None:
    with pytest.raises(MalformedBundleError) as caught:
        open_bundle(signed_claims(**changes), [KEY.public], 1)
    assert caught.value.hint
    assert caught.value.message.isprintable()


@pytest.mark.parametrize("missing", sorted(CLAIMS))
def test_a_missing_claim_is_refused(missing: str) -> None:
    claims = {k: v for k, v in CLAIMS.items() if k != missing}
    with pytest.raises(MalformedBundleError):
        open_bundle(signed(json.dumps(claims).encode()), [KEY.public], 1)


@pytest.mark.parametrize(
    "payload",
    [b"", b"[]", b"1", b"{", b"\xff", b'{"serial":1,"serial":2}', b'{"policy":"\\ud800"}'],
)
def test_a_signed_payload_that_is_no_bundle_is_refused(payload: bytes) -> None:
    with pytest.raises(MalformedBundleError):
        open_bundle(signed(payload), [KEY.public], 1)


def test_what_cannot_be_read_back_cannot_be_signed() -> None:
    for changes in ({"serial": 0}, {"group": "a b"}, {"policy_name": "a/b"}, {"created": -1}):
        with pytest.raises(PolicyError):
            made(**changes)
    with pytest.raises(PolicyError, match="UTF-8"):
        made("\udcff")


def test_a_policy_too_large_for_an_envelope_is_refused_when_signing() -> None:
    with pytest.raises(PolicyError, match="too large"):
        made("x" * (49 << 20))


def test_only_the_payload_of_a_bundle_is_shown_as_one() -> None:
    other = dsse.sign(made().payload, "application/json", [KEY])
    with pytest.raises(MalformedBundleError, match="another kind"):
        read_bundle(other)


def test_nothing_is_read_from_a_bundle_whose_signature_is_not_right() -> None:
    other = dsse.sign(b"not even JSON", PAYLOAD_TYPE, [PrivateKey(b"m" * 32)])
    with pytest.raises(dsse.UnknownSignerError):
        open_bundle(other.to_bytes(), [KEY.public], 1)


@pytest.mark.parametrize(
    ("old", "new"),
    [
        # The old bundle 1 of time 1795220311 made to look like bundle 11 of time 795220311.
        (b'"created":1795220311', b'"created":795220311'),
        (b'"serial":1}', b'"serial":11}'),
        (b'"serial":1}', b'"serial":18446744073709551615}'),
        (b'"expires":1795220400', b'"expires":"never"'),
        (b'"group":"default"', b'"group":"web"'),
    ],
)
def test_moving_or_changing_the_digits_of_a_header_breaks_the_signature(
    old: bytes, new: bytes
) -> None:
    envelope = made(serial=1, created=1795220311, expires=1795220400)
    assert old in envelope.payload
    relabelled = dsse.Envelope(
        envelope.payload.replace(old, new), PAYLOAD_TYPE, envelope.signatures
    )
    with pytest.raises(dsse.BadSignatureError):
        opened(relabelled)


def test_digits_moved_between_two_header_fields_break_the_signature() -> None:
    """Joined without separators, the fields of both headers would read 11795220311."""
    envelope = made(serial=1, created=1795220311, not_before=0, expires=None)
    moved = made(serial=11, created=795220311, not_before=0, expires=None)
    assert moved.payload != envelope.payload
    relabelled = dsse.Envelope(moved.payload, PAYLOAD_TYPE, envelope.signatures)
    with pytest.raises(dsse.BadSignatureError):
        opened(relabelled)


def test_digits_moved_from_the_content_into_its_length_break_the_signature() -> None:
    envelope = made()
    for kind in (PAYLOAD_TYPE + " 1", PAYLOAD_TYPE + " ", PAYLOAD_TYPE[:-1]):
        relabelled = dsse.Envelope(envelope.payload, kind, envelope.signatures)
        with pytest.raises(TrustError):
            opened(relabelled)


def test_a_policy_of_4_mb_is_signed_and_verified_in_a_fraction_of_a_second() -> None:
    text = "deny_path /srv/data/é\n" * 190_000
    start = time.perf_counter()
    envelope = made(text)
    data = envelope.to_bytes()
    bundle, _ = open_bundle(data, [KEY.public], 1)
    spent = time.perf_counter() - start
    assert bundle.policy == text
    assert spent < 1.0  # measured 0.1 s; the rest is for busy machines


JSON = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**70), 2**70) | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner),
    max_leaves=5,
)


@given(st.one_of(st.binary(max_size=100), JSON.map(lambda v: json.dumps(v).encode())))
def test_any_signed_payload_that_is_no_bundle_gives_a_trust_error(payload: bytes) -> None:
    with pytest.raises(TrustError):
        open_bundle(signed(payload), [KEY.public], 1)


@given(st.dictionaries(st.sampled_from(sorted(CLAIMS)), JSON, min_size=1))
def test_any_signed_claims_give_a_bundle_in_range_or_a_trust_error(changes: dict[str, Any]) -> None:
    try:
        bundle, _ = open_bundle(signed_claims(**changes), [KEY.public], 1)
    except TrustError:
        return
    assert 1 <= bundle.serial <= MAX_SERIAL
    assert bundle.expires is None or bundle.not_before < bundle.expires


@given(st.text(max_size=300))
def test_any_text_comes_back_as_it_was_signed(text: str) -> None:
    assert opened(made(text)).policy == text
