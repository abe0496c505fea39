"""The last policy of this host that can be used, where the stored one is damaged.

Each candidate is judged by the keys and settings of now, as a boot would judge it: only what this
host accepted before is taken, and nothing that its keys do not vouch for. An unsigned one that is
live is recorded again even where nothing tells any more whether signed ones were applied here: it
is what the host enforces, and the next boot judges it.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from dataclasses import replace

from aegis_tools.control import files
from aegis_tools.control.history import History
from aegis_tools.control.keystore import KeyStore
from aegis_tools.control.source import Source, read_stored
from aegis_tools.control.store import Record, Store
from aegis_tools.errors import AegisError, PolicyError, StateError
from aegis_tools.paths import Paths

_HISTORY = 500


def damage(paths: Paths, *, now: int) -> AegisError | None:
    """Return why the policy of the next boot cannot be read; None where it can, or there is none.

    That it is not trusted any more is no damage: somebody decided that.
    """
    store = Store(paths)
    try:
        current, _ = store.records()
        if current is not None:
            read_stored(store.load(current.digest), current, KeyStore(paths), store, now=now)
    except (StateError, PolicyError) as error:
        return error
    except AegisError:
        return None
    return None


def find(paths: Paths, *, now: int, live: str = "") -> Source | None:
    """Return the best policy to go back to; None where there is none.

    The one that is live, the one before it, then what was applied before, newest first.

    Args:
        paths: Where policies are stored.
        now: Unix seconds.
        live: Digest of the live policy; empty where there is none.
    """
    store, keystore = Store(paths), KeyStore(paths)
    for record in _candidates(paths, store, live):
        with contextlib.suppress(AegisError):
            stored = store.load(record.digest)
            found = read_stored(
                stored, record, keystore, store, now=now, allow_unsigned=record.digest == live
            )
            return replace(found, record=replace(found.record, applied=record.applied or now))
    return None


def _candidates(paths: Paths, store: Store, live: str) -> Iterator[Record]:
    known: dict[str, Record] = {}
    with contextlib.suppress(StateError):
        known = {record.digest: record for record in store.records() if record is not None}
    digests = dict.fromkeys([*([live] if live else []), *known])
    with contextlib.suppress(AegisError):
        listing = History(paths.history).read(_HISTORY)
        applied = {
            entry.digest: entry.time
            for entry in reversed(listing.entries)
            if entry.digest and entry.result == "ok" and not listing.note
        }
        digests |= dict.fromkeys(reversed(applied))
        for digest, time in applied.items():
            known.setdefault(digest, Record(digest, "", False, time))
    for digest in digests:
        yield known.get(digest) or Record(digest, "", False, 0)


def damaged_file(paths: Paths) -> bytes:
    """Return what is stored of the current policy, whatever it is; empty where nothing is."""
    with contextlib.suppress(AegisError, OSError):
        current, _ = Store(paths).records()
        for suffix in (".json", ".policy") if current else ():
            path = paths.bundles / f"{current.digest}{suffix}" if current else paths.current
            if files.exists(path):
                return path.read_bytes()[: 1 << 20]
        return b""
    with contextlib.suppress(OSError):
        return paths.current.read_bytes()[: 1 << 20]
    return b""
