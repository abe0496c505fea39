"""Every number of the monitors' test plan has an answer, and every test that it names is there."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from repository import REPOSITORY, text_of

from aegis_tools.monitors.registry import MONITORS

DOCS = REPOSITORY / "docs"
TEXT = text_of(DOCS / "seed-conformance.md")
NUMBERS = [
    f"{part}{number}"
    for part, count in (("T1.", 6), ("T2.", 5), ("T3.", 4), ("T4.", 4), ("T5.", 3), ("T6.", 3),
                        ("R", 3))
    for number in range(1, count + 1)
]  # fmt: skip
"""Of the plan's tests, and of the steps of its rollback."""
ROWS = dict(re.findall(r"^\| ([TR]\d(?:\.\d)?) \| (.+) \|$", TEXT, re.MULTILINE))
NAMED = sorted(set(re.findall(r"`(tests/[a-z_/]+\.py)::(\w+)`", TEXT)))
ELSEWHERE = ("T4.", "T5.")
"""What is measured, or done by a whole machine: their tests have names of their own."""


def test_every_number_has_one_answer() -> None:
    assert re.findall(r"^\| ([TR]\d(?:\.\d)?) \|", TEXT, re.MULTILINE) == NUMBERS


@pytest.mark.parametrize(("path", "name"), NAMED, ids=lambda part: Path(part).stem)
def test_a_test_that_is_named_is_there(path: str, name: str) -> None:
    assert re.search(rf"^def {name}\(", text_of(REPOSITORY / path), re.MULTILINE)


@pytest.mark.parametrize("number", [n for n in NUMBERS if not n.startswith(ELSEWHERE)])
def test_a_test_has_the_number_that_it_holds(number: str) -> None:
    held = [
        text_of(REPOSITORY / path)
        for path, name in re.findall(r"`(tests/[a-z_/]+\.py)::(\w+)`", ROWS[number])
    ]
    assert any(f'seed("{number}")' in text for text in held)


def test_nothing_has_a_number_that_the_plan_has_not() -> None:
    used = {
        number
        for path in (REPOSITORY / "tests").rglob("test_*.py")
        for number in re.findall(r'^@?\w*\W*(?:pytest\.mark\.)?seed\("([^"]+)"\)', text_of(path),
                                 re.MULTILINE)
    }  # fmt: skip
    assert used <= set(NUMBERS)
    assert len(used) >= 20


def mentions(text: str, *words: str) -> list[str]:
    """Return those words that a text has not."""
    return [word for word in words if word not in text]


@pytest.mark.seed("T6.1")
def test_t6_1_the_user_guide_has_what_the_plan_asks_for() -> None:
    limits, monitors = text_of(DOCS / "limits.md"), text_of(DOCS / "monitors.md")
    setters = ("set-memory-limit", "set-disk-latency-alert", "set-bandwidth-limit")
    assert mentions(limits, *setters) == []
    assert mentions(monitors, *MONITORS, "latency") == []


@pytest.mark.seed("T6.2")
def test_t6_2_the_deployment_guide_has_what_the_plan_asks_for() -> None:
    text = text_of(DOCS / "monitors-deployment.md")
    headings = re.findall(r"^## (.+)$", text, re.MULTILINE)
    assert headings[:3] == ["Which kernels", "Tuning", "Maps that fill"]
    matrix = text_of(REPOSITORY / "scripts" / "vmharness" / "kernels.py")
    kernels = re.findall(r'"(\d+\.\d+)"', matrix)
    assert mentions(text, *kernels, "PENDING_IO", "QUEUED_IO", "MEMORY_TOTALS", "--ring-size") == []


@pytest.mark.seed("T6.2")
def test_the_sizes_of_maps_in_the_guide_are_those_of_the_programs() -> None:
    text = text_of(DOCS / "monitors-deployment.md")
    source = text_of(REPOSITORY / "bpf" / "monitors" / "disk-io-monitor.bpf.c")
    for name in ("PENDING_IO", "QUEUED_IO"):
        [size] = re.findall(rf"max_entries, (\d+)\);(?:(?!struct \{{)[^}}])*\}} {name} SEC", source)
        assert f"`{name}` ({int(size):,})" in text


@pytest.mark.seed("T6.3")
def test_t6_3_the_migration_guide_has_what_the_plan_asks_for() -> None:
    text = text_of(DOCS / "monitors-deployment.md")
    steps = re.findall(r"^\d\. \*\*(\w+)\.\*\*", text, re.MULTILINE)
    assert steps == ["Tables", "Configuration", "Limits"]
    assert mentions(text, "monitors.db", "monitor unload", "set-memory-limit", "forget") == []
