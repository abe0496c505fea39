"""The two control sockets of a machine: QEMU's own (QMP), and its guest agent's."""

from __future__ import annotations

import base64
import json
import os
import socket
import time
from pathlib import Path
from typing import Any

from vmharness.kernels import HarnessError

SECONDS = 30.0
CHUNK = 1 << 20


class Wire:
    """One request, one answer, as lines of JSON over a Unix socket.

    Args:
        path: The socket.
        seconds: How long an answer may take.
    """

    def __init__(self, path: Path, seconds: float = SECONDS) -> None:
        self.socket = socket.socket(socket.AF_UNIX)
        self.socket.settimeout(seconds)
        try:
            self.socket.connect(str(path))
        except OSError:
            self.socket.close()
            raise
        self.rest = b""

    def close(self) -> None:
        """Let go of the socket."""
        self.socket.close()

    def send(self, name: str, arguments: dict[str, Any]) -> None:
        """Send a request and wait for nothing: some never answer."""
        request = {"execute": name, "arguments": arguments}
        self.socket.sendall(json.dumps(request).encode() + b"\n")

    def ask(self, name: str, **arguments: Any) -> Any:
        """Send a request and return its answer; events in between are dropped.

        Raises:
            HarnessError: The answer is an error, or there is none in time.
        """
        try:
            self.send(name, arguments)
            while True:
                answer = self.read()
                if "return" in answer:
                    return answer["return"]
                if "error" in answer:
                    raise HarnessError(f"{name}: {answer['error'].get('desc', answer)}")
        except OSError as error:
            raise HarnessError(f"{name}: no answer ({error})") from None

    def read(self) -> dict[str, Any]:
        """Return the next line that is sent to us."""
        while b"\n" not in self.rest:
            data = self.socket.recv(65536)
            if not data:
                raise ConnectionError("the machine has ended")
            self.rest += data
        line, self.rest = self.rest.split(b"\n", 1)
        # The guest agent answers a delimited request with this byte first.
        document: dict[str, Any] = json.loads(line.rpartition(b"\xff")[2])
        return document


def open_qmp(path: Path, seconds: float = SECONDS) -> Wire:
    """Return QEMU's control socket, ready for commands."""
    wire = Wire(path, seconds)
    try:
        wire.read()
        wire.ask("qmp_capabilities")
    except BaseException:
        wire.close()
        raise
    return wire


class Agent:
    """The guest agent: a way in that uses neither network nor sshd.

    Args:
        path: The host's end of its port.
    """

    def __init__(self, path: Path) -> None:
        self.path = path

    def ask(self, name: str, *, seconds: float = SECONDS, **arguments: Any) -> Any:
        """Send one request, over a connection of its own, and return its answer."""
        try:
            wire = Wire(self.path, seconds)
        except OSError as error:
            raise HarnessError(f"the machine has no guest agent ({error})") from None
        try:
            number = int.from_bytes(os.urandom(4), "big")
            # What an interrupted request has left behind is thrown away up to our number.
            wire.socket.sendall(b"\xff")
            wire.send("guest-sync-delimited", {"id": number})
            while wire.read().get("return") != number:
                pass
            return wire.ask(name, **arguments)
        except OSError as error:
            raise HarnessError(f"the guest agent does not answer ({error})") from None
        finally:
            wire.close()

    def wait(self, seconds: float) -> None:
        """Wait until it answers.

        Raises:
            HarnessError: It has not in ``seconds``.
        """
        end = time.monotonic() + seconds
        while True:
            try:
                self.ask("guest-ping", seconds=2)
                return
            except HarnessError:
                if time.monotonic() > end:
                    raise

    def put(self, path: str, data: bytes) -> None:
        """Write a file, as root."""
        handle = self.ask("guest-file-open", path=path, mode="w")
        for start in range(0, len(data), CHUNK):
            text = base64.b64encode(data[start : start + CHUNK]).decode("ascii")
            self.ask("guest-file-write", **{"handle": handle, "buf-b64": text})
        self.ask("guest-file-close", handle=handle)

    def run(self, *argv: str, seconds: float = SECONDS) -> tuple[int, str]:
        """Run a program as root.

        Returns:
            (its status, what it wrote to both streams)
        """
        asked: dict[str, Any] = {"path": argv[0], "arg": list(argv[1:]), "capture-output": True}
        pid = self.ask("guest-exec", **asked)["pid"]
        end = time.monotonic() + seconds
        while time.monotonic() < end:
            state = self.ask("guest-exec-status", pid=pid)
            if state["exited"]:
                out = [base64.b64decode(state.get(name, "")) for name in ("out-data", "err-data")]
                status = state.get("exitcode", 128 + state.get("signal", 0))
                return status, b"".join(out).decode("utf-8", "replace")
            time.sleep(0.1)
        raise HarnessError(f"{argv[0]} took more than {seconds:g} s")
