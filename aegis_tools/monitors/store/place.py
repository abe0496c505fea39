"""Where the store is: a file of ours, or a PostgreSQL server. Its password is never told on.

It is looked for in this order: ``--store``, the environment, a file of the administrator's, and
else it is ``monitors.db`` among our state.
"""

from __future__ import annotations

import os
import stat
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from sqlalchemy.engine import URL, make_url
from sqlalchemy.exc import ArgumentError

from aegis_tools.control.files import (
    OTHERS_ANY,
    OTHERS_WRITE,
    ensure_folder,
    exists,
    kind_of,
    read_limited,
)
from aegis_tools.errors import StateError, UsageError
from aegis_tools.paths import Paths

ENVIRONMENT = "AEGIS_MONITOR_STORE"
_EXAMPLE = "write it like postgresql://user@host/database, or sqlite:////path/of/a/file"
_SECRETS = ("password", "passwd", "sslpassword", "oauth_client_secret")


@dataclass(frozen=True)
class Place:
    """A store's place.

    Attributes:
        url: For SQLAlchemy; may hold a password.
        file: Of SQLite.
    """

    url: URL
    file: Path | None

    @property
    def shown(self) -> str:
        """What a person is told: no password, nor anything else but server and database."""
        if self.file is not None:
            return str(self.file)
        return f"PostgreSQL {self.url.database or ''} at {self.url.host or 'the local socket'}"


def find(paths: Paths, given: str = "", environment: Mapping[str, str] = os.environ) -> Place:
    """Return where the store is.

    Args:
        paths: Of this host.
        given: ``--store``, which everybody on the host can read.
        environment: May hold ``AEGIS_MONITOR_STORE``.

    Raises:
        UsageError: It is no place, or there is a password on the command line.
        StateError: The administrator's file can be read by others.
    """
    if given:
        return _parse(given, "--store", secret=False)
    if environment.get(ENVIRONMENT):
        return _parse(environment[ENVIRONMENT], ENVIRONMENT, secret=True)
    what = "file that says where the monitors' store is"
    owners = {0, os.geteuid()}
    if exists(paths.monitor_store_url):
        found = read_limited(
            paths.monitor_store_url, 4096, what=what, owners=owners, forbid=OTHERS_ANY
        )
        return _parse(found.decode(errors="replace").strip(), f"the {what}", secret=True)
    return _sqlite(paths.monitor_store)


def _parse(text: str, source: str, *, secret: bool) -> Place:
    try:
        url = make_url(text)
    except (ArgumentError, ValueError):
        # The text itself may hold a password: it is not repeated, here or as a cause.
        raise UsageError(f"{source} is no address of a store", hint=_EXAMPLE) from None
    if url.drivername == "sqlite" and url.database and not url.host and not url.query:
        return _sqlite(Path(url.database).absolute())
    if url.drivername not in ("postgresql", "postgres", "postgresql+psycopg"):
        raise UsageError(f"{source} names no kind of store that is known", hint=_EXAMPLE)
    if not secret and (url.password is not None or any(word in url.query for word in _SECRETS)):
        raise UsageError(
            "everybody on this host can read a password on the command line",
            hint=f"put the address into {ENVIRONMENT}, or only the password into PGPASSFILE",
        )
    return Place(url.set(drivername="postgresql+psycopg"), None)


def _sqlite(path: Path) -> Place:
    return Place(URL.create("sqlite", database=str(path)), path)


def make_file(path: Path) -> None:
    """Make the file where it is missing, for root alone, and refuse any that others could change.

    Raises:
        StateError: It, or its folder, is a link, belongs to another user, or others can use it.
    """
    ensure_folder(path.parent)
    try:
        flags = os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
        os.close(os.open(path, flags, 0o600))
    except OSError as error:
        if not path.is_symlink():
            raise _cannot(error) from error
    check_file(path)


def check_file(path: Path) -> bool:
    """Return whether the file is there, after a look at it, its folder and SQLite's own beside it.

    Raises:
        StateError: Others could read or change what is in them.
    """
    try:
        folder = path.parent.lstat()
    except FileNotFoundError:
        return False
    owners = (0, os.geteuid())
    if folder.st_uid not in owners or folder.st_mode & OTHERS_WRITE:
        hint = f"make it safe with: chown root {path.parent} && chmod 0700 {path.parent}"
        raise _refused("is in a folder that others can change", hint, path)
    for name in (path.name, f"{path.name}-wal", f"{path.name}-shm", f"{path.name}-journal"):
        one = path.with_name(name)
        try:
            found = one.lstat()
        except FileNotFoundError:
            continue
        if kind := kind_of(found):
            raise _refused(f"is {kind}", f"move {one} away, then run the command again", one)
        if found.st_uid not in owners:
            hint = f"make its owner right with: chown root {one}"
            raise _refused("belongs to another user", hint, one)
        if stat.S_IMODE(found.st_mode) & OTHERS_ANY:
            raise _refused("can be used by others", f"make it safe with: chmod 0600 {one}", one)
    return path.exists()


def _refused(fault: str, hint: str, path: Path) -> StateError:
    return StateError(f"the monitors' store {fault}", hint=hint, detail=str(path))


def _cannot(error: OSError) -> StateError:
    reason = (error.strerror or "unknown reason").lower()
    return StateError(
        f"the monitors' store cannot be opened: {reason}",
        hint="run it as root; is the disk full or read-only? see: df; dmesg",
        detail=str(error),
    )
