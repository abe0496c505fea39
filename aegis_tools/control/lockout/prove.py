"""The proof: every need put to the rules as the kernel would put it. Pure."""

from __future__ import annotations

from collections.abc import Callable, Iterable

from aegis_tools.control.lockout.model import Hit, Maps, Need, Peer, Refusal
from aegis_tools.control.lockout.placed import Placed
from aegis_tools.control.why import Finding, Lookup, file_findings, net_findings
from aegis_tools.kernel import layout

WORST = 3


def prove(
    placed: Iterable[Placed],
    peers: Iterable[Peer],
    maps: Maps,
    *,
    walk: int,
    name_of: Callable[[int], str],
) -> list[Refusal]:
    """Return the rules that deny what recovery needs, the enforcing ones first.

    Args:
        placed: The files that are needed.
        peers: The addresses that are needed.
        maps: What a slot is to hold (or holds), by map.
        walk: The deepest directory rule's depth, as in slot_info.
        name_of: The id of a rule by its uid.
    """
    lookup, hits = lookup_in(maps), _Hits(maps)
    if any(maps.get(name) for name in ("deny_inode_map", "deny_path_map", "deny_dir_map")):
        for need, file in placed:
            hits.add(need, need.path, file_findings(lookup, file, need.ops, walk))
    if any(maps.get(name) for name in _NETWORK):
        for peer in peers:
            hits.add(peer, peer.shown, _net(lookup, peer))
    return hits.refusals(name_of)


_NETWORK = ("deny_ipv4_map", "deny_ipv6_map", "deny_cidr_v4_map", "deny_cidr_v6_map",
            "deny_port_map", "deny_ip_port_v4_map", "deny_ip_port_v6_map")  # fmt: skip


def _net(lookup: Lookup, peer: Peer) -> list[Finding]:
    return net_findings(lookup, peer.address, peer.port, peer.op, (peer.protocol,))


class _Hits:
    """Hits by rule, of which each keeps the worst."""

    def __init__(self, maps: Maps) -> None:
        self._attributes = maps.get("rules", {})
        self._found: dict[int, dict[tuple[str, str], Hit]] = {}

    def add(self, need: Need | Peer, what: str, findings: Iterable[Finding]) -> None:
        """Keep what denies a need."""
        for finding in findings:
            by_need = self._found.setdefault(finding.uid, {})
            key = (what, need.why)
            if key not in by_need:
                by_need[key] = Hit(what, need.why, need.chain, need.rank)

    def refusals(self, name_of: Callable[[int], str]) -> list[Refusal]:
        """Return what was found by rule."""
        result = []
        for uid, found in self._found.items():
            attribute = self._attributes.get(uid.to_bytes(8, "little"))
            if attribute is None:
                continue
            enforce = layout.RULE_ATTR.unpack(attribute)[0] == 1
            worst = sorted(found.values(), key=lambda hit: (hit.rank, hit.what))
            needs = len({hit.what for hit in worst})
            result.append(Refusal(name_of(uid), enforce, tuple(worst[:WORST]), needs))
        return sorted(result, key=lambda r: (not r.enforce, r.worst[0].rank, r.rule))


def lookup_in(maps: Maps) -> Lookup:
    """Return a look-up in the contents of maps, tries answering with the longest prefix."""
    lengths = {
        name: sorted(
            {int.from_bytes(key[:4], "little") for key in maps.get(name, {})}, reverse=True
        )
        for name in ("deny_cidr_v4_map", "deny_cidr_v6_map")
    }

    def look(name: str, key: bytes) -> bytes | None:
        entries = maps.get(name, {})
        if name not in lengths:
            return entries.get(key)
        size = len(key) - 4
        address = int.from_bytes(key[4:], "big")
        for length in lengths[name]:
            mask = (1 << (size * 8)) - (1 << (size * 8 - length))
            prefix = length.to_bytes(4, "little") + (address & mask).to_bytes(size, "big")
            if prefix in entries:
                return entries[prefix]
        return None

    return look
