"""Signers that hold no key of ours: a command that signs, as a KMS, an HSM or a smart card has one.

It is given the bytes to sign (the pre-authentication encoding of ``dsse``) on standard input and
prints the signature: 64 raw bytes, or their base64. Whatever it prints is checked with the public
key before it is used.
"""

from __future__ import annotations

import base64
import binascii
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Protocol

from aegis_tools.errors import TrustError
from aegis_tools.policy.keys import SIGNATURE_BYTES, PublicKey

Run = Callable[[Sequence[str], bytes], bytes]
"""Runs a program with standard input and returns its standard output."""


class Signer(Protocol):
    """What signs: a private key, or somebody who has it."""

    @property
    def public(self) -> PublicKey:
        """The key that verifies."""

    def sign(self, message: bytes) -> bytes:
        """Return the 64 bytes of the signature over ``message``."""


@dataclass(frozen=True)
class CommandSigner:
    """A command that signs.

    Attributes:
        public: The key that verifies what it signs.
        argv: The program and its arguments.
        run: Starts it.
    """

    public: PublicKey
    argv: tuple[str, ...]
    run: Run

    def sign(self, message: bytes) -> bytes:
        """Ask the command.

        Raises:
            TrustError: What it printed is no signature of this key over the message.
        """
        printed = self.run(self.argv, message)
        for signature in (printed, _from_base64(printed)):
            if len(signature) == SIGNATURE_BYTES and self.public.verify(message, signature):
                return signature
        raise TrustError(
            f"the signing command gave no valid signature of key {self.public.keyid[:16]}",
            hint="it reads the message on stdin and prints an Ed25519 signature, raw or base64",
        )


def _from_base64(text: bytes) -> bytes:
    try:
        return base64.b64decode(text.strip(), validate=True)
    except binascii.Error:
        return b""
