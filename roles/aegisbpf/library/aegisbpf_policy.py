#!/usr/bin/python
# SPDX-License-Identifier: Apache-2.0
"""Make a policy live, keep it, or take it back."""

from __future__ import annotations

DOCUMENTATION = r"""
module: aegisbpf_policy
short_description: Make a policy live, keep it, or take it back
description:
  - Applies a bundle (or an unsigned policy) from the controller, in one step, and says what changed
    in rules.
  - The host verifies signature, serial, expiry and group itself, and refuses what would lock
    everybody out.
  - With O(confirm_within), a change undoes itself unless O(state=confirmed) comes in time, which
    the role sends over a new SSH connection. What locks Ansible out is gone when the time is over.
version_added: "0.1.0"
author: Aegis Tools
options:
  src:
    description: The bundle or policy file, on the controller. Required with O(state=present).
    type: path
  content:
    description: What O(src) holds. Set by the action plugin.
    type: str
  state:
    description:
      - V(present) makes the policy of O(src) live.
      - V(planned) says what that would change, and the digest of the plan.
      - V(confirmed) keeps the change that waits for it; V(reverted) undoes it. Nothing waiting is
        no change.
      - V(undone) brings the host from the policy O(expect) back to O(before), which must be the one
        it had last, and O(mode), whether that was confirmed or not. What waits is reverted; else
        the way back waits for its own confirmation. Any other live policy is refused.
    type: str
    choices: [present, planned, confirmed, reverted, undone]
    default: present
  mode:
    description: Set the host's mode in the same step.
    type: str
    choices: [audit, enforce]
  confirm_within:
    description: Undo the change unless it is confirmed in time, as V(120s) or V(5m).
    type: str
  plan:
    description: Refuse any other plan than that of this digest, which O(state=planned) returned.
    type: str
  expect:
    description:
      - With O(state=confirmed) and O(state=undone), the digest of the policy that must be live, so
        that nobody else's change is confirmed or undone.
    type: str
  before:
    description: With O(state=undone), the digest of the policy to go back to.
    type: str
  clean_for:
    description:
      - With O(mode=enforce), refuse unless no rule that would refuse has matched for so long, and
        the policy is the one that was watched.
    type: str
  reset:
    description: Drop rules made by hand instead of keeping them.
    type: bool
    default: false
  allow_unsigned:
    description: Although the host trusts keys.
    type: bool
    default: false
  lockout:
    description: >-
      Although the lockout proof refuses it. Works with O(confirm_within) only, and is logged on the
      host.
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
    description: The live policy's rules before and after.
    support: full
"""

EXAMPLES = r"""
- name: Make a policy live, to be confirmed within two minutes
  aegisbpf_policy:
    src: /srv/policies/web.bundle
    confirm_within: 120s

- name: Connect anew, so that a host that lets nobody in is not confirmed
  ansible.builtin.meta: reset_connection

- name: Keep it
  aegisbpf_policy:
    state: confirmed
"""

RETURN = r"""
plan:
  description: What changes, as C(aegisbpf policy plan --json) says it.
  type: dict
  returned: with O(state=present) and O(state=planned)
digest:
  description: Digest of the live bundle, hex.
  type: str
  returned: with O(state=present)
pending:
  description: The change that waits for a confirmation.
  type: dict
  returned: where one does
"""

import tempfile
from pathlib import Path

from ansible.module_utils.aegisbpf_host import (
    ARGUMENTS,
    HostError,
    diff,
    not_installed,
    run,
)
from ansible.module_utils.basic import AnsibleModule

SIGNS = {"+": "added", "-": "removed", "~": "changed"}


def work(host):
    """Do what the state asks for."""
    module = host.module
    if not host.installed:
        return not_installed(module, "apply the policy")
    if module.params["state"] == "undone":
        return undo(host, module.params)
    if module.params["state"] in ("confirmed", "reverted"):
        return settle(host, module.params["state"])
    return present(host)


def present(host):
    """Plan, and apply unless only asked to look."""
    module, params = host.module, host.module.params
    with tempfile.TemporaryDirectory(dir=module.tmpdir) as folder:
        # Under its own name, which the host shows and which tells the format.
        path = Path(folder, Path(params["src"] or "policy").name)
        path.write_text(params["content"], encoding="utf-8")
        words = [str(path), *flags(params)]
        mode = options(params, "mode", "clean_for")
        try:
            plan = host.ask("policy", "plan", *words, *mode)
        except HostError as error:
            if module.check_mode and error.facts.get("error") == "not_loaded":
                return {"changed": True, "msg": "would apply the policy once loaded"}
            raise
        check_plan(params["plan"], plan)
        result = {"changed": plan["changed"], "plan": plan, "diff": rules_diff(plan)}
        if params["state"] == "planned":
            return {**result, "changed": False}
        if module.check_mode or not plan["changed"]:
            return result
        return {**result, **apply(host, words, params)}


def flags(params):
    """Return the options that a plan and an apply share."""
    return [
        *(["--reset"] if params["reset"] else []),
        *(["--allow-unsigned"] if params["allow_unsigned"] else []),
    ]


def options(params, *names):
    """Return those options of the program that were given."""
    found = []
    for name in names:
        # An empty time is no time, which the program says: it is not "at once, and for good".
        if params[name] or (name == "confirm_within" and params[name] is not None):
            found += ["--" + name.replace("_", "-"), params[name]]
    return found


def check_plan(wanted, plan):
    """Refuse another plan than the one that was seen, as the program does in an apply."""
    if wanted and wanted != plan["digest"]:
        raise HostError(
            {"message": "the plan is another one by now", "error": "drift", "plan": plan}
        )


def apply(host, words, params):
    """Make it live."""
    more = options(params, "mode", "clean_for", "plan", "confirm_within")
    if params["lockout"]:
        more.append("--i-know-this-locks-me-out")
    done = host.ask("policy", "apply", *words, *more)
    return {"changed": done["plan"]["changed"], "plan": done["plan"], "digest": done["digest"],
            "pending": done.get("pending"), "diff": rules_diff(done["plan"])}  # fmt: skip


def settle(host, state):
    """Confirm or revert what waits; nothing waiting is no change."""
    status = host.status()
    live = (status.get("policy") or {}).get("digest")
    expected = host.module.params["expect"]
    if state == "confirmed" and expected and live != expected:
        raise drifted("another policy is live than the one to confirm: " + str(live))
    if not status.get("pending"):
        return {"changed": False, "digest": live}
    if host.module.check_mode:
        return {"changed": True, "pending": status["pending"]}
    verb = {"confirmed": "confirm", "reverted": "revert"}[state]
    return {"changed": True, "answer": host.ask("policy", verb), "pending": status["pending"]}


def undo(host, params):
    """Bring the host back to what it was, from what this rollout made of it and nothing else."""
    status = host.status()
    live, mode = (status.get("policy") or {}).get("digest"), (status.get("mode") or {}).get("mode")
    ours, before = params["expect"], params["before"]
    if live == before and mode == params["mode"] and not status.get("pending"):
        return {"changed": False, "digest": live}
    if live != ours:
        raise drifted("another policy is live than the one to undo: " + str(live))
    if host.module.check_mode:
        return {"changed": True, "digest": before}
    if status.get("pending"):
        return {"changed": True, "answer": host.ask("policy", "revert"), "digest": before}
    if before == ours:
        done = host.ask("mode", params["mode"], *options(params, "confirm_within"))
        return {"changed": True, "digest": before, "pending": done.get("pending")}
    return go_back(host, params)


def go_back(host, params):
    """Make the policy of before live again, if it is the one that this host had last."""
    words = ["policy", "rollback", *options(params, "mode")]
    words += ["--allow-unsigned"] if params["allow_unsigned"] else []
    plan = host.ask(*words, "--dry-run")["plan"]
    if plan["after"] != params["before"]:
        raise drifted("the policy before this one was another one: " + plan["after"])
    done = host.ask(*words, "--plan", plan["digest"], *options(params, "confirm_within"))
    return {"changed": True, "plan": plan, "digest": done["digest"], "pending": done.get("pending"),
            "diff": rules_diff(plan)}  # fmt: skip


def drifted(message):
    """Return the error for a host that somebody else has changed."""
    hint = "it was reverted, or somebody applied another"
    return HostError({"message": message, "hint": hint, "error": "drift"})


def rules_diff(plan):
    """Return the rules that differ, one a line, as ``--diff`` shows them."""
    before = ["policy " + (plan["before"] or "none")]
    after = ["policy " + (plan["after"] or "none")]
    for change in plan["changes"]:
        rule = change["rule"] + (" (" + change["what"] + ")" if change["what"] else "")
        if change["sign"] in "-~":
            before.append(change["rule"])
        if change["sign"] in "+~":
            after.append(rule)
    if plan["refreshed"]:
        after.append(f"{plan['refreshed']} map entries refreshed")
    if plan["mode"]:
        after.append("mode " + plan["mode"])
    if not plan["changed"]:
        after = before
    return diff("\n".join(before) + "\n", "\n".join(after) + "\n", "live policy")


def main():
    """Run."""
    spec = {
        "src": {"type": "path"},
        "content": {"type": "str", "no_log": False},
        "state": {
            "type": "str",
            "default": "present",
            "choices": ["present", "planned", "confirmed", "reverted", "undone"],
        },
        "mode": {"type": "str", "choices": ["audit", "enforce"]},
        "confirm_within": {"type": "str"},
        "plan": {"type": "str"},
        "expect": {"type": "str"},
        "before": {"type": "str"},
        "clean_for": {"type": "str"},
        "reset": {"type": "bool", "default": False},
        "allow_unsigned": {"type": "bool", "default": False},
        "lockout": {"type": "bool", "default": False},
        **ARGUMENTS,
    }
    required = [
        ("state", "present", ["content"]),
        ("state", "planned", ["content"]),
        ("state", "undone", ["expect", "before", "mode"]),
    ]
    module = AnsibleModule(spec, required_if=required, supports_check_mode=True)
    run(module, work)


if __name__ == "__main__":
    main()
