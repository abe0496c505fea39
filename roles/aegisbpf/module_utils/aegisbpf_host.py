# SPDX-License-Identifier: Apache-2.0
"""Run aegisbpf on the managed host and translate what it says; it decides, we do not."""

from __future__ import annotations

import json
import os

PROGRAM = "/opt/aegisbpf/current/bin/aegisbpf"

ARGUMENTS = {"program": {"type": "path", "default": PROGRAM}}
"""What every module of ours takes."""


class HostError(Exception):
    """The program refused, or could not be run.

    Attributes:
        facts: Its JSON document: ``error``, ``message``, ``hint``, ``exit_code`` and more.
    """

    def __init__(self, facts):
        super().__init__(facts.get("message", "aegisbpf failed"))
        self.facts = facts


class Host:
    """The program on this host.

    Args:
        module: The AnsibleModule; its ``program`` says where the program is.
    """

    def __init__(self, module):
        self.module = module
        self.program = module.params["program"]

    @property
    def installed(self):
        """Whether the program is there: on a new host, in check mode, it is not yet."""
        return os.access(self.program, os.X_OK)

    def ask(self, *words, **options):
        """Return the JSON document that a command prints.

        Args:
            words: The command and its options.
            codes: Exit codes besides 0 that are an answer, too; None takes every one.
            data: What it reads from standard input.

        Raises:
            HostError: It ended otherwise, or printed something else.
        """
        codes, data = options.get("codes", ()), options.get("data")
        argv = [self.program, "--json", *words]
        status, out, err = self.module.run_command(argv, data=data, binary_data=bool(data))
        try:
            found = json.loads(out)
        except ValueError:
            found = None
        if not isinstance(found, dict):
            raise HostError({"message": "aegisbpf gave no answer", "detail": (err or out)[-2000:],
                          "exit_code": status, "error": "no-answer"})  # fmt: skip
        if status and codes is not None and status not in codes:
            raise HostError({"exit_code": status, **found})
        return found

    def status(self):
        """Return the host's status, whatever it says of its health.

        Raises:
            HostError: It could not be asked for, as by one who is not root.
        """
        found = self.ask("status", codes=None)
        if "error" in found:
            raise HostError(found)
        return found

    def fail(self, error):
        """End the module with the program's own words."""
        facts = dict(error.facts)
        message = facts.pop("message", str(error))
        hint = facts.get("hint")
        self.module.fail_json(msg=message + ("; next: " + hint if hint else ""), **facts)


def run(module, work):
    """Carry out ``work(host)``, which returns what the module returns."""
    host = Host(module)
    try:
        result = work(host)
    except HostError as error:
        host.fail(error)
    module.exit_json(**result)


def not_installed(module, what, changed=True):
    """Return the answer where the program is not there.

    In check mode the play would have installed it before; otherwise it is an error.

    Args:
        module: The AnsibleModule.
        what: What would be done, for a person.
        changed: Whether that changes a host on which it was just installed.
    """
    if not module.check_mode:
        message = "aegisbpf is not installed at " + module.params["program"]
        hint = "run the role's install first"
        raise HostError({"message": message, "hint": hint, "error": "not-installed"})
    return {"changed": changed, "msg": "after installation: " + what}


def read(path):
    """Return a file's text; an empty string where it cannot be read."""
    try:
        with open(path, encoding="utf-8") as file:
            return file.read()
    except (OSError, ValueError):
        return ""


def diff(before, after, header):
    """Return what ``--diff`` shows."""
    return {"before": before, "after": after, "before_header": header, "after_header": header}
