#!/usr/bin/python
# SPDX-License-Identifier: Apache-2.0
"""Begin, end or read a soak of a host."""

from __future__ import annotations

DOCUMENTATION = r"""
module: aegisbpf_soak
short_description: Begin, end or read a soak of a host
description:
  - A soak watches a host for minutes to weeks and ends in a verdict. The host goes on with it by
    itself, over reboots.
  - V(started) leaves a soak that runs with these settings as it is, and fails where another one
    runs. A soak that has ended is begun anew.
  - A verdict that is not a pass is an answer, not an error.
version_added: "0.1.0"
author: Aegis Tools
options:
  state:
    description: What is wanted.
    type: str
    choices: [started, stopped, status, read]
    default: status
  scenario:
    description: What is tried, with O(state=started).
    type: str
    choices: [shadow, enforce, stress]
    default: shadow
  duration:
    description: How long, with O(state=started), as V(14d).
    type: str
    default: 14d
  interval:
    description: From one turn to the next, with O(state=started).
    type: str
    default: 60s
  workload:
    description: What the host does meanwhile, with O(state=started).
    type: str
    choices: [none, idle, developer, git, web, database, stress]
    default: none
  expect:
    description: Ids of rules whose denials are expected, with O(state=started).
    type: list
    elements: str
    default: []
  override:
    description: >-
      Why a soak that enforces may begin without one in shadow that passed. It is in every report.
    type: str
    default: ""
  id:
    description: The soak, with O(state=status) and O(state=read); the newest without.
    type: str
    default: ""
  series:
    description: With O(state=read), also return what the plots are drawn of.
    type: bool
    default: true
  program:
    description: Where the program is on the host.
    type: path
    default: /opt/aegisbpf/current/bin/aegisbpf
attributes:
  check_mode:
    description: Says what it would begin or end, and changes nothing.
    support: full
  diff_mode:
    description: There is no difference to show.
    support: none
"""

EXAMPLES = r"""
- name: Watch for two weeks what the policy would refuse
  aegisbpf_soak:
    state: started
    scenario: shadow
    duration: 14d

- name: What it has shown
  aegisbpf_soak:
    state: read
  register: soak
"""

RETURN = r"""
id:
  description: The soak's; empty where there is none.
  type: str
  returned: when installed
line:
  description: How it stands, for a person.
  type: str
  returned: when installed
status:
  description: The document of C(aegisbpf soak status --json).
  type: dict
  returned: when installed and not with O(state=read)
verdict:
  description: V(PASS), V(FAIL) or V(INCONCLUSIVE); V(INCONCLUSIVE) while it runs.
  type: str
  returned: with O(state=read)
report:
  description: The document of C(aegisbpf soak report --json).
  type: dict
  returned: with O(state=read)
"""

from ansible.module_utils.aegisbpf_host import ARGUMENTS, not_installed, run
from ansible.module_utils.basic import AnsibleModule

CODES = (30, 31)
"""Exit codes of a report that are an answer, besides 0."""


UNITS = {"s": 1, "m": 60, "h": 3600, "d": 86400, "w": 604800}


def work(host):
    """Do it."""
    params = host.module.params
    if not host.installed:
        changes = params["state"] == "started"
        return not_installed(host.module, "soak, " + params["state"], changed=changes)
    if params["state"] == "stopped":
        return stop(host)
    return {"started": start, "status": status, "read": read}[params["state"]](host, params)


def start(host, params):
    """Begin one, unless it runs."""
    before = host.ask("soak", "status")
    if before["running"] and all(before[name] == value for name, value in wanted(params).items()):
        return {"changed": False, **told(before)}
    words = ["soak", "start", "--scenario", params["scenario"], "--duration", params["duration"],
             "--interval", params["interval"], "--workload", params["workload"]]  # fmt: skip
    words += [word for rule in params["expect"] for word in ("--expect", rule)]
    words += ["--override", params["override"]] if params["override"] else []
    if host.module.check_mode:
        planned = host.ask(*words, "--dry-run")
        line = "would begin a soak: " + params["scenario"] + ", " + params["duration"]
        result = {"changed": True, "id": "", "line": line, "status": before}
    else:
        planned = host.ask(*words)
        result = {"changed": True, **told(host.ask("soak", "status", planned["id"]))}
    for text in planned.get("warnings", []):
        host.module.warn(text)
    return result


def wanted(params):
    """Return what a soak that runs must be like, as its status has it."""
    return {
        "scenario": params["scenario"],
        "workload": params["workload"],
        "duration_seconds": seconds(params["duration"]),
        "interval_seconds": seconds(params["interval"]),
    }


def seconds(text):
    """Return the seconds of a duration as the program takes it; None of anything else."""
    number, unit = (text[:-1], text[-1:]) if text[-1:] in UNITS else (text, "s")
    return int(number) * UNITS[unit] if number.isdigit() else None


def stop(host):
    """End the one that runs."""
    before = host.ask("soak", "status")
    if not before["running"]:
        return {"changed": False, **told(before)}
    if host.module.check_mode:
        return {"changed": True, **told(before)}
    host.ask("soak", "stop")
    return {"changed": True, **told(host.ask("soak", "status", before["id"]))}


def status(host, params):
    """Say how one stands."""
    words = [params["id"]] if params["id"] else []
    return {"changed": False, **told(host.ask("soak", "status", *words))}


def told(found):
    """Return a status, and the same for a person."""
    if not found["id"]:
        return {"id": "", "line": "no soak", "status": found}
    line = "{id}: {state}, {percent:.0f} %, {verdict}".format(
        id=found["id"],
        state=found["state"],
        percent=100 * found["progress"],
        verdict=found["verdict"]["text"] + (" so far" if found["running"] else ""),
    )
    if found["late"]:
        line += "; NO TURNS ARE MADE any more"
    return {"id": found["id"], "line": line, "status": found}


def read(host, params):
    """Return what one has shown."""
    words = [params["id"]] if params["id"] else []
    report = host.ask("soak", "report", *words, codes=CODES)
    if not params["series"]:
        report.pop("series", None)
    status, running = report["verdict"]["status"], report["soak"]["state"] == "running"
    return {
        "changed": False,
        "id": report["soak"]["id"],
        "line": report["soak"]["id"] + ": " + report["verdict"]["text"],
        "verdict": "INCONCLUSIVE" if running and status == "PASS" else status,
        "report": report,
    }


def main():
    """Run."""
    spec = {
        "state": {
            "type": "str",
            "choices": ["started", "stopped", "status", "read"],
            "default": "status",
        },
        "scenario": {
            "type": "str",
            "choices": ["shadow", "enforce", "stress"],
            "default": "shadow",
        },
        "duration": {"type": "str", "default": "14d"},
        "interval": {"type": "str", "default": "60s"},
        "workload": {
            "type": "str",
            "choices": ["none", "idle", "developer", "git", "web", "database", "stress"],
            "default": "none",
        },
        "expect": {"type": "list", "elements": "str", "default": []},
        "override": {"type": "str", "default": ""},
        "id": {"type": "str", "default": ""},
        "series": {"type": "bool", "default": True},
        **ARGUMENTS,
    }
    run(AnsibleModule(spec, supports_check_mode=True), work)


if __name__ == "__main__":
    main()
