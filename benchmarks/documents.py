"""Tables that a benchmark makes, in a document: between two marks; the rest is written by hand."""

from __future__ import annotations

from pathlib import Path

from aegis_tools.control.files import write_atomic


def parts_of(document: Path, name: str) -> tuple[str, str, str]:
    """Return what is before, between and after a document's marks; the marks are not in between.

    Args:
        document: Markdown, with ``<!-- NAME: begin -->`` and ``<!-- NAME: end -->``.
        name: Of the marks.

    Raises:
        ValueError: It has no such marks.
    """
    begin, end = f"<!-- {name}: begin -->", f"<!-- {name}: end -->"
    before, found, rest = document.read_text(encoding="utf-8").partition(begin)
    between, closed, after = rest.partition(end)
    if not found or not closed:
        raise ValueError(f"{document} has no place for {name}")
    return before + begin, between, end + after


def put(document: Path, name: str, text: str) -> None:
    """Put a text between a document's marks, in the place of what was there.

    Raises:
        ValueError: It has no such marks.
        StateError: It cannot be written.
    """
    before, _, after = parts_of(document, name)
    made = f"{before}\n\n{text}\n\n{after}"
    write_atomic(document, made.encode(), what="document", mode=0o644)
