"""Who is told of limits: ``/etc/aegisbpf/notify.json``.

All keys are optional; without the file, the journal and the bus are told::

    {"version": 1, "journal": true, "dbus": true, "burst": 5, "every_seconds": 10,
     "webhook": {"url": "https://alerts.example/aegis", "header": "Authorization",
                 "secret_file": "/etc/aegisbpf/webhook.secret"}}
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from aegis_tools.monitors import settingsfile
from aegis_tools.monitors.notify.webhook import Target
from aegis_tools.paths import Paths
from aegis_tools.policy import strictjson

_MAX_BYTES = 65536
_HEADER = re.compile(r"[A-Za-z0-9-]{1,64}")
_KEYS = {"version", "journal", "dbus", "burst", "every_seconds", "webhook"}


@dataclass(frozen=True)
class Settings:
    """Who is told, and how often.

    Attributes:
        journal: The journal is.
        dbus: The system bus is.
        webhook: A web server is; None for none.
        burst: Notifications of one profile and limit that may come at once.
        every: Seconds in which one more is earned.
    """

    journal: bool = True
    dbus: bool = True
    webhook: Target | None = None
    burst: int = 5
    every: int = 10


def load(paths: Paths) -> Settings:
    """Return the settings of this host.

    Raises:
        StateError: The file is damaged, or could be changed by others.
    """
    found = settingsfile.read(
        paths.notify_config, parse, what="settings of notifications", most=_MAX_BYTES,
        hint="write them as docs/limits.md shows, or remove them for the defaults",
    )  # fmt: skip
    return found or Settings()


def parse(data: bytes) -> Settings:
    """Return what a file says.

    Raises:
        ValueError: It is not such a file.
    """
    found = strictjson.loads(data)
    if not isinstance(found, dict) or not strictjson.is_integer(found.get("version"), 1, 1):
        raise ValueError("they are of another version")
    unknown = sorted(set(found) - _KEYS)
    if unknown:
        raise ValueError(f"the key {unknown[0][:40]!r} is not known")
    for key in ("journal", "dbus"):
        if not isinstance(found.get(key, True), bool):
            raise ValueError(f"{key} is neither true nor false")
    for key, most in (("burst", 1000), ("every_seconds", 86400)):
        if not strictjson.is_integer(found.get(key, 1), 1, most):
            raise ValueError(f"{key} is no number from 1 to {most}")
    return Settings(
        found.get("journal", True),
        found.get("dbus", True),
        _webhook(found["webhook"]) if found.get("webhook") is not None else None,
        found.get("burst", 5),
        found.get("every_seconds", 10),
    )


def _webhook(found: Any) -> Target:
    if not isinstance(found, dict) or not {"url"} <= set(found) <= {"url", "header", "secret_file"}:
        raise ValueError("webhook needs a url, and may have a header and a secret_file")
    if not all(isinstance(value, str) for value in found.values()):
        raise ValueError("what webhook holds are no texts")
    url = found["url"]
    parts = urlsplit(url)
    if parts.scheme not in ("http", "https") or not parts.hostname or not _is_plain(url):
        raise ValueError("the url of webhook is no http or https address")
    if parts.username is not None or parts.password is not None:
        raise ValueError("the url of webhook holds a password; put it into a secret_file")
    header = found.get("header", "Authorization")
    if not _HEADER.fullmatch(header):
        raise ValueError("the header of webhook is none")
    secret = found.get("secret_file")
    if secret is not None and (not secret.startswith("/") or not secret.isprintable()):
        raise ValueError("the secret_file of webhook is no absolute path")
    return Target(url, header, Path(secret) if secret else None)


def _is_plain(url: str) -> bool:
    return url.isascii() and url.isprintable() and " " not in url and len(url) <= 2048
