"""A gate of the team's own: a question to their Prometheus, true or the rollout stops.

What does not answer, answers late, or answers with a warning has not said yes.
"""

from __future__ import annotations

import json
import math
import re
import threading
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Mapping
from typing import Any

MAX_ANSWER = 1 << 20
_TEXT = re.compile(r""""(?:[^"\\]|\\.)*"|'(?:[^'\\]|\\.)*'|`[^`]*`""")


def ask(url: str, query: str, headers: Mapping[str, str], *, timeout: float) -> str:
    """Ask, and return why the gate fails; an empty string where it holds.

    Args:
        url: Of the Prometheus, without ``/api``.
        query: An instant query.
        headers: For its authentication.
        timeout: Seconds for all of it.
    """
    if urllib.parse.urlsplit(url).scheme not in ("http", "https"):
        return f"{url} is no address of a Prometheus"
    if re.search(r"\bbool\b", _TEXT.sub("", query)):
        return "write the comparison without bool: what it holds for is returned then, or nothing"
    found: list[str] = []
    # A thread, because a server that sends a byte now and then is within every socket's timeout.
    thread = threading.Thread(
        target=lambda: found.append(_get(url, query, headers, timeout)), daemon=True
    )
    thread.start()
    thread.join(timeout)
    return found[0] if found else f"Prometheus did not answer within {timeout:.0f} s"


def _get(url: str, query: str, headers: Mapping[str, str], timeout: float) -> str:
    address = f"{url.rstrip('/')}/api/v1/query?{urllib.parse.urlencode({'query': query})}"
    try:
        request = urllib.request.Request(address, headers=dict(headers))  # noqa: S310 (ask() saw the scheme)
        with urllib.request.urlopen(request, timeout=timeout) as answer:  # noqa: S310
            data = answer.read(MAX_ANSWER + 1)
    except urllib.error.HTTPError as error:
        with error:
            return f"Prometheus: {_error(error.read(MAX_ANSWER)) or error}"
    except (OSError, ValueError) as error:
        return f"Prometheus does not answer: {error}"
    except Exception as error:  # http.client's own have no common base with the above
        return f"Prometheus gave no answer: {error!r}"
    if len(data) > MAX_ANSWER:
        return "Prometheus: the answer is too large; ask for less"
    try:
        return verdict(json.loads(data))
    except (ValueError, LookupError, TypeError, AttributeError) as error:
        return f"Prometheus gave no answer: {error!r}"


def _error(data: bytes) -> str:
    try:
        return str(json.loads(data)["error"])
    except (ValueError, LookupError, TypeError):
        return ""


def verdict(document: Mapping[str, Any]) -> str:
    """Return why an answer is no yes; an empty string where it is one.

    A yes is a vector with at least one series, as of a comparison that holds, or a scalar that is
    neither 0 nor NaN.

    Raises:
        LookupError, TypeError, ValueError: It is no answer of a Prometheus.
    """
    if document["status"] != "success":
        return f"Prometheus: {document.get('error', 'no success')}"
    if document.get("warnings"):
        return f"Prometheus warns: {document['warnings'][0]}"
    kind, result = document["data"]["resultType"], document["data"]["result"]
    if kind == "vector":
        return "" if result else "it does not hold: no series"
    if kind == "scalar":
        value = float(result[1])
        return "" if value and not math.isnan(value) else f"it does not hold: {result[1]}"
    return f"an instant vector or a scalar is needed, not a {kind}"
