#!/usr/bin/python
# SPDX-License-Identifier: Apache-2.0
"""Let a host trust exactly these public keys."""

from __future__ import annotations

DOCUMENTATION = r"""
module: aegisbpf_keys
short_description: Let a host trust exactly these public keys
description:
  - Adds the keys that are missing, sets how many must sign and for which group the host takes
    bundles, then removes the others. In this order the host accepts somebody's bundles at every
    instant.
  - A key without which the host's current policy would not be accepted at the next boot is not
    removed; see the playbook C(rotate_keys.yml).
  - Public keys only. Private keys never leave the controller.
version_added: "0.1.0"
author: Aegis Tools
options:
  keys:
    description: >-
      The public keys, each the one line that C(aegisbpf keys generate) wrote into its C(.pub) file.
    type: list
    elements: str
    required: true
  threshold:
    description: How many of them must sign a bundle. Without it, what the host asks for stays.
    type: int
  group:
    description: Bundles for this group are for this host. Without it, the group stays.
    type: str
  force:
    description: Remove a key although the current policy needs it, as where it was stolen.
    type: bool
    default: false
  exclusive:
    description: Remove the keys that are not named.
    type: bool
    default: true
  program:
    description: Where the program is on the host.
    type: path
    default: /opt/aegisbpf/current/bin/aegisbpf
attributes:
  check_mode:
    description: Says what it would change, and changes nothing.
    support: full
  diff_mode:
    description: Key ids, threshold and group before and after.
    support: full
"""

EXAMPLES = r"""
- name: Two of three people must sign
  aegisbpf_keys:
    keys: "{{ query('ansible.builtin.file', 'keys/ann.pub', 'keys/bob.pub', 'keys/eve.pub') }}"
    threshold: 2
    group: web
"""

RETURN = r"""
keyids:
  description: The ids of the trusted keys.
  type: list
  elements: str
  returned: always
signers:
  description: The ids of trusted keys that signed the policy which the next boot applies.
  type: list
  elements: str
  returned: when a signed policy was applied
threshold:
  description: How many must sign.
  type: int
  returned: when installed
"""

import base64
import binascii
import hashlib
import tempfile
from pathlib import Path

from ansible.module_utils.aegisbpf_host import (
    ARGUMENTS,
    HostError,
    diff,
    not_installed,
    run,
)
from ansible.module_utils.basic import AnsibleModule


def keyid(text):
    """Return a public key's id: the SHA-256 of its 32 bytes."""
    try:
        return hashlib.sha256(base64.b64decode(text.split()[1], validate=True)).hexdigest()
    except (IndexError, binascii.Error):
        raise HostError(
            {"message": "this is no public key: " + text[:60], "error": "trust"}
        ) from None


def work(host):
    """Add, set, remove."""
    module, params = host.module, host.module.params
    wanted = {keyid(text): text for text in params["keys"]}
    if not host.installed:
        return not_installed(module, "trust keys")
    trust = host.ask("keys", "list")
    there = {key["keyid"] for key in trust["keys"]}
    gone = sorted(there - set(wanted)) if params["exclusive"] else []
    stay = sorted((there | set(wanted)) - set(gone))
    settings = {name: trust[name] for name in ("threshold", "group")}
    new = {name: params[name] or settings[name] for name in settings}
    result = {
        "changed": bool(set(wanted) - there or gone or settings != new),
        "keyids": stay,
        "signers": trust["signers"],
        "threshold": new["threshold"],
        "diff": diff(text_of(there, settings), text_of(stay, new), "trust"),
    }
    if not module.check_mode and result["changed"]:
        for name in sorted(set(wanted) - there):
            add(host, wanted[name])
        host.ask("keys", "trust", "--threshold", str(new["threshold"]), "--group", new["group"])
        for name in gone:
            host.ask("keys", "remove", *(["--force"] if params["force"] else []), name)
    return result


def add(host, text):
    """Trust one key."""
    with tempfile.TemporaryDirectory(dir=host.module.tmpdir) as folder:
        path = Path(folder, "key.pub")
        path.write_text(text.strip() + "\n", encoding="utf-8")
        host.ask("keys", "add", str(path))


def text_of(keyids, settings):
    """Return what ``--diff`` compares."""
    lines = [f"{settings['threshold']} must sign, group {settings['group']}"]
    return "\n".join([*lines, *sorted(keyids)]) + "\n"


def main():
    """Run."""
    spec = {
        "keys": {"type": "list", "elements": "str", "required": True, "no_log": False},
        "threshold": {"type": "int"},
        "group": {"type": "str"},
        "force": {"type": "bool", "default": False},
        "exclusive": {"type": "bool", "default": True},
        **ARGUMENTS,
    }
    run(AnsibleModule(spec, supports_check_mode=True), work)


if __name__ == "__main__":
    main()
