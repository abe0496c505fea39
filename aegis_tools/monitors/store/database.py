"""Connections: SQLite and PostgreSQL made to behave alike, and their errors told in our words."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from sqlalchemy import Connection, Engine, create_engine, event
from sqlalchemy.exc import DBAPIError, SQLAlchemyError
from sqlalchemy.pool import NullPool

from aegis_tools.errors import CommandError, StateError
from aegis_tools.monitors.store.place import Place, check_file, make_file

_SQLITE_WAIT = 2.0
_LEAVE = 8 << 20
"""Twice what SQLite's log takes: it grows first, and the file when that is written back."""
_POSTGRESQL = {
    "connect_timeout": 5,
    "application_name": "aegis-tools",
    # A server that is gone without a word is noticed in seconds, not in a quarter of an hour.
    "keepalives_idle": 10,
    "keepalives_interval": 5,
    "keepalives_count": 3,
    "tcp_user_timeout": 30_000,
}
_FAULTS = {
    "full": "the disk of the monitors' store is full",
    "locked": "the monitors' store is locked by another program",
    "gone": "the server of the monitors' store cannot be reached",
    "dropped": "a table of the monitors' store is missing",
    "damaged": "the monitors' store is damaged",
    "refused": "the monitors' store refused what it was given",
    "failed": "the monitors' store does not work",
}
_HINTS = {
    "full": "free some space; see: df",
    "locked": "wait for the program that uses it, or end it",
    "gone": "is the server running, and can this host reach it?",
    "dropped": "aegisbpf monitor record makes it anew",
    "damaged": "move {file} and the files beside it away, then start again",
}
_SQLITE_TEXTS = (
    ("full", "database or disk is full"),
    ("locked", "database is locked"),
    ("locked", "database table is locked"),
    ("dropped", "no such table"),
    ("damaged", "malformed"),
    ("damaged", "not a database"),
)
_SQLSTATES = (
    ("full", "53"),
    ("gone", "08"),
    ("gone", "57"),
    ("dropped", "42P01"),
    ("locked", "55P03"),
    ("locked", "40"),
    ("damaged", "XX"),
    ("refused", "22"),
    ("refused", "23"),
)


class StoreError(StateError):
    """The store did not do what it was asked; nothing of that is in it.

    Args:
        fault: ``full``, ``locked``, ``gone``, ``dropped``, ``damaged``, ``refused`` (the data) or
            ``failed``.
        detail: Internals.
        file: Of SQLite.
    """

    code = "store"

    def __init__(self, fault: str, detail: str = "", file: str = "") -> None:
        hint = _HINTS.get(fault, "run it again with --verbose").format(file=file or "monitors.db")
        super().__init__(_FAULTS[fault], hint=hint, detail=detail, data={"fault": fault})
        self.fault = fault


class Database:
    """One connection at a time, opened when it is needed; of one thread.

    Args:
        place: Where it is.
        read_only: Nothing is made or changed.
    """

    def __init__(self, place: Place, *, read_only: bool = False) -> None:
        self.place = place
        self.read_only = read_only
        self._engine: Engine | None = None
        self._connection: Connection | None = None
        self._inode: tuple[int, int] | None = None

    @property
    def is_sqlite(self) -> bool:
        """Whether it is a file."""
        return self.place.file is not None

    def room(self, wanted: int) -> int:
        """Return how large it may become: as wanted, but some of the disk is left to others.

        Without that a full disk would be our own doing, and SQLite needs some to remove anything.
        A twentieth of the disk it may have in any case.
        """
        if self.place.file is None:
            return wanted
        try:
            disk = os.statvfs(self.place.file.parent)
        except OSError:
            return wanted
        total, free = disk.f_blocks * disk.f_frsize, disk.f_bavail * disk.f_frsize
        leave = min(max(total // 20, _LEAVE), total // 2)
        return min(wanted, max(self.file_size() + free - leave, total // 20))

    def file_size(self) -> int:
        """Return bytes of the file with SQLite's log; 0 of a server."""
        found = 0
        if self.place.file is not None:
            for name in (self.place.file, f"{self.place.file}-wal"):
                with contextlib.suppress(FileNotFoundError):
                    found += os.lstat(name).st_size
        return found

    @contextlib.contextmanager
    def transaction(self) -> Iterator[Connection]:
        """Yield a connection in a transaction: all of it happens, or nothing.

        Raises:
            StoreError: The database failed. The connection is given up, the next is a new one.
            StateError: The file is not safe to use.
        """
        with self.explained():
            connection = self._open()
            with connection.begin():
                yield connection

    @contextlib.contextmanager
    def explained(self) -> Iterator[None]:
        """Give up the connection where something fails, and say it in our words."""
        try:
            yield
        except SQLAlchemyError as error:
            self.close()
            raise explain(error, self.place.file) from None
        except (ArithmeticError, TypeError, ValueError) as error:
            # What the driver or JSON cannot take; the database was not even asked.
            self.close()
            raise StoreError("refused", repr(error)) from error
        except BaseException:
            self.close()
            raise

    def run_outside(self, statement: str) -> list[Any]:
        """Run one statement of SQLite's that no transaction may hold."""
        with self.explained():
            raw: Any = self._open().connection.driver_connection
            return _execute(raw, statement)

    def give_back(self) -> None:
        """Make SQLite's file shorter by what is free in it."""
        with self.explained():
            raw: Any = self._open().connection.driver_connection
            # It is done a page a step, and execute() makes one step only.
            raw.executescript("PRAGMA incremental_vacuum")

    def close(self) -> None:
        """Close what is open."""
        connection, self._connection = self._connection, None
        engine, self._engine = self._engine, None
        with contextlib.suppress(SQLAlchemyError, OSError):
            if connection is not None:
                connection.close()
        if engine is not None:
            engine.dispose()

    def _open(self) -> Connection:
        if self._connection is not None and self._moved():
            self.close()
        if self._connection is None:
            self._prepare()
            self._engine = _engine(self.place, read_only=self.read_only)
            self._connection = self._engine.connect()
            self._inode = self._at()
        return self._connection

    def _prepare(self) -> None:
        file = self.place.file
        if file is None:
            return
        if not self.read_only:
            make_file(file)
        elif not check_file(file):
            raise StateError("nothing was stored yet", hint="run: aegisbpf monitor record")

    def _at(self) -> tuple[int, int] | None:
        if self.place.file is None:
            return None
        try:
            found = os.lstat(self.place.file)
        except FileNotFoundError:
            return None
        return found.st_dev, found.st_ino

    def _moved(self) -> bool:
        """Tell whether the file has another name now, or none: nobody would find what is in it."""
        return self._at() != self._inode


def explain(error: SQLAlchemyError, file: Path | None) -> StoreError:
    """Return the error in our words. SQLAlchemy's own text shows statements, but no values."""
    original = error.orig if isinstance(error, DBAPIError) else None
    text = str(original if original is not None else type(error).__name__).strip()
    if file is not None:
        lowered = text.lower()
        fault = next((name for name, part in _SQLITE_TEXTS if part in lowered), "")
        refused = type(original).__name__ in ("IntegrityError", "DataError", "InterfaceError")
        return StoreError(fault or ("refused" if refused else "failed"), text, str(file))
    state = getattr(original, "sqlstate", None)
    if state is None:
        lost = type(original).__name__ in (
            "OperationalError",
            "InterfaceError",
            "ConnectionTimeout",
        )
        return StoreError("gone" if lost else "failed", text)
    fault = next((name for name, begin in _SQLSTATES if state.startswith(begin)), "failed")
    return StoreError(fault, f"{state}: {text}")


def _engine(place: Place, *, read_only: bool) -> Engine:
    if place.file is None:
        return _postgresql(place, read_only=read_only)
    uri = f"file:{_quoted(str(place.file))}?mode={'ro' if read_only else 'rw'}"
    engine = create_engine(
        "sqlite://",
        creator=lambda: _connect(uri, read_only=read_only),
        poolclass=NullPool,
        hide_parameters=True,
    )
    begin = "BEGIN" if read_only else "BEGIN IMMEDIATE"
    event.listen(engine, "begin", lambda connection: connection.exec_driver_sql(begin))
    return engine


def _postgresql(place: Place, *, read_only: bool) -> Engine:
    try:
        engine = create_engine(
            place.url,
            connect_args={k: v for k, v in _POSTGRESQL.items() if k not in place.url.query},
            poolclass=NullPool,
            hide_parameters=True,
        )
    except ImportError:
        raise CommandError(
            "the driver of PostgreSQL is not installed",
            hint="install it into the program's environment: pip install 'aegis-tools[postgresql]'",
        ) from None
    setting = f"SET statement_timeout = '30s'; SET default_transaction_read_only = {read_only}"

    def prepare(raw: Any, _: object) -> None:
        raw.autocommit = True
        raw.execute(setting)
        raw.autocommit = False

    event.listen(engine, "connect", prepare)
    return engine


def _connect(uri: str, *, read_only: bool) -> Any:
    import sqlite3

    # No transaction is begun behind our back: a change of tables is part of ours.
    raw = sqlite3.connect(uri, uri=True, timeout=_SQLITE_WAIT, isolation_level=None)
    try:
        if not read_only:
            _configure(raw)
        raw.execute("PRAGMA foreign_keys = ON")
    except BaseException:
        raw.close()
        raise
    return raw


def _configure(raw: Any) -> None:
    empty = _execute(raw, "PRAGMA page_count")[0][0] == 0
    if empty:
        raw.execute("PRAGMA auto_vacuum = INCREMENTAL")
    raw.execute("PRAGMA journal_mode = WAL")
    raw.execute("PRAGMA synchronous = NORMAL")
    raw.execute(f"PRAGMA journal_size_limit = {16 << 20}")


def _execute(raw: Any, statement: str) -> list[Any]:
    cursor = raw.execute(statement)
    try:
        return list(cursor.fetchall())
    finally:
        cursor.close()


def _quoted(path: str) -> str:
    from urllib.parse import quote

    return quote(path)
