"""Tell the service manager how it goes, by sd_notify(3): one datagram a message.

Without ``NOTIFY_SOCKET`` nothing is sent, so the agent runs the same in a terminal.
"""

from __future__ import annotations

import contextlib
import socket
import time
from collections.abc import Mapping


class Notifier:
    """Sends what systemd wants to know. Never raises: a service manager that left changes nothing.

    Args:
        environment: Where ``NOTIFY_SOCKET`` and ``WATCHDOG_USEC`` are looked up.
    """

    def __init__(self, environment: Mapping[str, str]) -> None:
        address = environment.get("NOTIFY_SOCKET", "")
        self._address = "\0" + address[1:] if address.startswith("@") else address
        self._watched = environment.get("WATCHDOG_USEC", "").isdecimal()
        self._status = ""

    def __bool__(self) -> bool:
        return bool(self._address)

    def ready(self) -> None:
        """Say that starting, or reloading, has ended."""
        self._send("READY=1")

    def reloading(self) -> None:
        """Say that a reload begins."""
        self._send(f"RELOADING=1\nMONOTONIC_USEC={time.monotonic_ns() // 1000}")

    def stopping(self) -> None:
        """Say that it ends."""
        self._send("STOPPING=1")

    def alive(self) -> None:
        """Feed the watchdog; call it only where the work is done that it is to watch."""
        if self._watched:
            self._send("WATCHDOG=1")

    def status(self, text: str) -> None:
        """Set the line that ``systemctl status`` shows."""
        line = " ".join(text.split())
        if line != self._status:
            self._status = line
            self._send(f"STATUS={line}")

    def _send(self, message: str) -> None:
        if not self._address:
            return
        with (
            contextlib.suppress(OSError),
            socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC) as sock,
        ):
            sock.setblocking(False)
            sock.sendto(message.encode(errors="replace"), self._address)
