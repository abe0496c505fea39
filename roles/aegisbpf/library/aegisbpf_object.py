#!/usr/bin/python
# SPDX-License-Identifier: Apache-2.0
"""Let the kernel run the programs of the version in use."""

from __future__ import annotations

DOCUMENTATION = r"""
module: aegisbpf_object
short_description: Let the kernel run the programs of the version in use
description:
  - Where the kernel runs the BPF programs of another version, attaches those of this one beside
    them, with the live policy, and only then detaches the old ones. What is refused is refused at
    every instant.
  - Programs that the kernel does not accept change nothing. Killed at any instant, one whole set
    goes on, and the next run finishes.
  - A host on which nothing is loaded is left so.
version_added: "0.1.0"
author: Aegis Tools
options:
  program:
    description: Where the program is on the host.
    type: path
    default: /opt/aegisbpf/current/bin/aegisbpf
attributes:
  check_mode:
    description: Says whether it would replace them, and replaces nothing.
    support: full
  diff_mode:
    description: The digest of the object before and after.
    support: full
"""

EXAMPLES = r"""
- name: After another version was installed
  aegisbpf_object:
"""

RETURN = r"""
object:
  description: Digests of the object that was loaded and of this version's.
  type: dict
  returned: when loaded
maps:
  description: >-
    V(kept) where the programs go on with the maps there are, V(new) where they need others, which
    hold the same policy.
  type: str
  returned: when loaded
"""

from ansible.module_utils.aegisbpf_host import ARGUMENTS, diff, not_installed, run
from ansible.module_utils.basic import AnsibleModule


def work(host):
    """Replace them, where they are others."""
    if not host.installed:
        return not_installed(host.module, "replace the programs that are loaded")
    if not host.ask("status", codes=None).get("loaded"):
        return {"changed": False, "msg": "nothing is loaded"}
    more = ["--dry-run"] if host.module.check_mode else []
    done = host.ask("load", "--replace", *more)
    names = done["object"]
    return {
        "changed": done["would_change"],
        "object": names,
        "maps": done["maps"],
        "diff": diff(names["before"] + "\n", names["after"] + "\n", "object"),
    }


def main():
    """Run."""
    spec = {**ARGUMENTS}
    run(AnsibleModule(spec, supports_check_mode=True), work)


if __name__ == "__main__":
    main()
