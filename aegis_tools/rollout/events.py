"""What a report keeps of a task's result: what is shown, and nothing else.

Pure. Tasks are told apart by the action that they run and its arguments, never by their names.
Variables, other arguments and the output of commands are left out: they may hold secrets.
"""

from __future__ import annotations

import unicodedata
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

ACTIONS = (
    "aegisbpf_info",
    "aegisbpf_policy",
    "aegisbpf_mode",
    "aegisbpf_gate",
    "aegisbpf_undo",
)
"""What a report tells about; of any other action only that it failed."""
TEXT_LIMIT = 600
PRIVATE = "aegis-ed25519-private"
NOT_CLEAN = "not_clean"
"""How the program refuses to enforce on a host that has not been clean in audit for long enough."""
HIDDEN = "(hidden: it holds a private key)"

Outcome = Literal["ok", "failed", "unreachable", "look"]


@dataclass(frozen=True)
class Event:
    """One result of one host.

    Attributes:
        time: When it came, seconds since 1970.
        host: The inventory's name.
        action: The module or action plugin, without its collection.
        state: The task's ``state``, where it has one.
        outcome: How it went; ``look`` is one try of several.
        facts: What :func:`facts` keeps.
    """

    time: float
    host: str
    action: str
    state: str
    outcome: Outcome
    facts: Mapping[str, Any] = field(default_factory=dict)


def events(
    time: float,
    host: str,
    action: str,
    *,
    arguments: Mapping[str, Any],
    outcome: Outcome,
    result: Mapping[str, Any],
    delegate: str = "",
    known: Collection[str] = (),
) -> Iterator[Event]:
    """Yield what a result tells: one event, or one for each item of a loop.

    Args:
        time: When it came, seconds since 1970.
        host: Whose task it was.
        action: The module or action plugin.
        arguments: The task's, of which only ``state`` and file names are looked at.
        outcome: How it went.
        result: What it returned.
        delegate: Whom it was delegated to; a loop over hosts has one of them as its item.
        known: The hosts of the play.
    """
    name = action.rpartition(".")[2]
    items = result.get("results")
    if not isinstance(items, list) or not items:
        items = [result]
    for item in items:
        if not isinstance(item, Mapping) or item.get("skipped"):
            continue
        went = outcome if len(items) == 1 else _of_item(item, outcome)
        if name in ACTIONS or went in ("failed", "unreachable"):
            state = arguments.get("state") or ("present" if name == "aegisbpf_policy" else "")
            turns = (item.get("item"), delegate) if delegate else ()
            whose = next((str(one) for one in turns if one in known), host)
            yield Event(time, whose, name, str(state), went, facts(name, arguments, went, item))


def _of_item(item: Mapping[str, Any], outcome: Outcome) -> Outcome:
    """Return how one turn of a loop went; what fails in a loop that may fail is no failure."""
    if item.get("unreachable"):
        return "unreachable"
    return "failed" if item.get("failed") and outcome == "failed" else "ok"


def facts(
    action: str, arguments: Mapping[str, Any], outcome: Outcome, result: Mapping[str, Any]
) -> dict[str, Any]:
    """Return what is kept of a result."""
    kept: dict[str, Any] = {"changed": bool(result.get("changed"))}
    if outcome in ("failed", "unreachable"):
        kept["msg"] = text(result.get("censored") or result.get("msg") or "no message")
    if result.get("error") == NOT_CLEAN:
        kept["straggler"] = text(result.get("msg") or "not clean")
    if action == "aegisbpf_info" and isinstance(result.get("status"), Mapping):
        kept["host"] = _host(result["status"])
    elif action == "aegisbpf_policy" and isinstance(result.get("plan"), Mapping):
        kept["plan"] = _plan(result["plan"])
        kept["file"] = text(str(arguments.get("src") or "").rpartition("/")[2])
        kept["pending"] = bool(result.get("pending"))
    elif action == "aegisbpf_mode":
        kept["mode"] = text(arguments.get("mode", ""))
        kept["was"] = text((_mapping(result.get("diff")).get("before") or "").strip())
        kept["pending"] = bool(arguments.get("confirm_within"))
    elif action == "aegisbpf_gate":
        kept["looks"] = [_look(look) for look in result.get("timeline") or []]
    return kept


def text(value: object, limit: int = TEXT_LIMIT) -> str:
    """Return a text that is safe to show: no control characters, no key, not without end.

    Characters that are not seen (controls, directions, lone surrogates) are written as ``\\uNNNN``.
    """
    raw = str(value)
    if PRIVATE in raw:
        return HIDDEN
    seen = "".join(
        char
        if char == "\n" or unicodedata.category(char) not in ("Cc", "Cf", "Cs")
        else f"\\u{ord(char):04x}"
        for char in raw[: limit + 1]
    )
    return seen if len(raw) <= limit else seen[:limit] + "…"


def _mapping(value: object) -> Mapping[str, Any]:
    return value if isinstance(value, Mapping) else {}


def _host(status: Mapping[str, Any]) -> dict[str, Any]:
    policy, mode = _mapping(status.get("policy")), _mapping(status.get("mode"))
    return {
        "digest": text(policy.get("digest") or ""),
        "mode": text(mode.get("mode") or ""),
        "loaded": bool(status.get("loaded")),
    }


def _plan(plan: Mapping[str, Any]) -> dict[str, Any]:
    return {
        **{name: text(plan.get(name) or "") for name in ("digest", "before", "after")},
        # As the plan says it: audit → enforce.
        "mode": text(plan.get("mode") or "").rpartition(" ")[2],
        "refreshed": int(plan.get("refreshed") or 0),
        "changes": [
            {name: text(change.get(name) or "") for name in ("sign", "rule", "what")}
            for change in plan.get("changes") or []
        ],
    }


def _look(look: Mapping[str, Any]) -> dict[str, Any]:
    counters = _mapping(look.get("counters"))
    return {
        "time": float(look.get("time") or 0),
        "reasons": [text(reason) for reason in look.get("reasons") or []],
        "counters": {text(name): int(n) for name, n in counters.items() if isinstance(n, int)},
    }
