#!/usr/bin/python
# SPDX-License-Identifier: Apache-2.0
"""Deny files by hand, or no longer."""

from __future__ import annotations

DOCUMENTATION = r"""
module: aegisbpf_block
short_description: Deny files by hand, or no longer
description:
  - Adds or removes rules beside the policy, for a hurry. An apply keeps them and shows them as made
    by hand.
version_added: "0.1.0"
author: Aegis Tools
options:
  paths:
    description: The files, on the host.
    type: list
    elements: path
    required: true
  state:
    description: Whether they are to be denied.
    type: str
    choices: [present, absent]
    default: present
  confirm_within:
    description: Undo the change unless M(aegisbpf_policy) confirms it in time, as V(120s) or V(5m).
    type: str
  lockout:
    description: >-
      Although the lockout proof refuses it. Works with O(confirm_within) only, and is logged on the
      host.
    type: bool
    default: false
  program:
    description: Where the program is on the host.
    type: path
    default: /opt/aegisbpf/current/bin/aegisbpf
attributes:
  check_mode:
    description: Says what it would change, and changes nothing.
    support: full
  diff_mode:
    description: The paths that are added or removed.
    support: full
"""

EXAMPLES = r"""
- name: Deny a file everywhere, now
  aegisbpf_block:
    paths: [/usr/local/bin/miner]

- name: Deny a file, to be confirmed within two minutes over a new connection
  aegisbpf_block:
    paths: [/usr/bin/curl]
    confirm_within: 120s

- name: No longer
  aegisbpf_block:
    paths: [/usr/local/bin/miner]
    state: absent
"""

RETURN = r"""
rules:
  description: What became of each path, as C(aegisbpf block --json) says it.
  type: list
  elements: dict
  returned: when loaded
pending:
  description: The change that waits for a confirmation.
  type: dict
  returned: where one does
"""

from ansible.module_utils.aegisbpf_host import (
    ARGUMENTS,
    HostError,
    diff,
    not_installed,
    run,
)
from ansible.module_utils.basic import AnsibleModule


def work(host):
    """Add or remove."""
    module, params = host.module, host.module.params
    if not any(params["paths"]):
        raise HostError({"message": "no file is named", "hint": "set aegisbpf_block_paths",
                         "error": "usage"})  # fmt: skip
    if not host.installed:
        return not_installed(module, "change what is denied by hand")
    more = ["--confirm-within", params["confirm_within"]]
    more = more if params["confirm_within"] is not None else []
    more += ["--i-know-this-locks-me-out"] if params["lockout"] else []
    more += ["--dry-run"] if module.check_mode else []
    if params["state"] == "present":
        return add(host, params["paths"], more)
    return remove(host, params["paths"], more)


def add(host, paths, more):
    """Deny."""
    done = host.ask("block", "add", *more, "--", *paths)
    new = [rule["target"] for rule in done["rules"] if rule["state"] in ("added", "changed")]
    return {"changed": bool(new), "rules": done["rules"], "pending": done.get("pending"),
            "diff": diff("", text(new), "denied")}  # fmt: skip


def remove(host, paths, more):
    """Deny no longer; that nothing does is what is wanted. The program knows a path's spellings."""
    done = host.ask("block", "del", "--missing-ok", *more, "--", *paths)
    gone = [rule["target"] for rule in done["removed"]]
    return {"changed": bool(gone), "rules": done["removed"], "pending": done.get("pending"),
            "diff": diff(text(gone), "", "denied")}  # fmt: skip


def text(paths):
    """Return a path a line."""
    return "".join(path + "\n" for path in paths)


def main():
    """Run."""
    spec = {
        "paths": {"type": "list", "elements": "path", "required": True},
        "state": {"type": "str", "choices": ["present", "absent"], "default": "present"},
        "confirm_within": {"type": "str"},
        "lockout": {"type": "bool", "default": False},
        **ARGUMENTS,
    }
    run(AnsibleModule(spec, supports_check_mode=True), work)


if __name__ == "__main__":
    main()
