#!/usr/bin/python
# SPDX-License-Identifier: Apache-2.0
"""Say which of the runbook's scenarios a host is in."""

from __future__ import annotations

DOCUMENTATION = r"""
module: aegisbpf_diagnose
short_description: Say which of the runbook's scenarios a host is in
description:
  - Returns the document of C(aegisbpf diagnose), the findings with their evidence and the next
    command, the worst first.
  - Changes nothing. A host that is in trouble is an answer, not an error.
version_added: "0.1.0"
author: Aegis Tools
options:
  seconds:
    description: Between the two looks that rates are made of.
    type: int
    default: 1
  program:
    description: Where the program is on the host.
    type: path
    default: /opt/aegisbpf/current/bin/aegisbpf
attributes:
  check_mode:
    description: Changes nothing anyway.
    support: full
  diff_mode:
    description: There is no difference to show.
    support: none
"""

EXAMPLES = r"""
- name: What is wrong
  aegisbpf_diagnose:
  register: host
"""

RETURN = r"""
scenario:
  description: The worst one found; V(none) where none holds.
  type: str
  returned: always
severity:
  description: V(none), V(low), V(medium), V(high) or V(critical).
  type: str
  returned: always
scenarios:
  description: All that hold, the worst first.
  type: list
  elements: str
  returned: always
lines:
  description: The answer for a person.
  type: list
  elements: str
  returned: always
diagnosis:
  description: The document of C(aegisbpf diagnose --json).
  type: dict
  returned: always
"""

from ansible.module_utils.aegisbpf_host import ARGUMENTS, not_installed, run
from ansible.module_utils.basic import AnsibleModule

CODES = (8, 20, 21, 22, 23)
"""Exit codes that are an answer, besides 0."""


def work(host):
    """Ask."""
    if not host.installed:
        found = not_installed(host.module, "diagnose", changed=False)
        nothing = {"scenario": "none", "severity": "none", "scenarios": [], "lines": []}
        return {**nothing, "diagnosis": {}, **found}
    found = host.ask("diagnose", "--seconds", str(host.module.params["seconds"]), codes=CODES)
    return {
        "changed": False,
        "scenario": found["scenario"],
        "severity": found["severity"],
        "scenarios": [one["scenario"] for one in found["findings"]],
        "lines": list(lines(found)),
        "diagnosis": found,
    }


def lines(found):
    """Yield the answer for a person: a finding and its next command a line."""
    for one in found["findings"]:
        head = one["severity"].upper() + "  " + one["scenario"]
        yield head + ": " + one["summary"] + "; next: " + one["command"]
    if not found["findings"]:
        yield "none"
    for one in found["notes"]:
        yield "also: " + one["text"]
    for one in found["unknown"]:
        yield "not known: " + one


def main():
    """Run."""
    spec = {
        "seconds": {"type": "int", "default": 1},
        **ARGUMENTS,
    }
    run(AnsibleModule(spec, supports_check_mode=True), work)


if __name__ == "__main__":
    main()
