"""A question to Prometheus is answered with yes, or the gate fails; nobody waits for ever."""

from __future__ import annotations

import socket
import threading
import time
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import pytest

from aegis_tools.rollout.promql import MAX_ANSWER, ask, verdict


def answer(kind: str, result: Any, **more: Any) -> dict[str, Any]:
    return {"status": "success", "data": {"resultType": kind, "result": result}, **more}


@pytest.mark.parametrize(
    ("document", "words"),
    [
        (answer("vector", [{"metric": {}, "value": [1, "0"]}]), ""),
        (answer("vector", []), "does not hold"),
        (answer("scalar", [1, "1"]), ""),
        (answer("scalar", [1, "0"]), "does not hold: 0"),
        (answer("scalar", [1, "NaN"]), "does not hold: NaN"),
        (answer("matrix", [{}]), "not a matrix"),
        (answer("string", [1, "yes"]), "not a string"),
        (answer("vector", [{}], warnings=["a store is missing"]), "warns: a store is missing"),
        ({"status": "error", "error": "parse error"}, "parse error"),
    ],
)
def test_only_a_clear_yes_passes(document: dict[str, Any], words: str) -> None:
    found = verdict(document)
    assert words in found
    assert bool(found) == bool(words)


def test_a_bool_comparison_is_refused_because_it_always_returns_something() -> None:
    assert "without bool" in ask("http://127.0.0.1:9", "up == bool 1", {}, timeout=1)
    closed = ask("http://127.0.0.1:9", 'up{job="bool"} == 1', {}, timeout=5)
    assert "does not answer" in closed


def test_only_http_is_asked() -> None:
    assert "no address" in ask("file:///etc/passwd", "up", {}, timeout=1)


class Server(BaseHTTPRequestHandler):
    """Answers as its path says."""

    def do_GET(self) -> None:
        self.send_response(200)
        self.end_headers()
        if self.path.startswith("/large"):
            self.wfile.write(b" " * (MAX_ANSWER + 10))
        elif self.path.startswith("/slow"):
            time.sleep(1)
        else:
            self.wfile.write(b"<html>a proxy's page</html>")

    def log_message(self, format: str, *arguments: Any) -> None:
        pass


@pytest.fixture
def server() -> Iterator[str]:
    with ThreadingHTTPServer(("127.0.0.1", 0), Server) as found:
        thread = threading.Thread(target=found.serve_forever)
        thread.start()
        yield f"http://127.0.0.1:{found.server_port}"
        found.shutdown()
        thread.join()


@pytest.mark.parametrize(
    ("path", "words"),
    [("large", "too large"), ("slow", "did not answer"), ("page", "gave no answer")],
)
def test_whatever_else_answers_says_no(server: str, path: str, words: str) -> None:
    assert words in ask(f"{server}/{path}", "up", {}, timeout=0.3 if path == "slow" else 30)


def test_nobody_listening_says_no() -> None:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    assert "does not answer" in ask(f"http://127.0.0.1:{port}", "up", {}, timeout=30)
