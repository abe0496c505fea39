"""What happened during a soak: ``happened.ndjson``, one JSON object a line, oldest first."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from aegis_tools.policy import strictjson

KINDS = (
    "begun", "ended", "stopped", "reboot", "restart", "crash", "kernel", "canary-miss",
    "rule-restored", "override", "clock", "policy", "mode", "gap", "reading-failed",
)  # fmt: skip
CLASSES = {
    "kernel": ("panic", "bug", "oom", "bpf", "warning"),
    "restart": ("ordered", "systemd"),
}
MAX_LINES = 10_000
MAX_BYTES = 16 << 20
MAX_TEXT = 500
_FIELDS = {"time", "boot_s", "kind", "class", "text", "value"}
_LATEST = 2**40


@dataclass(frozen=True)
class Happened:
    """Something that happened.

    Attributes:
        time: Unix seconds.
        kind: One of KINDS.
        text: What it was, in one line, for a person.
        boot_s: Seconds since boot, where that is known.
        class_: Of the kinds in CLASSES, which sort; ``class`` in the file.
        value: A number that belongs to it: seconds of a gap, or by which the clock jumped.
    """

    time: float
    kind: str
    text: str = ""
    boot_s: float | None = None
    class_: str = ""
    value: float | None = None

    def __post_init__(self) -> None:
        """Check it.

        Raises:
            ValueError: Something of it is not as it must be.
        """
        classes = CLASSES.get(self.kind, ("",))
        good = (
            _number(self.time, 0)
            and self.kind in KINDS
            and self.class_ in classes
            and isinstance(self.text, str)
            and len(self.text) <= MAX_TEXT
            and (self.boot_s is None or _number(self.boot_s, 0))
            and (self.value is None or _number(self.value, -_LATEST))
        )
        if not good:
            raise ValueError("a field is not as it must be")

    def to_dict(self) -> dict[str, Any]:
        """Return it as a line has it; what is not known is left out."""
        values = {"time": self.time, "kind": self.kind, "text": self.text, "boot_s": self.boot_s,
                  "class": self.class_ or None, "value": self.value}  # fmt: skip
        return {name: value for name, value in values.items() if value is not None}


def format_line(one: Happened) -> str:
    """Return its line, with the newline."""
    return strictjson.dumps(one.to_dict()).decode() + "\n"


def parse(text: str) -> tuple[list[Happened], list[str]]:
    """Read the content of the file; nothing in it is an error.

    Returns:
        What happened, in the order of the file, at most MAX_LINES; and what is wrong with the
        file, one line.
    """
    found: list[Happened] = []
    lines = text.split("\n")
    bad = int(lines.pop() != "")
    for line in lines[:MAX_LINES]:
        try:
            found.append(_from_line(line))
        except ValueError:
            bad += 1
    problems = [f"{bad} lines of what happened cannot be read"] if bad else []
    if len(lines) > MAX_LINES:
        problems.append(f"only the first {MAX_LINES} lines of what happened are read")
    return found, problems


def _from_line(line: str) -> Happened:
    values = strictjson.loads(line.encode("utf-8", "surrogateescape"), fractions=True)
    if not isinstance(values, dict) or not set(values) <= _FIELDS:
        raise ValueError("a field is not known")
    values["class_"] = values.pop("class", "")
    try:
        return Happened(**values)
    except TypeError as error:
        raise ValueError("a field is missing or of a wrong kind") from error


def _number(value: object, low: float) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and low <= value < _LATEST
