#!/usr/bin/python
# SPDX-License-Identifier: Apache-2.0
"""Let the next boot of a host have the BPF security module, or no longer."""

from __future__ import annotations

DOCUMENTATION = r"""
module: aegisbpf_boot
short_description: Let the next boot of a host have the BPF security module, or no longer
description:
  - Merges C(bpf) into the list of security modules in an owned drop-in of the boot loader; never
    replaces the list.
  - No change where it is active already. Refuses where another file sets C(lsm=), unless told to
    merge.
  - Never reboots; says whether one is needed.
version_added: "0.1.0"
author: Aegis Tools
options:
  state:
    description:
      - V(enabled) puts it there, V(disabled) takes ours away again, byte for byte.
      - V(verified) changes nothing and fails unless pending, active and working agree, and no
        module was lost.
    type: str
    choices: [enabled, disabled, verified]
    default: enabled
  merge:
    description: Merge with an C(lsm=) that another file sets, instead of refusing.
    type: bool
    default: false
  loader:
    description: Whose configuration is changed; V(found) takes the one that the host has.
    type: str
    choices: [found, grub, grubby]
    default: found
  program:
    description: Where the program is on the host.
    type: path
    default: /opt/aegisbpf/current/bin/aegisbpf
attributes:
  check_mode:
    description: Says what it would change, and changes nothing.
    support: full
  diff_mode:
    description: The drop-in before and after.
    support: full
"""

EXAMPLES = r"""
- name: Ask for the BPF security module
  aegisbpf_boot:
  register: boot

- name: Reboot where it takes one
  ansible.builtin.reboot:
  when: boot.reboot_needed
"""

RETURN = r"""
reboot_needed:
  description: Whether the host must boot for what is configured to be active.
  type: bool
  returned: when installed
lsm:
  description: The document of C(aegisbpf lsm --json).
  type: dict
  returned: when installed
"""

from ansible.module_utils.aegisbpf_host import ARGUMENTS, not_installed, read, run
from ansible.module_utils.basic import AnsibleModule

ACTIVE = "/sys/kernel/security/lsm"
WORDS = {
    "enabled": ("lsm", "enable"),
    "disabled": ("lsm", "disable"),
    "verified": ("lsm", "status", "--verify-boot"),
}


def work(host):
    """Let the program decide and do it."""
    module, state = host.module, host.module.params["state"]
    if not host.installed:
        active = "bpf" in read(ACTIVE).strip().split(",")
        return not_installed(module, "boot configuration", changed=not active)
    words = [*WORDS[state]]
    if module.params["loader"] != "found":
        words += ["--loader", module.params["loader"]]
    if state == "enabled" and module.params["merge"]:
        words.append("--merge")
    if state != "verified" and module.check_mode:
        words.append("--dry-run")
    found = host.ask(*words)
    for text in found.get("warnings", []):
        module.warn(text)
    return {
        "changed": bool(found.get("changed")),
        "reboot_needed": found["reboot_needed"],
        "lsm": found,
        "diff": found.get("diff", {}),
    }


def main():
    """Run."""
    spec = {
        "state": {"type": "str", "choices": list(WORDS), "default": "enabled"},
        "merge": {"type": "bool", "default": False},
        "loader": {"type": "str", "choices": ["found", "grub", "grubby"], "default": "found"},
        **ARGUMENTS,
    }
    run(AnsibleModule(spec, supports_check_mode=True), work)


if __name__ == "__main__":
    main()
