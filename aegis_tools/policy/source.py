"""What both file formats share: bytes to text, and collecting problems."""

from __future__ import annotations

import difflib
from collections.abc import Iterable

from aegis_tools.policy import targets
from aegis_tools.policy.model import Problem

MAX_BYTES = 64 << 20
"""Size of a policy file: a million rules with room."""
MAX_RULES = 1_000_000
MAX_SHOWN = 100
"""Errors after which parsing stops, and warnings after which the rest are only counted."""

_CARRIAGE_RETURN = "a carriage return: save the file with Unix line ends (sed -i 's/\\r$//' FILE)"
_UTF16_MARKS = (b"\xff\xfe", b"\xfe\xff")


class Stop(Exception):  # noqa: N818 - it ends a loop; the errors are the problems
    """Parsing cannot usefully go on; the reason is already among the problems."""


class Problems:
    """The problems of one file, in the order they were found."""

    def __init__(self) -> None:
        self._found: list[Problem] = []
        self._errors = 0
        self._warnings = 0
        self.last_line = 0

    @property
    def failed(self) -> bool:
        """Whether there is an error among the problems."""
        return self._errors > 0

    def error(self, line: int, message: str, rule: str = "") -> None:
        """Add an error.

        Raises:
            Stop: There are so many that the file is probably no policy at all.
        """
        self._errors += 1
        self._found.append(Problem(line, message, True, rule))
        if self._errors >= MAX_SHOWN:
            self._found.append(Problem(line, f"more than {MAX_SHOWN - 1} errors: stopped here"))
            raise Stop

    def warning(self, line: int, message: str, rule: str = "") -> None:
        """Add a warning."""
        self._warnings += 1
        if self._warnings <= MAX_SHOWN:
            self._found.append(Problem(line, message, False, rule))

    def fatal(self, line: int, message: str) -> Stop:
        """Add an error after which nothing more can be said; raise what is returned."""
        self._errors += 1
        self._found.append(Problem(line, message))
        return Stop()

    def all(self) -> list[Problem]:
        """Return the problems, by line."""
        # What is missing at the end of a file, YAML reports on the line after the last one.
        found = [each._replace(line=min(each.line, self.last_line)) for each in self._found]
        found.sort(key=lambda problem: problem.line)
        if self._warnings > MAX_SHOWN:
            more = self._warnings - MAX_SHOWN
            found.append(Problem(0, f"{more} more warnings are not shown", False))
        return found


def decode(data: bytes, problems: Problems) -> str:
    """Return the text of a policy file.

    Raises:
        Stop: The bytes are no UTF-8 text with Unix line ends, or too many.
    """
    problems.last_line = data.count(b"\n") + 1
    if len(data) > MAX_BYTES:
        raise problems.fatal(0, f"the file is larger than {MAX_BYTES >> 20} MiB")
    if data.startswith(_UTF16_MARKS):
        raise problems.fatal(1, "the file is UTF-16: save it as UTF-8")
    if data.startswith(b"\xef\xbb\xbf"):
        raise problems.fatal(1, "the file begins with a byte order mark: save it as plain UTF-8")
    for byte, name in ((b"\0", "a NUL byte: this is no text file"), (b"\r", _CARRIAGE_RETURN)):
        position = data.find(byte)
        if position >= 0:
            raise problems.fatal(_line_at(data, position), name)
    try:
        return data.decode()
    except UnicodeDecodeError as error:
        raise problems.fatal(_line_at(data, error.start), "this line is not UTF-8") from None


def _line_at(data: bytes, position: int) -> int:
    return data.count(b"\n", 0, position) + 1


def quoted(text: str) -> str:
    """Return text from the file as an error message shows it: short, control characters escaped."""
    return repr(text if len(text) <= 80 else text[:77] + "...")


def visible(text: str) -> str:
    """Return an id or target as a message shows it; quoted if it is long or cannot be seen."""
    return text if text.isprintable() and len(text) <= 200 else quoted(text)


def suggestion(word: str, known: Iterable[str]) -> str:
    """Return ``; did you mean 'x'?`` for the known word nearest to this one, or nothing."""
    near = difflib.get_close_matches(word[:80].lower(), list(known), n=1, cutoff=0.6)
    return f"; did you mean '{near[0]}'?" if near else ""


def add_cgroup(text: str, line: int, found: dict[str, int], problems: Problems) -> None:
    """Add an allowed cgroup and its line to those found, or a problem."""
    try:
        name = targets.cgroup(text)
    except ValueError as error:
        problems.error(line, f"{quoted(text)}: {error}")
        return
    if name in found:
        problems.warning(line, f"{visible(name)} is on line {found[name]} already")
        return
    found[name] = line
    if not text.startswith(("/", "cgid:")):
        problems.warning(line, f"{quoted(text)} is relative: taken as {quoted(name)}")
