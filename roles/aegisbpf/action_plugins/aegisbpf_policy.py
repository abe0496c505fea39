# SPDX-License-Identifier: Apache-2.0
"""Read the policy or bundle on the controller, and hand its text to the module."""

from __future__ import annotations

from pathlib import Path

from ansible.errors import AnsibleError
from ansible.plugins.action import ActionBase

NEEDS_A_POLICY = ("present", "planned")


class ActionModule(ActionBase):
    """Runs on the controller."""

    def run(self, tmp=None, task_vars=None):
        """Return what the module says."""
        del tmp
        arguments = dict(self._task.args)
        named = arguments.get("src") or arguments.get("content")
        if arguments.get("state", "present") in NEEDS_A_POLICY and not named:
            return {"failed": True, "msg": "no policy is named; next: set aegisbpf_policy"}
        if arguments.get("src") and not arguments.get("content"):
            try:
                found = self._find_needle("files", arguments["src"])
                text = Path(self._loader.get_real_file(found)).read_text(encoding="utf-8")
            except (AnsibleError, OSError, UnicodeDecodeError) as error:
                return {"failed": True, "msg": f"the policy cannot be read: {error}"}
            arguments["content"] = text
        return self._execute_module(
            "aegisbpf_policy", module_args=arguments, task_vars=task_vars or {}
        )
