#!/usr/bin/python
# SPDX-License-Identifier: Apache-2.0
"""Say what a host runs, enforces and trusts."""

from __future__ import annotations

DOCUMENTATION = r"""
module: aegisbpf_info
short_description: Say what a host runs, enforces and trusts
description:
  - Returns the document of C(aegisbpf status), and whether the live maps are what was applied.
  - Changes nothing. A host without the program is an answer, not an error.
version_added: "0.1.0"
author: Aegis Tools
options:
  program:
    description: Where the program is on the host.
    type: path
    default: /opt/aegisbpf/current/bin/aegisbpf
  verify_live:
    description: Also compare the live maps with what was applied.
    type: bool
    default: false
attributes:
  check_mode:
    description: Changes nothing anyway.
    support: full
  diff_mode:
    description: There is no difference to show.
    support: none
"""

EXAMPLES = r"""
- name: Ask a host
  aegisbpf_info:
  register: host

- name: Ask whether somebody changed a map by hand
  aegisbpf_info:
    verify_live: true
  register: host
"""

RETURN = r"""
installed:
  description: Whether the program is there.
  type: bool
  returned: always
status:
  description: The document of C(aegisbpf status --json).
  type: dict
  returned: when installed
live:
  description: The document of C(aegisbpf policy verify-live --json).
  type: dict
  returned: when installed and asked for
"""

from ansible.module_utils.aegisbpf_host import ARGUMENTS, run  # noqa: E402
from ansible.module_utils.basic import AnsibleModule  # noqa: E402


def work(host):
    """Ask."""
    if not host.installed:
        return {"changed": False, "installed": False}
    result = {"changed": False, "installed": True, "status": host.ask("status", codes=None)}
    if host.module.params["verify_live"] and result["status"].get("loaded"):
        result["live"] = host.ask("policy", "verify-live", codes=(9,))
    return result


def main():
    """Run."""
    spec = {"verify_live": {"type": "bool", "default": False}, **ARGUMENTS}
    run(AnsibleModule(spec, supports_check_mode=True), work)


if __name__ == "__main__":
    main()
