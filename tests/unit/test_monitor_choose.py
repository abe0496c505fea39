"""Which variant of a monitor fits, by what the kernel's BTF names."""

from __future__ import annotations

import struct
from dataclasses import replace
from pathlib import Path

import pytest

from aegis_tools.errors import KernelError, UsageError
from aegis_tools.monitors.choose import fits, kernel_names
from aegis_tools.monitors.filters import Filter
from aegis_tools.monitors.pins import About, Refused, parse_about
from aegis_tools.monitors.registry import MONITORS, Monitor, Variant, find

MONITOR = Monitor(
    "x-monitor", "tells of x", "X_EVENTS", 4096, {1: "x"},
    (
        Variant("exact", "x.exact.bpf.o", ("vfs_x", "btf_trace_x", "btf_trace_y")),
        Variant("portable", "x.bpf.o", ("btf_trace_x",)),
    ),
)  # fmt: skip


def btf(*names: str, magic: int = 0xEB9F) -> bytes:
    strings = b"\0" + b"".join(name.encode() + b"\0" for name in names)
    types = b"vfs_types\0"
    head = struct.pack("HBBIIIII", magic, 1, 0, 24, 0, len(types), len(types), len(strings))
    return head + types + strings


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return tmp_path / "vmlinux"


def test_names_are_found_whole_and_only_among_the_strings(file: Path) -> None:
    file.write_bytes(btf("vfs_read", "btf_trace_kfree", "last"))
    with kernel_names(file) as has:
        assert [has(name) for name in ("vfs_read", "btf_trace_kfree", "last")] == [True] * 3
        others = ("vfs_rea", "fs_read", "kfree", "las", "vfs_types", "read\0btf", "")
        assert [has(name) for name in others[:5]] == [False] * 5


@pytest.mark.parametrize("data", [b"", b"\x9f\xeb", btf("a", magic=0x9FEB)])
def test_what_is_no_btf_is_an_error(file: Path, data: bytes) -> None:
    file.write_bytes(data)
    with pytest.raises(KernelError, match="describe"), kernel_names(file):
        pass


def test_a_kernel_without_btf_is_an_error(file: Path) -> None:
    with pytest.raises(KernelError, match="does not describe its own types"), kernel_names(file):
        pass


def test_what_is_missing_is_named() -> None:
    exact, portable = fits(MONITOR, {"btf_trace_x"}.__contains__)
    assert exact.missing == ("vfs_x", "btf_trace_y")
    assert exact.reason == "the kernel has no function vfs_x; the kernel has no tracepoint y"
    assert (portable.missing, portable.reason) == ((), "")


def test_what_would_miss_something_does_not_fit() -> None:
    old = replace(MONITOR, variants=(Variant("old", "x.old.bpf.o", ("vfs_x",), ("vfs_z",)),))
    [fit] = fits(old, lambda _: True)
    assert (fit.missing, fit.unwanted) == ((), ("vfs_z",))
    assert fit.reason == "it misses what the kernel does by function vfs_z"
    assert fits(old, {"vfs_x"}.__contains__)[0].reason == ""


def test_the_best_comes_first_where_all_fit() -> None:
    assert [fit.variant.name for fit in fits(MONITOR, lambda _: True)] == ["exact", "portable"]
    assert not any(fit.reason for fit in fits(MONITOR, lambda _: True))


def test_every_monitor_has_a_portable_variant_under_its_own_name() -> None:
    for monitor in MONITORS.values():
        objects = {variant.name: variant.object for variant in monitor.variants}
        assert objects["portable"] == f"{monitor.name}.bpf.o"


def test_a_monitor_is_found_by_a_short_name_and_once() -> None:
    assert [one.name for one in find(["disk-io", "process-monitor", "process"])] == [
        "disk-io-monitor", "process-monitor",
    ]  # fmt: skip
    assert len(find([])) == 5
    with pytest.raises(UsageError, match="no monitor 'disk'"):
        find(["disk"])


@pytest.mark.parametrize("text", ["", "{}", "[]", "null", "[" * 4000, '{"refused": [1]}'])
def test_a_link_of_somebody_else_tells_nothing(text: str) -> None:
    assert parse_about(text) == About()


def test_what_was_loaded_is_read_back_and_long_reasons_are_cut() -> None:
    about = About("portable", "ab" * 32, (Refused("exact", "x" * 5000), Refused("y", "no")))
    found = parse_about(about.text())
    assert len(about.text()) < 4096
    assert (found.variant, found.digest) == (about.variant, about.digest)
    assert [one.reason for one in found.refused] == ["x" * 300, "no"]


@pytest.mark.parametrize("share", [0, -1, 1.5, float("nan")])
def test_a_share_that_is_none_is_refused(share: float) -> None:
    with pytest.raises(UsageError):
        Filter(sample=share)


def test_a_filter_is_what_the_kernel_keeps_of_it() -> None:
    found = Filter(commands=frozenset({"a-command-longer-than-15"}), sample=0.01)
    assert found.commands == {"a-command-longe"}
    assert found.to_dict()["sample"] == 0.01
    assert Filter(sample=found.sample) == Filter(sample=0.01)
    assert not Filter()
    assert found


def test_a_filter_has_no_more_of_a_kind_than_the_kernel_has_room_for() -> None:
    assert Filter(uids=frozenset(range(1024)))
    with pytest.raises(UsageError, match="at most 1024"):
        Filter(uids=frozenset(range(1025)))


def test_a_filter_reads_as_a_sentence() -> None:
    chosen = Filter(frozenset({0, 1000}), frozenset(), frozenset({"sshd"}), 4096, 0.5)
    assert chosen.line() == "uids 0 1000 or commands sshd; at least 4096 bytes; a share of 0.5"
    assert Filter().line() == "all"
