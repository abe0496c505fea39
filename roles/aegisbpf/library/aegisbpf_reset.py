#!/usr/bin/python
# SPDX-License-Identifier: Apache-2.0
"""Remove everything of ours from the kernel of a host."""

from __future__ import annotations

DOCUMENTATION = r"""
module: aegisbpf_reset
short_description: Remove everything of ours from the kernel of a host
description:
  - Detaches all hooks, removes all pins, and proves that nothing is denied any more. The way out
    that always works.
  - Files, keys and units stay; the next boot, or C(aegisbpf boot), brings the stored policy back.
version_added: "0.1.0"
author: Aegis Tools
options:
  program:
    description: Where the program is on the host.
    type: path
    default: /opt/aegisbpf/current/bin/aegisbpf
attributes:
  check_mode:
    description: Says what it would remove, and removes nothing.
    support: full
  diff_mode:
    description: The pins that are removed.
    support: full
"""

EXAMPLES = r"""
- name: End all enforcement
  aegisbpf_reset:
"""

RETURN = r"""
report:
  description: The document of C(aegisbpf reset --json).
  type: dict
  returned: when anything was loaded
"""

from pathlib import Path

from ansible.module_utils.aegisbpf_host import ARGUMENTS, HostError, diff, run
from ansible.module_utils.basic import AnsibleModule

PINS = "/sys/fs/bpf/aegis"


def work(host):
    """Remove what is there."""
    if not host.installed:
        if Path(PINS).is_dir():
            raise HostError({"message": "the program is gone, but its pins are there: " + PINS,
                          "hint": "install it again, or by hand: rm -rf " + PINS})  # fmt: skip
        return {"changed": False}
    there = host.ask("reset", "--dry-run")["would_remove"]
    pins = [part + "/" + name for part in sorted(there) for name in there[part]]
    result = {"changed": bool(pins), "diff": diff("".join(p + "\n" for p in pins), "", "pins")}
    if not pins or host.module.check_mode:
        return result
    return {**result, "report": host.ask("reset")}


def main():
    """Run."""
    run(AnsibleModule(dict(ARGUMENTS), supports_check_mode=True), work)


if __name__ == "__main__":
    main()
