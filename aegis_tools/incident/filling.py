"""Who fills a map, and how large it has to be: judged from what stands in it."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Collection, Iterable, Mapping
from typing import Any, NamedTuple

from aegis_tools.control.history import Entry
from aegis_tools.control.live import Entries, uids_of
from aegis_tools.control.stats import MapUse
from aegis_tools.kernel.layout import POLICY_MAPS
from aegis_tools.policy.model import Rule

MOST_ENTRIES = 1 << 24
_SHOWN = 5
_BY_UID = ("rules", "manual_rules")
HITS = "rule_hits"
_SIZED = {HITS, *(spec.name for spec in POLICY_MAPS)}


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


def full(uses: Iterable[MapUse], at: float) -> list[MapUse]:
    """Return the maps that are as full as ``at`` and can be made larger, the fullest first."""
    found = [use for use in uses if use.name in _SIZED and use.entries and use.share >= at]
    return sorted(found, key=lambda use: (-use.share, use.name))


def enough(uses: Collection[MapUse], wanted: Mapping[str, int], at: float) -> dict[str, int]:
    """Return the sizes of maps that are too small, so that each is half full afterwards at most.

    Args:
        uses: How full the maps are.
        wanted: Entries that a policy needs, by map; maps that are missing need what they have.
        at: From this share on a map is too full.
    """
    capacities = {use.name: use.capacity for use in uses}
    found: dict[str, int] = {}
    for use in uses:
        entries = max(use.entries, wanted.get(use.name, 0))
        if use.name not in _SIZED or not entries or entries < at * use.capacity:
            continue
        name, size = use.name, 1 << (2 * entries - 1).bit_length()
        if name == HITS:  # it has room for as many as there may be rules
            name, size = "rules", max(size, 2 * capacities.get("rules", 0))
        found[name] = min(max(size, found.get(name, 0)), MOST_ENTRIES)
    return {name: size for name, size in found.items() if size > capacities.get(name, 0)}
