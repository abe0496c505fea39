# SPDX-License-Identifier: Apache-2.0
"""Look once at a host after a change, over a new connection, and judge it."""

from __future__ import annotations

import os
import subprocess
import time

from ansible.errors import AnsibleConnectionFailure
from ansible.plugins.action import ActionBase

LIMITS = {
    "deny_factor": {"type": "float", "default": 3.0},
    "deny_extra": {"type": "float", "default": 1.0},
    "audit_factor": {"type": "float", "default": 3.0},
    "audit_extra": {"type": "float", "default": 10.0},
    "drops": {"type": "int", "default": 0},
    "map_fill": {"type": "float", "default": 0.9},
}
PROMQL = {
    "url": {"type": "str", "required": True},
    "query": {"type": "str", "required": True},
    "headers": {"type": "dict", "default": {}, "no_log": True},
    "timeout": {"type": "float", "default": 10.0},
}
ARGUMENTS = {
    "before": {"type": "dict", "required": True},
    "base": {"type": "dict", "required": True},
    "digest": {"type": "str", "required": True},
    "left": {"type": "float", "default": 0.0},
    "timeline": {"type": "list", "elements": "dict", "default": []},
    "command": {"type": "list", "elements": "str", "default": []},
    "command_seconds": {"type": "float", "default": 60.0},
    "promql": {"type": "list", "elements": "dict", "default": [], "options": PROMQL},
    **LIMITS,
}


class ActionModule(ActionBase):
    """Runs on the controller; asks the host with M(aegisbpf_info)."""

    def run(self, tmp=None, task_vars=None):
        """Return the timeline with one line more, and what was wrong."""
        task_vars = task_vars or {}
        result = super().run(tmp, task_vars)
        _, arguments = self.validate_argument_spec(ARGUMENTS)
        status, reasons = self._ask(task_vars)
        if status:
            host = task_vars.get("inventory_hostname", "")
            reasons = [*self._judge(arguments, status), *self._team(arguments, host)]
        look = {"time": round(time.time(), 3), "reasons": reasons,
                "counters": (status or {}).get("counters")}  # fmt: skip
        found = {**result, "changed": False, "timeline": [*arguments["timeline"], look]}
        if reasons:
            return {**found, "failed": True, "msg": f"gate: {'; '.join(reasons)}"}
        return found

    def _ask(self, task_vars):
        """Return the host's status over a new connection, or why there is none."""
        try:
            self._connection.reset()
            told = self._execute_module("aegisbpf_info", module_args={}, task_vars=task_vars)
        except AnsibleConnectionFailure:
            return None, ["no new connection: nobody can log in"]
        if told.get("failed") or "status" not in told:
            return None, [f"the host does not answer: {told.get('msg', 'no status')}"]
        return told["status"], []

    def _judge(self, arguments, status):
        from aegis_tools.rollout.gates import Limits, judge

        limits = Limits(**{name: arguments[name] for name in LIMITS})
        return judge(arguments["before"], arguments["base"], status, limits,
                     digest=arguments["digest"], left=arguments["left"])  # fmt: skip

    def _team(self, arguments, host):
        """Return what the team's own gates have against the host."""
        from aegis_tools.rollout.promql import ask

        reasons = []
        if arguments["command"]:
            reasons += command(arguments["command"], host, arguments["command_seconds"])
        for one in arguments["promql"]:
            why = ask(one["url"], one["query"], one.get("headers") or {},
                      timeout=one.get("timeout") or 10.0)  # fmt: skip
            reasons += [f"{one['query']}: {why}"] if why else []
        return reasons


def command(argv, host, seconds):
    """Run a command of the team's own, and return why it says no; nothing where it says yes."""
    try:
        done = subprocess.run(
            argv,
            env={**os.environ, "AEGISBPF_HOST": host},
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            timeout=seconds,
            check=False,
        )
    except subprocess.TimeoutExpired:
        return [f"{argv[0]}: no answer within {seconds:.0f} s"]
    except OSError as error:
        return [f"{argv[0]}: {error.strerror}"]
    text = done.stdout.decode(errors="replace").strip()[-200:]
    return [f"{argv[0]}: {text or f'status {done.returncode}'}"] if done.returncode else []
