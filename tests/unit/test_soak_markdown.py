"""The report as Markdown and in a terminal: as it was looked at, and never anything else."""

from __future__ import annotations

import os
from dataclasses import replace
from pathlib import Path

import pytest
import soak_story
from hypothesis import given
from hypothesis import strategies as st
from soak_story import START, Story, report_of, verdict

from aegis_tools.soak import words
from aegis_tools.soak.glance import to_text
from aegis_tools.soak.happened import Happened
from aegis_tools.soak.hits import Hit
from aegis_tools.soak.markdown import to_markdown
from aegis_tools.soak.report import build

GOLDEN = Path(__file__).with_name("data")
HOSTILE = "</td><script>alert(1)</script> | `x` **b** [a](http://203.0.113.9) \u202e\x1b[31m\nnew"


@pytest.mark.parametrize("name", ["passed", "leaked", "gaps", "short"])
@pytest.mark.parametrize(("kind", "write"), [("md", to_markdown), ("txt", to_text)])
def test_it_is_as_it_was_looked_at(name: str, kind: str, write: object) -> None:
    """Made anew with SOAK_GOLDEN=1, and to be looked at then."""
    found = write(report_of(name))  # type: ignore[operator]
    path = GOLDEN / f"soak_{name}.{kind}"
    if os.environ.get("SOAK_GOLDEN"):
        path.write_text(found)
    assert found == path.read_text()


def test_an_override_and_a_soak_that_runs_are_said_first() -> None:
    story = Story(86400, 300, "enforce", override="the vendor's deadline")
    soak = story.run(3600).soak()
    report = build(soak, verdict(soak))
    page = to_markdown(report)
    assert "> Begun although it should not have been (override): the vendor's deadline" in page
    assert "> Still running: 1 h of 1 d." in page
    assert report["recommendation"]["text"] == "No verdict yet: the soak is still running."
    first = to_text(report).splitlines()[0]
    assert first == "PASS, short: 1 h of 7 d, still running: 1 h of 1 d, override"


def hostile() -> dict[str, object]:
    soak = Story(600, 5, note=HOSTILE, override="", workload="git").run(600).end()
    soak = replace(
        soak,
        hits=(Hit(int(START) + 5, HOSTILE, 3, 0),),
        happened=(Happened(START + 9, "kernel", HOSTILE, class_="bpf"),),
        problems=(HOSTILE,),
        settings=replace(soak.settings, host=replace(soak.settings.host, name=HOSTILE[:200])),
    )
    wrong = soak_story.criterion("canary", "FAIL", why=HOSTILE, title=HOSTILE)
    return build(soak, verdict(soak, wrong), evidence=[(HOSTILE, 5)])


def test_what_a_host_says_is_text_in_markdown() -> None:
    page = to_markdown(hostile())
    assert "<script>" not in page.replace(r"\<script\>", "")
    assert "\u202e" not in page
    assert "\x1b" not in page
    assert r"\| \`x\` \*\*b\*\* \[a\](http://203.0.113.9)" in page
    for line in page.splitlines():
        if line.startswith("| ") and "UTC" not in line:
            assert line.endswith(" |")


def test_what_a_host_says_drives_no_terminal() -> None:
    text = to_text(hostile())
    assert "\x1b" not in text
    assert "\u202e" not in text
    assert all(line.isprintable() for line in text.splitlines())


@pytest.mark.parametrize(
    ("value", "text"),
    [(None, "-"), (0.0, "0"), (12, "12"), (42156, "42,156"), (0.0123456, "0.0123"), (4.2, "4.2"),
     (1234.5, "1,234"), (-0.02, "-0.02"), (0.0000123, "0.000012"), (-1e-9, "0"), (99.95, "100"),
     (1e12, "1,000,000,000,000")],
)  # fmt: skip
def test_numbers_are_short_and_plain(value: float | None, text: str) -> None:
    assert words.number(value) == text


@given(st.floats(allow_nan=False, allow_infinity=False, width=32))
def test_a_number_says_what_it_is(value: float) -> None:
    text = words.number(value)
    assert "e" not in text
    assert float(text.replace(",", "")) == pytest.approx(value, rel=0.01, abs=5e-5)


def test_a_failure_names_what_failed_and_the_next_command() -> None:
    report = report_of("leaked")
    assert report["recommendation"] == {
        "text": "Not ready: agent crashes 1 (limit 0); memory growth 8.02 MB/day "
        "(limit < 1 MB/day).",
        "commands": [
            "aegisbpf incident crash-loop --dry-run",
            "aegisbpf incident bundle -o /root/aegis.tar.gz",
        ],
    }


def test_stress_that_passed_asks_for_nothing() -> None:
    story = Story(3 * 86400, 300, "stress", workload="stress")
    soak = story.run(3 * 86400).end()
    found = build(soak, verdict(soak))["recommendation"]
    assert found == {"text": "Holds under sustained load.", "commands": []}
