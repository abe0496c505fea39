"""What each rule has matched: ``hits.csv``, a row for each rule whose counters changed in a turn.

The counters are those of the kernel: they begin again when a policy is applied. What rules had
matched before the soak began is in the rows of its first turn; a rule that has none began at zero.
The rule of the canary is in no row.
"""

from __future__ import annotations

import csv
import io
from dataclasses import dataclass

HEADER = "timestamp,rule,blocks,audits\n"
MAX_A_TURN = 50
MAX_BYTES = 64 << 20
MAX_ROWS = 1_000_000
MAX_RULE = 4200
_MOST = 2**64


@dataclass(frozen=True, slots=True)
class Hit:
    """What a rule had matched by then.

    Attributes:
        timestamp: Unix seconds.
        rule: Its id.
        blocks: Denials so far.
        audits: Matches that were let through so far.
    """

    timestamp: int
    rule: str
    blocks: int
    audits: int


def format_row(hit: Hit) -> str:
    """Return its row, with the newline: a rule's id may hold commas and quotes, and is quoted."""
    out = io.StringIO()
    rule = hit.rule.replace("\n", "\\n").replace("\r", "\\r").replace("\0", "")[:MAX_RULE]
    csv.writer(out, lineterminator="\n").writerow((hit.timestamp, rule, hit.blocks, hit.audits))
    return out.getvalue()


def parse(text: str) -> tuple[list[Hit], list[str]]:
    """Read the content of the file; nothing in it is an error.

    Returns:
        The rows in the order of the file, at most MAX_ROWS; and what is wrong with it, one line.
    """
    found: list[Hit] = []
    lines = text.split("\n")
    bad = int(lines.pop() != "")
    for line in lines[:MAX_ROWS]:
        if line == HEADER.rstrip("\n"):
            continue
        try:
            found.append(_hit(line))
        except (ValueError, csv.Error):
            bad += 1
    return found, [f"{bad} rows of hits cannot be read"] if bad else []


def _hit(line: str) -> Hit:
    (row,) = csv.reader([line], strict=True)
    when, rule, blocks, audits = row
    numbers = [int(text) for text in (when, blocks, audits) if text.isascii() and text.isdigit()
               and len(text) <= 20]  # fmt: skip
    if len(numbers) != 3 or not rule or len(rule) > MAX_RULE or max(numbers) >= _MOST:
        raise ValueError("a field is not as it must be")
    return Hit(numbers[0], rule, numbers[1], numbers[2])
