"""``aegisbpf load``, ``attach``, ``detach`` and ``reset``."""

from __future__ import annotations

import argparse

from aegis_tools.cli.output import App
from aegis_tools.control import survival
from aegis_tools.control.live import Live
from aegis_tools.control.lock import locked
from aegis_tools.kernel import loader
from aegis_tools.kernel.features import mount_securityfs, read_features
from aegis_tools.kernel.pins import Pins

CAPACITY_OPTIONS = {
    "--max-rules": ("rules",),
    "--max-deny-inodes": ("deny_inode_map",),
    "--max-deny-paths": ("deny_path_map", "audit_path_map"),
    "--max-deny-dirs": ("deny_dir_map",),
    "--max-deny-ports": ("deny_port_map",),
    "--max-allow-cgroups": ("allow_cgroup_map",),
    "--max-manual-rules": ("manual_rules",),
    "--max-network-entries": (
        "deny_ipv4_map",
        "deny_ipv6_map",
        "deny_cidr_v4_map",
        "deny_cidr_v6_map",
        "deny_ip_port_v4_map",
        "deny_ip_port_v6_map",
    ),
}


def add_size_options(parser: argparse.ArgumentParser) -> None:
    """Add the options that size the maps at load."""
    for option, names in CAPACITY_OPTIONS.items():
        parser.add_argument(option, type=int, metavar="N", help=f"entries of {', '.join(names)}")
    parser.add_argument(
        "--ringbuf-size",
        "--ringbuf-bytes",
        dest="ringbuf_bytes",
        type=int,
        metavar="BYTES",
        default=loader.RINGBUF_BYTES,
        help="event ring, a power of two (default: %(default)s)",
    )


def size_options(arguments: argparse.Namespace) -> loader.LoadOptions:
    """Return the sizes that were asked for."""
    given = {
        name: getattr(arguments, option[2:].replace("-", "_"))
        for option, names in CAPACITY_OPTIONS.items()
        for name in names
    }
    return loader.LoadOptions(
        capacities={name: value for name, value in given.items() if value is not None},
        ringbuf_bytes=arguments.ringbuf_bytes,
    )


def build(parser: argparse.ArgumentParser) -> None:
    """Add the options of the command."""
    command = parser.get_default("command")
    if command == "load":
        add_size_options(parser)
        parser.add_argument(
            "--require-lsm", action="store_true", help="fail instead of the audit fallback"
        )
        parser.epilog = "example: aegisbpf load --max-deny-inodes=131072 --ringbuf-size=1048576"
    if command == "reset":
        parser.add_argument("--dry-run", action="store_true", help="say what would be removed")
        parser.epilog = (
            "Removes links, programs and maps in this order, waits until the hooks are gone and "
            "opens files that were denied.\nWorks with the agent dead and with pins missing."
        )
    parser.set_defaults(run=globals()[command])


def load(app: App, arguments: argparse.Namespace) -> int:
    """Load, attach and pin."""
    pins = Pins(app.paths.pins)
    mount_securityfs()
    with locked(app.paths.lock, command="load"):
        loaded = loader.load(
            pins,
            read_features(),
            size_options(arguments),
            require_lsm=arguments.require_lsm,
        )
        with Live(pins) as live:
            survival.refresh(live)
    state = "audit-fallback" if loaded.fallback else "attached"
    text = "already loaded" if not loaded.fresh else "loaded"
    if loaded.fallback:
        text += ": AUDIT FALLBACK, nothing can be refused"
        text += f" ({loaded.reason})" if loaded.reason else ""
    else:
        text += f": {len(pins.names('links'))} hooks attached and pinned"
    app.show(
        {
            "state": state,
            "fresh": loaded.fresh,
            "reason": loaded.reason,
            "hooks": pins.names("links"),
        },
        text,
    )
    return 0


def attach(app: App, arguments: argparse.Namespace) -> int:
    """Attach what has no link."""
    del arguments
    pins = Pins(app.paths.pins)
    with locked(app.paths.lock, command="attach"):
        loader.check_layout(pins)
        added = loader.attach(pins)
    app.show({"attached": added}, f"{len(added)} hooks attached" if added else "already attached")
    return 0


def detach(app: App, arguments: argparse.Namespace) -> int:
    """Remove the links."""
    del arguments
    with locked(app.paths.lock, command="detach"):
        removed = loader.detach(Pins(app.paths.pins))
    text = f"{len(removed)} hooks detached: nothing is denied or watched; undo: aegisbpf attach"
    app.show({"detached": removed}, text if removed else "nothing was attached")
    return 0


def reset(app: App, arguments: argparse.Namespace) -> int:
    """Remove everything and prove it."""
    from aegis_tools.control import reset as control

    pins = Pins(app.paths.pins)
    probes = _probes(app)
    if arguments.dry_run:
        names = {part: pins.names(part) for part in ("links", "progs", "maps")}
        count = sum(map(len, names.values()))
        app.show({"would_remove": names, "would_probe": probes}, f"would remove {count} pins")
        return 0
    with locked(app.paths.lock, command="reset"):
        report = control.reset(pins, probes)
        _remember(app, report.pins)
    text = f"reset: {report.links} hooks detached, {report.pins} pins removed"
    proof = "no hook of ours is left in the kernel"
    if report.probed:
        proof += f"; {len(report.probed)} denied files open again"
    app.show(
        {
            "links": report.links,
            "pins": report.pins,
            "probed": list(report.probed),
            "programs_left": report.programs,
        },
        f"{text}\n{proof}\nnothing is denied any more; the stored policy stays: "
        "aegisbpf load && aegisbpf policy apply FILE",
    )
    return 0


def _probes(app: App, limit: int = 20) -> list[str]:
    """Return regular files that live rules deny to read, as far as anything can tell."""
    import contextlib
    import os

    from aegis_tools.cli.policy_live import live_policy
    from aegis_tools.errors import AegisError
    from aegis_tools.policy.model import Kind, Op

    found: list[str] = []
    with contextlib.suppress(AegisError, OSError, ValueError):
        for rule in live_policy(app).rules:
            if rule.kind is Kind.PATH and rule.operations & Op.READ:
                if os.path.isfile(rule.target) and not os.path.islink(rule.target):  # noqa: PTH113, PTH114
                    found.append(rule.target)
                if len(found) >= limit:
                    break
    return found


def _remember(app: App, pins: int) -> None:
    """Reset must work with the state folder full, read-only or gone: the record is a courtesy."""
    import contextlib

    from aegis_tools.control.apply import remember
    from aegis_tools.errors import AegisError

    with contextlib.suppress(AegisError, OSError):
        remember(app.paths, "reset", counts={"pins": pins})
