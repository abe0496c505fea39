"""Needs remembered between commands, and an index that answers "surely harmless" at once.

Both lie in the run folder, which only root can write to, and are believed only while
everything they were made of is unchanged. ``needs.json`` spares an apply the search; the
index spares ``block add`` even reading that: it holds a 16-byte digest of every map key
under which a rule could come upon a need, so a rule none of whose keys is in it is harmless.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Any

from aegis_tools.control.files import ensure_folder, read_if_present, write_atomic
from aegis_tools.control.lockout import stamps
from aegis_tools.control.lockout.touch import keys_of_file, keys_of_rules
from aegis_tools.errors import AegisError
from aegis_tools.kernel import layout
from aegis_tools.paths import Paths

if TYPE_CHECKING:
    from aegis_tools.control.lockout.model import Maps, Need
    from aegis_tools.control.lockout.placed import Placed

_LIMIT = 16 << 20
_SIZE = 16


def remember(paths: Paths, stamp: dict[str, Any], placed: Sequence[Placed]) -> None:
    """Write needs and index. Not being able to is no error: the next command searches again."""
    needs = [[*need[:1], int(need.ops), *need[2:]] for need, _ in placed]
    head = json.dumps(stamp).encode()
    body = json.dumps(needs).encode()
    digests = b"".join(sorted({_digest(key) for _, file in placed for key in keys_of_file(file)}))
    try:
        ensure_folder(paths.run, mode=0o755)
        what = "remembered needs"
        write_atomic(paths.run / "needs.json", head + b"\n" + body, what=what)
        write_atomic(paths.run / "needs.index", head + b"\n" + digests, what=what)
    except (AegisError, OSError):
        return


def recall(paths: Paths) -> list[Need] | None:
    """Return the remembered needs; None where there are none that still hold."""
    body = _body(paths, "needs.json")
    if body is None:
        return None
    from aegis_tools.control.lockout.model import Need
    from aegis_tools.policy.model import Op

    try:
        return [
            Need(path, Op(ops), why, tuple(chain), code, rank)
            for path, ops, why, chain, code, rank in json.loads(body)
        ]
    except (ValueError, TypeError):
        return None


def surely_harmless(paths: Paths, found: Iterable[Maps]) -> bool:
    """Return whether file rules come upon no need; False also where that is not known.

    Args:
        paths: Ours.
        found: What each rule resolved to.
    """
    body = _body(paths, "needs.index")
    if body is None or len(body) % _SIZE:
        return False
    return not any(_holds(body, _digest(key)) for maps in found for key in keys_of_rules(maps))


def _holds(body: bytes, digest: bytes) -> bool:
    at = body.find(digest)
    while at >= 0 and at % _SIZE:
        at = body.find(digest, at + 1)
    return at >= 0


def _body(paths: Paths, name: str) -> bytes | None:
    try:
        owners = {0, os.geteuid()}
        data = read_if_present(paths.run / name, _LIMIT, what="remembered needs", owners=owners)
        head, _, body = (data or b"").partition(b"\n")
        return body if stamps.holds(json.loads(head)) else None
    except (AegisError, ValueError):
        return None


def _digest(key: bytes) -> bytes:
    return layout.blake2b(key, digest_size=_SIZE).digest()  # type: ignore[attr-defined]
