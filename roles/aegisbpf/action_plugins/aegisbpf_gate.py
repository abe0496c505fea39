# SPDX-License-Identifier: Apache-2.0
"""Watch a host after a change, each time over a new connection, until it has soaked or failed."""

from __future__ import annotations

import os
import subprocess
import time

from ansible.errors import AnsibleConnectionFailure
from ansible.plugins.action import ActionBase

ARGUMENTS = {
    "before": {"type": "dict", "required": True},
    "base_rate": {"type": "float", "default": 0.0},
    "digest": {"type": "str", "required": True},
    "soak": {"type": "float", "required": True},
    "interval": {"type": "float", "default": 5.0},
    "deny_factor": {"type": "float", "default": 3.0},
    "deny_extra": {"type": "float", "default": 1.0},
    "drops": {"type": "int", "default": 0},
    "map_fill": {"type": "float", "default": 0.9},
    "command": {"type": "list", "elements": "str", "default": []},
}


class ActionModule(ActionBase):
    """Runs on the controller; asks the host with M(aegisbpf_info)."""

    def run(self, tmp=None, task_vars=None):
        """Return the timeline: a line for each look, with what was wrong."""
        from aegis_tools.rollout.gates import Limits

        result = super().run(tmp, task_vars)
        if self._task.check_mode:
            return {**result, "changed": False, "skipped": True, "msg": "nothing to watch"}
        _, arguments = self.validate_argument_spec(ARGUMENTS)
        names = ("deny_factor", "deny_extra", "drops", "map_fill")
        limits = Limits(**{name: arguments[name] for name in names})
        timeline, changed, end = [], None, time.monotonic() + arguments["soak"]
        while True:
            status, reasons = self._ask(task_vars or {})
            if status:
                changed = changed or status
                reasons = self._judge(arguments, changed, status, limits, task_vars or {})
            timeline.append({"time": round(time.time(), 3), "reasons": reasons,
                             "counters": (status or {}).get("counters")})  # fmt: skip
            if reasons:
                text = "; ".join(reasons)
                return {**result, "failed": True, "timeline": timeline, "msg": f"gate: {text}"}
            left = end - time.monotonic()
            if left <= 0:
                return {**result, "changed": False, "timeline": timeline}
            time.sleep(min(left, arguments["interval"]))

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

    def _judge(self, arguments, changed, status, limits, task_vars):
        from aegis_tools.rollout.gates import judge

        reasons = judge(arguments["before"], arguments["base_rate"], changed, status, limits,
                        digest=arguments["digest"])  # fmt: skip
        if arguments["command"]:
            host = task_vars.get("inventory_hostname", "")
            done = subprocess.run(
                arguments["command"],
                env={**os.environ, "AEGISBPF_HOST": host},
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
                text=True,
                timeout=60,
                check=False,
            )
            if done.returncode:
                reasons.append(f"{arguments['command'][0]}: {done.stdout.strip()[-200:]}")
        return reasons
