"""What documents show to be typed: the lines of their ``sh`` blocks."""

from __future__ import annotations

import re
from pathlib import Path

DOCS = Path(__file__).resolve().parent.parent.parent / "docs"
POLICY = (
    "version=1\n[deny_path]\n/srv/app/secret\n/srv/app/not there yet\n[deny_inode]\n1234:5678\n"
)
"""What the documents' /etc/aegisbpf/policy.conf holds."""
FILES = {
    "/srv/app/secret": "secret\n",
    "/srv/incorrectly/blocked/file": "secret\n",
    "/etc/aegisbpf/policy.conf": POLICY,
}
"""Files that the documents take to be there."""


def blocks_of(name: str) -> list[list[str]]:
    """Return the lines of each block of a document, comments left out."""
    text = (DOCS / name).read_text(encoding="utf-8")
    blocks = re.findall(r"^```sh\n(.*?)^```", text, re.MULTILINE | re.DOTALL)
    kept = ([line for line in block.splitlines() if line and line[0] != "#"] for block in blocks)
    return [lines for lines in kept if lines]


def allowed(line: str) -> set[int]:
    """Return the statuses a line may end with: searching in vain is no failure of ours, and the
    machine may well be in one of the scenarios.
    """
    if line.startswith("aegisbpf diagnose"):
        return {0, 20, 21, 22, 23}
    return {0, 1} if "grep" in line else {0}
