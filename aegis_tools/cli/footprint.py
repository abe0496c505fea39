"""``aegisbpf footprint``."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING

from aegis_tools.cli import types
from aegis_tools.cli.load import add_size_options, size_options
from aegis_tools.cli.output import App, table
from aegis_tools.control import footprint
from aegis_tools.control.live import Live
from aegis_tools.control.quantities import human
from aegis_tools.errors import DriftError, UsageError
from aegis_tools.kernel.accounting import Kernel, read_kernel
from aegis_tools.kernel.loader import RINGBUF_BYTES, LoadOptions
from aegis_tools.kernel.pins import Pins

if TYPE_CHECKING:
    from aegis_tools.control.accounted import Verified

COUNTS = {
    "--deny-inodes": "inodes",
    "--deny-paths": "paths",
    "--deny-dirs": "dirs",
    "--deny-ips": "ips",
    "--deny-cidrs": "cidrs",
    "--deny-ports": "ports",
}

MEANINGS = {
    "use": "this kernel counts what the maps take now",
    "full": "this kernel counts what the maps would take when full (against the limit of locked "
    "memory); what they take now: aegisbpf footprint",
    "estimate": "this kernel counts keys and values of full maps only; what they take now: "
    "aegisbpf footprint",
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
    parser.add_argument(
        "--verify",
        action="store_true",
        help="compare with what this kernel counts for the loaded maps; exit 9 above 5 %%",
    )
    parser.epilog = (
        "Nothing needs to be loaded, but for --verify; what is loaded gives the sizes where no\n"
        "option does. The peak is reached while a policy is applied.\n\n"
        "example: aegisbpf footprint --deny-inodes=10000 --deny-paths=5000 --ringbuf-bytes=524288\n"
        "example: aegisbpf footprint --verify"
    )
    parser.set_defaults(run=run)


def run(app: App, arguments: argparse.Namespace) -> int:
    """Print the estimate."""
    counts = {name: getattr(arguments, name) for name in COUNTS.values()}
    if arguments.policy is not None and any(counts.values()):
        raise UsageError("a policy file or numbers, not both", hint="leave one of them out")
    pins, kernel = Pins(app.paths.pins), read_kernel()
    entries = None
    if arguments.policy:
        entries = _of_file(arguments.policy, fallback=pins.is_fallback())
    elif any(counts.values()):
        entries = footprint.entries_of_counts(**counts)
    if arguments.verify:
        return _verify(app, pins, kernel, entries)
    found = footprint.estimate(entries or {}, _sizes(pins, size_options(arguments)), kernel)
    over = [memory for memory in found.maps if memory.entries > memory.capacity]
    app.show(
        {**found.to_dict(), "too_small": [memory.name for memory in over]},
        lambda: as_text(found, over),
    )
    return 0


def _sizes(pins: Pins, options: LoadOptions) -> footprint.Sizes:
    """Return the sizes asked for; without any, those of what is loaded."""
    if options == LoadOptions() and pins.is_loaded():
        from aegis_tools.control.accounted import sizes_of

        with Live(pins) as live:
            return sizes_of(live)
    ring = options.ringbuf_bytes or RINGBUF_BYTES
    return footprint.Sizes(ring, options.capacities, options.max_hits)


def _verify(app: App, pins: Pins, kernel: Kernel, entries: dict[str, int] | None) -> int:
    from aegis_tools.control.accounted import verify

    with Live(pins) as live:
        found = verify(live, kernel, entries)
    app.show(found.to_dict(), lambda: compared(found))
    return 0 if found.close else DriftError.exit_code


def compared(found: Verified) -> str:
    """Return the comparison as a table, and what the figures mean."""
    rows = [
        (each.name, human(each.predicted), human(each.accounted), f"{100 * each.error:+.2f}%")
        for each in (*found.maps, found.total)
        if each.predicted or each.accounted
    ]
    code = found.to_dict()["programs"]
    return "\n".join(
        [
            table(rows, ("map", "predicted", "this kernel counts", "error")),
            "",
            MEANINGS[found.meaning],
            f"besides, {len(found.code)} programs: {human(code['instructions'])}, machine code "
            f"{human(code['machine_code'])}, types {human(code['types'])}",
        ]
    )


def _of_file(path: Path, *, fallback: bool) -> dict[str, int]:
    """Return the entries a policy, or the policy in a bundle, needs; signatures do not matter."""
    from aegis_tools.control.files import read_policy_file
    from aegis_tools.control.source import is_bundle
    from aegis_tools.policy.load import require_policy

    data, name = read_policy_file(path), path.name
    if is_bundle(data):
        from aegis_tools.policy import bundle, dsse

        inside = bundle.read_bundle(dsse.Envelope.from_bytes(data))
        data, name = inside.policy.encode(), inside.policy_name
    return footprint.entries_of_rules(require_policy(data, name)[0].rules, fallback=fallback)


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
