"""The undo file of ``block clear-stale``: what was removed, as it stood in the maps."""

from __future__ import annotations

import json
import os
import time
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from aegis_tools.control import files
from aegis_tools.control.live import Entries, uids_of, without
from aegis_tools.control.merge import ENTRY_MAPS, merge, same_file
from aegis_tools.control.resolve import Rules
from aegis_tools.control.stale import INODE_MAPS, Finding
from aegis_tools.errors import StateError
from aegis_tools.kernel.layout import DIR_HAS_NAMES, FILE_ENTRY, SPECS
from aegis_tools.paths import Paths

UNDO_FORMAT = 1
MAX_UNDO = 256 << 20
_NAMES_ONLY = FILE_ENTRY.pack(0, 0, 0, 0, 0, 0, DIR_HAS_NAMES)[36:]


def undo_of(maps: Mapping[str, Entries], findings: Iterable[Finding]) -> dict[str, Any]:
    """Return what :func:`put_back` needs, as JSON: every entry of the rules concerned.

    Entries keep only the uids of those rules.
    """
    uids = {finding.uid for finding in findings}
    names = {finding.uid: finding.rule for finding in findings}
    attributes = {uid: maps["rules"].get(uid.to_bytes(8, "little"), b"") for uid in uids}
    records = {uid: maps["manual_rules"].get(uid.to_bytes(8, "little"), b"") for uid in uids}
    entries, folders = [], set()
    for name in ENTRY_MAPS:
        for key, entry in maps[name].items():
            if uids & set(uids_of(entry)):
                others = set(uids_of(entry)) - uids
                kept = without(entry, others) or entry
                entries.append({"map": name, "key": key.hex(), "value": kept.hex()})
                if name == "deny_path_map":
                    folders.add(key[:12] + bytes(4))
    for key in folders & set(maps["deny_dir_map"]):
        entry = bytes(32) + maps["deny_dir_map"][key][32:36] + _NAMES_ONLY
        entries.append({"map": "deny_dir_map", "key": key.hex(), "value": entry.hex()})
    return {
        "format": UNDO_FORMAT,
        "rules": [
            {
                "uid": f"{uid:016x}",
                "id": names[uid],
                "attributes": attributes[uid].hex(),
                "record": records[uid].hex(),
            }
            for uid in sorted(uids)
        ],
        "entries": entries,
    }


def save(paths: Paths, content: Mapping[str, Any], *, now: float) -> Path:
    """Keep an undo file, and return where. The caller holds the lock.

    Raises:
        StateError: It cannot be written; nothing may be removed then.
    """
    folder = paths.state / "undo"
    files.ensure_folder(paths.state)
    files.ensure_folder(folder)
    stamp = time.strftime("%Y%m%dT%H%M%SZ", time.gmtime(now))
    path = folder / f"clear-stale-{stamp}-{os.urandom(3).hex()}.json"
    files.write_atomic(path, json.dumps(content).encode() + b"\n", what="undo file")
    return path


def put_back(rules: Rules, undo: Mapping[str, Any]) -> int:
    """Merge what an undo file lists into maps; return how many rules.

    Raises:
        StateError: It is no undo file, or a damaged one.
    """
    try:
        uids, entries = read_undo(undo)
    except (ValueError, LookupError, TypeError, AttributeError) as error:
        raise StateError(
            "this is no undo file of clear-stale, or it is damaged",
            hint="name one that clear-stale printed; see: aegisbpf history",
            detail=repr(error),
        ) from error
    for uid, (attributes, record) in uids.items():
        rules.maps["rules"].setdefault(uid, attributes)
        if record:
            rules.maps["manual_rules"].setdefault(uid, record)
    attributes_of = rules.maps["rules"]

    def mode_of(uid: int) -> int | None:
        found = attributes_of.get(uid.to_bytes(8, "little"))
        return found[0] if found else None

    for name, key, entry in entries:
        old = rules.maps[name].get(key)
        if name in INODE_MAPS and old and not same_file(old, entry):
            continue  # the number belongs to another file by now
        rules.maps[name][key] = merge(old, entry, mode_of).entry
    return len(uids)


def read_undo(
    undo: Mapping[str, Any],
) -> tuple[dict[bytes, tuple[bytes, bytes]], list[tuple[str, bytes, bytes]]]:
    """Check an undo file's content.

    Returns:
        (attributes, record of a rule made by hand) by uid; and map, key, value of entries.

    Raises:
        ValueError, LookupError, TypeError, AttributeError: It is none.
    """
    if undo["format"] != UNDO_FORMAT:
        raise ValueError("unknown format")
    uids = {}
    for rule in undo["rules"]:
        uid = int(rule["uid"], 16).to_bytes(8, "little")
        attributes = _sized(rule["attributes"], "rules")
        record = _sized(rule["record"], "manual_rules") if rule["record"] else b""
        uids[uid] = (attributes, record)
    known = {int.from_bytes(uid, "little") for uid in uids}
    entries = []
    for one in undo["entries"]:
        name, key = one["map"], bytes.fromhex(one["key"])
        value = _sized(one["value"], name)
        if name not in ENTRY_MAPS or len(key) != SPECS[name].key_size:
            raise ValueError("a key does not fit its map")
        if not set(uids_of(value)) <= known:
            raise ValueError("an entry of a rule that is not listed")
        entries.append((name, key, value))
    return uids, entries


def _sized(text: str, name: str) -> bytes:
    value = bytes.fromhex(text)
    if len(value) != SPECS[name].value_size:
        raise ValueError("a value does not fit its map")
    return value
