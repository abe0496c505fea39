"""What the verifier has to go through: loading is to stay quick, and far from the limit.

Every program of ours, on every kernel: instructions verified, and bytes that came of it. The
figures are made anew, where more is worth it, by `benchmarks.budget`.
"""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from battery import Host

from benchmarks.budget import Sizes, others, sizes_of

BUDGETS = Path(__file__).with_name("budget")
SLACK = {"verified": 1.2, "bytes": 1.1}
"""Of what was measured: another point release of a kernel may look at more, or put in more."""
LIMIT = 500_000
"""Half of the kernel's own (BPF_COMPLEXITY_LIMIT_INSNS)."""
SILENT = "5.10"
"""It does not say how many instructions it verified."""


def test_every_program_stays_within_its_budget(loaded: Host, kernel_name: str) -> None:
    found: Sizes = {**sizes_of(loaded.pins), **others()}
    print(json.dumps(found, indent=1))
    budget: Sizes = json.loads((BUDGETS / f"{kernel_name}.json").read_text())
    assert set(found) == set(budget)
    over = [
        f"{name}: {size[what]} {what}, {budget[name][what]} before"
        for name, size in found.items()
        for what, slack in SLACK.items()
        if size[what] > slack * budget[name][what]
    ]
    if over:
        pytest.fail(f"{'; '.join(over)}; where it is worth it: python -m benchmarks.budget")
    assert all(size["verified"] < LIMIT for size in found.values())
    assert any(size["verified"] for size in found.values()) == (kernel_name != SILENT)
