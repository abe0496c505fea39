# SPDX-License-Identifier: Apache-2.0
"""Bring a host back to what it was before this rollout, and confirm that over a new connection."""

from __future__ import annotations

from ansible.plugins.action import ActionBase

NAMES = ("expect", "before", "mode", "confirm_within", "allow_unsigned")


class ActionModule(ActionBase):
    """Runs on the controller."""

    def run(self, tmp=None, task_vars=None):
        """Return what the module says of the undoing, and of its confirmation."""
        super().run(tmp, task_vars)
        arguments = {name: self._task.args[name] for name in NAMES if name in self._task.args}
        undone = self._execute_module(
            "aegisbpf_policy", module_args={**arguments, "state": "undone"}, task_vars=task_vars
        )
        if undone.get("failed") or not undone.get("pending") or self._task.check_mode:
            return undone
        self._connection.reset()
        kept = self._execute_module(
            "aegisbpf_policy",
            module_args={"state": "confirmed", "expect": undone["digest"]},
            task_vars=task_vars,
        )
        return kept if kept.get("failed") else undone
