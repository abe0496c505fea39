"""Tables between the marks of a document."""

from __future__ import annotations

from pathlib import Path

import pytest

from benchmarks.documents import parts_of, put


def test_what_is_between_the_marks_is_replaced_and_nothing_else(tmp_path: Path) -> None:
    document = tmp_path / "document.md"
    document.write_text("a\n<!-- it: begin -->\nold\n<!-- it: end -->\nz\n")
    for text in ("new", "newer"):
        put(document, "it", text)
        assert document.read_text() == f"a\n<!-- it: begin -->\n\n{text}\n\n<!-- it: end -->\nz\n"
    assert parts_of(document, "it")[1] == "\n\nnewer\n\n"


@pytest.mark.parametrize("text", ["", "a\n<!-- it: begin -->\n", "<!-- it: end -->\n"])
def test_a_document_without_both_marks_is_not_touched(text: str, tmp_path: Path) -> None:
    document = tmp_path / "document.md"
    document.write_text(text)
    with pytest.raises(ValueError, match="no place for it"):
        put(document, "it", "new")
    assert document.read_text() == text
    assert [path.name for path in tmp_path.iterdir()] == ["document.md"]
