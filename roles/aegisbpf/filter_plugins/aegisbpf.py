# SPDX-License-Identifier: Apache-2.0
"""Name what is on the controller as hosts do: a key by its id, a bundle by its digest."""

from __future__ import annotations

from ansible.errors import AnsibleFilterError


def keyid(text):
    """Return the id of a public key, from the text of its file."""
    from aegis_tools.errors import AegisError
    from aegis_tools.policy.keys import PublicKey

    try:
        return PublicKey.from_text(text.encode()).keyid
    except AegisError as error:
        raise AnsibleFilterError(error.message) from None


def digest(text):
    """Return the digest of a bundle or an unsigned policy, from the whole text of its file."""
    from aegis_tools.control.source import is_bundle
    from aegis_tools.errors import AegisError
    from aegis_tools.policy.bundle import digest_of
    from aegis_tools.policy.dsse import Envelope

    data = text.encode()
    try:
        return digest_of(Envelope.from_bytes(data).payload if is_bundle(data) else data)
    except AegisError as error:
        raise AnsibleFilterError(error.message) from None


class FilterModule:
    """What the role's templates use."""

    def filters(self):
        """Return filters by their names."""
        return {"aegisbpf_keyid": keyid, "aegisbpf_digest": digest}
