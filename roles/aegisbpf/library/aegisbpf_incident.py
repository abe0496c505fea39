#!/usr/bin/python
# SPDX-License-Identifier: Apache-2.0
"""Run a procedure of the runbook on a host, or read or end its record."""

from __future__ import annotations

DOCUMENTATION = r"""
module: aegisbpf_incident
short_description: Run a procedure of the runbook on a host
description:
  - Runs C(aegisbpf incident) with one of its procedures. The host decides what has to be done; one
    that is healthy is left as it is, and a run that was cut off is continued.
  - Every run that did something leaves a record on the host, which V(read) returns and V(closed)
    ends.
version_added: "0.1.0"
author: Aegis Tools
options:
  state:
    description: Run a procedure, read a record, or end one that is open.
    type: str
    choices: [run, read, closed]
    default: run
  scenario:
    description: The procedure, with O(state=run).
    type: str
    choices: [blocking, crash-loop, performance, map-full, kernel-upgrade]
  options:
    description: Options of the procedure, as C(aegisbpf incident SCENARIO --help) lists them.
    type: list
    elements: str
    default: []
  id:
    description: The record, with O(state=read) and O(state=closed).
    type: str
  result:
    description: How the incident ended, with O(state=closed).
    type: str
    choices: [recovered, not-recovered]
    default: recovered
  program:
    description: Where the program is on the host.
    type: path
    default: /opt/aegisbpf/current/bin/aegisbpf
attributes:
  check_mode:
    description: Says what it would do, looks, and changes nothing.
    support: full
  diff_mode:
    description: The steps that change the host.
    support: full
"""

EXAMPLES = r"""
- name: Enforcement hits legitimate work
  aegisbpf_incident:
    scenario: blocking
    options: [--probe-unit, nginx.service]
  register: incident

- name: The service answers again
  aegisbpf_incident:
    state: closed
    id: "{{ incident.id }}"
  when: incident.id != ""
"""

RETURN = r"""
found:
  description: Whether the host was in the scenario.
  type: bool
  returned: with O(state=run)
result:
  description: V(recovered), V(not-recovered) or V(nothing-to-do).
  type: str
  returned: with O(state=run) and O(state=closed)
id:
  description: The record's; empty where none is kept.
  type: str
  returned: when installed
steps:
  description: What was done, or would be, and what was not needed.
  type: list
  elements: dict
  returned: with O(state=run)
record:
  description: The incident's record.
  type: dict
  returned: with O(state=run) and O(state=read)
markdown:
  description: The record as a page.
  type: str
  returned: with O(state=read)
"""

from ansible.module_utils.aegisbpf_host import ARGUMENTS, diff, not_installed, run
from ansible.module_utils.basic import AnsibleModule


def work(host):
    """Run, read or end."""
    params = host.module.params
    if not host.installed:
        return not_installed(host.module, "incident " + (params["scenario"] or params["id"]))
    return {"run": _run, "read": _read, "closed": _close}[params["state"]](host, params)


def _run(host, params):
    words = ["incident", params["scenario"], *params["options"]]
    if host.module.check_mode:
        words.append("--dry-run")
    found = host.ask(*words)
    for text in found.pop("warnings", []):
        host.module.warn(text)
    after = [step["message"] for step in found["steps"]
             if step["changes"] and step["state"] in ("done", "would")]  # fmt: skip
    text = "".join(line + "\n" for line in after)
    return {**found, "msg": found["summary"], "diff": diff("", text, "steps")}


def _read(host, params):
    record = host.ask("incident", "show", params["id"])
    page = host.ask("incident", "show", params["id"], "--markdown")
    record.pop("evidence_folder", None)
    return {"changed": False, "id": record["id"], "record": record, "markdown": page["markdown"]}


def _close(host, params):
    if host.module.check_mode:
        record = host.ask("incident", "show", params["id"])
        return {"changed": not record["result"], "id": record["id"]}
    return host.ask("incident", "close", params["id"], "--result", params["result"])


def main():
    """Run."""
    spec = {
        "state": {"type": "str", "choices": ["run", "read", "closed"], "default": "run"},
        "scenario": {
            "type": "str",
            "choices": ["blocking", "crash-loop", "performance", "map-full", "kernel-upgrade"],
        },
        "options": {"type": "list", "elements": "str", "default": []},
        "id": {"type": "str"},
        "result": {
            "type": "str",
            "choices": ["recovered", "not-recovered"],
            "default": "recovered",
        },
        **ARGUMENTS,
    }
    needed = [("state", "run", ["scenario"])]
    needed += [("state", state, ["id"]) for state in ("read", "closed")]
    run(AnsibleModule(spec, supports_check_mode=True, required_if=needed), work)


if __name__ == "__main__":
    main()
