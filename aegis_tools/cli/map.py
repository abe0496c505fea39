"""``aegisbpf map``: the kernel maps themselves, decoded."""

from __future__ import annotations

import argparse
import json
from typing import Any

from aegis_tools.cli.editing import reading, record
from aegis_tools.cli.output import App, table
from aegis_tools.control import codec
from aegis_tools.control.live import Live
from aegis_tools.control.lock import locked
from aegis_tools.control.names import Names
from aegis_tools.errors import KernelError, PolicyError, UsageError
from aegis_tools.kernel import syscall
from aegis_tools.kernel.layout import SPECS
from aegis_tools.kernel.maps import Map
from aegis_tools.kernel.pins import Pins

VITAL = ("config", "slot_info", "capacities")
"""Maps that everything else stands on."""
_RINGBUF = 27  # BPF_MAP_TYPE_RINGBUF


def build(parser: argparse.ArgumentParser) -> None:
    """Add the subcommands."""
    parser.epilog = "example: aegisbpf map list"
    commands = parser.add_subparsers(required=True, metavar="COMMAND", parser_class=type(parser))
    command = commands.add_parser(
        "list", help="names, entries and capacities", epilog="example: aegisbpf map list"
    )
    command.set_defaults(run=show)
    command = commands.add_parser(
        "dump", help="the entries of a map", epilog="example: aegisbpf map dump deny_inode_map"
    )
    _common(command)
    command.set_defaults(run=dump)
    command = commands.add_parser(
        "update",
        help="write one entry, behind the back of every check",
        epilog='example: aegisbpf map update rules \'{"uid": "00000000000000ab"}\' '
        '\'{"mode": "audit"}\'',
    )
    _common(command)
    command.add_argument("key", metavar="KEY", help="JSON as dump prints it, or hex")
    command.add_argument("value", metavar="VALUE", help="JSON as dump prints it, or hex")
    _careful(command)
    command.set_defaults(run=update)
    command = commands.add_parser(
        "delete",
        help="delete one entry, behind the back of every check",
        epilog='example: aegisbpf map delete deny_inode_map \'{"dev": 2049, "ino": 17}\'',
    )
    _common(command)
    command.add_argument("key", metavar="KEY", help="JSON as dump prints it, or hex")
    _careful(command)
    command.set_defaults(run=delete)


def _common(command: argparse.ArgumentParser) -> None:
    command.add_argument("name", metavar="NAME", help="see: aegisbpf map list")
    command.add_argument("--slot", type=int, choices=(0, 1), help="default: the active one")
    command.add_argument("--hex", action="store_true", help="keys and values as raw bytes")


def _careful(command: argparse.ArgumentParser) -> None:
    command.add_argument("--force", action="store_true", help=f"even in {', '.join(VITAL)}")
    command.add_argument("--dry-run", action="store_true", help="say what would be done")


def _open(live: Live, name: str, slot: int | None) -> Map | None:
    """Open a map; of a policy map a slot's inner one, None where the slot has none."""
    known = live.pins.names("maps")
    if name not in known:
        import difflib

        near = difflib.get_close_matches(name, known, n=1)
        hint = f"did you mean {near[0]}?" if near else "see: aegisbpf map list"
        raise UsageError(f"there is no map {name!r}", hint=hint)
    if name in SPECS:
        return live.inner(name, slot)
    return live.pins.open_map(name)


def show(app: App, arguments: argparse.Namespace) -> int:
    """List the maps."""
    del arguments
    rows = reading(app, lambda live, _: [_facts(live, n) for n in live.pins.names("maps")])
    app.show(
        {"maps": rows},
        table(
            [(r["name"], r["entries"], r["capacity"], r["kind"]) for r in rows],
            ("MAP", "ENTRIES", "CAPACITY", "KIND"),
        ),
    )
    return 0


def _facts(live: Live, name: str) -> dict[str, Any]:
    if name in SPECS:
        count = len(live.entries(name))
        return {"name": name, "entries": count, "capacity": live.capacity(name), "kind": "policy"}
    with live.pins.open_map(name) as opened:
        kind = "ring" if opened.type == _RINGBUF else "state"
        count = 0 if kind == "ring" else sum(1 for _ in syscall.keys(opened.fd, opened.key_size))
        return {"name": name, "entries": count, "capacity": opened.max_entries, "kind": kind}


def dump(app: App, arguments: argparse.Namespace) -> int:
    """Print the entries of a map."""
    name = arguments.name

    def read(live: Live, names: Names) -> list[dict[str, Any]]:
        opened = _open(live, name, arguments.slot)
        if opened is None:
            return []
        with opened:
            entries = _read(opened, name)
        return [_entry(names, name, key, value, raw=arguments.hex) for key, value in entries]

    shown = reading(app, read)
    app.show(
        {"map": name, "entries": shown},
        lambda: "\n".join(json.dumps(entry, ensure_ascii=True) for entry in shown),
    )
    return 0


def _read(opened: Map, name: str) -> list[tuple[bytes, Any]]:
    if opened.type == _RINGBUF:
        raise KernelError(f"{name} is a ring, which has no entries", hint="run: aegisbpf run")
    if name == "block_stats":
        keys = syscall.keys(opened.fd, opened.key_size)
        return [(key, opened.get_per_cpu(key)) for key in keys]
    return sorted(opened.items())


def _entry(names: Names, name: str, key: bytes, value: Any, *, raw: bool) -> dict[str, Any]:
    if isinstance(value, list):
        numbers = [int.from_bytes(one, "little") for one in value]
        shown = [one.hex() for one in value] if raw else {"sum": sum(numbers), "per_cpu": numbers}
        return {"key": key.hex() if raw else codec.decode_key(name, key), "value": shown}
    if raw:
        return {"key": key.hex(), "value": value.hex()}
    entry = {"key": codec.decode_key(name, key), "value": codec.decode_value(name, value)}
    if "uid" in entry["key"]:
        entry["rule"] = names.name(int.from_bytes(key, "little"))
    return entry


def _key(name: str, opened: Map, text: str) -> bytes:
    key = _given(text, lambda value: codec.encode_key(name, value))
    return _sized(key, opened.key_size, "key")


def _given(text: str, encode: Any) -> bytes:
    try:
        if text[:1] in '{["' or text.lstrip("-").isdecimal():
            return bytes(encode(json.loads(text)))
        return bytes.fromhex(text.removeprefix("0x"))
    except codec.MISMATCHES as error:
        raise UsageError(
            f"{text!r} is nothing this map can hold: {error}",
            hint="write it as `aegisbpf map dump` prints it, or in hex",
        ) from None


def _sized(data: bytes, size: int, what: str) -> bytes:
    if len(data) != size:
        raise UsageError(
            f"a {what} of this map has {size} bytes, this one {len(data)}",
            hint="see: aegisbpf map dump NAME --hex",
        )
    return data


def _check(name: str, *, force: bool) -> None:
    if name in VITAL and not force:
        raise UsageError(
            f"writing to {name} by hand can end enforcement or break it",
            hint="use: aegisbpf mode, config or policy; or --force, if you must",
        )


def update(app: App, arguments: argparse.Namespace) -> int:
    """Write one entry."""
    name = arguments.name
    _check(name, force=arguments.force)
    with locked(app.paths.lock, command="map update"), Live(Pins(app.paths.pins)) as live:
        opened = _open(live, name, arguments.slot)
        if opened is None:
            raise PolicyError(f"{name} is empty in this slot", hint="see: aegisbpf block add")
        with opened:
            _check_writable(opened, name)
            key = _key(name, opened, arguments.key)
            value = _given(arguments.value, lambda given: codec.encode_value(name, given))
            _sized(value, opened.value_size, "value")
            changed = opened.get(key) != value
            if changed and not arguments.dry_run:
                opened.set(key, value)
                record(app, "map update", {}, f"{name} {key.hex()} = {value.hex()}")
    verb = "dry run, would write" if arguments.dry_run else "written"
    app.show(
        {"changed": changed, "dry_run": arguments.dry_run},
        f"{verb}; policy verify-live will call it tampering" if changed else "no change",
    )
    return 0


def _check_writable(opened: Map, name: str) -> None:
    if opened.type == _RINGBUF or name == "block_stats":
        raise UsageError(f"{name} cannot be written by hand", hint="see: aegisbpf stats")


def delete(app: App, arguments: argparse.Namespace) -> int:
    """Delete one entry."""
    name = arguments.name
    _check(name, force=arguments.force)
    with locked(app.paths.lock, command="map delete"), Live(Pins(app.paths.pins)) as live:
        opened = _open(live, name, arguments.slot)
        there, key = False, b""
        if opened is not None:
            with opened:
                _check_writable(opened, name)
                key = _key(name, opened, arguments.key)
                there = opened.get(key) is not None
                if there and not arguments.dry_run:
                    opened.delete(key)
                    record(app, "map delete", {}, f"{name} {key.hex()}")
    if not there:
        raise PolicyError(f"{name} has no such entry", hint=f"see: aegisbpf map dump {name}")
    verb = "dry run, would delete" if arguments.dry_run else "deleted"
    app.show(
        {"changed": True, "dry_run": arguments.dry_run},
        f"{verb}; policy verify-live will call it tampering",
    )
    return 0
