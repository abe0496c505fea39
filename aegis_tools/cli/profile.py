"""``aegisbpf profile``: who is watched together, and within which limits."""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from aegis_tools.cli.output import App, table
from aegis_tools.control.lock import locked
from aegis_tools.errors import AegisError, UsageError
from aegis_tools.monitors.profiles import enforce, units
from aegis_tools.monitors.profiles.bandwidth import Bandwidth
from aegis_tools.monitors.profiles.hierarchy import Hierarchy, Target, targets, uid_of
from aegis_tools.monitors.profiles.measure import Feed, Reader
from aegis_tools.monitors.profiles.model import (
    ALLOCATION,
    BANDWIDTH,
    DISK_BANDWIDTH,
    DISK_LATENCY,
    MEMORY,
    PROCESSES,
    Action,
    Kind,
    Limit,
    Profile,
    check,
    make_limit,
)
from aegis_tools.monitors.profiles.settings import needed
from aegis_tools.monitors.profiles.store import ProfileStore

_CREATE = "aegisbpf profile create child --user child"
_SETTERS = {
    "set-memory-limit": (
        MEMORY, "500MB",
        "memory of all processes together, page cache included\n"
        "throttle: memory.high, the kernel reclaims and slows allocations down\n"
        "terminate: memory.max, the kernel ends a process where nothing can be reclaimed",
    ),
    "set-disk-latency-alert": (
        DISK_LATENCY, "100ms",
        "the longest block request, from issue to complete; needs disk-io-monitor",
    ),
    "set-disk-bandwidth-limit": (
        DISK_BANDWIDTH, "10MBps",
        "bytes read and bytes written, of each whole disk each\n"
        "throttle: io.max, the kernel holds requests back; what is written later, from the page\n"
        "cache, only on file systems that know whose it is: ext4, btrfs, xfs",
    ),
    "set-bandwidth-limit": (
        BANDWIDTH, "10Mbps",
        "bytes of IP packets, download and upload each, loopback left out\n"
        "throttle: a program on the cgroups drops what is too much, and TCP slows down",
    ),
    "set-process-limit": (
        PROCESSES, "100",
        "processes and their threads together, as the kernel counts them\n"
        "throttle: pids.max, new ones are refused; terminate: the latest is ended",
    ),
    "set-allocation-limit": (
        ALLOCATION, "100MB",
        "what one process has the kernel allocate in a second; needs memory-monitor",
    ),
}  # fmt: skip


def build(parser: argparse.ArgumentParser) -> None:
    """Add the subcommands."""
    parser.epilog = (
        "examples:\n"
        f"  {_CREATE}\n"
        "  aegisbpf profile set-memory-limit child 500MB --action terminate"
    )
    commands = parser.add_subparsers(required=True, metavar="COMMAND", parser_class=type(parser))
    command = commands.add_parser(
        "create",
        help="make a profile of users, cgroups and slices",
        description="A user's cgroup is the slice that systemd has for them while they are\n"
        "logged in: user-1000.slice. Limits hold for all cgroups of a profile, each.",
        epilog=f"example: {_CREATE}",
    )
    command.add_argument("name", metavar="NAME", help="letters, digits, - and _")
    command.add_argument(
        "--user", metavar="USER", action="append", default=[], help="name or number"
    )
    command.add_argument(
        "--cgroup", metavar="PATH", action="append", default=[], help="/system.slice/x.service"
    )
    command.add_argument(
        "--slice", metavar="SLICE", action="append", default=[], help="user-1000.slice"
    )
    _add_dry_run(command)
    command.set_defaults(run=create)
    command = commands.add_parser(
        "list", help="one profile a line", epilog="example: aegisbpf profile list --json"
    )
    command.set_defaults(run=show_all)
    command = commands.add_parser(
        "show",
        help="members, cgroups, limits, and what is used now",
        epilog="example: aegisbpf profile show child",
    )
    command.add_argument("name", metavar="NAME")
    command.set_defaults(run=show)
    command = commands.add_parser(
        "delete",
        help="remove a profile, and take all its limits back",
        epilog="example: aegisbpf profile delete child",
    )
    command.add_argument("name", metavar="NAME")
    _add_dry_run(command)
    command.set_defaults(run=delete)
    for name, (kind, value, text) in _SETTERS.items():
        _add_setter(commands, name, kind, value, text)


def _add_dry_run(command: argparse.ArgumentParser) -> None:
    command.add_argument("--dry-run", action="store_true", help="say what would be done")


def _add_setter(commands: Any, name: str, kind: Kind, value: str, text: str) -> None:
    able = [action.value for action in kind.actions]
    command = commands.add_parser(
        name,
        help=f"limit {kind.name}, or --none",
        description=f"{text}\n\n{units.HELP}",
        epilog=f"example: aegisbpf profile {name} child {value}",
    )
    command.add_argument("name", metavar="NAME")
    command.add_argument("value", metavar="LIMIT", nargs="?", help=f"{value} and the like")
    command.add_argument("--none", action="store_true", help="take the limit back")
    command.add_argument(
        "--action",
        choices=[action.value for action in Action],
        help=f"what is done beside telling (default: {able[0]}; possible: {', '.join(able)})",
    )
    _add_dry_run(command)
    command.set_defaults(run=set_limit, kind=kind, setter=name)


@contextmanager
def _changing(app: App, command: str) -> Iterator[tuple[ProfileStore, Hierarchy]]:
    with locked(app.paths.lock, command=command):
        yield ProfileStore(app.paths), enforce.system_hierarchy()


def _enforce(app: App, hierarchy: Hierarchy, profiles: list[Profile]) -> enforce.Enforced:
    found = enforce.resolve(profiles, hierarchy)
    return enforce.enforce(app.paths, hierarchy, enforce.plan(hierarchy, found))


def _others(store: ProfileStore, name: str) -> list[Profile]:
    """Return all profiles but one.

    Raises:
        StateError: One is damaged: what it asks for is unknown, and may not be taken back.
    """
    good, bad = store.load_all()
    for damaged in bad:
        if damaged.name != name:
            raise damaged.error
    return [profile for profile in good if profile.name != name]


def _remember(app: App, action: str, note: str) -> None:
    from aegis_tools.control.remember import remember

    remember(app.paths, action, note=note)


def create(app: App, arguments: argparse.Namespace) -> int:
    """Make a profile."""
    hierarchy = enforce.system_hierarchy()
    cgroups = tuple(dict.fromkeys(_from_root(hierarchy, text) for text in arguments.cgroup))
    users, slices = (tuple(dict.fromkeys(v)) for v in (arguments.user, arguments.slice))
    profile = check(Profile(arguments.name, users, cgroups, slices))
    with _changing(app, "profile create") as (store, _):
        if arguments.dry_run:
            store.check_new(profile.name)
        else:
            store.create(profile)
            _remember(app, "profile create", profile.name)
    for user in users:
        if uid_of(user) is None:
            app.note(f"note: there is no user {user} on this host now")
    verb = "dry run, would make" if arguments.dry_run else "made"
    data = {"changed": True, "dry_run": arguments.dry_run, "profile": profile.to_dict()}
    app.show(data, f"{verb} the profile {profile.name}: {_members(profile)}")
    return 0


def _from_root(hierarchy: Hierarchy, text: str) -> str:
    """Return a cgroup's path from the root of cgroup v2; it may be given with the mount point."""
    root = f"{hierarchy.root}/" if hierarchy.root is not None else ""
    found = text.rstrip("/") or "/"
    return f"/{found.removeprefix(root)}" if root and found.startswith(root) else found


def delete(app: App, arguments: argparse.Namespace) -> int:
    """Remove a profile and its limits."""
    name = arguments.name
    with _changing(app, "profile delete") as (store, hierarchy):
        if name not in store.names():
            store.load(name)  # says that there is none
        others = _others(store, name)
        done = enforce.Enforced()
        if not arguments.dry_run:
            # Killed before the second step, the profile is there without its limits until the
            # next run sets them again: it can be deleted again.
            done = _enforce(app, hierarchy, others)
            store.delete(name)
            _remember(app, "profile delete", name)
    verb = "dry run, would remove" if arguments.dry_run else "removed"
    data = {"changed": True, "dry_run": arguments.dry_run, "profile": name, **done.to_dict()}
    app.show(data, "\n".join([f"{verb} the profile {name}", *_left(done)]))
    return 0


def _left(done: enforce.Enforced) -> list[str]:
    return [
        f"left as it is, since somebody else has changed it: {entry.cgroup}: {entry.file}"
        for entry in done.outcome.left
    ]


def set_limit(app: App, arguments: argparse.Namespace) -> int:
    """Set a limit, or take it back."""
    limit = _limit_of(arguments)
    command = f"profile {arguments.setter}"
    with _changing(app, command) as (store, hierarchy):
        before = store.load(arguments.name)
        others = _others(store, arguments.name)
        after = before.with_limit(arguments.kind, limit)
        held_by = needed(hierarchy, limit) if limit is not None else ""
        done = enforce.Enforced()
        if not arguments.dry_run:
            done = _change(app, hierarchy, store, others, (before, after))
            _remember(app, command, f"{before.name}: {limit.text() if limit else 'none'}")
    found = targets(after, hierarchy)
    data = {
        "changed": before.to_dict() != after.to_dict() or done.changed,
        "dry_run": arguments.dry_run,
        "profile": after.to_dict(),
        "held_by": _held_by(limit, held_by),
        "cgroups": _cgroups(found),
        **done.to_dict(),
    }
    app.show(data, "\n".join([_said(arguments, limit, held_by, found), *_left(done)]))
    return 0


def _limit_of(arguments: argparse.Namespace) -> Limit | None:
    kind: Kind = arguments.kind
    if arguments.none == (arguments.value is not None):
        raise UsageError(
            "give a limit, or --none to take it back",
            hint=f"write it like {kind.dimension.example}",
        )
    if arguments.none:
        if arguments.action is not None:
            raise UsageError("--none needs no --action", hint="leave --action off")
        return None
    action = Action(arguments.action) if arguments.action else None
    return make_limit(kind, units.parse(arguments.value, kind.dimension), action)


def _change(
    app: App,
    hierarchy: Hierarchy,
    store: ProfileStore,
    others: list[Profile],
    change: tuple[Profile, Profile],
) -> enforce.Enforced:
    """Store a profile and make its limits; what the kernel refuses is not stored."""
    before, after = change
    store.save(after)
    try:
        return _enforce(app, hierarchy, [*others, after])
    except AegisError:
        store.save(before)
        _enforce(app, hierarchy, [*others, before])
        raise


def _held_by(limit: Limit | None, file: str) -> str:
    if limit is None:
        return ""
    if limit.kind is BANDWIDTH and limit.action is Action.THROTTLE:
        return "cgroup program"
    return file or "watcher"


def _said(
    arguments: argparse.Namespace, limit: Limit | None, file: str, found: list[Target]
) -> str:
    verb = "dry run, would set" if arguments.dry_run else "set"
    if limit is None:
        verb = "dry run, would take back" if arguments.dry_run else "took back"
        return f"{verb} the limit of {arguments.kind.name} for {arguments.name}"
    lines = [f"{verb} for {arguments.name}: {limit.text()}"]
    if _held_by(limit, file) == "watcher":
        lines.append("it holds while limits are watched: aegisbpf service status")
    lines += [f"waits for its cgroup: {t.cgroup} ({t.source})" for t in found if not t.number]
    if not found:
        lines.append("waits for a member: none of its users exists on this host")
    return "\n".join(lines)


def _cgroups(found: list[Target]) -> list[dict[str, Any]]:
    return [{"path": t.cgroup, "of": t.source, "exists": t.number > 0} for t in found]


def _members(profile: Profile) -> str:
    groups = (("user", profile.users), ("cgroup", profile.cgroups), ("slice", profile.slices))
    return ", ".join(f"{word} {name}" for word, names in groups for name in names)


def show_all(app: App, arguments: argparse.Namespace) -> int:
    """List the profiles."""
    del arguments
    good, bad = ProfileStore(app.paths).load_all()
    rows = [
        (p.name, _members(p), ", ".join(limit.text() for limit in p.limits.values()) or "-")
        for p in good
    ]
    rows += [(one.name, f"damaged: {one.error.message}", "-") for one in bad]
    data = {
        "profiles": [profile.to_dict() for profile in good],
        "damaged": [{"name": one.name, **one.error.to_dict()} for one in bad],
    }
    app.show(data, table(sorted(rows), ("NAME", "MEMBERS", "LIMITS")) if rows else "no profiles")
    return bad[0].error.exit_code if bad else 0


def show(app: App, arguments: argparse.Namespace) -> int:
    """Show a profile, and what it uses now."""
    profile = ProfileStore(app.paths).load(arguments.name)
    hierarchy = enforce.system_hierarchy()
    found = targets(profile, hierarchy)
    reader = Reader(hierarchy, Bandwidth(app.paths, hierarchy), Feed())
    limits = []
    for limit, measure in reader.measure(profile, found, 0.0):
        now = measure.value if limit.kind in (MEMORY, PROCESSES) else None
        limits.append((limit, _how(hierarchy, limit), now))
    counts = Bandwidth(app.paths, hierarchy).counts(profile.name)
    data = {
        **profile.to_dict(),
        "cgroups_now": _cgroups(found),
        "limits_now": {
            limit.kind.name: {"held_by": how, "used": now} for limit, how, now in limits
        },
        "bandwidth": {name: vars(count) for name, count in counts.items()},
    }
    rows = [("profile", profile.name), ("members", _members(profile))]
    rows += [("cgroup", f"{t.cgroup}{'' if t.number else ' (not there now)'}") for t in found]
    for limit, how, now in limits:
        used = f", now {units.about(now, limit.kind.dimension)}" if now is not None else ""
        rows.append(("limit", f"{limit.text()}, held by {how}{used}"))
    app.show(data, table(rows))
    return 0


def _how(hierarchy: Hierarchy, limit: Limit) -> str:
    try:
        return _held_by(limit, needed(hierarchy, limit))
    except AegisError as error:
        return f"nothing: {error.message}"
