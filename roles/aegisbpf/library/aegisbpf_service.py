#!/usr/bin/python
# SPDX-License-Identifier: Apache-2.0
"""Install, start or remove the systemd units of a host."""

from __future__ import annotations

DOCUMENTATION = r"""
module: aegisbpf_service
short_description: Install, start or remove the systemd units of a host
description:
  - The units that load and apply the stored policy at boot, run the agent, and serve metrics on
    loopback.
  - Removing them stops the agent and ends nothing that the kernel enforces; see M(aegisbpf_reset).
version_added: "0.1.0"
author: Aegis Tools
options:
  state:
    description: >-
      V(started) writes the units, enables and starts them; V(absent) stops and removes them.
    type: str
    choices: [started, absent]
    default: started
  agent_options:
    description: >-
      Options of C(aegisbpf run) for the agent, in a drop-in of ours. An empty list removes the
      drop-in.
    type: list
    elements: str
    default: []
  restart:
    description: >-
      Start them anew even where nothing changed. Where a process of ours runs another version than
      the one in use, that is done anyway.
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
    description: The files that are written or removed.
    support: full
"""

EXAMPLES = r"""
- name: Run the agent, and hold the host in audit at 50 refusals a second
  aegisbpf_service:
    agent_options: [--deny-rate-threshold, "50"]
"""

RETURN = r"""
units:
  description: What systemd said of the units before.
  type: dict
  returned: when installed
monitors:
  description: Whether the monitors' agent ran, or was to start at boot.
  type: bool
  returned: when installed
"""

from pathlib import Path

from ansible.module_utils.aegisbpf_host import (
    ARGUMENTS,
    diff,
    not_installed,
    read,
    run,
)
from ansible.module_utils.basic import AnsibleModule

MONITORS = "aegis-monitors.service"
DROP_IN = Path("/etc/systemd/system/aegisbpf.service.d/50-ansible.conf")


def quote(word):
    """Return a word as systemd reads it: quoted, nothing expanded (systemd.syntax(7))."""
    for char, escaped in (("\\", "\\\\"), ('"', '\\"'), ("%", "%%"), ("$", "$$")):
        word = word.replace(char, escaped)
    return '"' + word + '"'


def drop_in(program, options):
    """Return the drop-in's text; empty without options."""
    if not options:
        return ""
    words = " ".join(quote(word) for word in options)
    return (
        "# Written by Ansible.\n[Service]\nExecStart=\nExecStart="
        + program
        + " run "
        + words
        + "\n"
    )


def write(module, path, text):
    """Put the drop-in there, or away."""
    if not text:
        path.unlink()
        return
    path.parent.mkdir(mode=0o755, parents=True, exist_ok=True)
    fresh = Path(module.tmpdir, "drop-in")
    fresh.write_text(text, encoding="utf-8")
    fresh.chmod(0o644)
    module.atomic_move(str(fresh), str(path))


def outdated(module, program):
    """Return the units whose process is of another version than the one in use."""
    version = str(Path(program).parent.parent.resolve())
    found = []
    for unit in ("aegisbpf.service", "aegisbpf-metrics.service", MONITORS):
        _, out, _ = module.run_command(["systemctl", "show", "--property=MainPID", "--value", unit])
        python = read("/proc/" + out.strip() + "/cmdline").split("\0")[0]
        if "/versions/" in python and not python.startswith(version + "/"):
            found.append(unit)
    return found


def work(host):
    """Install or remove."""
    module, params = host.module, host.module.params
    if params["state"] == "absent":
        return remove(host)
    if not host.installed:
        return not_installed(module, "install the units")
    files = host.ask("service", "install", "--dry-run")["files"]
    status = host.ask("service", "status", codes=(6,))
    old, new = read(DROP_IN), drop_in(host.program, params["agent_options"])
    new_files = [file["path"] for file in files if file["action"] != "keep"]
    enabled = all(unit.get("UnitFileState") == "enabled" for unit in status["units"].values())
    agent = status.get("optional", {}).get(MONITORS, {})
    result = {
        "monitors": "active" in agent.values() or "enabled" in agent.values(),
        "changed": bool(new_files or old != new or not status["running"] or not enabled
                        or params["restart"] or outdated(module, host.program)),
        "units": status["units"],
        "diff": diff(old, "".join(path + "\n" for path in new_files) + new, "units"),
    }  # fmt: skip
    if result["changed"] and not module.check_mode:
        if old != new:
            write(module, DROP_IN, new)
            module.run_command(["systemctl", "daemon-reload"], check_rc=True)
        host.ask("service", "install", "--now")
    return result


def remove(host):
    """Remove units and drop-in."""
    module = host.module
    files = host.ask("service", "remove", "--dry-run")["files"] if host.installed else []
    old = read(DROP_IN)
    gone = "".join(file["path"] + "\n" for file in files if file["action"] == "remove")
    result = {"changed": bool(gone or old), "diff": diff(gone + old, "", "units")}
    if result["changed"] and not module.check_mode:
        if gone:
            host.ask("service", "remove")
        if old:
            write(module, DROP_IN, "")
            module.run_command(["systemctl", "daemon-reload"], check_rc=True)
    return result


def main():
    """Run."""
    spec = {
        "state": {"type": "str", "choices": ["started", "absent"], "default": "started"},
        "agent_options": {"type": "list", "elements": "str", "default": []},
        "restart": {"type": "bool", "default": False},
        **ARGUMENTS,
    }
    run(AnsibleModule(spec, supports_check_mode=True), work)


if __name__ == "__main__":
    main()
