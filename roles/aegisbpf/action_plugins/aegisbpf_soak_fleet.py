# SPDX-License-Identifier: Apache-2.0
"""Write one report on the soaks of all hosts of a play, and a page for each of them."""

from __future__ import annotations

import json
import re
from pathlib import Path

from ansible.plugins.action import ActionBase

ARGUMENTS = {
    "folder": {"type": "str", "required": True},
    "results": {"type": "str", "required": True},
}


class ActionModule(ActionBase):
    """Runs on the controller, once a play; asks no host.

    What hosts sent is shown as text only, and a page is made here, not taken from a host.
    """

    _requires_connection = False

    def run(self, tmp=None, task_vars=None):
        """Return what was written, and the fleet's verdict."""
        from aegis_tools.errors import AegisError
        from aegis_tools.soak import fleet, fleet_page

        result = super().run(tmp, task_vars)
        _, given = self.validate_argument_spec(ARGUMENTS)
        names = task_vars["ansible_play_hosts_all"]
        told = {name: task_vars["hostvars"][name].get(given["results"]) for name in names}
        briefs, files = gather(told)
        pages = {name: f"hosts/{stem}.html" for name, (stem, _) in files.items()}
        report = fleet.build(briefs, pages=pages)
        contents = {"fleet.json": fleet.to_json(report), "fleet.html": fleet_page.render(report)}
        for stem, content in files.values():
            contents |= {f"hosts/{stem}.{kind}": data for kind, data in content.items()}
        folder = Path(given["folder"]).expanduser()
        try:
            changed = write(folder, contents, dry=self._task.check_mode)
        except (AegisError, OSError) as error:
            return {**result, "failed": True, "msg": f"no report: {error}"}
        return {**result, "changed": bool(changed), "written": changed,
                "page": str(folder / "fleet.html"), "summary": report["summary"],
                "lines": list(lines(report))}  # fmt: skip


def gather(told):
    """Return each host's brief or why there is none, and the files of those that have one."""
    from aegis_tools.soak.brief import brief
    from aegis_tools.soak.page import render

    briefs, files, stems = {}, {}, set()
    for name, result in told.items():
        report = result.get("report") if isinstance(result, dict) else None
        if not report:
            briefs[name] = reason(result)
            continue
        try:
            briefs[name] = brief(report)
            content = {}
            if "series" in report:
                content = {"html": render(report), "json": json.dumps(report) + "\n"}
        except (ArithmeticError, AttributeError, LookupError, TypeError, ValueError) as error:
            briefs[name] = f"what it sent is no report of a soak: {error}"
            continue
        if content:
            stem = re.sub(r"[^A-Za-z0-9._-]", "_", name).lstrip(".-")[:100] or "host"
            while stem in stems:
                stem += "_"
            stems.add(stem)
            files[name] = stem, content
    return briefs, files


def reason(result):
    """Return why a host has no report."""
    if not isinstance(result, dict):
        return "it was not asked"
    if result.get("unreachable"):
        return f"it cannot be reached: {result.get('msg', '')}"
    return str(result.get("msg") or "it has no soak")


def write(folder, contents, *, dry):
    """Write what is not there yet, and return the names of it."""
    from aegis_tools.control.files import write_atomic

    changed = []
    for name, content in contents.items():
        path = folder / name
        data = content.encode() if isinstance(content, str) else content
        if path.is_file() and path.read_bytes() == data:
            continue
        changed.append(name)
        if not dry:
            path.parent.mkdir(parents=True, exist_ok=True)
            write_atomic(path, data, what="report", mode=0o644)
    return changed


def lines(report):
    """Yield the report for a person: the summary, then every host that sticks out."""
    yield report["summary"]["text"]
    for row in report["hosts"]:
        if row["outlier"] or row["status"] != "PASS":
            yield ": ".join([row["host"], row["text"], *filter(None, ["; ".join(row["why"])])])
