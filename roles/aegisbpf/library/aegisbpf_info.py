#!/usr/bin/python
# SPDX-License-Identifier: Apache-2.0
"""Say what a host runs, enforces and trusts."""

from __future__ import annotations

DOCUMENTATION = r"""
module: aegisbpf_info
short_description: Say what a host runs, enforces and trusts
description:
  - Returns the document of C(aegisbpf status), and whether the host can run the program at all.
  - Changes nothing. A host without the program is an answer, not an error.
version_added: "0.1.0"
author: Aegis Tools
options:
  verify_live:
    description: Also compare the live maps with what was applied.
    type: bool
    default: false
  boot:
    description: >-
      Also say what asking for the BPF security module would change in the boot configuration;
      V(merged) builds on an C(lsm=) that others set.
    type: str
    choices: [enabled, merged]
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
- name: Ask a host
  aegisbpf_info:
  register: host

- name: Ask whether somebody changed a map by hand
  aegisbpf_info:
    verify_live: true
  register: host
"""

RETURN = r"""
supported:
  description: >-
    Whether this system can load BPF security programs, after a boot with them if need be.
  type: bool
  returned: always
reasons:
  description: Why it cannot.
  type: list
  elements: str
  returned: always
lacks:
  description: Programs of the distribution that are not there yet.
  type: list
  elements: str
  returned: always
installed:
  description: Whether the program is there.
  type: bool
  returned: always
version:
  description: The SHA-256 of the installed wheelhouse's archive; empty without one.
  type: str
  returned: always
status:
  description: The document of C(aegisbpf status --json).
  type: dict
  returned: when installed
boot:
  description: The document of C(aegisbpf lsm enable --dry-run --json), or of its refusal.
  type: dict
  returned: when installed and asked for
live:
  description: The document of C(aegisbpf policy verify-live --json).
  type: dict
  returned: when loaded and asked for
"""

import os
import shutil
from pathlib import Path

from ansible.module_utils.aegisbpf_host import ARGUMENTS, read, run
from ansible.module_utils.basic import AnsibleModule

VERSION = "/opt/aegisbpf/current/.complete"
CONTAINER = "/run/systemd/container"
BTF = "/sys/kernel/btf/vmlinux"
NEEDED = ("bpftool",)
SEARCH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"


def missing():
    """Return why this system cannot load our programs."""
    found = []
    if os.geteuid() != 0:
        found.append("this needs root: set become")
    if Path(CONTAINER).exists():
        found.append("this is a container: manage its host")
    if not Path(BTF).exists():
        found.append("the kernel does not describe its types (CONFIG_DEBUG_INFO_BTF)")
    options = read("/boot/config-" + os.uname().release)
    if options and "\nCONFIG_BPF_LSM=y\n" not in options:
        found.append("the kernel was built without CONFIG_BPF_LSM")
    return found


def merge(host):
    """Return the option to build on the list of others."""
    return ["--merge"] if host.module.params["boot"] == "merged" else []


def work(host):
    """Ask."""
    reasons = missing()
    result = {
        "changed": False,
        "installed": host.installed,
        "version": read(VERSION),
        "supported": not reasons,
        "reasons": reasons,
        "lacks": [name for name in NEEDED if not shutil.which(name, path=SEARCH)],
    }
    if host.installed:
        result["status"] = host.status()
        if host.module.params["verify_live"] and result["status"].get("loaded"):
            result["live"] = host.ask("policy", "verify-live", codes=(9,))
        if host.module.params["boot"]:
            result["boot"] = host.ask("lsm", "enable", "--dry-run", *merge(host), codes=None)
    return result


def main():
    """Run."""
    spec = {
        "verify_live": {"type": "bool", "default": False},
        "boot": {"type": "str", "choices": ["enabled", "merged"]},
        **ARGUMENTS,
    }
    run(AnsibleModule(spec, supports_check_mode=True), work)


if __name__ == "__main__":
    main()
