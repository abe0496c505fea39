"""Ed25519 keys and their text forms. No file is touched here; see ``control.keystore``.

Public key, one line::

    aegis-ed25519 <base64 of 32 bytes> <comment>

Private key, two lines, the second is the seed of RFC 8032 (section 5.1.5)::

    aegis-ed25519-private <comment>
    <base64 of 32 bytes>
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import re
from dataclasses import dataclass, field

from aegis_tools.errors import TrustError

KEY_BYTES = 32
SIGNATURE_BYTES = 64
MAX_KEY_FILE = 4096
_PUBLIC = "aegis-ed25519"
_PRIVATE = "aegis-ed25519-private"
_COMMENT = re.compile(r"[\x20-\x7e]{0,128}")


class KeyFormatError(TrustError):
    """The text is not a key of ours."""

    code = "trust_key_format"


@dataclass(frozen=True)
class PublicKey:
    """A key that signatures are checked with.

    Args:
        raw: The 32 bytes of the point, as RFC 8032 encodes it.
        comment: Whose key it is; printable ASCII, at most 128 characters. Means nothing to the
            verifier.
    """

    raw: bytes
    comment: str = ""

    @property
    def keyid(self) -> str:
        """The SHA-256 of the raw key, 64 hex digits: computed here, never read from anywhere."""
        return hashlib.sha256(self.raw).hexdigest()

    def verify(self, message: bytes, signature: bytes) -> bool:
        """Tell whether ``signature`` (64 bytes) is this key's over ``message``."""
        from nacl.exceptions import BadSignatureError
        from nacl.signing import VerifyKey

        if len(signature) != SIGNATURE_BYTES:
            return False
        try:
            VerifyKey(self.raw).verify(message, signature)
        except BadSignatureError:
            return False
        return True

    def to_text(self) -> str:
        """Return the line of a ``.pub`` file."""
        return f"{_PUBLIC} {_b64(self.raw)} {self.comment}".rstrip() + "\n"

    @classmethod
    def from_text(cls, text: bytes) -> PublicKey:
        """Read a ``.pub`` file.

        Raises:
            KeyFormatError: Not one such line, or not a point that Ed25519 signs with.
        """
        words = _decode(text).rstrip("\n").split(" ", 2)
        if words[0].partition("\n")[0] == _PRIVATE:  # alone in its line where there is no comment
            raise KeyFormatError(
                "this is a private key where a public key belongs",
                hint="use the .pub file; a private key must never reach a managed host",
            )
        if len(words) < 2 or words[0] != _PUBLIC:
            raise _not_a_key("public")
        key = cls(_unb64(words[1], "public"), _comment(words[2] if len(words) > 2 else ""))
        if not _is_point(key.raw):
            raise _not_a_key("public")
        return key


@dataclass(frozen=True)
class PrivateKey:
    """A key that signs. Its seed appears in no ``repr``, message or log.

    Args:
        seed: 32 secret bytes.
        comment: As in ``PublicKey``.
    """

    seed: bytes = field(repr=False)
    comment: str = ""

    @classmethod
    def generate(cls, comment: str = "") -> PrivateKey:
        """Return a new key from the system's random numbers.

        Raises:
            KeyFormatError: The comment does not fit on the line of a key file.
        """
        from nacl.utils import random

        return cls(random(KEY_BYTES), _comment(comment))

    @property
    def public(self) -> PublicKey:
        """The key that verifies what this one signs."""
        from nacl.signing import SigningKey

        return PublicKey(bytes(SigningKey(self.seed).verify_key), self.comment)

    def sign(self, message: bytes) -> bytes:
        """Return the 64 bytes of the signature over ``message``."""
        from nacl.signing import SigningKey

        return bytes(SigningKey(self.seed).sign(message).signature)

    def to_text(self) -> str:
        """Return the content of a private key file. It is secret."""
        return f"{_PRIVATE} {self.comment}".rstrip() + f"\n{_b64(self.seed)}\n"

    @classmethod
    def from_text(cls, text: bytes) -> PrivateKey:
        """Read a private key file.

        Raises:
            KeyFormatError: Not two such lines. The message never quotes the file.
        """
        lines = _decode(text).split("\n")
        head, _, comment = lines[0].partition(" ")
        if head != _PRIVATE or len(lines) != 3 or lines[2]:
            raise _not_a_key("private")
        return cls(_unb64(lines[1], "private"), _comment(comment))


def _b64(data: bytes) -> str:
    return base64.b64encode(data).decode()


def _unb64(text: str, kind: str) -> bytes:
    try:
        raw = base64.b64decode(text, validate=True)
    except (binascii.Error, ValueError):
        raise _not_a_key(kind) from None
    if len(raw) != KEY_BYTES or _b64(raw) != text:
        raise _not_a_key(kind)
    return raw


def _decode(text: bytes) -> str:
    if len(text) > MAX_KEY_FILE or not text.isascii():
        raise KeyFormatError("this is not a key file", hint="make one with: aegisbpf keys generate")
    return text.decode("ascii")


def _comment(text: str) -> str:
    if not _COMMENT.fullmatch(text):
        raise KeyFormatError(
            "a key comment is one line of at most 128 printable ASCII characters",
            hint="name the owner, for example: security-team@example.org",
        )
    return text.strip()


def _is_point(raw: bytes) -> bool:
    """Refuse points of small order: they have signatures that verify for every message."""
    from nacl import bindings

    return bool(bindings.crypto_core_ed25519_is_valid_point(raw))


def _not_a_key(kind: str) -> KeyFormatError:
    return KeyFormatError(
        f"this is not a {kind} key, or the file is damaged",
        hint="make a pair with: aegisbpf keys generate",
    )
