"""Write a change to the history, whoever made it."""

from __future__ import annotations

import contextlib
import os
import time
from collections.abc import Mapping

from aegis_tools.control.history import Entry, History
from aegis_tools.control.store import Record, Store
from aegis_tools.errors import AegisError
from aegis_tools.paths import Paths


def remember(
    paths: Paths,
    action: str,
    *,
    record: Record | None = None,
    counts: Mapping[str, int] | None = None,
    note: str = "",
    result: str = "ok",
) -> None:
    """Add a line to the history. The caller holds the lock."""
    Store(paths).prepare()
    History(paths.history).append(
        Entry(
            time=int(time.time()),
            action=action,
            result=result,
            uid=os.getuid(),
            sudo_user=os.environ.get("SUDO_USER", ""),
            digest=record.digest if record else "",
            serial=record.serial if record else 0,
            signers=record.signers if record else (),
            counts=counts or {},
            note=note,
        )
    )


def try_to_remember(paths: Paths, action: str, note: str) -> None:
    """Write it where that is possible: what may come and go with the disk full as well."""
    with contextlib.suppress(AegisError, OSError):
        remember(paths, action, note=note)
