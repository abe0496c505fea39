"""Events as JSON by HTTP POST, tried again for a while where that fails."""

from __future__ import annotations

import http.client
import json
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from aegis_tools.control.files import OTHERS_ANY, read_limited
from aegis_tools.errors import AegisError

TIMEOUT = 5.0
PAUSES = (1.0, 2.0, 4.0, 8.0)
"""Seconds before each further try."""
_MAX_SECRET = 4096
_TRY_AGAIN = (408, 429)


class _NoRedirect(urllib.request.HTTPRedirectHandler):
    """What is secret is for the address that was given, and for no other."""

    def redirect_request(self, *_: Any, **__: Any) -> None:
        """Follow no redirection: it becomes an HTTPError."""


@dataclass(frozen=True)
class Target:
    """Where events are sent.

    Attributes:
        url: http or https.
        header: The name of the header that the secret is sent in.
        secret_file: What holds it, for root alone; None for no such header. It is read for each
            event, so it can be exchanged.
    """

    url: str
    header: str = "Authorization"
    secret_file: Path | None = None


class Webhook:
    """Sends events to a web server.

    Args:
        target: Where.
        owners: Who may own the file of the secret.
        pauses: Before each further try.
        sleep: Waits that many seconds.
        timeout: Seconds that one try may take to connect, and to answer.
    """

    def __init__(
        self,
        target: Target,
        *,
        owners: frozenset[int] = frozenset((0,)),
        pauses: tuple[float, ...] = PAUSES,
        sleep: Callable[[float], None] = time.sleep,
        timeout: float = TIMEOUT,
    ) -> None:
        self._target = target
        self._owners = owners
        self._pauses = pauses
        self._sleep = sleep
        self._timeout = timeout
        self._opener = urllib.request.build_opener(_NoRedirect)

    def __call__(self, event: Mapping[str, Any]) -> None:
        """Send an event.

        Raises:
            OSError: It was not taken, after all tries.
        """
        request = self._request(json.dumps(event).encode())
        for pause in (*self._pauses, None):
            try:
                self._post(request)
                return
            except urllib.error.HTTPError as error:
                error.close()
                again = error.code >= 500 or error.code in _TRY_AGAIN
                if not again or pause is None:
                    raise OSError(f"it answers {error.code}") from None
            except (OSError, http.client.HTTPException) as error:
                if pause is None:
                    raise OSError(f"it does not answer: {type(error).__name__}") from None
            self._sleep(pause)

    def _request(self, data: bytes) -> urllib.request.Request:
        headers = {
            "Content-Type": "application/json",
            "User-Agent": "aegis-tools",
            **self._secret(),
        }
        return urllib.request.Request(  # noqa: S310 # settings let http and https through only
            self._target.url, data, headers, method="POST"
        )

    def _post(self, request: urllib.request.Request) -> None:
        with self._opener.open(request, timeout=self._timeout) as answer:
            answer.read(4096)

    def _secret(self) -> dict[str, str]:
        if self._target.secret_file is None:
            return {}
        try:
            found = read_limited(
                self._target.secret_file,
                _MAX_SECRET,
                what="secret of the webhook",
                owners=self._owners,
                forbid=OTHERS_ANY,
            )
            text = found.decode("ascii").strip()
        except (AegisError, UnicodeDecodeError):
            # The reason must hold nothing of the file.
            raise OSError("the secret cannot be read") from None
        if not text.isprintable():
            raise OSError("the secret is no header")
        return {self._target.header: text}
