"""``aegisbpf load``, ``attach``, ``detach`` and ``reset``."""

from __future__ import annotations

import argparse

from aegis_tools.cli import types
from aegis_tools.cli.output import App
from aegis_tools.control import survival
from aegis_tools.control.live import Live
from aegis_tools.control.lock import locked
from aegis_tools.control.sizes import OPTIONS
from aegis_tools.errors import KernelError, UsageError
from aegis_tools.kernel import loader
from aegis_tools.kernel.features import check_enabled, mount_securityfs, read_host_features
from aegis_tools.kernel.pins import Pins


def add_size_options(parser: argparse.ArgumentParser) -> None:
    """Add the options that size the maps at load."""
    for option, names in OPTIONS.items():
        parser.add_argument(
            option, type=types.positive, metavar="N", help=f"entries of {', '.join(names)}"
        )
    parser.add_argument(
        "--ringbuf-size",
        "--ringbuf-bytes",
        dest="ringbuf_bytes",
        type=types.number(4096, 1 << 30),
        metavar="BYTES",
        help=f"event ring, a power of two (default: {loader.RINGBUF_BYTES})",
    )


def size_options(arguments: argparse.Namespace) -> loader.LoadOptions:
    """Return the sizes that were asked for."""
    given = {
        name: getattr(arguments, option[2:].replace("-", "_"))
        for option, names in OPTIONS.items()
        for name in names
    }
    capacities = {name: value for name, value in given.items() if value is not None}
    try:
        return loader.LoadOptions(
            capacities=capacities,
            ringbuf_bytes=arguments.ringbuf_bytes,
            max_hits=max(loader.MAX_HITS, capacities.get("rules", 0)),
        )
    except KernelError as error:  # before any kernel was asked: the numbers are wrong
        raise UsageError(error.message, hint=error.hint) from None


def build(parser: argparse.ArgumentParser) -> None:
    """Add the options of the command."""
    command = parser.get_default("command")
    parser.epilog = f"example: aegisbpf {command}"
    if command == "load":
        add_size_options(parser)
        parser.add_argument(
            "--require-lsm", action="store_true", help="fail instead of the audit fallback"
        )
        parser.add_argument(
            "--replace",
            action="store_true",
            help="where another version's programs are loaded, or other sizes: replace them, with "
            "the live policy and no instant in which nothing is refused",
        )
        parser.epilog = (
            "example: aegisbpf load --max-deny-inodes=131072 --ringbuf-size=1048576\n"
            "after an upgrade: aegisbpf load --replace --dry-run"
        )
        parser.formatter_class = argparse.RawDescriptionHelpFormatter
    parser.add_argument("--dry-run", action="store_true", help="say what would be done")
    if command == "reset":
        parser.epilog = (
            "Removes links, programs and maps in this order, waits until the hooks are gone and "
            "opens files that were denied.\nWorks with the agent dead and with pins missing.\n\n"
            "example: aegisbpf reset --dry-run"
        )
    parser.set_defaults(run=globals()[command])


def load(app: App, arguments: argparse.Namespace) -> int:
    """Load, attach and pin."""
    pins, options = Pins(app.paths.pins), size_options(arguments)
    if arguments.replace and pins.is_loaded():
        from aegis_tools.cli.replace import replace

        return replace(app, arguments, options)
    if arguments.dry_run:
        return _would_load(app, pins, options, require_lsm=arguments.require_lsm)
    mount_securityfs()
    with locked(app.paths.lock, command="load"):
        before = set(pins.names("links"))
        loaded = loader.load(
            pins,
            read_host_features(app.paths.root),
            options,
            require_lsm=arguments.require_lsm,
        )
        with Live(pins) as live:
            survival.refresh(live, app.paths)
    state = "audit-fallback" if loaded.fallback else "attached"
    again = [] if loaded.fresh else sorted(set(pins.names("links")) - before)
    text = "already loaded" if not loaded.fresh else "loaded"
    if again:
        text = f"{len(again)} hooks attached again"
    if loaded.fallback:
        text += ": AUDIT FALLBACK, nothing can be refused"
        text += f" ({loaded.reason})" if loaded.reason else ""
    else:
        text += f": {len(pins.names('links'))} hooks are attached and pinned"
    app.show(
        {
            "state": state,
            "fresh": loaded.fresh,
            "attached_again": again,
            "reason": loaded.reason,
            "hooks": pins.names("links"),
        },
        text,
    )
    return 0


def _would_load(app: App, pins: Pins, options: loader.LoadOptions, *, require_lsm: bool) -> int:
    """Say what a load would do, as far as that is known without asking the kernel."""
    features = read_host_features(app.paths.root)
    check_enabled(features)
    loaded, missing = pins.is_loaded(), _unattached(pins)
    if loaded:
        loader.check_layout(pins)
        loader.check_sizes(pins, options)
        text = f"would attach {len(missing)} hooks again" if missing else "already loaded"
    elif features.lsm_active:
        text = "would load, attach and pin the LSM hooks, if this kernel takes LSM programs"
    elif require_lsm:
        raise KernelError(
            "cannot enforce: BPF LSM is not active on this boot", hint="run: aegisbpf health"
        )
    else:
        text = "would load the AUDIT FALLBACK: BPF LSM is not active on this boot"
    changes = not loaded or bool(missing)
    app.show({"dry_run": True, "would_change": changes, "would_attach": missing},
             f"dry run, {text}")  # fmt: skip
    return 0


def _unattached(pins: Pins) -> list[str]:
    """Return the hooks without a link."""
    hooks = {name for name in pins.names("progs") if name.startswith("aegis_")}
    return sorted(hooks - set(pins.names("links")))


def attach(app: App, arguments: argparse.Namespace) -> int:
    """Attach what has no link."""
    pins = Pins(app.paths.pins)
    if arguments.dry_run:
        loader.check_layout(pins)
        missing = _unattached(pins)
        app.show({"dry_run": True, "would_attach": missing},
                 f"dry run, would attach {len(missing)} hooks")  # fmt: skip
        return 0
    with locked(app.paths.lock, command="attach"):
        loader.check_layout(pins)
        added = loader.attach(pins)
    app.show({"attached": added}, f"{len(added)} hooks attached" if added else "already attached")
    return 0


def detach(app: App, arguments: argparse.Namespace) -> int:
    """Remove the links."""
    if arguments.dry_run:
        names = Pins(app.paths.pins).names("links")
        app.show({"dry_run": True, "would_detach": names},
                 f"dry run, would detach {len(names)} hooks")  # fmt: skip
        return 0
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

    from aegis_tools.control.confirm import forget
    from aegis_tools.control.remember import remember
    from aegis_tools.errors import AegisError

    with contextlib.suppress(AegisError, OSError):
        forget(app.paths, None, "reset")
    with contextlib.suppress(AegisError, OSError):
        remember(app.paths, "reset", counts={"pins": pins})
