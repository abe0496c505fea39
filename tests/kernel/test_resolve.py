"""From a policy to map contents: merging, strictness, missing files, links, nested networks."""

from __future__ import annotations

import ipaddress
import os
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from aegis_tools.control.resolve import (
    Rules,
    describe_network,
    file_entry,
    inherit_cidrs,
    net_entry,
    network_key,
    resolve,
)
from aegis_tools.errors import PolicyError
from aegis_tools.kernel import layout
from aegis_tools.kernel.inode_keys import Identifier, InodeId
from aegis_tools.kernel.layout import FILE_ENTRY, NET_ENTRY, uid_key, uid_of
from aegis_tools.kernel.pins import Pins
from aegis_tools.policy.model import MAX_DEPTH, Kind, Mode, Op, Policy, Rule, Signal

ROOT = InodeId(2, 8, 0, 0o040755)
ETC = InodeId(10, 8, 5, 0o040755)
SHADOW = InodeId(11, 8, 7, 0o100640)
LINK = InodeId(12, 8, 9, 0o120777)
DEPTH, FLAGS, GENERATION = 5, 6, 4


class Files:
    """An identifier over a table; keeps what it was asked."""

    def __init__(self, table: Mapping[str, InodeId]) -> None:
        self.table = dict(table)

    def identify(self, paths: Iterable[str]) -> dict[str, InodeId | None]:
        return {path: self.table.get(path.rstrip("/") or "/") for path in paths}

    def identify_in(self, directory: str, names: Iterable[str]) -> dict[str, InodeId | None]:
        base = directory.rstrip("/")
        return {name: self.table.get(f"{base}/{name}") for name in names}


FILES = Files({"/": ROOT, "/etc": ETC, "/etc/shadow": SHADOW})


def path_rule(target: str, **options: object) -> Rule:
    values = {"id": f"path:{target}", "operations": Op.READ, **options}
    return Rule(kind=Kind.PATH, target=target, **values)  # type: ignore[arg-type]


def compiled(*rules: Rule, files: Files = FILES, **options: object) -> Rules:
    cgroups = options.pop("cgroups", {})
    values = {"now": 1000.0, **options}
    return resolve(Policy(rules), files, cgroups, **values)  # type: ignore[arg-type]


def name_key(parent: InodeId, name: bytes) -> bytes:
    return layout.NAME_KEY.pack(parent.ino, parent.dev, len(name), name)


def test_a_path_is_matched_by_inode_and_by_name_in_its_directory() -> None:
    rules = compiled(path_rule("/etc/shadow", operations=Op.READ | Op.WRITE))
    uid = uid_of("path:/etc/shadow")
    entry = FILE_ENTRY.pack(uid, uid, 0, 0, 7, 0, 0)
    assert rules.maps["deny_inode_map"] == {SHADOW.key: entry}
    assert rules.maps["deny_path_map"] == {
        name_key(ETC, b"shadow"): FILE_ENTRY.pack(uid, uid, 0, 0, 0, 0, 0)
    }
    assert rules.maps["deny_dir_map"] == {
        ETC.key: FILE_ENTRY.pack(0, 0, 0, 0, 5, 0, layout.DIR_HAS_NAMES)
    }
    assert rules.walk == 0
    assert rules.problems == []


def test_a_file_that_is_not_there_yet_is_matched_by_name_and_told_of() -> None:
    rules = compiled(path_rule("/etc/new"))
    assert rules.maps["deny_inode_map"] == {}
    assert name_key(ETC, b"new") in rules.maps["deny_path_map"]
    [problem] = rules.problems
    assert "does not exist yet" in problem.message
    assert not problem.error


def test_a_path_without_its_directory_matches_nothing_and_is_told_of() -> None:
    rules = compiled(path_rule("/srv/app/key"), path_rule("/etc/shadow"))
    [problem] = rules.problems
    assert "/srv/app does not exist" in problem.message
    assert problem.rule == "path:/srv/app/key"
    assert len(rules.maps["deny_path_map"]) == 1


def test_a_path_below_a_file_matches_nothing() -> None:
    rules = compiled(path_rule("/etc/shadow/x"))
    assert rules.maps["deny_path_map"] == {}
    assert len(rules.problems) == 1


def test_a_file_in_the_root_directory_has_the_root_as_its_directory() -> None:
    rules = compiled(path_rule("/vmlinuz"))
    assert list(rules.maps["deny_path_map"]) == [name_key(ROOT, b"vmlinuz")]


def test_a_directory_covers_what_is_below_it_to_its_depth() -> None:
    rules = compiled(
        Rule("d", Kind.DIRECTORY, "/etc/", Op.READ, depth=3),
    )
    assert rules.maps["deny_dir_map"] == {ETC.key: FILE_ENTRY.pack(uid_of("d"), 0, 0, 0, 5, 3, 0)}
    assert rules.walk == 3


def test_a_directory_without_a_depth_goes_as_deep_as_the_kernel_does() -> None:
    assert compiled(Rule("d", Kind.DIRECTORY, "/etc/", Op.READ)).walk == MAX_DEPTH


def test_a_directory_rule_keeps_the_names_ruled_in_it() -> None:
    rules = compiled(Rule("d", Kind.DIRECTORY, "/etc/", Op.READ), path_rule("/etc/shadow"))
    entry = FILE_ENTRY.unpack(rules.maps["deny_dir_map"][ETC.key])
    assert entry[0] == uid_of("d")
    assert (entry[DEPTH], entry[FLAGS]) == (MAX_DEPTH, layout.DIR_HAS_NAMES)


@pytest.mark.parametrize("target", ["/nowhere/", "/etc/shadow/"])
def test_a_directory_rule_for_something_else_matches_nothing(target: str) -> None:
    rules = compiled(Rule("d", Kind.DIRECTORY, target, Op.READ))
    assert rules.maps["deny_dir_map"] == {}
    assert "is no directory" in rules.problems[0].message


@pytest.mark.parametrize("order", [1, -1])
def test_of_two_rules_for_one_operation_the_enforcing_one_stays(order: int) -> None:
    loose = path_rule("/etc/shadow", id="loose", mode=Mode.AUDIT)
    strict = path_rule("/etc/shadow", id="strict")
    rules = compiled(*[loose, strict][::order])
    assert FILE_ENTRY.unpack(rules.maps["deny_inode_map"][SHADOW.key])[0] == uid_of("strict")


def test_rules_for_different_operations_share_an_entry() -> None:
    rules = compiled(
        path_rule("/etc/shadow", id="r", operations=Op.READ),
        path_rule("/etc/shadow", id="w", operations=Op.WRITE | Op.MODIFY),
        Rule("x", Kind.INODE, "8:11", Op.EXEC),
    )
    entry = FILE_ENTRY.unpack(rules.maps["deny_inode_map"][SHADOW.key])
    assert entry[:4] == (uid_of("r"), uid_of("w"), uid_of("x"), uid_of("w"))
    assert entry[GENERATION] == 7


def test_a_rule_that_expired_is_left_out_and_told_of() -> None:
    rules = compiled(path_rule("/etc/shadow", expires=1000), path_rule("/etc/new", expires=1001))
    assert rules.ids == {uid_of("path:/etc/new"): "path:/etc/new"}
    assert any("expired" in problem.message for problem in rules.problems)


def test_mode_and_signal_travel_with_the_rule() -> None:
    rules = compiled(
        path_rule("/etc/shadow", id="a", signal=Signal.KILL),
        path_rule("/etc/new", id="b", mode=Mode.AUDIT, signal=Signal.TERM),
    )
    attr = {uid: layout.RULE_ATTR.unpack(value) for uid, value in rules.maps["rules"].items()}
    assert attr == {
        uid_of("a").to_bytes(8, "little"): (1, 9),
        uid_of("b").to_bytes(8, "little"): (0, 15),
    }


def test_rules_the_kernel_cannot_tell_apart_are_refused() -> None:
    rules = Rules()
    rules.names[uid_key("a")] = "another with the same number"
    with pytest.raises(PolicyError, match="cannot be told apart"):
        rules.add_rule(path_rule("/etc/shadow", id="a"))


def test_cgroups_that_exist_are_allowed_and_others_told_of() -> None:
    policy = Policy((), ("/a.service", "/gone.service"))
    rules = resolve(policy, FILES, {"/a.service": 77}, now=0)
    assert list(rules.maps["allow_cgroup_map"]) == [(77).to_bytes(8, "little")]
    assert "/gone.service" in rules.problems[0].message


def test_the_fallback_gets_paths_as_text() -> None:
    rules = compiled(path_rule("/etc/shadow"), path_rule("/x" * 128), fallback=True)
    [key] = rules.maps["audit_path_map"]
    assert key.rstrip(b"\0") == b"/etc/shadow"
    assert compiled(path_rule("/etc/shadow")).maps["audit_path_map"] == {}


def test_where_inode_numbers_are_not_unique_a_rule_holds_by_name_only() -> None:
    rules = compiled(path_rule("/etc/shadow"), ambiguous={SHADOW.dev})
    assert rules.maps["deny_inode_map"] == {}
    assert name_key(ETC, b"shadow") in rules.maps["deny_path_map"]
    assert "by name only" in rules.problems[0].message


NETWORKS = [
    (Kind.IP, "10.0.0.1", "deny_ipv4_map"),
    (Kind.IP, "2001:db8::1", "deny_ipv6_map"),
    (Kind.CIDR, "10.0.0.0/8", "deny_cidr_v4_map"),
    (Kind.CIDR, "2001:db8::/32", "deny_cidr_v6_map"),
    (Kind.CIDR, "0.0.0.0/0", "deny_cidr_v4_map"),
    (Kind.PORT, "22:tcp", "deny_port_map"),
    (Kind.PORT, "8080:any", "deny_port_map"),
    (Kind.IP_PORT, "10.0.0.1:443:tcp", "deny_ip_port_v4_map"),
    (Kind.IP_PORT, "[2001:db8::1]:443:udp", "deny_ip_port_v6_map"),
]


@pytest.mark.parametrize(("kind", "target", "name"), NETWORKS)
def test_a_network_target_has_a_key_and_back(kind: Kind, target: str, name: str) -> None:
    found, key = network_key(kind, target)
    assert found == name
    assert len(key) == layout.SPECS[name].key_size
    assert describe_network(found, key) == (kind, target)


@pytest.mark.parametrize(("kind", "target", "name"), NETWORKS)
@pytest.mark.parametrize("operations", [Op.EGRESS, Op.BIND, Op.EGRESS | Op.BIND])
def test_a_network_rule_holds_its_directions(
    kind: Kind, target: str, name: str, operations: Op
) -> None:
    rules = compiled(Rule("n", kind, target, operations))
    [entry] = rules.maps[name].values()
    assert entry == net_entry(uid_key("n"), operations)
    assert rules.kinds == layout.SPECS[name].kind


networks = st.tuples(
    st.integers(0, 8).map(lambda n: n * 2),
    st.integers(0, 0xFFFF),
    st.sampled_from([Op.EGRESS, Op.BIND, Op.EGRESS | Op.BIND]),
    st.sampled_from([Mode.AUDIT, Mode.ENFORCE]),
)


@settings(deadline=None, max_examples=200)
@given(st.lists(networks, max_size=12), st.lists(st.integers(0, 0xFFFF), max_size=20))
def test_the_longest_prefix_is_denied_all_that_any_around_it_is(
    chosen: list[tuple[int, int, Op, Mode]], addresses: list[int]
) -> None:
    """Compare what a longest-prefix lookup finds with the strictest of all networks around."""
    rules = Rules()
    known = []
    for number, (length, address, operations, mode) in enumerate(chosen):
        network = ipaddress.ip_network((address << 16, length), strict=False)
        rule = Rule(str(number), Kind.CIDR, str(network), operations, mode)
        name, key = network_key(rule.kind, rule.target)
        rules.add(name, key, net_entry(rules.add_rule(rule), operations))
        known.append((network, operations, mode))
    inherit_cidrs(rules)
    entries = {
        ipaddress.ip_network(describe_network("deny_cidr_v4_map", key)[1]): NET_ENTRY.unpack(entry)
        for key, entry in rules.maps["deny_cidr_v4_map"].items()
    }
    for number in addresses:
        address = ipaddress.ip_address(number << 16 | 1)
        hits = [network for network in entries if address in network]
        found = entries[max(hits, key=lambda n: n.prefixlen)] if hits else (0, 0)
        for uid, operation in zip(found, (Op.EGRESS, Op.BIND), strict=True):
            around = [mode for n, ops, mode in known if address in n and operation in ops]
            assert bool(uid) == bool(around)
            assert bool(uid and rules.enforces(uid)) == (Mode.ENFORCE in around)


@pytest.fixture
def identifier(loaded: Pins) -> Iterator[Identifier]:
    with Identifier(loaded) as opened:
        yield opened


def test_the_kernel_says_which_file_a_path_is(identifier: Identifier, tmp_path: Path) -> None:
    file = tmp_path / "file"
    file.write_text("x")
    paths = [str(file), str(tmp_path), str(tmp_path / "gone"), "relative\0", "/dev/null"]
    found = identifier.identify(paths)
    inode = found[str(file)]
    assert inode is not None
    assert inode.ino == file.stat().st_ino
    assert not inode.is_dir
    assert (directory := found[str(tmp_path)]) is not None
    assert directory.is_dir
    assert found[paths[2]] is None
    assert found[paths[3]] is None
    assert found["/dev/null"] is not None


def test_a_file_made_anew_is_another_one(identifier: Identifier, tmp_path: Path) -> None:
    file = tmp_path / "file"
    file.write_text("x")
    before = identifier.identify([str(file)])
    other = tmp_path / "other"
    other.write_text("y")
    other.rename(file)
    assert identifier.identify([str(file)]) != before


def test_names_are_identified_without_following_links(
    identifier: Identifier, tmp_path: Path
) -> None:
    (tmp_path / "file").write_text("x")
    (tmp_path / "link").symlink_to("file")
    found = identifier.identify_in(str(tmp_path), ["file", "link", "gone"])
    assert (link := found["link"]) is not None
    assert link.is_link
    assert found["gone"] is None
    assert identifier.identify_in(str(tmp_path / "gone"), ["a"]) == {"a": None}
    followed = identifier.identify([str(tmp_path / "link")])
    assert followed[str(tmp_path / "link")] == found["file"]


def test_more_files_than_fit_one_round_and_no_descriptor_stays_open(
    identifier: Identifier, tmp_path: Path
) -> None:
    folder = tmp_path / "many"
    folder.mkdir()
    names = [f"f{number}" for number in range(9000)]
    for name in names:
        (folder / name).touch()
    before = len(list(Path("/proc/self/fd").iterdir()))
    found = identifier.identify_in(str(folder), names)
    assert len(list(Path("/proc/self/fd").iterdir())) == before
    assert {name: inode and inode.ino for name, inode in found.items()} == {
        entry.name: entry.inode() for entry in os.scandir(folder)
    }


def test_a_link_also_denies_what_it_leads_to(identifier: Identifier, tmp_path: Path) -> None:
    folder = tmp_path / "real"
    folder.mkdir()
    (folder / "secret").write_text("x")
    (tmp_path / "link").symlink_to("real/secret")
    (tmp_path / "dangling").symlink_to("real/nothing")
    policy = Policy((path_rule(f"{tmp_path}/link"), path_rule(f"{tmp_path}/dangling")))
    rules = resolve(policy, identifier, {}, now=0)
    inode = identifier.identify([str(folder / "secret")])[str(folder / "secret")]
    parent = identifier.identify([str(folder)])[str(folder)]
    assert inode is not None
    assert parent is not None
    assert list(rules.maps["deny_inode_map"]) == [inode.key]
    assert name_key(parent, b"secret") in rules.maps["deny_path_map"]
    assert name_key(parent, b"nothing") in rules.maps["deny_path_map"]
    assert "leads nowhere" in rules.problems[0].message


def test_a_link_that_leads_to_itself_is_called_a_loop(
    identifier: Identifier, tmp_path: Path
) -> None:
    (tmp_path / "one").symlink_to("two")
    (tmp_path / "two").symlink_to("one")
    rules = resolve(Policy((path_rule(f"{tmp_path}/one"),)), identifier, {}, now=0)
    assert "is a loop" in rules.problems[0].message


def test_an_entry_without_operations_denies_nothing() -> None:
    assert not any(FILE_ENTRY.unpack(file_entry(uid_key("n"), Op(0)))[:4])
