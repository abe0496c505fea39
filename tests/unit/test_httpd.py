"""The metrics server: bounded, whatever its clients do."""

from __future__ import annotations

import os
import socket
import threading
from collections.abc import Iterator

import pytest
from hypothesis import given
from hypothesis import strategies as st

from aegis_tools.agent import httpd
from aegis_tools.agent.httpd import Address, Server, parse_address, parse_request, respond
from aegis_tools.errors import KernelError, UsageError

GET = b"GET /metrics HTTP/1.1\r\nHost: x\r\n\r\n"


class Clock:
    """Seconds that pass when a test says so."""

    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now


class Running:
    """A server in a thread, with a clock of the test's."""

    def __init__(self) -> None:
        self.clock, self.made, self.ticks, self.stopped = Clock(), 0, 0, False
        self.told: list[str] = []
        self.broken = False
        self._wake = os.pipe()
        self.server = Server(
            Address("127.0.0.1", 0), self.page, self.tick, self.told.append, self.clock
        )
        self._thread = threading.Thread(target=self._serve)
        self._thread.start()

    def page(self) -> bytes:
        if self.broken:
            raise RuntimeError("out of order")
        self.made += 1
        return b"aegisbpf_up 1\n" * 20000

    def tick(self) -> None:
        self.ticks += 1

    def _serve(self) -> None:
        with self.server:
            self.server.serve(lambda: self.stopped, self._wake[0])

    def stop(self) -> None:
        self.stopped = True
        os.write(self._wake[1], b"x")
        self._thread.join(timeout=30)
        assert not self._thread.is_alive()
        for fd in self._wake:
            os.close(fd)

    def connect(self, data: bytes = b"") -> socket.socket:
        client = socket.create_connection(tuple(self.server.address), timeout=30)
        client.sendall(data)
        return client

    def ask(self, data: bytes = GET) -> bytes:
        with self.connect(data) as client:
            return read_all(client)


def read_all(client: socket.socket) -> bytes:
    parts = []
    try:
        while part := client.recv(1 << 16):
            parts.append(part)
    except ConnectionResetError:
        pass
    return b"".join(parts)


@pytest.fixture
def running() -> Iterator[Running]:
    running = Running()
    yield running
    running.stop()


def test_a_scrape_gets_the_whole_page(running: Running) -> None:
    head, body = running.ask().split(b"\r\n\r\n", 1)
    assert head.startswith(b"HTTP/1.1 200 OK\r\n")
    assert b"Content-Type: text/plain; version=0.0.4; charset=utf-8\r\n" in head
    assert f"Content-Length: {len(body)}".encode() in head
    assert body == b"aegisbpf_up 1\n" * 20000


def test_a_page_is_made_once_for_those_who_ask_at_the_same_time(running: Running) -> None:
    for _ in range(3):
        assert running.ask().startswith(b"HTTP/1.1 200 ")
    assert running.made == 1
    running.clock.now += httpd.FRESH
    running.ask()
    assert running.made == 2


def test_clients_that_say_nothing_delay_nobody(running: Running) -> None:
    silent = [running.connect(b"GET /met") for _ in range(3 * httpd.CONNECTIONS)]
    assert running.ask().startswith(b"HTTP/1.1 200 ")
    assert read_all(silent[0]) == b""  # ended to make room
    for client in silent:
        client.close()


def test_clients_that_do_not_read_delay_nobody(running: Running) -> None:
    slow = [running.connect(GET) for _ in range(httpd.CONNECTIONS - 1)]
    assert running.ask().startswith(b"HTTP/1.1 200 ")
    for client in slow:
        client.close()


def test_a_client_that_is_not_done_in_time_is_ended(running: Running) -> None:
    client = running.connect(b"GET /metrics HTTP/1.1\r\n")
    running.ask()  # whoever came before is accepted now
    running.clock.now += httpd.SECONDS + 2
    running.ask()
    assert read_all(client) == b""
    client.close()
    assert running.ticks >= 1


def test_a_request_too_long_is_refused(running: Running) -> None:
    answer = running.ask(b"GET /metrics HTTP/1.1\r\nX: " + b"x" * httpd.REQUEST)
    assert answer == b"" or answer.startswith(b"HTTP/1.1 431 ")  # or reset before it was read
    assert running.ask().startswith(b"HTTP/1.1 200 ")


def test_a_page_that_cannot_be_made_is_an_answer_and_the_server_lives(running: Running) -> None:
    running.broken = True
    assert running.ask().startswith(b"HTTP/1.1 500 ")
    assert "out of order" in running.told[0]
    running.broken = False
    assert running.ask().startswith(b"HTTP/1.1 200 ")


def test_an_address_in_use_is_said(running: Running) -> None:
    with pytest.raises(KernelError, match="cannot listen"):
        Server(running.server.address, running.page, running.tick, print)


@pytest.mark.parametrize(
    ("request_", "status"),
    [
        (b"GET /metrics HTTP/1.1\r\n\r\n", 200),
        (b"GET /metrics?x=y HTTP/1.0\r\n\r\n", 200),
        (b"HEAD /metrics HTTP/1.1\r\n\r\n", 200),
        (b"GET / HTTP/1.1\r\n\r\n", 200),
        (b"GET /../etc/shadow HTTP/1.1\r\n\r\n", 404),
        (b"POST /metrics HTTP/1.1\r\n\r\n", 405),
        (b"GET metrics HTTP/1.1\r\n\r\n", 400),
        (b"GET /metrics\r\n\r\n", 400),
        (b"\x16\x03\x01\x02\n\n", 400),
        (b"\n\n", 400),
    ],
)
def test_a_request_has_its_status(request_: bytes, status: int) -> None:
    answer = respond(parse_request(request_), lambda: b"page")
    assert answer.startswith(f"HTTP/1.1 {status} ".encode())
    if request_.startswith(b"HEAD"):
        assert answer.endswith(b"\r\n\r\n")


@given(st.binary(max_size=200))
def test_any_bytes_have_an_answer(data: bytes) -> None:
    assert respond(parse_request(data), lambda: b"page").startswith(b"HTTP/1.1 ")


@pytest.mark.parametrize(
    ("text", "host", "port", "loopback"),
    [
        ("127.0.0.1:9635", "127.0.0.1", 9635, True),
        ("127.3.2.1:1", "127.3.2.1", 1, True),
        ("localhost:0", "127.0.0.1", 0, True),
        ("[::1]:9635", "::1", 9635, True),
        ("0.0.0.0:9635", "0.0.0.0", 9635, False),
        ("[::]:9635", "::", 9635, False),
        ("192.0.2.1:9635", "192.0.2.1", 9635, False),
    ],
)
def test_an_address_is_read_and_judged(text: str, host: str, port: int, loopback: bool) -> None:
    address = parse_address(text)
    assert (address.host, address.port, address.is_loopback) == (host, port, loopback)
    assert str(address) == text.replace("localhost", "127.0.0.1")


@pytest.mark.parametrize(
    "text",
    ["", "9635", ":9635", "127.0.0.1", "127.0.0.1:", "127.0.0.1:x", "127.0.0.1:65536", "::1:9635",
     "host.example:9635", "127.0.0.1:-1", "127.0.0.1:٣", "[127.0.0.1:1"],
)  # fmt: skip
def test_what_is_no_address_is_refused(text: str) -> None:
    with pytest.raises(UsageError):
        parse_address(text)
