"""JUnit files: write one, count some. What a kind of tests found is only believed from its file."""

from __future__ import annotations

import xml.etree.ElementTree as ET
from collections.abc import Iterable
from pathlib import Path
from typing import NamedTuple


class Case(NamedTuple):
    """One test: its name, how long it took, and what was wrong (empty = nothing)."""

    name: str
    seconds: float
    failure: str = ""


class Count(NamedTuple):
    """How many tests passed, failed and were skipped."""

    passed: int = 0
    failed: int = 0
    skipped: int = 0

    def plus(self, other: Count) -> Count:
        """Return the sum."""
        return Count(*(a + b for a, b in zip(self, other, strict=True)))

    def __str__(self) -> str:
        text = f"{self.passed} passed, {self.failed} failed"
        return f"{text}, {self.skipped} skipped" if self.skipped else text


def write(path: Path, suite: str, cases: Iterable[Case]) -> None:
    """Write a JUnit file."""
    root = ET.Element("testsuite", name=suite)
    for case in cases:
        element = ET.SubElement(root, "testcase", name=case.name, time=f"{case.seconds:.3f}")
        if case.failure:
            ET.SubElement(
                element, "failure", message=case.failure.splitlines()[0]
            ).text = case.failure
    path.parent.mkdir(parents=True, exist_ok=True)
    ET.ElementTree(root).write(path, encoding="utf-8", xml_declaration=True)


def count(path: Path) -> Count:
    """Count the tests in a JUnit file.

    Raises:
        ValueError: It is missing or no XML: whoever should have written it did not finish.
    """
    try:
        cases = list(ET.parse(path).iter("testcase"))
    except (OSError, ET.ParseError) as error:
        raise ValueError(f"{path.name}: no results ({type(error).__name__})") from None
    outcomes = [{child.tag for child in case} for case in cases]
    failed = sum(1 for tags in outcomes if tags & {"failure", "error"})
    skipped = sum(1 for tags in outcomes if "skipped" in tags)
    return Count(len(cases) - failed - skipped, failed, skipped)


def failures(path: Path) -> list[str]:
    """Return the names of the tests that failed in a JUnit file; none where it is unreadable."""
    try:
        cases = list(ET.parse(path).iter("testcase"))
    except (OSError, ET.ParseError):
        return []
    return [
        ".".join(filter(None, (case.get("classname"), case.get("name"))))
        for case in cases
        if {child.tag for child in case} & {"failure", "error"}
    ]
