"""The layouts in Python are the ones that the compiler gave the BPF programs."""

from __future__ import annotations

import json
import re
import struct
import subprocess
from collections.abc import Iterator
from typing import Any, NamedTuple

import pytest
from kernel_support import TEST_OBJECTS

from aegis_tools.kernel import layout
from aegis_tools.kernel.loader import OBJECTS
from aegis_tools.monitors import layout as monitors
from aegis_tools.monitors.registry import MONITORS, Monitor
from aegis_tools.policy.model import MAX_DEPTH, Op

STRUCTS = {
    "inode_key": layout.INODE_KEY,
    "name_key": layout.NAME_KEY,
    "path_key": layout.PATH_KEY,
    "file_entry": layout.FILE_ENTRY,
    "net_entry": layout.NET_ENTRY,
    "ipv4_key": layout.IPV4_KEY,
    "ipv6_key": layout.IPV6_KEY,
    "cidr_v4_key": layout.CIDR_V4_KEY,
    "cidr_v6_key": layout.CIDR_V6_KEY,
    "port_key": layout.PORT_KEY,
    "ip_port_v4_key": layout.IP_PORT_V4_KEY,
    "ip_port_v6_key": layout.IP_PORT_V6_KEY,
    "rule_attr": layout.RULE_ATTR,
    "rule_hits": layout.RULE_HITS,
    "manual_rule": layout.MANUAL_RULE,
    "slot_info": layout.SLOT_INFO,
    "event": layout.EVENT,
    "inode_id": layout.INODE_ID,
}


def _event(tail: struct.Struct) -> struct.Struct:
    return struct.Struct(monitors.HEAD.format + tail.format)


MONITOR_STRUCTS = {
    "monitor_comm": struct.Struct("16s"),
    "monitor_head": monitors.HEAD,
    "monitor_filter": monitors.FILTER,
    "process_event": _event(monitors.PROCESS),
    "filesystem_event": _event(monitors.FILESYSTEM),
    "network_event": _event(monitors.NETWORK),
    "memory_event": _event(monitors.MEMORY),
    "memory_key": monitors.MEMORY_KEY,
    "memory_total": monitors.MEMORY_TOTAL,
    "disk_io_event": _event(monitors.DISK_IO),
}
CONSTANTS = {
    "ABI_LAYOUT": layout.LAYOUT,
    "ABI_SLOTS": layout.SLOTS,
    "ABI_NAME_MAX": layout.NAME_MAX,
    "ABI_MAX_DEPTH": MAX_DEPTH,
    "ABI_EVENT_PATH": layout.EVENT_PATH,
    "ABI_MANUAL_TEXT": layout.MANUAL_TEXT,
    "ABI_DIR_HAS_NAMES": layout.DIR_HAS_NAMES,
}


class Field(NamedTuple):
    """A run of bytes with one meaning."""

    offset: int
    size: int


class Btf:
    """What an object says about its types."""

    def __init__(self, data: dict[str, Any]) -> None:
        self.types = {entry["id"]: entry for entry in data["types"]}
        self.named = {(entry["kind"], entry["name"]): entry for entry in data["types"]}

    @classmethod
    def of(cls, path: object) -> Btf:
        argv = ["bpftool", "-j", "btf", "dump", "file", str(path)]
        return cls(json.loads(subprocess.run(argv, check=True, capture_output=True).stdout))

    def enum(self, name: str) -> dict[str, int]:
        return {value["name"]: value["val"] for value in self.named["ENUM", name]["values"]}

    def size(self, name: str) -> int:
        return int(self.named["STRUCT", name]["size"])

    def fields(self, name: str) -> list[Field]:
        """Return the struct's members as scalars; an array of bytes counts as one."""
        return list(self._flat(self.named["STRUCT", name], 0))

    def _flat(self, entry: dict[str, Any], base: int) -> Iterator[Field]:
        kind = entry["kind"]
        if kind in ("TYPEDEF", "CONST", "VOLATILE"):
            yield from self._flat(self.types[entry["type_id"]], base)
        elif kind == "STRUCT":
            for member in entry["members"]:
                yield from self._flat(
                    self.types[member["type_id"]], base + member["bits_offset"] // 8
                )
        elif kind == "ARRAY":
            inner = list(self._flat(self.types[entry["type_id"]], 0))
            size = inner[-1].offset + inner[-1].size
            if size == 1:
                yield Field(base, entry["nr_elems"])
            else:
                for index in range(entry["nr_elems"]):
                    yield from (Field(base + index * size + f.offset, f.size) for f in inner)
        else:
            yield Field(base, entry["size"])


def python_fields(shape: struct.Struct) -> list[Field]:
    """Return the fields of a struct format; padding bytes count as a field."""
    fields = []
    text = ""
    for count, code in re.findall(r"(\d*)([a-zA-Z])", shape.format):
        parts = [f"{count}{code}"] if code in "sx" else [code] * int(count or 1)
        for part in parts:
            text += part
            size = struct.calcsize(part)
            fields.append(Field(struct.calcsize(text) - size, size))
    return fields


def differences(btf: Btf, name: str, shape: struct.Struct) -> list[str]:
    """Return in what a struct and its Python format differ; nothing = they agree."""
    found = []
    if btf.size(name) != shape.size:
        found.append(f"{name} has {btf.size(name)} bytes, Python {shape.size}")
    ours, theirs = python_fields(shape), btf.fields(name)
    if ours != theirs:
        found.append(f"{name}: {set(theirs) ^ set(ours)}")
    return found


@pytest.fixture(scope="module")
def abi(built: None) -> Btf:
    del built
    return Btf.of(TEST_OBJECTS / "abi.bpf.o")


@pytest.mark.parametrize("name", STRUCTS)
def test_a_struct_has_the_size_and_offsets_of_the_compiler(abi: Btf, name: str) -> None:
    assert differences(abi, name, STRUCTS[name]) == []


def test_the_shipped_objects_agree_where_they_describe_a_struct(built: None) -> None:
    del built
    compared = set()
    for path in OBJECTS.glob("*.bpf.o"):
        btf = Btf.of(path)
        for name, shape in STRUCTS.items():
            if ("STRUCT", name) in btf.named:
                assert differences(btf, name, shape) == [], path.name
                compared.add(name)
    assert {"slot_info", "event", "inode_key", "file_entry", "rule_hits"} <= compared


def test_every_struct_of_the_header_is_compared() -> None:
    header = (TEST_OBJECTS.parent.parent / "bpf" / "aegis.h").read_text(encoding="utf-8")
    assert set(re.findall(r"^struct (\w+) \{", header, re.MULTILINE)) == {*STRUCTS, "file_event"}


def test_a_file_event_is_an_event_a_tail_and_a_path(abi: Btf) -> None:
    size = layout.EVENT.size + layout.FILE_EVENT_TAIL.size
    assert abi.size("file_event") == layout.FILE_EVENT_SIZE == size + layout.EVENT_PATH
    assert abi.fields("file_event") == [
        *python_fields(layout.EVENT),
        Field(layout.EVENT.size, 4),
        Field(layout.EVENT.size + 4, 4),
        Field(size, layout.EVENT_PATH),
    ]


@pytest.mark.parametrize(
    ("name", "old", "new"),
    [("file_entry", "4QIHH", "4QHIH"), ("event", "IIIIIIQ", "IIIIIQ"), ("port_key", "x", "")],
)
def test_a_field_that_moved_is_noticed(abi: Btf, name: str, old: str, new: str) -> None:
    changed = struct.Struct(STRUCTS[name].format.replace(old, new))
    assert differences(abi, name, changed)


@pytest.mark.parametrize("spec", layout.POLICY_MAPS, ids=lambda spec: spec.name)
def test_a_policy_map_is_declared_with_our_sizes_and_type(spec: layout.MapSpec) -> None:
    inner = Btf.of(OBJECTS / "aegis.bpf.o")
    members = {
        member["name"]: inner.types[member["type_id"]]
        for member in inner.named["STRUCT", f"{spec.name}_inner"]["members"]
    }
    declared = {
        name: inner.types[pointer["type_id"]]["nr_elems"] for name, pointer in members.items()
    }
    assert (declared["key_size"], declared["value_size"]) == (spec.key_size, spec.value_size)
    assert declared["type"] == spec.type


@pytest.mark.parametrize(
    ("enum", "prefix", "python"),
    [
        ("aegis_config", "AEGIS_CONFIG_", layout.Config),
        ("aegis_stat", "AEGIS_STAT_", layout.Stat),
    ],
)
def test_an_enum_has_the_numbers_of_the_header(
    abi: Btf, enum: str, prefix: str, python: type[layout.Config] | type[layout.Stat]
) -> None:
    theirs = {name.removeprefix(prefix): value for name, value in abi.enum(enum).items()}
    count = theirs.pop("MAX")
    assert theirs == {member.name: member.value for member in python}
    assert count == len(theirs)


def test_operations_are_the_bits_of_the_header(abi: Btf) -> None:
    theirs = {
        name.removeprefix("AEGIS_OP_"): 1 << bit for name, bit in abi.enum("aegis_op").items()
    }
    assert theirs == {op.name: op.value for op in Op}


def test_kinds_are_the_bits_of_the_header(abi: Btf) -> None:
    theirs = sorted(abi.enum("aegis_kind").values())
    assert theirs == sorted(spec.kind for spec in layout.POLICY_MAPS if spec.kind)
    names = {name.removeprefix("AEGIS_KIND_"): bit for name, bit in abi.enum("aegis_kind").items()}
    for spec in layout.POLICY_MAPS:
        if spec.kind:
            stem = re.sub(r"^deny_|_map$", "", spec.name).upper()
            assert names[re.sub("_MAP$", "", stem)] == spec.kind


def test_constants_are_those_of_the_header(abi: Btf) -> None:
    assert abi.enum("abi_constant") == CONSTANTS


def test_every_policy_map_has_a_place_in_slot_info() -> None:
    assert len(layout.POLICY_MAPS) <= len(layout.SlotInfo().entries)


@pytest.fixture(scope="module")
def monitor_abi(built: None) -> Btf:
    del built
    return Btf.of(TEST_OBJECTS / "monitor_abi.bpf.o")


@pytest.mark.parametrize("name", MONITOR_STRUCTS)
def test_a_monitors_struct_is_that_of_the_compiler(monitor_abi: Btf, name: str) -> None:
    assert differences(monitor_abi, name, MONITOR_STRUCTS[name]) == []


def test_every_struct_of_the_monitors_is_compared() -> None:
    header = TEST_OBJECTS.parent.parent / "bpf/monitors/monitor.h"
    found = re.findall(r"^struct (\w+) \{", header.read_text(encoding="utf-8"), re.MULTILINE)
    assert set(found) == set(MONITOR_STRUCTS)


@pytest.mark.parametrize("monitor", MONITORS.values(), ids=lambda monitor: monitor.name)
def test_the_types_of_a_monitors_records_are_those_of_the_header(
    monitor_abi: Btf, monitor: Monitor
) -> None:
    stem = monitor.name.removesuffix("-monitor").replace("-", "_")
    theirs = {
        number: name.removeprefix(f"{stem.upper()}_").lower().replace("_", "-")
        for name, number in monitor_abi.enum(f"{stem}_type").items()
    }
    assert theirs == monitor.types


def test_the_monitors_counters_and_constants_are_those_of_the_header(monitor_abi: Btf) -> None:
    stats = {
        name.removeprefix("MONITOR_"): n for name, n in monitor_abi.enum("monitor_stat").items()
    }
    assert stats.pop("STATS_MAX") == len(stats)
    assert stats == {stat.name: stat.value for stat in monitors.Stat}
    assert monitor_abi.enum("abi_constant") == {
        "ABI_COMM": monitors.COMM,
        "ABI_PATH": monitors.PATH,
        "ABI_ARGS": monitors.ARGS,
        "ABI_CUT": monitors.CUT,
        "ABI_NOT_CAUSE": monitors.NOT_CAUSE,
    }
