"""A bus, a web server, and what reads the journal's protocol: real ones, of the test's own."""

from __future__ import annotations

import os
import struct
import subprocess
import threading
from collections.abc import Mapping
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

from jeepney import MatchRule, message_bus
from jeepney.io.blocking import DBusConnection, open_dbus_connection
from repository import REPOSITORY

from aegis_tools.monitors.notify import dbus

BUS = """<!DOCTYPE busconfig PUBLIC "-//freedesktop//DTD D-Bus Bus Configuration 1.0//EN"
 "http://www.freedesktop.org/standards/dbus/1.0/busconfig.dtd">
<busconfig>
  <type>system</type>
  <listen>unix:path={folder}/bus</listen>
  <auth>EXTERNAL</auth>
  <policy context="default">
    <allow user="*"/>
    <deny own="*"/>
    <deny send_type="method_call"/>
    <allow send_type="signal"/>
    <allow send_requested_reply="true" send_type="method_return"/>
    <allow send_requested_reply="true" send_type="error"/>
    <allow receive_type="method_call"/>
    <allow receive_type="method_return"/>
    <allow receive_type="error"/>
    <allow receive_type="signal"/>
    <allow send_destination="org.freedesktop.DBus"/>
  </policy>
  {ours}
</busconfig>
"""


class Daemon:
    """A system bus of its own, with the rules of a system bus."""

    def __init__(self, folder: Path, ours: str) -> None:
        self.address = f"unix:path={folder}/bus"
        self._config = folder / "bus.conf"
        self._config.write_text(BUS.format(folder=folder, ours=ours))
        self.start()

    def start(self) -> None:
        """Start it, and wait until it takes connections."""
        self._process = subprocess.Popen(
            ["dbus-daemon", "--nofork", "--print-address", f"--config-file={self._config}"],
            stdout=subprocess.PIPE,
            stdin=subprocess.DEVNULL,
        )
        assert self._process.stdout is not None
        assert self._process.stdout.readline()

    def stop(self) -> None:
        """End it."""
        self._process.terminate()
        self._process.wait(30)
        assert self._process.stdout is not None
        self._process.stdout.close()

    def listen(self) -> DBusConnection:
        """Return a connection that hears what we send."""
        connection = open_dbus_connection(self.address)
        rule = MatchRule(type="signal", interface=dbus.NAME)
        connection.send_and_get_reply(message_bus.AddMatch(rule), timeout=30)
        return connection


def owner_rule() -> str:
    """Return the shipped rules, for whoever runs the test."""
    shipped = (REPOSITORY / "aegis_tools/units/org.aegistools.Monitor1.conf").read_text()
    inner = shipped.partition("<busconfig>")[2].partition("</busconfig>")[0]
    assert 'user="root"' in inner
    return inner.replace('user="root"', f'user="{os.getuid()}"')


def fields_of(data: bytes) -> dict[str, str]:
    """Read the journal's protocol, as its document has it."""
    found = {}
    while data:
        head, _, rest = data.partition(b"\n")
        key, equals, value = head.partition(b"=")
        if not equals:
            [size] = struct.unpack_from("<Q", rest)
            value, rest = rest[8 : 8 + size], rest[8 + size + 1 :]
        found[key.decode()] = value.decode()
        data = rest
    return found


class Server:
    """A web server that answers as it is told, the last answer for ever."""

    def __init__(self) -> None:
        self.answers: list[int] = [204]
        self.requests: list[tuple[str, Mapping[str, str], bytes]] = []
        server = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                body = self.rfile.read(int(self.headers["Content-Length"]))
                server.requests.append((self.path, dict(self.headers), body))
                code = server.answers.pop(0) if len(server.answers) > 1 else server.answers[0]
                self.send_response(code)
                if code == 302:
                    self.send_header("Location", "/elsewhere")
                self.send_header("Content-Length", "0")
                self.end_headers()

            do_GET = do_POST  # noqa: N815 # as the handler calls it

            def log_message(self, *_: object) -> None:
                pass

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.01,))
        self._thread.start()
        self.url = f"http://127.0.0.1:{self._server.server_port}/hook"

    def close(self) -> None:
        """End it."""
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()
