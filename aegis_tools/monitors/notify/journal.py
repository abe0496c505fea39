"""Events in the journal, with fields to search by: ``journalctl AEGIS_PROFILE=child``.

The protocol is a datagram of ``KEY=value`` lines; a value that holds a line feed is written as the
key, a line feed, its length in 64 bits little endian, itself, a line feed (systemd's document
"Native Journal Protocol"). What is too long for a datagram goes in a sealed memory file.
"""

from __future__ import annotations

import array
import errno
import fcntl
import json
import os
import socket
import struct
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from aegis_tools.monitors.notify.words import line, priority

SOCKET = Path("/run/systemd/journal/socket")
MESSAGE_ID = "5c1f3b0e0d9a4f1c9f6e6f2a7f5b8d34"
_FIELDS = ("profile", "limit", "state", "measured", "threshold", "unit", "action", "done", "device")
_TIMEOUT = 2.0


def fields(event: Mapping[str, Any]) -> dict[str, str]:
    """Return the fields of an event: ``AEGIS_PROFILE`` and so on, and all of it in AEGIS_EVENT."""
    found = {
        "MESSAGE": line(event),
        "MESSAGE_ID": MESSAGE_ID,
        "PRIORITY": str(priority(event)),
        "SYSLOG_IDENTIFIER": "aegisbpf",
        "AEGIS_EVENT": json.dumps(event),
    }
    for name in _FIELDS:
        if event.get(name) is not None:
            found[f"AEGIS_{name.upper()}"] = str(event[name])
    process = event.get("process")
    if process:
        found["AEGIS_PID"], found["AEGIS_COMM"] = str(process["pid"]), process["comm"]
    return found


def encode(found: Mapping[str, str]) -> bytes:
    """Return fields as the protocol writes them."""
    parts = []
    for key, value in found.items():
        data = value.encode("utf-8", "replace")
        if b"\n" in data:
            parts.append(key.encode("ascii") + b"\n" + struct.pack("<Q", len(data)) + data + b"\n")
        else:
            parts.append(key.encode("ascii") + b"=" + data + b"\n")
    return b"".join(parts)


class Journal:
    """Sends events to the journal.

    Args:
        path: Its socket.
    """

    def __init__(self, path: Path = SOCKET) -> None:
        self._path = str(path)

    def __call__(self, event: Mapping[str, Any]) -> None:
        """Send an event. Raises OSError."""
        data = encode(fields(event))
        with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC) as sock:
            sock.settimeout(_TIMEOUT)
            sock.connect(self._path)
            try:
                sock.send(data)
            except OSError as error:
                if error.errno not in (errno.EMSGSIZE, errno.ENOBUFS):
                    raise
                _send_file(sock, data)


def _send_file(sock: socket.socket, data: bytes) -> None:
    fd = os.memfd_create("journal", os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING)
    try:
        with os.fdopen(os.dup(fd), "wb") as file:
            file.write(data)
        seals = fcntl.F_SEAL_SHRINK | fcntl.F_SEAL_GROW | fcntl.F_SEAL_WRITE | fcntl.F_SEAL_SEAL
        fcntl.fcntl(fd, fcntl.F_ADD_SEALS, seals)
        sock.sendmsg([b""], [(socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array("i", [fd]))])
    finally:
        os.close(fd)
