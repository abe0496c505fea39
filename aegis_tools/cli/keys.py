"""``aegisbpf keys``: make signing keys, choose which are trusted on this host."""

from __future__ import annotations

import argparse
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from aegis_tools.cli import types
from aegis_tools.cli.output import App, table
from aegis_tools.control import files, keystore
from aegis_tools.control.lock import locked
from aegis_tools.control.remember import remember
from aegis_tools.control.source import check_removal, current_signers, why_signed_only
from aegis_tools.control.store import Store
from aegis_tools.errors import StateError, UsageError
from aegis_tools.policy.trust import MAX_THRESHOLD, TrustConfig

if TYPE_CHECKING:
    from aegis_tools.policy.keys import PublicKey

_MAX_KEY = 4096


def build(parser: argparse.ArgumentParser) -> None:
    """Add the subcommands."""
    commands = parser.add_subparsers(required=True, metavar="COMMAND", parser_class=type(parser))
    command = commands.add_parser(
        "generate",
        help="make a key pair",
        description="Writes PREFIX.key (secret, mode 0600; keep it off managed hosts) and\n"
        "PREFIX.pub. Existing files are never overwritten.",
        epilog="example: aegisbpf keys generate /root/keys/ops --comment 'ops 2026'",
    )
    command.add_argument("prefix", metavar="PREFIX", type=types.path)
    command.add_argument("--comment", default="", help="who or what the key is for")
    command.set_defaults(run=generate)
    parser.epilog = "example: aegisbpf keys list"
    command = commands.add_parser(
        "list",
        help="list the trusted keys and how many must sign",
        epilog="example: aegisbpf keys list --json",
    )
    command.set_defaults(run=list_keys)
    command = commands.add_parser(
        "add", help="trust a public key", epilog="example: aegisbpf keys add ops.pub"
    )
    command.add_argument("file", metavar="FILE.pub", type=types.path)
    command.add_argument("--dry-run", action="store_true", help="say what would be done")
    command.set_defaults(run=add)
    command = commands.add_parser(
        "remove",
        help="stop trusting a key",
        epilog="example: aegisbpf keys remove 3f2a9c01",
    )
    command.add_argument("keyid", metavar="KEYID", help="the id or its first 8 or more digits")
    command.add_argument(
        "--force",
        action="store_true",
        help="even if too few keys remain for any policy, or for the current one",
    )
    command.add_argument("--dry-run", action="store_true", help="say what would be done")
    command.set_defaults(run=remove)
    _trust_parser(commands)
    command = commands.add_parser(
        "reset-serials",
        help="rebuild a lost record of accepted serials",
        description="Starts the record of accepted serials anew from what is stored here. An\n"
        "older bundle than the stored ones could then be replayed: use it only when told to.",
        epilog="example: aegisbpf keys reset-serials",
    )
    command.add_argument("--dry-run", action="store_true", help="say what would be known")
    command.set_defaults(run=reset_serials)


def _trust_parser(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    command = commands.add_parser(
        "trust",
        help="show or set how signatures are judged",
        epilog="example: aegisbpf keys trust --threshold 2 --group web --require-signature yes",
    )
    command.add_argument(
        "--threshold",
        type=types.number(1, MAX_THRESHOLD),
        metavar="N",
        help="keys that must have signed",
    )
    command.add_argument("--group", metavar="NAME", help="bundles for this group are for us")
    command.add_argument(
        "--require-signature", choices=("yes", "no"), help="although no key is trusted"
    )
    command.add_argument("--dry-run", action="store_true", help="say what would be set")
    command.set_defaults(run=trust)


def generate(app: App, arguments: argparse.Namespace) -> int:
    """Make a key pair."""
    from aegis_tools.policy.keys import PrivateKey

    key = PrivateKey.generate(arguments.comment)
    secret, public = keystore.write_key_pair(arguments.prefix, key)
    keyid = key.public.keyid
    app.show(
        {"keyid": keyid, "private": str(secret), "public": str(public)},
        f"key id      {keyid}\nprivate key {secret}   (secret: never on a managed host)\n"
        f"public key  {public}   (trust it on hosts: aegisbpf keys add {public})",
    )
    return 0


def list_keys(app: App, arguments: argparse.Namespace) -> int:
    """List the trusted keys."""
    del arguments
    store = keystore.KeyStore(app.paths)
    config, entries = store.config(), store.entries()
    rows = [(found.key.keyid, found.key.comment or "-") for found in entries]
    try:
        reason = why_signed_only(store, Store(app.paths))
    except StateError as error:
        reason = error.message
    needed = trust_line(config.threshold, len({keyid for keyid, _ in rows}), reason)
    app.show(
        {
            "threshold": config.threshold,
            "group": config.group,
            "require_signature": config.require_signature,
            "unsigned_accepted": not reason,
            "keys": [{"keyid": keyid, "comment": comment} for keyid, comment in rows],
            "signers": _signers(store, app),
        },
        f"{table(rows, ('KEY ID', 'COMMENT'))}\n{needed}; group {config.group}".lstrip(),
    )
    return 0


def _signers(store: keystore.KeyStore, app: App) -> list[str] | None:
    try:
        found = current_signers(store, Store(app.paths))
    except StateError:
        return []
    return None if found is None else list(found)


def trust_line(threshold: int, keys: int, reason: str) -> str:
    """Return which policies a host takes, for a person.

    Args:
        threshold: How many keys must sign.
        keys: How many are trusted.
        reason: Why it takes signed policies only; empty where it takes any.
    """
    if threshold > keys > 0:
        return f"{threshold} must sign, but only {keys} can: no policy is accepted"
    if keys:
        return f"{threshold} of {keys} must sign"
    if not reason:
        return "no trusted keys: policies need no signature"
    return f"no trusted keys, but {reason}: no policy is accepted until a key is trusted"


def add(app: App, arguments: argparse.Namespace) -> int:
    """Trust a key."""
    key = _read_public(arguments.file)
    if arguments.dry_run:
        return _would_add(app, key)
    with locked(app.paths.lock, command="keys add"):
        found = keystore.KeyStore(app.paths).add(key.to_text().encode())
        remember(app.paths, "keys add", note=found.key.keyid)
    app.show({"keyid": found.key.keyid}, f"trusted: {found.key.keyid} {found.key.comment}")
    return 0


def _read_public(path: Path) -> PublicKey:
    from aegis_tools.policy.keys import KeyFormatError, PublicKey

    name = files.named(path)
    text = files.read_limited(path, _MAX_KEY, what=f"public key file {name}", follow=True)
    try:
        return PublicKey.from_text(text)
    except KeyFormatError as error:
        raise KeyFormatError(f"{name}: {error.message}", hint=error.hint) from error


def _would_add(app: App, key: PublicKey) -> int:
    there = any(k.keyid == key.keyid for k in keystore.KeyStore(app.paths).trusted())
    verb = "already trusted" if there else "dry run, would be trusted"
    app.show({"dry_run": True, "keyid": key.keyid, "would_change": not there},
             f"{verb}: {key.keyid} {key.comment}")  # fmt: skip
    return 0


def remove(app: App, arguments: argparse.Namespace) -> int:
    """Stop trusting a key."""
    store = keystore.KeyStore(app.paths)
    if arguments.dry_run:
        key = _removable(app, store, arguments)
        app.show({"dry_run": True, "keyid": key.keyid},
                 f"dry run, would no longer trust: {key.keyid} {key.comment}")  # fmt: skip
        return 0
    with locked(app.paths.lock, command="keys remove"):
        key = _removable(app, store, arguments)
        store.remove(key.keyid, force=arguments.force)
        remember(app.paths, "keys remove", note=key.keyid)
    app.show({"keyid": key.keyid}, f"no longer trusted: {key.keyid} {key.comment}")
    return 0


def _removable(app: App, store: keystore.KeyStore, arguments: argparse.Namespace) -> PublicKey:
    key = store.removable(arguments.keyid, force=arguments.force)
    if not arguments.force:
        check_removal(store, Store(app.paths), key.keyid)
    return key


def trust(app: App, arguments: argparse.Namespace) -> int:
    """Show or set threshold, group and whether signatures are required."""
    store = keystore.KeyStore(app.paths)
    before = store.config()
    config = _wanted(before, arguments)
    if config != before and not arguments.dry_run:
        with locked(app.paths.lock, command="keys trust"):
            store.save_config(config)
            remember(app.paths, "keys trust", note=config.to_bytes().decode().strip())
    keys = len({entry.key.keyid for entry in store.entries()})
    if config.threshold > keys > 0:
        app.note(f"warning: {trust_line(config.threshold, keys, '')}")
    app.show(
        {
            "threshold": config.threshold,
            "group": config.group,
            "require_signature": config.require_signature,
            "dry_run": arguments.dry_run,
        },
        f"{'dry run, would be: ' if arguments.dry_run else ''}"
        f"threshold {config.threshold}, group {config.group}, "
        f"signature {'required' if config.require_signature else 'required once a key is trusted'}",
    )
    return 0


def _wanted(config: TrustConfig, arguments: argparse.Namespace) -> TrustConfig:
    """Return the settings that were asked for.

    Raises:
        UsageError: The group is none.
    """
    if arguments.threshold is not None:
        config = replace(config, threshold=arguments.threshold)
    if arguments.group is not None:
        config = replace(config, group=arguments.group)
    if arguments.require_signature is not None:
        config = replace(config, require_signature=arguments.require_signature == "yes")
    try:
        return TrustConfig.from_bytes(config.to_bytes())
    except StateError as error:
        raise UsageError(
            f"{arguments.group!r} is no name of a group",
            hint="1 to 64 letters, digits, dots, dashes or underscores: --group web",
            detail=error.detail,
        ) from error


def reset_serials(app: App, arguments: argparse.Namespace) -> int:
    """Rebuild the record of serials."""
    if arguments.dry_run:
        state = Store(app.paths).known_serials()
    else:
        with locked(app.paths.lock, command="keys reset-serials"):
            state = Store(app.paths).reset_serials()
            remember(app.paths, "keys reset-serials")
    groups = {group: seen.serial for group, seen in state.groups.items()}
    when = "dry run, serials known would be" if arguments.dry_run else "serials known now"
    app.show({"groups": groups, "dry_run": arguments.dry_run}, f"{when}: {groups or 'none'}")
    return 0
