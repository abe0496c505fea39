# SPDX-License-Identifier: Apache-2.0
"""Read what is on the controller as hosts do: keys, bundles, archives, and the sizes of waves."""

from __future__ import annotations

import re
from pathlib import Path

from ansible.errors import AnsibleFilterError


def here(value, variable, search=()):
    """Return where a file on the controller is.

    A relative path begins where the operator stands, as any command's does, and else where Ansible
    looks (below the playbook). What names two files is refused: the wrong policy is a policy, too.

    Args:
        value: The path; nothing is returned for none.
        variable: Which says it.
        search: The folders in which Ansible looks.
    """
    if not value:
        return value
    folders = ["", *(part for folder in search for part in (f"{folder}/files", folder))]
    places = [Path.cwd() / folder / Path(value).expanduser() for folder in folders]
    found = {}
    for place in filter(Path.exists, places):
        found.setdefault(place.resolve(), place)
    if len(found) == 1:
        return str(*found.values())
    told = "names two files:" if found else "there is no"
    shown = ", ".join(map(str, found.values() or dict.fromkeys(places)))
    raise AnsibleFilterError(f"{variable}={value}: {told} {shown}; next: write the whole path")


def names(value):
    """Return a list of files, which ``-e`` gives as text with commas, as Ansible's modules do."""
    return [name.strip() for name in value.split(",")] if isinstance(value, str) else value


def public(texts):
    """Return the texts of public keys; anything else does not leave the controller."""
    for text in texts:
        keyid(text)
    return texts


def archive(text):
    """Return the SHA-256 that the file beside a wheelhouse says."""
    word = (text.split() or [""])[0]
    if not re.fullmatch("[0-9a-f]{64}", word):
        raise AnsibleFilterError(
            "no wheelhouse: aegisbpf_wheelhouse must name an archive of scripts/build-wheelhouse, "
            "with the .sha256 that was made with it beside it"
        )
    return word


def serial(value):
    """Return aegisbpf_waves for ``serial``, which takes 0 for everybody at once."""
    from aegis_tools.rollout.waves import parse_sizes

    try:
        return parse_sizes(value)
    except ValueError as error:
        raise AnsibleFilterError(f"aegisbpf_waves: {error}") from None


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
        return {"aegisbpf_keyid": keyid, "aegisbpf_digest": digest, "aegisbpf_names": names,
                "aegisbpf_here": here,
                "aegisbpf_public": public, "aegisbpf_archive": archive,
                "aegisbpf_serial": serial}  # fmt: skip
