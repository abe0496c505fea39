"""Is what is live what was applied? By digest, and if not, what differs."""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import Any

from aegis_tools.control import manual
from aegis_tools.control.apply import resolve_all
from aegis_tools.control.live import Live, committed_digest, live_digest
from aegis_tools.control.names import Names
from aegis_tools.control.source import stored_policy
from aegis_tools.control.store import Store
from aegis_tools.errors import AegisError
from aegis_tools.kernel.layout import POLICY_MAPS


@dataclass(frozen=True)
class Verdict:
    """What was found.

    Attributes:
        tampered: The maps hold something that no command of ours wrote.
        counts: Maps whose number of entries is not the recorded one: (recorded, found).
        added: Ids of rules made by hand.
        modes: Modes set by hand, as ``mode:ID=enforce``.
        promoted: Ids of those of the policy's rules that were promoted by hand.
        demoted: Ids of those that were demoted.
        removed: Ids of the policy's rules that are not live.
        altered: Map entries that are neither the policy's nor made by hand, when tampered.
        note: Why the policy's rules could not be compared; empty if they were.
        interrupted: An edit by hand died half-way; the next one, or an apply, heals it.
        applied: Whether any policy is applied.
    """

    tampered: bool
    counts: dict[str, tuple[int, int]]
    added: tuple[str, ...]
    removed: tuple[str, ...]
    altered: tuple[str, ...]
    note: str = ""
    interrupted: bool = False
    applied: bool = True
    modes: tuple[str, ...] = ()
    promoted: tuple[str, ...] = ()
    demoted: tuple[str, ...] = ()

    @property
    def drifted(self) -> bool:
        """Whether what is live is not exactly the policy."""
        return bool(self.tampered or self.interrupted or self.added or self.removed or self.modes)

    def to_dict(self) -> dict[str, Any]:
        """Return the verdict as ``--json`` prints it."""
        return {
            "applied": self.applied,
            "tampered": self.tampered,
            "interrupted": self.interrupted,
            "drifted": self.drifted,
            "counts": {name: {"recorded": a, "found": b} for name, (a, b) in self.counts.items()},
            "added": list(self.added),
            "modes": list(self.modes),
            "promoted": list(self.promoted),
            "demoted": list(self.demoted),
            "removed": list(self.removed),
            "altered": list(self.altered),
            "note": self.note,
        }

    def as_text(self) -> str:
        """Return the verdict for a person."""
        if not self.drifted:
            if not self.applied:
                return "no policy is applied; the maps are empty"
            return "the live maps are exactly the applied policy"
        lines = ["TAMPERED: the live maps are not what was committed"] if self.tampered else []
        if self.interrupted:
            lines.append("INTERRUPTED: an edit by hand died half-way; apply the policy again")
        lines += [f"  {name}: {a} entries recorded, {b} found" for name, (a, b) in
                  self.counts.items()]  # fmt: skip
        lines += [f"  altered: {text}" for text in self.altered]
        lines += [f"+ {rule}  (made by hand)" for rule in self.added]
        lines += [f"~ {manual.label_text(mode)})" for mode in self.modes]
        lines += [f"- {rule}  (removed by hand)" for rule in self.removed]
        return "\n".join([*lines, *([f"note: {self.note}"] if self.note else [])])


def verify_live(live: Live, store: Store) -> Verdict:
    """Compare the live maps with their committed digest and with the stored policy."""
    info, records = live.info(), live.manual_rules()
    tampered = live_digest(live) != committed_digest(info)
    by_hand = manual.sort_out(records.values())
    modes = sorted(manual.label(r) for r in records.values() if r.text.startswith(manual.MODE))
    removed, note = _removed(live, store)
    altered = _altered(live, store) if tampered else ()
    counts = {
        spec.name: (info.count(spec.name), found)
        for spec in POLICY_MAPS
        if (found := len(live.entries(spec.name))) != info.count(spec.name)
    }
    wrong = (tampered or bool(counts)) and not info.editing
    applied = any(info.bundle)
    return Verdict(
        tampered=wrong,
        counts=counts,
        added=by_hand.made,
        removed=removed,
        altered=altered,
        note=note,
        interrupted=info.editing,
        applied=applied,
        modes=tuple(modes),
        promoted=by_hand.promoted,
        demoted=by_hand.demoted,
    )


def _removed(live: Live, store: Store) -> tuple[tuple[str, ...], str]:
    digest = live.info().bundle
    if not any(digest):
        return (), ""
    try:
        policy = stored_policy(store, digest)
    except AegisError as error:
        return (), f"the stored policy could not be read: {error.message}"
    found = live.entries("rules")
    wanted = resolve_all(live, policy, {}, now=time.time())
    gone = [rule for uid, rule in wanted.names.items() if uid not in found]
    return tuple(sorted(gone)), ""


def _altered(live: Live, store: Store) -> tuple[str, ...]:
    """Name the entries that neither the stored policy nor a record explains; at most 20."""
    try:
        policy = stored_policy(store, live.info().bundle)
    except AegisError:
        return ()
    expected = resolve_all(live, policy, live.manual_rules(), now=time.time())
    entries = live.all_entries()
    names = Names(live, store.paths)
    found = []
    for spec in POLICY_MAPS:
        for key, value in sorted(entries[spec.name].items() ^ expected.maps[spec.name].items()):
            side = "live" if entries[spec.name].get(key) == value else "expected"
            rule = names.get(int.from_bytes(key, "little")) if spec.name == "rules" else None
            found.append(f"{spec.name} {rule.id if rule else key.hex()[:64]} ({side})")
    return tuple(found[:20])
