#!/usr/bin/python
# SPDX-License-Identifier: Apache-2.0
"""Run the monitors of a host, or none of them."""

from __future__ import annotations

DOCUMENTATION = r"""
module: aegisbpf_monitors
short_description: Run the monitors of a host, or none of them
description:
  - Writes which monitors are wanted, and has the monitors' agent load them, store what they tell,
    watch the limits of profiles and notify.
  - Only what is asked for is loaded. A monitor that somebody loaded by hand is left alone.
  - Fails where a monitor that is asked for is not loaded and attached in the end.
version_added: "0.1.0"
author: Aegis Tools
options:
  state:
    description: >-
      V(started) writes the settings, enables and starts the agent; V(stopped) ends it, which
      unloads what it has loaded, and removes the settings. What was stored stays.
    type: str
    choices: [started, stopped]
    default: started
  monitors:
    description: >-
      The monitors, by name, each with its options: those of C(aegisbpf monitor load), such as
      C(min_bytes). None of them for limits alone.
    type: dict
    default: {}
  stored:
    description: Whether what they tell is stored.
    type: bool
    default: true
  store:
    description: How much is kept of it; C(keep), C(keep_hourly) and C(keep_size).
    type: dict
    default: {}
  patience:
    description: Seconds that loading may take.
    type: int
    default: 60
  program:
    description: Where the program is on the host.
    type: path
    default: /opt/aegisbpf/current/bin/aegisbpf
attributes:
  check_mode:
    description: Says what it would change, and changes nothing.
    support: full
  diff_mode:
    description: The settings.
    support: full
"""

EXAMPLES = r"""
- name: See slow disks, and programs that begin and end
  aegisbpf_monitors:
    monitors:
      disk-io-monitor: {}
      process-monitor: {}
    store: {keep: 30d, keep_size: 4G}
"""

RETURN = r"""
monitors:
  description: What C(aegisbpf monitor status) says of the monitors that were asked for.
  type: list
  elements: dict
  returned: when started
"""

import json
import time
from pathlib import Path

from ansible.module_utils.aegisbpf_host import (
    ARGUMENTS,
    HostError,
    diff,
    not_installed,
    read,
    run,
)
from ansible.module_utils.basic import AnsibleModule

SETTINGS = Path("/etc/aegisbpf/monitors.json")
UNIT = "aegis-monitors.service"


def settings(params):
    """Return the text of the settings; empty where nothing is to run."""
    if params["state"] == "stopped":
        return ""
    wanted = {
        "version": 1,
        "monitors": {name: options or {} for name, options in params["monitors"].items()},
        "store": params["store"] if params["stored"] else None,
    }
    return json.dumps(wanted, indent=1, sort_keys=True) + "\n"


def write(module, text):
    """Put the settings there, or away."""
    if not text:
        SETTINGS.unlink(missing_ok=True)
        return
    SETTINGS.parent.mkdir(mode=0o755, parents=True, exist_ok=True)
    fresh = Path(module.tmpdir, SETTINGS.name)
    fresh.write_text(text, encoding="utf-8")
    fresh.chmod(0o600)
    module.atomic_move(str(fresh), str(SETTINGS))


def asked(host):
    """Return what the kernel holds of the monitors that are asked for."""
    wanted = host.module.params["monitors"]
    return [
        one
        for one in host.ask("monitor", "status")["monitors"]
        if one["monitor"] in wanted or one["monitor"].removesuffix("-monitor") in wanted
    ]


def missing(found):
    """Return the names of those that see nothing."""
    return sorted(one["monitor"] for one in found if not (one["loaded"] and one.get("attached")))


def await_loaded(host):
    """Return what the kernel holds, as soon as it holds all of it.

    Raises:
        HostError: It does not in time.
    """
    end = time.monotonic() + host.module.params["patience"]
    while missing(found := asked(host)):
        if time.monotonic() > end:
            raise HostError(
                {
                    "message": "not loaded: " + ", ".join(missing(found)),
                    "hint": "see why, on the host: journalctl -u aegis-monitors",
                    "error": "monitor-not-loaded",
                    "monitors": found,
                }
            )
        time.sleep(1)
    return found


def start(host, old, new, active):
    """Have the agent do what the settings say; those that are damaged are taken back."""
    module = host.module
    if old != new:
        write(module, new)
        try:
            host.ask("monitor", "run", "--dry-run")
        except HostError:
            write(module, old)
            raise
    verb = ["reload"] if active else ["enable", "--now"]
    module.run_command(["systemctl", *verb, UNIT], check_rc=True)


def work(host):
    """Start or stop it."""
    module = host.module
    started = module.params["state"] == "started"
    if not host.installed:
        return not_installed(module, "run the monitors", changed=started)
    unit = host.ask("service", "status", codes=(6,)).get("optional", {}).get(UNIT, {})
    active, enabled = unit.get("ActiveState") == "active", unit.get("UnitFileState") == "enabled"
    old, new = read(SETTINGS), settings(module.params)
    as_it_should = active and enabled if started else not (active or enabled)
    result = {
        "changed": old != new or not as_it_should,
        "diff": diff(old, new, str(SETTINGS)),
    }
    if result["changed"] and not module.check_mode:
        if started:
            start(host, old, new, active and enabled)
        else:
            module.run_command(["systemctl", "disable", "--now", UNIT], check_rc=True)
            write(module, new)
    if started and not module.check_mode:
        result["monitors"] = await_loaded(host)
    return result


def main():
    """Run."""
    spec = {
        "state": {"type": "str", "choices": ["started", "stopped"], "default": "started"},
        "monitors": {"type": "dict", "default": {}},
        "stored": {"type": "bool", "default": True},
        "store": {"type": "dict", "default": {}},
        "patience": {"type": "int", "default": 60},
        **ARGUMENTS,
    }
    run(AnsibleModule(spec, supports_check_mode=True), work)


if __name__ == "__main__":
    main()
