"""The digest of what is live: as it is documented, however many entries there are."""

from __future__ import annotations

import hashlib
import random

from aegis_tools.control.live import Entries, content_digest
from aegis_tools.kernel.layout import FILE_ENTRY, POLICY_MAPS, SPECS, uid_key

MANY = 5000  # more than are hashed at a time


def spelled_out(maps: dict[str, Entries]) -> bytes:
    digest = hashlib.sha256()
    for name in (spec.name for spec in POLICY_MAPS if spec.name != "manual_rules"):
        entries = sorted(maps.get(name, {}).items())
        digest.update(name.encode() + b"\0" + len(entries).to_bytes(8, "little"))
        for key, value in entries:
            digest.update(key + value)
    return digest.digest()


def many() -> list[tuple[bytes, bytes]]:
    source = random.Random(1)
    size = SPECS["deny_path_map"].key_size
    return [(source.randbytes(size), source.randbytes(FILE_ENTRY.size)) for _ in range(MANY)]


def test_it_is_over_every_entry_in_the_order_of_the_keys() -> None:
    maps = {"deny_path_map": dict(many()), "rules": {uid_key("b"): b"1", uid_key("a"): b"2"}}
    assert content_digest(maps) == spelled_out(maps)


def test_the_order_in_which_entries_came_does_not_matter() -> None:
    entries = many()
    assert content_digest({"deny_path_map": dict(entries)}) == content_digest(
        {"deny_path_map": dict(reversed(entries))}
    )


def test_every_entry_counts() -> None:
    entries = many()
    whole = content_digest({"deny_path_map": dict(entries)})
    for left_out in (0, MANY // 2, MANY - 1):
        less = dict(entries[:left_out] + entries[left_out + 1 :])
        assert content_digest({"deny_path_map": less}) != whole


def test_a_uid_is_the_hash_of_the_id_alone() -> None:
    first = uid_key("path:/a")
    assert uid_key("path:/b") != first
    assert uid_key("path:/a") == first == hashlib.blake2b(b"path:/a", digest_size=8).digest()
