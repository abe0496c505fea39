"""Who fills a map: judged from what stands in it."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Collection, Iterable, Mapping
from typing import Any, NamedTuple

from aegis_tools.control.history import Entry
from aegis_tools.control.live import Entries, uids_of
from aegis_tools.control.stats import MapUse
from aegis_tools.policy.model import Rule

_SHOWN = 5
_BY_UID = ("rules", "manual_rules")


class Filler(NamedTuple):
    """What fills one map.

    Attributes:
        use: How full it is.
        by: Entries by whom: ``policy``, ``by hand``, ``unknown``.
        folders: Where most of what is named lies, and how many entries that makes.
    """

    use: MapUse
    by: Mapping[str, int]
    folders: tuple[tuple[str, int], ...]

    def to_dict(self) -> dict[str, Any]:
        """Return it as the record and ``--json`` have it."""
        return {
            **self.use._asdict(),
            "percent": round(100 * self.use.share, 1),
            "by": dict(self.by),
            "folders": [{"folder": folder, "entries": count} for folder, count in self.folders],
        }


def fillers(
    uses: Iterable[MapUse],
    maps: Mapping[str, Entries],
    by_hand: Collection[int],
    named: Mapping[int, Rule],
) -> list[Filler]:
    """Return what fills maps.

    Args:
        uses: How full those maps are.
        maps: Their entries.
        by_hand: Numbers of rules made by hand.
        named: Rules by their numbers.
    """
    return [_filler(use, maps.get(use.name, {}), by_hand, named) for use in uses]


def _filler(
    use: MapUse, entries: Entries, by_hand: Collection[int], named: Mapping[int, Rule]
) -> Filler:
    by: Counter[str] = Counter()
    folders: Counter[str] = Counter()
    for key, value in entries.items():
        uids = [int.from_bytes(key, "little")] if use.name in _BY_UID else list(uids_of(value))
        if not uids:
            continue  # a directory that only says that names in it are ruled
        hand = any(uid in by_hand for uid in uids)
        known = any(uid in named for uid in uids)
        by["by hand" if hand else "policy" if known else "unknown"] += 1
        rule = next((named[uid] for uid in uids if uid in named), None)
        if rule is not None and rule.target.startswith("/"):
            folders[rule.target.rstrip("/").rpartition("/")[0] or "/"] += 1
    return Filler(use, dict(by), tuple(folders.most_common(_SHOWN)))


def adders(
    history: Iterable[Entry], since: float, who: Callable[[Entry], str]
) -> list[dict[str, Any]]:
    """Return who added how many rules by hand, the most first.

    Args:
        history: Any order.
        since: Unix seconds.
        who: Says who made a change.
    """
    added: Counter[tuple[str, str]] = Counter()
    for entry in history:
        if entry.time >= since and entry.result == "ok" and entry.action.endswith(" add"):
            added[who(entry), entry.action] += entry.counts.get("added", 0)
    return [
        {"by": by, "action": action, "added": count}
        for (by, action), count in added.most_common(_SHOWN)
        if count
    ]
