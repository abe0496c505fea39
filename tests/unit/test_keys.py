from __future__ import annotations

import base64
import hashlib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from aegis_tools.errors import TrustError
from aegis_tools.policy.keys import KeyFormatError, PrivateKey, PublicKey

KEY = PrivateKey(b"k" * 32, "alice@example.org")


def test_a_public_key_is_one_line_and_reads_back() -> None:
    text = KEY.public.to_text()
    encoded = base64.b64encode(KEY.public.raw).decode()
    assert text == f"aegis-ed25519 {encoded} alice@example.org\n"
    assert PublicKey.from_text(text.encode()) == KEY.public


def test_a_key_without_comment_reads_back() -> None:
    key = PrivateKey(b"k" * 32)
    assert PublicKey.from_text(key.public.to_text().encode()) == key.public
    assert PrivateKey.from_text(key.to_text().encode()) == key


def test_a_private_key_reads_back() -> None:
    assert PrivateKey.from_text(KEY.to_text().encode()) == KEY


def test_the_key_id_is_the_digest_of_the_key_not_of_its_comment() -> None:
    assert KEY.public.keyid == hashlib.sha256(KEY.public.raw).hexdigest()
    assert PublicKey(KEY.public.raw, "other").keyid == KEY.public.keyid


def test_new_keys_differ() -> None:
    assert PrivateKey.generate().seed != PrivateKey.generate().seed


def test_a_secret_shows_in_no_representation() -> None:
    assert "kkkk" not in repr(KEY)
    assert "kkkk" not in f"{KEY} {vars(KEY).keys()}"


def test_a_private_key_in_the_place_of_a_public_one_is_named_and_not_quoted() -> None:
    for key in (KEY, PrivateKey(KEY.seed, "")):
        with pytest.raises(KeyFormatError, match="private key") as caught:
            PublicKey.from_text(key.to_text().encode())
        secret = base64.b64encode(key.seed).decode()
        assert secret not in str(caught.value.to_dict())


def test_a_damaged_private_key_is_not_quoted() -> None:
    secret = base64.b64encode(KEY.seed).decode()
    with pytest.raises(KeyFormatError) as caught:
        PrivateKey.from_text(KEY.to_text().replace("=", "").encode())
    assert secret[:20] not in str(caught.value.to_dict())


@pytest.mark.parametrize(
    "text",
    [
        b"",
        b"\n",
        b"aegis-ed25519",
        b"aegis-ed25519 \n",
        b"ssh-ed25519 AAAA x\n",
        b"aegis-ed25519 AAAA x\n",
        b"aegis-ed25519  " + base64.b64encode(KEY.public.raw),
        b"aegis-ed25519 " + base64.b64encode(KEY.public.raw)[:-1],
        b"aegis-ed25519 " + base64.b64encode(KEY.public.raw) + b" a\x1b[2J",
        b"aegis-ed25519 " + base64.b64encode(KEY.public.raw) + b" one\naegis-ed25519 two",
        b"aegis-ed25519 " + base64.b64encode(KEY.public.raw) + b" " + b"c" * 200,
        b"aegis-ed25519 " + base64.b64encode(KEY.public.raw + b"x"),
        KEY.public.raw.hex().encode(),
        b"\xff" * 40,
        b"a" * 100_000,
    ],
)
def test_what_is_no_public_key_is_refused_clearly(text: bytes) -> None:
    with pytest.raises(KeyFormatError) as caught:
        PublicKey.from_text(text)
    assert caught.value.hint


@pytest.mark.parametrize(
    "raw",
    [
        bytes(32),
        b"\x01" + bytes(31),
        b"\xec" + b"\xff" * 30 + b"\x7f",
        bytes.fromhex("26e8958fc2b227b045c3f489f2ef98f0d5dfac05d3c63339b13802886d53fc05"),
        b"\xff" * 32,
    ],
)
def test_a_point_that_signs_everything_is_no_key(raw: bytes) -> None:
    with pytest.raises(KeyFormatError):
        PublicKey.from_text(b"aegis-ed25519 " + base64.b64encode(raw))


def test_a_comment_of_several_lines_cannot_be_made() -> None:
    with pytest.raises(KeyFormatError):
        PrivateKey.generate("one\naegis-ed25519 two")


@given(st.binary(max_size=120))
def test_random_bytes_are_no_key(data: bytes) -> None:
    for parse in (PublicKey.from_text, PrivateKey.from_text):
        with pytest.raises(TrustError):
            parse(data)
