"""Two network namespaces with a cable between them, and programs that fill it."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from aegis_tools.monitors.profiles.enforce import system_hierarchy

HERE, THERE = "10.99.0.1", "10.99.0.2"
_FAR = """
import json, socket, sys, time
address, kind = sys.argv[1:]
if kind == "datagrams":
    s = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    s.setsockopt(socket.SOL_SOCKET, 33, 1 << 25)  # SO_RCVBUFFORCE
    s.bind((address, 5000))
    print("up", flush=True)
    c = s
else:
    s = socket.create_server((address, 5000))
    print("up", flush=True)
    c, _ = s.accept()
try:
    if kind == "download":
        while True:
            c.sendall(b"x" * 65536)
    got, first = 0, None
    while True:
        data = c.recv(1 << 20)
        now = time.monotonic()
        if not data or data == b"end":
            break
        first = first or now
        got, last = got + len(data), now
    print(json.dumps({"bytes": got, "seconds": last - first}), flush=True)
except OSError:
    pass
"""
_NEAR = """
import json, socket, sys, time
address, kind, seconds = sys.argv[1], sys.argv[2], float(sys.argv[3])
if kind == "datagrams":
    s = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    s.connect((address, 5000))
else:
    s = socket.create_connection((address, 5000))
s.settimeout(0.5)
begun, got = time.monotonic(), 0
while time.monotonic() - begun < seconds:
    try:
        if kind == "download":
            got += len(s.recv(1 << 20))
        elif kind == "upload":
            s.send(b"x" * 65536)
        else:
            s.send(b"x" * 1400)
            time.sleep(0.0002)
    except (TimeoutError, ConnectionRefusedError):
        pass
print(json.dumps({"bytes": got, "seconds": time.monotonic() - begun}))
"""


def ip(*arguments: str) -> None:
    """Run ip(8)."""
    subprocess.run(["ip", *arguments], check=True)


@contextmanager
def cable(name: str) -> Iterator[tuple[str, str]]:
    """Yield two namespaces, HERE and THERE, joined by an Ethernet cable."""
    near, far = f"{name}-near", f"{name}-far"
    ip("netns", "add", near)
    ip("netns", "add", far)
    try:
        ip("link", "add", "near0", "netns", near, "type", "veth", "peer", "far0", "netns", far)
        for space, device, address in ((near, "near0", HERE), (far, "far0", THERE)):
            ip("-n", space, "addr", "add", f"{address}/24", "dev", device)
            ip("-n", space, "link", "set", device, "up")
            ip("-n", space, "link", "set", "lo", "up")
        yield near, far
    finally:
        ip("netns", "del", near)
        ip("netns", "del", far)


def traffic(
    spaces: tuple[str, str], cgroup: Path, kind: str, seconds: float, address: str = THERE
) -> float:
    """Return the bits a second that arrive.

    Args:
        spaces: As of ``cable``; the same twice for loopback.
        cgroup: What the near program is in; its end downloads, uploads, or sends datagrams.
        kind: ``download``, ``upload`` or ``datagrams``.
        seconds: For so long.
        address: Where the far program listens.
    """
    near, far = spaces
    server = subprocess.Popen(
        ["ip", "netns", "exec", far, sys.executable, "-c", _FAR, address, kind],
        stdout=subprocess.PIPE,
        text=True,
    )
    try:
        assert server.stdout is not None
        assert server.stdout.readline() == "up\n"
        enter = f'echo $$ > {cgroup}/cgroup.procs && exec ip netns exec {near} "$@"'
        done = subprocess.run(
            ["sh", "-c", enter, "-", sys.executable, "-c", _NEAR, address, kind, str(seconds)],
            capture_output=True,
            text=True,
            timeout=seconds + 60,
            check=True,
        )
        if kind == "datagrams":
            end = f"import socket; s = socket.socket(2, 2); s.sendto(b'end', ('{address}', 5000))"
            subprocess.run(["ip", "netns", "exec", near, sys.executable, "-c", end], check=True)
        said = done.stdout if kind == "download" else server.stdout.readline()
    finally:
        server.kill()
        server.communicate()
    found = json.loads(said)
    return float(found["bytes"] * 8 / found["seconds"])


@contextmanager
def cgroup(name: str) -> Iterator[Path]:
    """Yield a cgroup of this kernel's tree, which nobody is in."""
    folder = system_hierarchy().path(f"/{name}")
    folder.mkdir()
    try:
        yield folder
    finally:
        # What was ended leaves its cgroup when its parent has seen it.
        for _ in range(200):
            if not (folder / "cgroup.procs").read_text():
                break
            time.sleep(0.05)
        for path in sorted(folder.rglob("*"), reverse=True):
            if path.is_dir():
                path.rmdir()
        folder.rmdir()
