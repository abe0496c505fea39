"""Which rule decides, on made-up maps: the same order and the same exceptions as the hooks."""

from __future__ import annotations

import stat

import pytest

from aegis_tools.cli.why import split_peer
from aegis_tools.control.posture import Posture, judge
from aegis_tools.control.resolve import file_entry, net_entry
from aegis_tools.control.why import (
    File,
    file_findings,
    net_findings,
    peer,
    verdicts,
)
from aegis_tools.errors import UsageError
from aegis_tools.kernel import layout
from aegis_tools.kernel.inode_keys import InodeId
from aegis_tools.policy.model import FILE_OPS, NET_OPS, Op

DEV = 0x800001
ENFORCING = judge(1, None, disabled=False, attached=True, fallback=False)
AUDITING = judge(0, None, disabled=False, attached=True, fallback=False)
ROOT = InodeId(2, DEV, 0, stat.S_IFDIR)
ETC = InodeId(10, DEV, 5, stat.S_IFDIR)
SHADOW = InodeId(20, DEV, 7, stat.S_IFREG)
FILE = File("/etc/shadow", SHADOW, (("/etc", ETC), ("/", ROOT)))


class Maps(dict[tuple[str, bytes], bytes]):
    """Maps of an active slot."""

    def lookup(self, name: str, key: bytes) -> bytes | None:
        return self.get((name, key))

    def rule(self, uid: int, *, enforce: int = 1, signal: int = 0) -> bytes:
        packed = uid.to_bytes(8, "little")
        self["rules", packed] = layout.RULE_ATTR.pack(enforce, signal)
        return packed

    def inode(self, uid: bytes, inode: InodeId = SHADOW, ops: Op = FILE_OPS, **more: int) -> None:
        generation = more.pop("generation", inode.generation)
        self["deny_inode_map", inode.key] = file_entry(uid, ops, generation, **more)

    def name(self, uid: bytes, parent: InodeId = ETC, name: bytes = b"shadow") -> None:
        key = layout.NAME_KEY.pack(parent.ino, parent.dev, len(name), name)
        self["deny_path_map", key] = file_entry(uid, FILE_OPS)
        self["deny_dir_map", parent.key] = file_entry(bytes(8), 0, parent.generation, 0, 1)

    def directory(self, uid: bytes, inode: InodeId, depth: int) -> None:
        self["deny_dir_map", inode.key] = file_entry(uid, FILE_OPS, inode.generation, depth)

    def outcome(
        self, op: Op = Op.READ, *, file: File = FILE, walk: int = 0, posture: Posture = ENFORCING,
        survival: bool = False,
    ) -> tuple[int, str, str] | None:  # fmt: skip
        found = file_findings(self.lookup, file, op, walk)
        for verdict in verdicts(found, self.lookup, posture, survival=survival):
            return verdict.finding.uid, verdict.action, verdict.reason
        return None


def test_no_rule_no_verdict() -> None:
    assert Maps().outcome() is None


def test_a_rule_by_inode_refuses_what_it_names_and_nothing_else() -> None:
    maps = Maps()
    maps.inode(maps.rule(1), ops=Op.WRITE)
    assert maps.outcome(Op.WRITE) == (1, "BLOCK", "")
    assert maps.outcome(Op.READ) is None


def test_another_file_with_the_number_is_not_meant() -> None:
    maps = Maps()
    maps.inode(maps.rule(1), generation=99)
    assert maps.outcome() is None


def test_a_rule_that_names_a_number_means_whatever_has_it() -> None:
    maps = Maps()
    maps.inode(maps.rule(1), generation=99, flags=layout.ANY_GENERATION)
    assert maps.outcome() == (1, "BLOCK", "")


def test_a_name_without_a_file_is_found() -> None:
    maps = Maps()
    maps.name(maps.rule(1))
    assert maps.outcome(file=File("/etc/shadow", None, FILE.above)) == (1, "BLOCK", "")
    assert maps.outcome(file=File("/etc/shadow-", None, FILE.above)) is None


@pytest.mark.parametrize(("depth", "found"), [(1, False), (2, True), (32, True)])
def test_a_directory_covers_as_many_levels_as_it_says(depth: int, found: bool) -> None:
    maps = Maps()
    maps.directory(maps.rule(1), ROOT, depth)
    assert (maps.outcome(walk=depth) is not None) == found


def test_a_lookup_climbs_no_further_than_the_slot_says() -> None:
    maps = Maps()
    maps.directory(maps.rule(1), ROOT, 32)
    assert maps.outcome(walk=1) is None


def test_an_audit_rule_never_hides_an_enforcing_one() -> None:
    maps = Maps()
    maps.inode(maps.rule(1, enforce=0))
    maps.directory(maps.rule(2), ETC, 1)
    assert maps.outcome(walk=1) == (2, "BLOCK", "")


def test_of_two_audit_rules_the_first_is_named() -> None:
    maps = Maps()
    maps.inode(maps.rule(1, enforce=0))
    maps.directory(maps.rule(2, enforce=0), ETC, 1)
    assert maps.outcome(walk=1) == (1, "AUDIT", "rule-audit")


def test_an_entry_whose_rule_is_gone_matches_nothing() -> None:
    maps = Maps()
    maps.inode((1).to_bytes(8, "little"))
    assert maps.outcome() is None


@pytest.mark.parametrize(
    ("signal", "action"), [(0, "BLOCK"), (2, "INT"), (9, "KILL"), (15, "TERM")]
)
def test_the_signal_is_the_action(signal: int, action: str) -> None:
    maps = Maps()
    maps.inode(maps.rule(1, signal=signal))
    assert maps.outcome() == (1, action, "")


def test_what_recovery_needs_is_never_refused() -> None:
    maps = Maps()
    maps.inode(maps.rule(1))
    assert maps.outcome(survival=True) == (1, "AUDIT", "survival")
    assert maps.outcome(Op.EXEC, survival=True) == (1, "AUDIT", "survival")


def test_what_recovery_needs_can_be_kept_from_being_written() -> None:
    maps = Maps()
    maps.inode(maps.rule(1))
    assert maps.outcome(Op.WRITE, survival=True) == (1, "BLOCK", "")


def test_the_host_s_mode_stands_above_the_rule() -> None:
    maps = Maps()
    maps.inode(maps.rule(1))
    assert maps.outcome(posture=AUDITING) == (1, "AUDIT", "mode-audit")


def net(maps: Maps, address: str, port: int | None, op: Op = Op.EGRESS) -> list[tuple[int, str]]:
    found = net_findings(maps.lookup, address, port, op, ("tcp", "udp"))
    return [(finding.uid, finding.protocol) for finding in found]


def test_a_port_of_any_protocol_holds_for_each() -> None:
    maps = Maps()
    maps["deny_port_map", layout.PORT_KEY.pack(53, 0)] = net_entry(maps.rule(1), Op.EGRESS)
    maps["deny_port_map", layout.PORT_KEY.pack(53, 17)] = net_entry(maps.rule(2), NET_OPS)
    assert net(maps, "10.0.0.1", 53) == [(1, "tcp"), (2, "udp"), (1, "udp")]
    assert net(maps, "10.0.0.1", 53, Op.BIND) == [(2, "udp")]
    assert net(maps, "10.0.0.1", None) == []


@pytest.mark.parametrize("address", ["10.0.0.1", "::ffff:10.0.0.1"])
def test_a_mapped_address_is_the_address(address: str) -> None:
    maps = Maps()
    maps["deny_ipv4_map", bytes([10, 0, 0, 1])] = net_entry(maps.rule(1), NET_OPS)
    assert net(maps, address, None) == [(1, "tcp"), (1, "udp")]


def test_connecting_to_any_address_is_connecting_to_this_host() -> None:
    assert peer("0.0.0.0", egress=True) == bytes([127, 0, 0, 1])
    assert peer("::", egress=True) == bytes(15) + b"\1"
    assert peer("::ffff:0.0.0.0", egress=True) == bytes([127, 0, 0, 1])
    assert peer("0.0.0.0", egress=False) == bytes(4)


@pytest.mark.parametrize("text", ["", "a\nb\udcff", "1.2.3.4x", "1.2.3.4:99999", "x:1"])
def test_what_is_no_target_is_named_on_one_line(text: str) -> None:
    with pytest.raises(UsageError) as caught:
        split_peer(text)
    assert caught.value.message.isprintable()
    assert "neither an absolute path nor an address" in caught.value.message
