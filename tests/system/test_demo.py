"""`make demo` on a whole system: every step of it is as told."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import jsonschema
import pytest

from aegis_tools.rollout import report as module

REPOSITORY = Path(__file__).resolve().parents[2]
SCHEMA = json.loads(Path(module.__file__).with_name("report.schema.json").read_text())
pytestmark = pytest.mark.system


@pytest.mark.timeout(2400)
def test_the_demo_is_as_told(tmp_path: Path) -> None:
    folder = tmp_path / "demo"
    done = subprocess.run(
        [sys.executable, "scripts/demo", "--folder", str(folder)],
        cwd=REPOSITORY,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout
    assert "NOT AS TOLD" not in done.stdout
    reports = [json.loads(path.read_text()) for path in sorted(folder.glob("reports/*.json"))]
    for report in reports:
        jsonschema.validate(report, SCHEMA)
    assert [report["hosts"][0]["outcome"] for report in reports] == ["changed", "changed"]
    assert reports[1]["hosts"][0]["mode"]["after"] == "enforce"
    assert not list(folder.glob("keys/*.key"))
