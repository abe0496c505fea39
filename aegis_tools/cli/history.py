"""``aegisbpf history``."""

from __future__ import annotations

import argparse
import time
from dataclasses import asdict

from aegis_tools.cli import types
from aegis_tools.cli.output import App
from aegis_tools.control.history import Entry, History
from aegis_tools.errors import UsageError


def build(parser: argparse.ArgumentParser) -> None:
    """Add the options of the command."""
    parser.add_argument(
        "--limit", type=types.positive, default=50, metavar="N", help="newest entries (default: 50)"
    )
    parser.epilog = "newest first\n\nexample: aegisbpf history --limit 5"
    parser.set_defaults(run=run)


def run(app: App, arguments: argparse.Namespace) -> int:
    """Print the newest entries."""
    if arguments.limit < 1:
        raise UsageError("--limit must be at least 1", hint="example: aegisbpf history --limit 5")
    listing = History(app.paths.history).read(arguments.limit)
    if listing.damaged:
        app.note(f"warning: {listing.damaged} lines of the history are damaged")
    if listing.note:
        app.note(f"warning: {listing.note}")
    data = {
        "entries": [asdict(entry) for entry in listing.entries],
        "damaged": listing.damaged,
        "note": listing.note,
    }
    app.show(data, lambda: "\n".join(map(line, listing.entries)) or "nothing was changed yet")
    return 0


def line(entry: Entry) -> str:
    """Return an entry for a person."""
    when = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(min(entry.time, 1 << 40)))
    who = f"{entry.sudo_user} (uid {entry.uid})" if entry.sudo_user else f"uid {entry.uid}"
    parts = [when, entry.action, "" if entry.result == "ok" else entry.result, f"by {who}"]
    if entry.digest:
        parts.append(entry.digest[:16] + (f" serial {entry.serial}" if entry.serial else ""))
    if entry.signers:
        parts.append("signed by " + ", ".join(signer[:16] for signer in entry.signers))
    parts += [f"{name} {count}" for name, count in entry.counts.items() if count]
    parts.append(entry.note)
    return "  ".join(part for part in parts if part)
