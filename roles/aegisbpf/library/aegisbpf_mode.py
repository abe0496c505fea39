#!/usr/bin/python
# SPDX-License-Identifier: Apache-2.0
"""Switch a host between audit and enforce."""

from __future__ import annotations

DOCUMENTATION = r"""
module: aegisbpf_mode
short_description: Switch a host between audit and enforce
description:
  - Sets the mode, live. It stays over a reboot once it is confirmed, or at once without
    O(confirm_within).
  - A host that cannot enforce, is held in audit, or whose live rules would lock everybody out
    refuses V(enforce).
version_added: "0.1.0"
author: Aegis Tools
options:
  mode:
    description: The mode.
    type: str
    choices: [audit, enforce]
    required: true
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
    description: The mode before and after.
    support: full
"""

EXAMPLES = r"""
- name: Enforce, to be confirmed within two minutes
  aegisbpf_mode:
    mode: enforce
    confirm_within: 120s

- name: Stop refusing anything, now and for good
  aegisbpf_mode:
    mode: audit
"""

RETURN = r"""
mode:
  description: The document of C(aegisbpf mode --json), after the change.
  type: dict
  returned: when loaded
"""

from ansible.module_utils.aegisbpf_host import (
    ARGUMENTS,
    HostError,
    diff,
    not_installed,
    run,
)
from ansible.module_utils.basic import AnsibleModule

FRESH = "audit"
"""The mode of a host on which nothing was set yet."""


def work(host):
    """Set the mode where it is another one."""
    module, params = host.module, host.module.params
    wanted = params["mode"]
    if not host.installed:
        return not_installed(module, "mode " + wanted, changed=wanted != FRESH)
    try:
        before = host.ask("mode")
    except HostError as error:
        if module.check_mode and error.facts.get("error") == "not_loaded":
            return {"changed": wanted != FRESH, "msg": "once loaded: mode " + wanted}
        raise
    result = {
        "changed": before["mode"] != wanted,
        "mode": before,
        "diff": diff(before["mode"] + "\n", wanted + "\n", "mode"),
    }
    if module.check_mode or not result["changed"]:
        return result
    words = [wanted]
    if params["confirm_within"] is not None:
        words += ["--confirm-within", params["confirm_within"]]
    if params["lockout"]:
        words.append("--i-know-this-locks-me-out")
    return {**result, "mode": host.ask("mode", *words)}


def main():
    """Run."""
    spec = {
        "mode": {"type": "str", "choices": ["audit", "enforce"], "required": True},
        "confirm_within": {"type": "str"},
        "lockout": {"type": "bool", "default": False},
        **ARGUMENTS,
    }
    run(AnsibleModule(spec, supports_check_mode=True), work)


if __name__ == "__main__":
    main()
