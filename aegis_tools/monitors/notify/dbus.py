"""Events as signals on the system bus.

Interface ``org.aegistools.Monitor1``, at ``/org/aegistools/Monitor1``::

    Limit(s profile, s limit, s state, s action, s done, t measured, t threshold, s event)
    Trouble(s profile, s message, s event)

``event`` is the whole event in JSON (limit.schema.json). Anybody on a bus can send a signal; who
must be sure that it is ours looks whether its sender owns the name ``org.aegistools.Monitor1``,
which only root may (units/org.aegistools.Monitor1.conf, for /usr/share/dbus-1/system.d).
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

NAME = "org.aegistools.Monitor1"
PATH = "/org/aegistools/Monitor1"
_DO_NOT_QUEUE = 4
_TIMEOUT = 5.0


def body(event: Mapping[str, Any]) -> tuple[str, str, tuple[Any, ...]]:
    """Return (member, signature, arguments) of the signal for an event."""
    whole = json.dumps(event)
    if event["event"] != "limit":
        return "Trouble", "sss", (event["profile"] or "", event["message"], whole)
    keys = ("profile", "limit", "state", "action", "done", "measured", "threshold")
    return "Limit", "ssssstts", (*(event[key] for key in keys), whole)


class Bus:
    """Sends events as signals. It connects when it is first needed, and again after a failure.

    Args:
        address: Of the bus, as D-Bus writes addresses.
    """

    def __init__(self, address: str = "SYSTEM") -> None:
        self._address = address
        self._connection: Any = None

    def __call__(self, event: Mapping[str, Any]) -> None:
        """Send an event.

        Raises:
            OSError: The bus cannot be reached, or its library is not installed.
        """
        try:
            from jeepney import DBusAddress, new_signal
        except ImportError as error:
            raise OSError("jeepney is not installed") from error
        signal = new_signal(DBusAddress(PATH, interface=NAME), *body(event))
        if self._connection is not None:
            try:
                self._connection.send(signal)
            except Exception:  # the bus was started again, perhaps
                self.close()
            else:
                return
        try:
            self._connection = self._connect()
            self._connection.send(signal)
        except Exception as error:
            self.close()
            raise OSError(f"the bus does not take it: {error}") from error

    def _connect(self) -> Any:
        from jeepney import message_bus
        from jeepney.io.blocking import open_dbus_connection

        connection = open_dbus_connection(self._address, auth_timeout=_TIMEOUT)
        try:
            # Without leave to own the name the signals go out all the same.
            connection.send_and_get_reply(
                message_bus.RequestName(NAME, _DO_NOT_QUEUE), timeout=_TIMEOUT
            )
        except BaseException:
            connection.close()
            raise
        return connection

    def close(self) -> None:
        """Leave the bus."""
        if self._connection is not None:
            self._connection.close()
            self._connection = None
