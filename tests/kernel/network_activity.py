"""A program whose every connection, send and receive is known: it prints what each of them was.

It runs by itself, as an own user, under an own name, and says as JSON one list of facts in the
order of its calls, with what the program itself saw: sizes by what the calls returned, addresses
by getsockname() and getpeername().
"""

from __future__ import annotations

import ctypes
import errno
import json
import os
import socket
import tempfile
import threading
from pathlib import Path
from typing import Any

TCP, UDP = socket.SOCK_STREAM, socket.SOCK_DGRAM
V4, V6 = socket.AF_INET, socket.AF_INET6
LOOPBACK = {V4: "127.0.0.1", V6: "::1"}
MAPPED = "::ffff:127.0.0.1"
ANY = {V4: "0.0.0.0", V6: "::"}
UID, GID = 12345, 23456
PR_SET_NAME = 15
Address = tuple[str, int]


class Log:
    """What was done."""

    def __init__(self) -> None:
        self.facts: list[dict[str, Any]] = []

    def add(
        self,
        kind: str,
        sock: socket.socket,
        result: int,
        *,
        peer: Address | None = None,
        local: Address | None = None,
        moved: int | None = None,
        **notes: Any,
    ) -> int:
        """Note one call, after it; ``notes`` tell how it was made."""
        local = local or sock.getsockname()[:2]
        if peer is None:
            try:
                peer = sock.getpeername()[:2]
            except OSError:
                peer = (ANY[sock.family], 0)
        protocol = "tcp" if sock.type == TCP else "udp"
        self.facts.append(
            {"event": kind, "family": int(sock.family), "protocol": protocol, "result": result,
             "bytes": max(result, 0) if moved is None else moved, "local": list(local),
             "remote": list(peer), "tid": threading.get_native_id(), **notes}
        )  # fmt: skip
        return result


def connected(log: Log, family: int, to: str) -> tuple[socket.socket, socket.socket]:
    with socket.socket(family if to != MAPPED else V4, TCP) as listener:
        listener.bind((LOOPBACK[V4] if to == MAPPED else to, 0))
        listener.listen()
        client = socket.socket(family, TCP)
        client.connect((to, listener.getsockname()[1]))
        log.add("connect", client, 0)
        return client, listener.accept()[0]


def stream(log: Log, family: int, to: str) -> None:
    client, server = connected(log, family, to)
    with client, server:
        log.add("send", client, client.send(bytes(1234)))
        server.recv(100, socket.MSG_PEEK)
        log.add("receive", server, len(server.recv(5000)))
        client.send(b"")
        log.add("send", server, server.sendmsg([bytes(700), bytes(77)]))
        log.add("receive", client, len(client.recv(500)))
        log.add("receive", client, len(client.recv(500)))
        client.setblocking(False)
        refuse(log, "receive", client, lambda: client.recv(10), errno.EAGAIN)
        overfull(log, client, server)
        spliced(log, client, server)
        client.setblocking(True)
        server.shutdown(socket.SHUT_WR)
        assert client.recv(10) == b""
        log_broken(log, server)


def log_broken(log: Log, sock: socket.socket) -> None:
    """What was shut down takes nothing."""
    refuse(log, "send", sock, lambda: sock.send(b"x"), errno.EPIPE)


def refuse(log: Log, kind: str, sock: socket.socket, call: Any, error: int, **notes: Any) -> None:
    """Make a call that fails."""
    found = 0
    try:
        call()
    except OSError as caught:
        found = caught.errno or 0
    assert found == error
    log.add(kind, sock, -error, **notes)


def overfull(log: Log, client: socket.socket, server: socket.socket) -> None:
    """More is asked for than there is room for."""
    asked = 64 << 20
    sent = client.send(bytes(asked))
    assert 0 < sent < asked
    log.add("send", client, sent)
    while sent:
        part = len(server.recv(1 << 20))
        sent -= log.add("receive", server, part)


def spliced(log: Log, client: socket.socket, server: socket.socket) -> None:
    """A page of a file into the socket, and out of it into a pipe."""
    with tempfile.TemporaryFile() as file:
        file.write(bytes(3000))
        file.flush()
        log.add("send", client, os.sendfile(client.fileno(), file.fileno(), 0, 3000))
    out, into = os.pipe()
    log.add("receive", server, os.splice(server.fileno(), into, 5000), how="splice")
    os.close(out)
    os.close(into)


def nobody(log: Log, family: int) -> None:
    """Nobody listens."""
    with socket.socket(family, TCP) as client, socket.socket(family, TCP) as gone:
        gone.bind((LOOPBACK[family], 0))
        client.bind((LOOPBACK[family], 0))
        peer = gone.getsockname()[:2]
        try:
            client.connect(peer)
        except ConnectionRefusedError:
            log.add("connect", client, -errno.ECONNREFUSED, peer=peer, how="refused")


def datagrams(log: Log, family: int) -> None:
    home = LOOPBACK[family]
    with socket.socket(family, UDP) as one, socket.socket(family, UDP) as two:
        two.bind((home, 0))
        to = two.getsockname()[:2]
        log.add("send", one, one.sendto(bytes(321), to), peer=to, how="named")
        one_at = (home, one.getsockname()[1])
        two.recv(1000, socket.MSG_PEEK)
        log.add("receive", two, len(two.recvfrom(1000)[0]), peer=one_at, how="named")
        log.add("send", one, one.sendto(b"", to), peer=to, how="named")
        log.add("receive", two, len(two.recv(1000)))
        log.add("send", one, one.sendmsg([bytes(400), bytes(1)], [], 0, to), peer=to, how="named")
        size = two.recv_into(bytearray(10), 10, socket.MSG_TRUNC)
        log.add("receive", two, size, moved=10, how="truncated")
        log.add("send", one, one.sendto(bytes(50), to), peer=to, how="named")
        data, _, _, address = two.recvmsg(20)
        log.add("receive", two, len(data), peer=address[:2], how="named")
        two.setblocking(False)
        refuse(log, "receive", two, lambda: two.recv(1), errno.EAGAIN)
        talk(log, one, two, to)


def talk(log: Log, one: socket.socket, two: socket.socket, to: Address) -> None:
    """Two sockets that know each other."""
    one.connect(to)
    log.add("connect", one, 0, how="udp")
    two.connect(one.getsockname()[:2])
    log.add("connect", two, 0, how="udp")
    two.setblocking(True)
    thread = threading.Thread(target=lambda: log.add("send", one, one.send(bytes(99))))
    thread.start()
    thread.join()
    log.add("receive", two, len(two.recv(1000)))
    log.add("send", two, two.send(bytes(11)))
    log.add("receive", one, len(one.recv(1000)))
    gone, local = two.getsockname()[:2], one.getsockname()[:2]
    two.close()
    log.add("send", one, one.send(b"lost"), peer=gone)
    refuse(log, "send", one, lambda: one.send(b"x"), errno.ECONNREFUSED, peer=gone, local=local)


def mapped(log: Log) -> None:
    """IPv4 by sockets of IPv6."""
    with socket.socket(V6, UDP) as one, socket.socket(V4, UDP) as two:
        two.bind((LOOPBACK[V4], 0))
        to = (MAPPED, two.getsockname()[1])
        log.add("send", one, one.sendto(bytes(222), to), peer=to, how="named")
        peer = (LOOPBACK[V4], one.getsockname()[1])
        log.add("receive", two, len(two.recvfrom(1000)[0]), peer=peer, how="named")
        log.add("send", two, two.sendto(bytes(33), peer), peer=peer, how="named")
        log.add("receive", one, len(one.recvfrom(1000)[0]), peer=to, how="named")
        one.connect(to)
        log.add("connect", one, 0, how="udp")
        log.add("send", one, one.send(bytes(44)))
        log.add("receive", two, len(two.recv(1000)))


def main(comm: str) -> None:
    """Do it all, as another user, under that name."""
    log = Log()
    os.setresgid(GID, GID, GID)
    os.setresuid(UID, UID, UID)
    ctypes.CDLL(None).prctl(PR_SET_NAME, comm.encode())
    for family in (V4, V6):
        stream(log, family, LOOPBACK[family])
        nobody(log, family)
        datagrams(log, family)
    stream(log, V6, MAPPED)
    mapped(log)
    cgroup = Path("/proc/self/cgroup").read_text(encoding="ascii")
    print(json.dumps({"pid": os.getpid(), "ppid": os.getppid(), "cgroup": cgroup,
                      "facts": log.facts}))  # fmt: skip
