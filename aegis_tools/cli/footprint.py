"""``aegisbpf footprint``."""

from __future__ import annotations

import argparse
from pathlib import Path

from aegis_tools.cli import types
from aegis_tools.cli.load import add_size_options, size_options
from aegis_tools.cli.output import App, table
from aegis_tools.control import footprint
from aegis_tools.errors import UsageError

COUNTS = {
    "--deny-inodes": "inodes",
    "--deny-paths": "paths",
    "--deny-dirs": "dirs",
    "--deny-ips": "ips",
    "--deny-cidrs": "cidrs",
    "--deny-ports": "ports",
}


def build(parser: argparse.ArgumentParser) -> None:
    """Add the options of the command."""
    parser.add_argument(
        "policy", nargs="?", type=types.path, help="a policy file, instead of numbers"
    )
    for option, name in COUNTS.items():
        parser.add_argument(
            option,
            dest=name,
            type=types.number(0),
            metavar="N",
            help=f"rules that deny {name}",
            default=0,
        )
    add_size_options(parser)
    parser.epilog = (
        "Nothing needs to be loaded. The peak is reached while a policy is applied.\n\n"
        "example: aegisbpf footprint --deny-inodes=10000 --deny-paths=5000 --ringbuf-bytes=524288"
    )
    parser.set_defaults(run=run)


def run(app: App, arguments: argparse.Namespace) -> int:
    """Print the estimate."""
    counts = {name: getattr(arguments, name) for name in COUNTS.values()}
    if any(count < 0 for count in counts.values()):
        raise UsageError("a number of rules cannot be negative")
    if arguments.policy is not None and any(counts.values()):
        raise UsageError("a policy file or numbers, not both")
    entries = _of_file(arguments.policy) if arguments.policy else None
    options = size_options(arguments)
    found = footprint.estimate(
        entries if entries is not None else footprint.entries_of_counts(**counts),
        ringbuf_bytes=options.ringbuf_bytes,
        capacities=options.capacities,
        max_hits=options.max_hits,
    )
    over = [memory for memory in found.maps if memory.entries > memory.capacity]
    app.show(
        {**found.to_dict(), "too_small": [memory.name for memory in over]},
        lambda: as_text(found, over),
    )
    return 0


def _of_file(path: Path) -> dict[str, int]:
    """Return the entries a policy, or the policy in a bundle, needs; signatures do not matter."""
    from aegis_tools.control.files import read_policy_file
    from aegis_tools.control.source import is_bundle
    from aegis_tools.policy.load import require_policy

    data, name = read_policy_file(path), path.name
    if is_bundle(data):
        from aegis_tools.policy import bundle, dsse

        inside = bundle.read_bundle(dsse.Envelope.from_bytes(data))
        data, name = inside.policy.encode(), inside.policy_name
    return footprint.entries_of_rules(require_policy(data, name)[0].rules)


def as_text(found: footprint.Footprint, over: list[footprint.MapMemory]) -> str:
    """Return the table, the sums, and which maps are too small."""
    rows = [(m.name, m.entries, m.capacity, human(m.bytes)) for m in found.maps]
    lines = [
        table(rows, ("map", "entries", "capacity", "memory")),
        "",
        f"total: {found.total} bytes ({human(found.total)})",
        f"peak while applying: {found.peak} bytes ({human(found.peak)})",
    ]
    lines += [f"warning: {m.name} holds {m.capacity}, {m.entries} are needed" for m in over]
    return "\n".join(lines)


def human(size: int) -> str:
    """Return a size for a person."""
    if size < 1 << 20:
        return f"{size / 1024:.1f} KiB"
    return f"{size / (1 << 20):.2f} MiB"
