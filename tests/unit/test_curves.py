"""The tables and pictures of what hooks add to calls."""

from __future__ import annotations

from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import pytest

from benchmarks.curves import PICTURES, mixes_table, tables, update
from benchmarks.pictures import SHAPES, What, lines_of, picture

MISS = What("miss", "audit")
COUNTS = (1, 1000)


def row(rules: str, count: int, call: str, subject: str, added: float) -> dict[str, Any]:
    """Return a result: so much is added to 10 microseconds."""
    state = {"ratio": 1 + added, "s": 1e-5 * (1 + added)}
    return {
        "rules": rules, "count": count, "call": call, "subject": subject,
        "programs": {"aegis_file_open": {"runs": 100, "ns_a_run": 1000 * added},
                     "aegis_mmap_file": {"runs": 3, "ns_a_run": 7}},
        "none_s": {"median": 1e-5}, "audit": state, "enforce": {"ratio": 0.5, "s": 5e-6},
    }  # fmt: skip


ROWS = [
    row("none", 0, "open", "miss", 0.03),
    *(row("inode", n, "open", "miss", 0.05) for n in COUNTS),
    *(row("name", n, "open", "miss", 0.08) for n in COUNTS),
    *(row("name", n, "open", "beside", 0.2) for n in COUNTS),
    *(row("inode", n, "open", "hit", 0.25) for n in COUNTS),
    *(row("port", n, "send", "miss", 0.2) for n in COUNTS),
]


def test_a_line_begins_where_there_is_no_rule() -> None:
    assert lines_of(ROWS, "open", MISS) == {
        "inode": {0: 1.03, 1: 1.05, 1000: 1.05},
        "name": {0: 1.03, 1: 1.08, 1000: 1.08},
    }
    assert lines_of(ROWS, "exec", MISS) == {}


def test_the_tables_say_what_is_added_and_how_much_that_is() -> None:
    misses, hits, programs = tables(ROWS).split("\n\n")
    assert misses.splitlines()[0] == "| call | rules | without | no rule | 1 | 1,000 |"
    assert "| open | inode | 10,000 | +300 (+3.0%) | +500 (+5.0%) | +500 (+5.0%) |" in misses
    assert "| open | name, beside | 10,000 |  | +2,000 (+20.0%) | +2,000 (+20.0%) |" in misses
    assert hits.splitlines()[-1] == "| open | inode | +2,500 (+25.0%) | -5,000 (-50.0%) |"
    assert "| open | `aegis_file_open` | 30 | 50 | 80 |  |  |  |  |" in programs
    assert "mmap" not in programs
    for table in (misses, hits, programs):
        assert len({line.count("|") for line in table.splitlines()}) == 1


def test_a_picture_has_a_plot_for_each_call_and_a_point_for_each_figure() -> None:
    root = picture(ROWS, MISS)
    titles = [text.text for text in root.iter("text") if text.get("font-weight")]
    assert titles == ["open", "send"]
    points = [path for path in root.iter("path") if path.get("d") in SHAPES.values()]
    figures = sum(len(line) for call in ("open", "send")
                  for line in lines_of(ROWS, call, MISS).values())  # fmt: skip
    assert len(points) == figures + 3  # and those of the legend


def test_what_is_faster_than_without_is_below_the_line() -> None:
    root = picture(ROWS, What("hit", "enforce"))
    assert {text.text for text in root.iter("text")} >= {"open", "0", "-40%"}


def test_a_document_gets_them_between_its_marks(tmp_path: Path) -> None:
    document = tmp_path / "performance.md"
    document.write_text("before\n<!-- overhead: begin -->\nold\n<!-- overhead: end -->\nafter\n")
    update(document, ROWS)
    text = document.read_text()
    assert text.startswith("before\n<!-- overhead: begin -->\n\n| call |")
    assert text.endswith("|\n\n<!-- overhead: end -->\nafter\n")
    assert "old" not in text
    for name in PICTURES:
        assert ElementTree.parse(tmp_path / name).getroot().get("role") == "img"


def test_a_document_without_marks_is_not_touched(tmp_path: Path) -> None:
    document = tmp_path / "performance.md"
    document.write_text("nothing\n")
    with pytest.raises(ValueError, match="no place"):
        update(document, ROWS)
    assert [path.name for path in tmp_path.iterdir()] == ["performance.md"]


def test_whole_work_is_told_with_its_interval_and_where_there_is_no_difference() -> None:
    told = {"ratio": 1.004, "low_99": 1.002, "high_99": 1.006, "verdict": "slower"}
    none = {**told, "low_99": 0.998, "verdict": "no difference"}
    rows = [{"work": "web", "none_s": {"median": 0.25}, "audit": told, "enforce": none}]
    assert mixes_table(rows).splitlines()[-1] == (
        "| web | 250 | +0.4% (+0.2% to +0.6%) | no difference: +0.4% (-0.2% to +0.6%) |"
    )
