"""What commands print with: text for a person, or one JSON document for a program."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TextIO

from aegis_tools.control.files import escaped
from aegis_tools.errors import AegisError, StateError
from aegis_tools.paths import Paths


@dataclass(frozen=True)
class App:
    """What every command is given.

    Attributes:
        paths: Where things are on this host.
        json: Print JSON.
        verbose: Print internals with errors.
        out: Standard output.
        err: Standard error.
    """

    paths: Paths = field(default_factory=Paths)
    json: bool = False
    verbose: bool = False
    out: TextIO = field(default_factory=lambda: _open(sys.stdout))
    err: TextIO = field(default_factory=lambda: _open(sys.stderr))

    def show(self, data: Any, text: str | Callable[[], str]) -> None:
        """Print ``data`` as JSON, or else ``text``; functions are called only when wanted."""
        if self.json:
            found = data() if callable(data) else data
            body = json.dumps(found, ensure_ascii=True)
        else:
            body = _for_terminal(text if isinstance(text, str) else text())
        if body:
            self._print(body)

    def write(self, data: Any, text: str) -> None:
        """Print ``data`` as JSON, or else ``text`` as it is: the content of a file."""
        if self.json:
            self.show(data, "")
        elif text:
            self._print(text.removesuffix("\n"))

    def _print(self, body: str) -> None:
        try:
            print(body, file=self.out, flush=True)
        except BrokenPipeError:
            raise
        except OSError as error:
            raise StateError(
                "what was asked for is done, but its output could not be written",
                hint="is the disk full? see: df",
                detail=str(error),
            ) from error

    def note(self, message: str) -> None:
        """Tell a person something on stderr that is no result."""
        print(_for_terminal(message), file=self.err)

    def fail(self, error: AegisError) -> int:
        """Print an error and return its exit code."""
        if self.json:
            print(json.dumps(error.to_dict()), file=self.out)
            return error.exit_code
        self.note(f"aegisbpf: {error.message}")
        if error.hint:
            self.note(f"  next: {error.hint}")
        if self.verbose and error.detail:
            self.note(f"  detail: {error.detail.strip()}")
        return error.exit_code


def _open(stream: TextIO | None) -> TextIO:
    """Return the stream, or a place for what nobody reads where it was closed."""
    return stream if stream is not None else Path(os.devnull).open("w", encoding="utf-8")


def plain(text: str, keep: str = "") -> str:
    """Return a name as a terminal may have it: what is neither visible nor a space is escaped."""
    if text.isprintable():
        return text
    return "".join(c if c in keep else escaped(c) for c in text)


def _for_terminal(text: str) -> str:
    """Return lines with whatever could drive the terminal escaped."""
    return "\n".join(plain(line, "\t") for line in text.split("\n"))


def table(rows: Iterable[Sequence[object]], header: Sequence[str] = ()) -> str:
    """Return rows as left-aligned columns; empty for no rows."""
    texts = [[str(cell) for cell in row] for row in rows]
    if not texts:
        return ""
    if header:
        texts.insert(0, list(header))
    widths = [max(len(row[i]) for row in texts) for i in range(len(texts[0]))]
    return "\n".join(
        "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip()
        for row in texts
    )
