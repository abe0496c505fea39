"""A small HTTP server for one page of text: one thread, few connections, a time limit on each.

Nobody can make it hold more than CONNECTIONS sockets and REQUEST bytes each: a connection too many
ends the oldest, and one that is not done in SECONDS is ended. So slow clients delay nobody.
"""

from __future__ import annotations

import contextlib
import ipaddress
import selectors
import socket
import time
from collections.abc import Callable
from typing import NamedTuple

from aegis_tools.errors import KernelError, UsageError

CONNECTIONS = 32
REQUEST = 8192
SECONDS = 5.0
FRESH = 0.25
"""Seconds that a page is shown again instead of being made anew."""
_TICK = 1.0
_TYPE = "text/plain; version=0.0.4; charset=utf-8"
_REASONS = {
    200: "OK",
    400: "Bad Request",
    404: "Not Found",
    405: "Method Not Allowed",
    431: "Request Header Fields Too Large",
    500: "Internal Server Error",
}


class Address(NamedTuple):
    """Where to listen."""

    host: str
    port: int

    @property
    def is_loopback(self) -> bool:
        """Whether only this host can reach it."""
        return ipaddress.ip_address(self.host).is_loopback

    def __str__(self) -> str:
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"


def parse_address(text: str) -> Address:
    """Return the address of ``ADDRESS:PORT``; an IPv6 address stands in brackets.

    Raises:
        UsageError: It is none. Names are not looked up, but for ``localhost``.
    """
    host, colon, port = text.rpartition(":")
    host = "127.0.0.1" if host == "localhost" else host
    if host.startswith("[") and host.endswith("]"):
        host = host[1:-1]
    elif ":" in host:
        host = ""
    with contextlib.suppress(ValueError):
        if colon and port.isascii() and port.isdecimal() and int(port) < 1 << 16:
            return Address(str(ipaddress.ip_address(host)), int(port))
    raise UsageError(
        f"{text[:80]!r} is no address and port", hint="for example: --listen 127.0.0.1:9635"
    )


class Request(NamedTuple):
    """What was asked for; ``path`` is empty where it could not be understood."""

    method: str
    path: str


def parse_request(head: bytes) -> Request:
    """Read a request's first line; the headers after it are not looked at."""
    words = head.split(b"\r\n", 1)[0].split(b"\n", 1)[0].decode("latin-1").strip().split(" ")
    if len(words) != 3 or not words[2].startswith("HTTP/1.") or not words[1].startswith("/"):
        return Request("", "")
    return Request(words[0], words[1].split("?", 1)[0])


def respond(request: Request, page: Callable[[], bytes]) -> bytes:
    """Return the whole response, after which the connection is closed."""
    if not request.path:
        return _response(400, b"this is no HTTP request\n")
    if request.method not in ("GET", "HEAD"):
        return _response(405, b"only GET and HEAD\n", "Allow: GET, HEAD\r\n")
    if request.path not in ("/metrics", "/"):
        return _response(404, b"see /metrics\n", bare=request.method == "HEAD")
    body = page() if request.path == "/metrics" else b"see /metrics\n"
    return _response(200, body, bare=request.method == "HEAD")


def _response(status: int, body: bytes, extra: str = "", *, bare: bool = False) -> bytes:
    head = (
        f"HTTP/1.1 {status} {_REASONS[status]}\r\nContent-Type: {_TYPE}\r\n"
        f"Content-Length: {len(body)}\r\n{extra}Connection: close\r\n\r\n"
    )
    return head.encode() + (b"" if bare else body)


class _Connection:
    """One client: first its request is read, then the response written."""

    def __init__(self, sock: socket.socket, until: float) -> None:
        self.sock = sock
        self.until = until
        self.head = b""
        self.rest: memoryview | None = None


class Server:
    """Serves until told to stop. A context manager.

    Args:
        address: Where to listen; port 0 takes a free one.
        page: Makes the page; what it raises becomes a 500 and goes to ``tell``.
        tick: Called about once a second.
        tell: Takes a line for the log.
        clock: Seconds that only grow.

    Raises:
        KernelError: The address cannot be had.
    """

    def __init__(
        self,
        address: Address,
        page: Callable[[], bytes],
        tick: Callable[[], None],
        tell: Callable[[str], None],
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._make, self._tick, self._tell, self._clock = page, tick, tell, clock
        self._page, self._made = b"", float("-inf")
        self._open: dict[int, _Connection] = {}
        self._listener = _listen(address)
        self.address = Address(address.host, self._listener.getsockname()[1])
        self._selector = selectors.DefaultSelector()
        self._selector.register(self._listener, selectors.EVENT_READ)

    def __enter__(self) -> Server:
        return self

    def __exit__(self, *_: object) -> None:
        for connection in list(self._open.values()):
            self._drop(connection)
        self._selector.close()
        self._listener.close()

    def serve(self, stop: Callable[[], bool], wake: int) -> None:
        """Serve until ``stop`` says so; the descriptor ``wake`` is readable then."""
        self._selector.register(wake, selectors.EVENT_READ)
        next_tick = self._clock() + _TICK
        while not stop():
            for key, _ in self._selector.select(max(0.0, min(next_tick - self._clock(), _TICK))):
                if key.fileobj is self._listener:
                    self._accept()
                elif isinstance(key.data, _Connection) and key.fd in self._open:
                    self._serve(key.data)
            if self._clock() >= next_tick:
                next_tick = self._clock() + _TICK
                self._end_late()
                self._tick()

    def _accept(self) -> None:
        try:
            sock, _ = self._listener.accept()
        except OSError:  # it has left already, or descriptors are short
            return
        sock.setblocking(False)
        if len(self._open) >= CONNECTIONS:
            self._drop(min(self._open.values(), key=lambda c: c.until))
        connection = _Connection(sock, self._clock() + SECONDS)
        self._open[sock.fileno()] = connection
        self._selector.register(sock, selectors.EVENT_READ, connection)

    def _serve(self, connection: _Connection) -> None:
        try:
            if connection.rest is None:
                self._read(connection)
            if connection.rest is not None:
                connection.rest = connection.rest[connection.sock.send(connection.rest) :]
                if not connection.rest:
                    self._finish(connection)
        except BlockingIOError:
            return
        except OSError:
            self._drop(connection)

    def _read(self, connection: _Connection) -> None:
        data = connection.sock.recv(REQUEST)
        connection.head += data
        if b"\r\n\r\n" in connection.head or b"\n\n" in connection.head:
            response = self._respond(parse_request(connection.head))
        elif len(connection.head) >= REQUEST:
            response = _response(431, b"the request is too long\n")
        elif not data:
            self._drop(connection)
            return
        else:
            return
        connection.rest = memoryview(response)
        self._selector.modify(connection.sock, selectors.EVENT_WRITE, connection)

    def _respond(self, request: Request) -> bytes:
        try:
            return respond(request, self._fresh)
        except Exception as error:  # the next scrape must find a server
            self._tell(f"aegisbpf: a scrape failed: {error!r}")
            return _response(500, b"the metrics could not be read\n")

    def _fresh(self) -> bytes:
        if self._clock() - self._made >= FRESH:
            self._page = self._make()
            self._made = self._clock()
        return self._page

    def _finish(self, connection: _Connection) -> None:
        with contextlib.suppress(OSError):
            connection.sock.shutdown(socket.SHUT_WR)
        self._drop(connection)

    def _end_late(self) -> None:
        now = self._clock()
        for connection in [c for c in self._open.values() if c.until < now]:
            self._drop(connection)

    def _drop(self, connection: _Connection) -> None:
        self._open.pop(connection.sock.fileno(), None)
        with contextlib.suppress(KeyError, ValueError):
            self._selector.unregister(connection.sock)
        connection.sock.close()


def _listen(address: Address) -> socket.socket:
    family = socket.AF_INET6 if ":" in address.host else socket.AF_INET
    listener = socket.socket(family, socket.SOCK_STREAM)
    try:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind(address)
        listener.listen(CONNECTIONS)
        listener.setblocking(False)
    except OSError as error:
        listener.close()
        raise KernelError(
            f"cannot listen on {address}: {(error.strerror or 'unknown reason').lower()}",
            hint="is it in use? see: ss -ltnp; or name another with --listen",
            detail=str(error),
        ) from error
    return listener
