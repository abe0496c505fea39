"""The ways out: a real bus, a socket that speaks the journal's protocol, a real web server."""

from __future__ import annotations

import json
import os
import socket
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from jeepney import DBusAddress, new_method_call
from jeepney.io.blocking import DBusConnection
from notify_support import Daemon, Server, fields_of, owner_rule
from test_notify import EVENT

from aegis_tools.monitors.notify import dbus
from aegis_tools.monitors.notify.journal import Journal
from aegis_tools.monitors.notify.webhook import Target, Webhook

TROUBLE = {
    "time": EVENT["time"], "event": "limit-trouble", "profile": None, "message": "m", "hint": "h",
}  # fmt: skip


@pytest.fixture(params=["owner", "anybody"])
def bus(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Daemon]:
    daemon = Daemon(tmp_path, owner_rule() if request.param == "owner" else "")
    yield daemon
    daemon.stop()


def hear(connection: DBusConnection) -> tuple[str, str, tuple[Any, ...], str]:
    """Return (path, member, arguments, sender) of the next signal of ours."""
    while True:
        message = connection.receive(timeout=30)
        fields = {field.name: value for field, value in message.header.fields.items()}
        if fields.get("interface") == dbus.NAME:
            return fields["path"], fields["member"], message.body, fields["sender"]


def owner(connection: DBusConnection) -> str | None:
    address = DBusAddress("/org/freedesktop/DBus", "org.freedesktop.DBus", "org.freedesktop.DBus")
    reply = connection.send_and_get_reply(
        new_method_call(address, "GetNameOwner", "s", (dbus.NAME,)), timeout=30
    )
    found = reply.body[0]
    return found if found.startswith(":") else None


def test_whoever_listens_on_the_bus_is_told(bus: Daemon, request: pytest.FixtureRequest) -> None:
    listener, out = bus.listen(), dbus.Bus(bus.address)
    out(EVENT)
    path, member, arguments, sender = hear(listener)
    assert (path, member) == ("/org/aegistools/Monitor1", "Limit")
    assert arguments[:7] == (
        "child", "memory", "exceeded", "terminate", "terminated", 600_000_000, 500_000_000,
    )  # fmt: skip
    assert json.loads(arguments[7]) == EVENT
    allowed = "owner" in request.node.name
    assert owner(listener) == (sender if allowed else None)
    out(TROUBLE)
    assert hear(listener)[1:3] == ("Trouble", ("", "m", json.dumps(TROUBLE)))
    listener.close()
    out.close()


@pytest.mark.parametrize("bus", ["owner"], indirect=True)
def test_a_bus_that_was_started_again_is_found_again(bus: Daemon) -> None:
    out = dbus.Bus(bus.address)
    out(EVENT)
    bus.stop()
    with pytest.raises(OSError, match="the bus does not take it"):
        out(EVENT)
    for _ in range(2):
        bus.start()
        listener = bus.listen()
        out(EVENT)
        assert hear(listener)[1] == "Limit"
        listener.close()
        bus.stop()
    bus.start()
    out.close()


@pytest.fixture
def journal(tmp_path: Path) -> Iterator[socket.socket]:
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as sock:
        sock.bind(str(tmp_path / "socket"))
        sock.settimeout(30)
        yield sock


def test_the_journal_gets_a_line_and_fields(journal: socket.socket, tmp_path: Path) -> None:
    Journal(tmp_path / "socket")({**EVENT, "process": {"pid": 7, "comm": "a\nb", "uid": 1}})
    found = fields_of(journal.recv(1 << 16))
    assert found["MESSAGE"].startswith("profile child: memory 600MB, limit 500MB")
    assert found["SYSLOG_IDENTIFIER"] == "aegisbpf"
    assert found["PRIORITY"] == "4"
    assert (found["AEGIS_PROFILE"], found["AEGIS_LIMIT"]) == ("child", "memory")
    assert (found["AEGIS_MEASURED"], found["AEGIS_PID"]) == ("600000000", "7")
    assert found["AEGIS_COMM"] == "a\nb"
    assert json.loads(found["AEGIS_EVENT"])["profile"] == "child"


def test_what_is_too_long_for_a_datagram_goes_in_a_file(
    journal: socket.socket, tmp_path: Path
) -> None:
    Journal(tmp_path / "socket")({**TROUBLE, "message": "x" * (1 << 20)})
    data, fds, _, _ = socket.recv_fds(journal, 16, 4)
    assert data == b""
    [fd] = fds
    with os.fdopen(fd, "rb") as file:
        file.seek(0)
        assert len(fields_of(file.read())["MESSAGE"]) > 1 << 20


def test_without_a_journal_it_is_an_error_that_is_counted(tmp_path: Path) -> None:
    with pytest.raises(OSError, match="No such file"):
        Journal(tmp_path / "none")(EVENT)


@pytest.fixture
def server() -> Iterator[Server]:
    server = Server()
    yield server
    server.close()


def hook(target: Target, slept: list[float]) -> Webhook:
    return Webhook(target, owners=frozenset({os.getuid()}), sleep=slept.append, timeout=5)


def secret(tmp_path: Path, text: str = "Bearer hush\n", mode: int = 0o600) -> Path:
    path = tmp_path / "secret"
    path.write_text(text)
    path.chmod(mode)
    return path


def test_a_web_server_gets_the_event_and_the_secret(server: Server, tmp_path: Path) -> None:
    hook(Target(server.url, "X-Key", secret(tmp_path)), [])(EVENT)
    [(path, headers, body)] = server.requests
    assert path == "/hook"
    assert headers["Content-Type"] == "application/json"
    assert headers["X-Key"] == "Bearer hush"
    assert json.loads(body) == EVENT


def test_a_server_in_trouble_is_asked_again_after_longer_and_longer_pauses(server: Server) -> None:
    server.answers = [503, 429, 500, 200]
    slept: list[float] = []
    hook(Target(server.url), slept)(EVENT)
    assert slept == [1.0, 2.0, 4.0]
    assert len(server.requests) == 4


def test_in_the_end_it_is_given_up(server: Server) -> None:
    server.answers = [500]
    slept: list[float] = []
    with pytest.raises(OSError, match="it answers 500"):
        hook(Target(server.url), slept)(EVENT)
    assert slept == [1.0, 2.0, 4.0, 8.0]


@pytest.mark.parametrize("code", [302, 400, 401, 404])
def test_a_server_that_refuses_is_not_asked_again_nor_a_redirection_followed(
    server: Server, code: int, tmp_path: Path
) -> None:
    server.answers = [code]
    with pytest.raises(OSError, match=f"it answers {code}"):
        hook(Target(server.url, "X-Key", secret(tmp_path)), [])(EVENT)
    assert [path for path, _, _ in server.requests] == ["/hook"]


def test_a_server_that_is_not_there_is_an_error() -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        url = f"http://127.0.0.1:{free.getsockname()[1]}/"
    slept: list[float] = []
    with pytest.raises(OSError, match="it does not answer"):
        hook(Target(url), slept)(EVENT)
    assert len(slept) == 4


@pytest.mark.parametrize(
    ("text", "mode"), [("hush", 0o644), ("hu\r\nX: sh", 0o600), ("h\u00fcsh", 0o600)]
)
def test_a_secret_that_is_not_safe_is_not_sent_nor_said(
    server: Server, tmp_path: Path, text: str, mode: int
) -> None:
    with pytest.raises(OSError, match="secret") as refused:
        hook(Target(server.url, "X-Key", secret(tmp_path, text, mode)), [])(EVENT)
    assert "sh" not in str(refused.value)
    assert server.requests == []
