"""The proof put to work: for a policy, for single rules, for what is live."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import TYPE_CHECKING

from aegis_tools.control.lockout import memory
from aegis_tools.errors import LockoutError
from aegis_tools.kernel.layout import FILE_ENTRY, RULE_ATTR

if TYPE_CHECKING:
    from aegis_tools.control.live import Live
    from aegis_tools.control.lockout.model import Maps, Need, Peer, Refusal
    from aegis_tools.control.lockout.placed import Placed
    from aegis_tools.control.resolve import Identify, Rules
    from aegis_tools.paths import Paths

NameOf = Callable[[int], str]
FILE_MAPS = ("deny_inode_map", "deny_path_map", "deny_dir_map")
NET_MAPS = ("deny_ipv4_map", "deny_ipv6_map", "deny_cidr_v4_map", "deny_cidr_v6_map",
            "deny_port_map", "deny_ip_port_v4_map", "deny_ip_port_v6_map")  # fmt: skip


def check_rules(paths: Paths, rules: Rules, identify: Identify) -> list[Refusal]:
    """Return what resolved rules deny of what recovery needs.

    Args:
        paths: Where the needs are remembered.
        rules: A resolved policy, or single rules.
        identify: Names files as the kernel does.

    Raises:
        CommandError: The host could not be searched.
    """

    return check_maps(paths, rules.maps, identify, _name_in(rules))


def _name_in(rules: Rules) -> NameOf:
    return lambda uid: rules.names.get(uid.to_bytes(8, "little"), f"unknown:{uid:016x}")


def check_live(
    paths: Paths, live: Live, name_of: NameOf, identify: Identify | None = None
) -> list[Refusal]:
    """Return what the live rules deny of what recovery needs, as for ``mode enforce``."""
    if identify is not None:
        return check_maps(paths, live.all_entries(), identify, name_of)
    from aegis_tools.kernel.inode_keys import Identifier

    with Identifier(live.pins) as own:
        return check_maps(paths, live.all_entries(), own, name_of)


def check_added(paths: Paths, added: Sequence[Rules], identify: Identify) -> list[Refusal]:
    """Return what rules that are to be added by hand deny of what recovery needs.

    Where none of their keys is one of a need's, nothing is searched. Else the needs are looked up
    once, however many rules there are; each rule is proven by itself, so none hides another.
    """
    network = any(rules.maps[name] for rules in added for name in NET_MAPS)
    if not network and memory.surely_harmless(paths, [rules.maps for rules in added]):
        return []
    from aegis_tools.control.lockout.touch import Touched

    files = any(rules.maps[name] for rules in added for name in FILE_MAPS)
    needs = Touched(_placed(paths, identify) if files else [])
    there = peers() if network else []
    return [
        found
        for rules in added
        for found in _prove(needs.by(rules.maps), there, rules.maps, _name_in(rules))
    ]


def check_maps(paths: Paths, maps: Maps, identify: Identify, name_of: NameOf) -> list[Refusal]:
    """Return what the contents of a slot deny of what recovery needs."""
    files = any(maps.get(name) for name in FILE_MAPS)
    network = any(maps.get(name) for name in NET_MAPS)
    placed = _placed(paths, identify) if files else []
    return _prove(placed, peers() if network else [], maps, name_of)


def _prove(
    placed: Iterable[Placed], there: Iterable[Peer], maps: Maps, name_of: NameOf
) -> list[Refusal]:
    from aegis_tools.control.lockout.prove import prove

    walk = max((FILE_ENTRY.unpack(e)[5] for e in maps.get("deny_dir_map", {}).values()), default=0)
    return prove(placed, there, maps, walk=walk, name_of=name_of)


def _placed(paths: Paths, identify: Identify) -> list[Placed]:
    from aegis_tools.control.lockout.placed import place
    from aegis_tools.kernel.mounts import read_mounts

    needs = memory.recall(paths)
    if needs is not None:
        return place(needs, identify, read_mounts())
    return search(paths, identify)


def search(paths: Paths, identify: Identify) -> list[Placed]:
    """Search the host anew, remember what was found, and return it."""
    from aegis_tools.control.lockout import stamps
    from aegis_tools.control.lockout.needs import find_needs
    from aegis_tools.control.lockout.placed import place
    from aegis_tools.control.lockout.tree import Tree
    from aegis_tools.kernel.mounts import read_mounts

    tree = Tree()
    needs = find_needs(tree, paths)
    # The folders of programs and libraries: replacing one by a rename changes its folder.
    folders = {need.path.rpartition("/")[0] for need in needs if need.code} - {"/etc", "/dev"}
    placed = place(needs, identify, read_mounts())
    above = {path for one in placed for path, _ in one.file.above}
    stamp = stamps.take(tree.watched | folders, tree.expected, above)
    memory.remember(paths, stamp, placed)
    return placed


def needs_of(paths: Paths) -> list[Need]:
    """Return the files that recovery needs, remembered or searched for."""
    from aegis_tools.control.lockout.needs import find_needs
    from aegis_tools.control.lockout.tree import Tree

    return memory.recall(paths) or find_needs(Tree(), paths)


def peers() -> list[Peer]:
    """Return the addresses that recovery needs now."""
    from aegis_tools.control.lockout.peers import find_peers
    from aegis_tools.control.lockout.sockets import Netlink
    from aegis_tools.control.lockout.tree import Tree

    return find_peers(Tree(), Netlink())


def refuse(found: Iterable[Refusal]) -> None:
    """Raise LockoutError where an enforcing rule denies what recovery needs.

    Raises:
        LockoutError: All such rules are listed.
    """
    refusals = [one for one in found if one.enforce]
    if not refusals:
        return
    raise LockoutError(refusals)


def check_lockout(
    paths: Paths, live: Live, maps: Maps, name_of: NameOf, *, uids: Iterable[int] = ()
) -> None:
    """Refuse rules that would lock everybody out, as if they enforced.

    For ``rule promote``, whose rules still audit in the live maps.

    Args:
        paths: Where the needs are remembered.
        live: The loaded maps.
        maps: The contents of the active slot (``live.all_entries()``).
        name_of: The id of a rule by its uid.
        uids: Rules to look at as enforcing, and no others; none: all as they are.

    Raises:
        LockoutError: One would.
    """
    wanted = set(uids)
    if wanted:
        attributes = {
            key: RULE_ATTR.pack(1, RULE_ATTR.unpack(value)[1])
            for key, value in maps["rules"].items()
            if int.from_bytes(key, "little") in wanted
        }
        maps = {**maps, "rules": attributes}
    from aegis_tools.kernel.inode_keys import Identifier

    with Identifier(live.pins) as identify:
        refuse(check_maps(paths, maps, identify, name_of))
