# SPDX-License-Identifier: Apache-2.0
"""Write a report of a rollout, however it ends: JSON, and one HTML page."""

from __future__ import annotations

DOCUMENTATION = r"""
name: aegisbpf_report
type: notification
short_description: Write a report of a rollout
description:
  - Collects what the role's modules return and writes C(PLAYBOOK-TIME.json) and C(.html), also
    where the rollout failed or was interrupted. They are begun with the first wave and replaced
    after each.
  - Playbooks that do not watch hosts with M(aegisbpf_gate) are reported only where a folder was
    asked for.
version_added: "0.1.0"
author: Aegis Tools
requirements: [aegis_tools on the controller]
options:
  folder:
    description:
      - The folder for reports; made if need be. V(none) for no report.
      - The variable C(aegisbpf_report) wins over it. Without both, V(reports) in the current folder
        for a rollout, and none for any other playbook.
    type: str
    default: ""
    env: [{name: AEGISBPF_REPORT}]
    ini: [{section: aegisbpf, key: report}]
"""

import atexit
import getpass
import os
import socket
import tempfile
import time
from pathlib import Path

from ansible import context
from ansible.plugins.callback import CallbackBase
from ansible.release import __version__ as ansible_version
from ansible.template import Templar

FOLDER = "reports"
WATCHES = ("aegisbpf_gate",)
SETTINGS = (
    "aegisbpf_waves",
    "aegisbpf_soak_seconds",
    "aegisbpf_confirm_within",
    "aegisbpf_rollout_mode",
)
LOCAL = ("localhost", "127.0.0.1", "::1")


def tasks_of(blocks):
    """Yield every task that is known before a play runs."""
    for part in blocks:
        for name in ("block", "rescue", "always"):
            inner = getattr(part, name, None)
            if inner:
                yield from tasks_of(inner)
        if hasattr(part, "action"):
            yield part


def watches(play):
    """Say whether a play is a rollout: whether it watches hosts after a change."""
    return any(
        str(task.action).rpartition(".")[2] in WATCHES
        or (str(task.action).endswith("aegisbpf_policy") and task.args.get("state") == "planned")
        for task in tasks_of(play.tasks)
    )


class CallbackModule(CallbackBase):
    """Collects; aegis_tools.rollout decides what it means."""

    CALLBACK_VERSION = 2.0
    CALLBACK_TYPE = "notification"
    CALLBACK_NAME = "aegisbpf_report"
    CALLBACK_NEEDS_ENABLED = True

    def __init__(self, display=None, options=None):
        super().__init__(display=display, options=options)
        self.run, self.events, self.files, self.folder = None, [], None, ""
        self.process = os.getpid()

    # What Ansible calls

    def v2_playbook_on_start(self, playbook):
        """Begin anew."""
        try:
            from aegis_tools.rollout.report import Run
        except ImportError:
            self._display.warning(
                "no report: aegis_tools is not installed for the controller's Python"
            )
            self.disabled = True
            return
        name = os.path.relpath(playbook._file_name)
        self.run = Run(
            playbook=name if not name.startswith("..") else playbook._file_name,
            started=time.time(),
            user=os.environ.get("SUDO_USER") or getpass.getuser(),
            controller=socket.gethostname(),
            ansible=ansible_version,
            check=bool(context.CLIARGS.get("check")),
            limit=context.CLIARGS.get("subset") or "",
        )
        self.events, self.files = [], None

    def v2_playbook_on_play_start(self, play):
        """Begin a wave: Ansible calls this for each batch of a play."""
        manager = play.get_variable_manager()
        variables = manager.get_vars(play=play)
        names = [str(name) for name in variables.get("ansible_play_hosts_all", [])]
        batch = [str(name) for name in variables.get("ansible_play_batch", [])]
        if all(name in LOCAL for name in names):
            return
        host = manager._inventory.get_host(batch[0] if batch else names[0])
        variables = manager.get_vars(play=play, host=host)
        templar = Templar(loader=play.get_loader(), variables=variables)

        def value(name):
            return templar.template(variables[name]) if name in variables else None

        folder = value("aegisbpf_report") or self.get_option("folder")
        if folder == "none" or not (folder or watches(play)):
            return
        if self.files is None and not self._open(str(folder or FOLDER)):
            return
        self.run.names = [*self.run.names, *(name for name in names if name not in self.run.names)]
        self.run.settings = {
            name: found for name in SETTINGS if (found := value(name)) not in (None, "")
        }
        self.run.waves.append((time.time(), batch))
        self._write()

    def v2_runner_on_ok(self, result):
        """Take a result."""
        self._take(result, "ok")

    def v2_runner_on_failed(self, result, ignore_errors=False):
        """Take a failure, unless the task says that it is none."""
        self._take(result, "ok" if ignore_errors else "failed")

    def v2_runner_on_unreachable(self, result):
        """Take that a host could not be reached."""
        self._take(result, "unreachable")

    def v2_runner_retry(self, result):
        """Take one try of several."""
        self._take(result, "look")

    def v2_playbook_on_stats(self, stats):
        """Say how it ended."""
        if self.run:
            self._finish("failed" if stats.failures else "unreachable" if stats.dark else "ok")

    # What it makes of it

    def _open(self, folder):
        """Choose the files' names, and say whether there can be any."""
        path = Path(folder).expanduser()
        try:
            path.mkdir(parents=True, exist_ok=True)
            with tempfile.TemporaryFile(dir=path):
                pass
        except OSError as error:
            # Hosts are not to wait for a page: whoever needs it starts again with another folder.
            self._display.warning(
                f"no report: nothing can be written into {path}: {error.strerror};"
                " next: name another folder with aegisbpf_report"
            )
            self.disabled = True
            return False
        moment = time.strftime("%Y%m%dT%H%M%SZ", time.gmtime(self.run.started))
        stem, number = f"{Path(self.run.playbook).stem}-{moment}", 1
        while (path / f"{stem}.json").exists():
            number += 1
            stem = f"{Path(self.run.playbook).stem}-{moment}-{number}"
        self.files = path / f"{stem}.json", path / f"{stem}.html"
        atexit.register(self._interrupted)
        return True

    def _take(self, result, outcome):
        from aegis_tools.rollout.events import events

        if self.files is None:
            return
        fields, task = result._task_fields, result._task
        self.events += events(
            time.time(),
            result._host.get_name(),
            str(task.action),
            arguments=fields.get("args") or {},
            outcome=outcome,
            result=result._result,
            delegate=str(fields.get("delegate_to") or task.delegate_to or ""),
            known=self.run.names,
        )

    def _interrupted(self):
        # Forked workers end without this; only who began the file ends it.
        if self.run and self.run.result == "running" and os.getpid() == self.process:
            self._finish("interrupted")

    def _finish(self, result):
        if self.files is None:
            return
        self.run.result = result
        self._write()
        self._display.display(f"report: {self.files[1]}")

    def _write(self):
        from aegis_tools.control.files import write_atomic
        from aegis_tools.rollout.page import render
        from aegis_tools.rollout.report import build, to_json

        self.run.ended = time.time()
        report = build(self.run, self.events)
        document, page = self.files
        write_atomic(document, to_json(report), what="report", mode=0o644)
        html = render(report, beside=document.name).encode()
        write_atomic(page, html, what="report", mode=0o644)
