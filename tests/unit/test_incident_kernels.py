"""What a kernel's configuration says, and which kernel is to boot."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from aegis_tools.control.bootconfig.entries import Entry
from aegis_tools.incident import kernels
from aegis_tools.incident.kernels import LIST, NEEDED

GOOD = "".join(f"{name}=y\n" for name in NEEDED) + 'CONFIG_LSM="lockdown,yama,bpf"\n'
WITHOUT = GOOD.replace("CONFIG_BPF_LSM=y", "# CONFIG_BPF_LSM is not set")
UNLISTED = GOOD.replace(",bpf", "")


def entry(release: str, line: str = "ro", **more: bool) -> Entry:
    return Entry(f"Linux {release}", release, f"/boot/vmlinuz-{release}", line, **more)


@pytest.mark.parametrize(
    ("text", "asked", "lacking"),
    [
        (GOOD, None, []),
        (GOOD, "yama,bpf", []),
        (GOOD, "yama", [LIST]),
        (UNLISTED, None, [LIST]),
        (UNLISTED, "yama,bpf", []),
        (WITHOUT, "yama,bpf", ["CONFIG_BPF_LSM"]),
        (GOOD.replace("CONFIG_DEBUG_INFO_BTF=y\n", ""), None, ["CONFIG_DEBUG_INFO_BTF"]),
        (GOOD.replace("CONFIG_BPF_JIT=y", "CONFIG_BPF_JIT=m"), None, ["CONFIG_BPF_JIT"]),
    ],
)
def test_what_a_kernel_lacks_is_named(text: str, asked: str | None, lacking: list[str]) -> None:
    found = kernels.judge(text, asked)
    assert [one.name for one in found if one.ok is False] == lacking
    assert all(one.ok is not None for one in found)


def test_without_a_configuration_nothing_is_claimed_but_what_the_entry_asks_for() -> None:
    assert {one.ok for one in kernels.judge("", None)} == {None}
    assert [one.ok for one in kernels.judge("", "yama,bpf") if one.name == LIST] == [True]
    assert [one.ok for one in kernels.judge("", "yama") if one.name == LIST] == [False]


def chosen(texts: dict[str, str], *entries: Entry, wanted: str = "") -> str:
    choices = {f"{n}>{one.id}": one for n, one in enumerate(entries)}
    found = kernels.of_entries(choices, texts, running="", default=None)
    return kernels.best(choices, found, wanted)


def test_the_newest_kernel_that_has_all_is_chosen() -> None:
    names = ("6.1.0-9", "6.1.0-56", "6.12.0-1", "6.2.0-7")
    texts = {**dict.fromkeys(names, GOOD), "6.12.0-1": WITHOUT}
    assert chosen(texts, *map(entry, names)) == "3>6.2.0-7"
    assert chosen(texts, *map(entry, names), wanted="6.1.0-9") == "0>6.1.0-9"
    assert chosen(texts, *map(entry, names), wanted="6.12.0-1") == "2>6.12.0-1"
    assert chosen(texts, *map(entry, names), wanted="5.10") == ""
    assert chosen({"6.12.0-1": WITHOUT}, entry("6.12.0-1")) == ""


def test_an_entry_that_boots_with_bpf_comes_before_a_newer_one_that_does_not() -> None:
    texts = {"6.1": GOOD, "6.2": GOOD}
    assert chosen(texts, entry("6.2", "ro lsm=yama"), entry("6.1")) == "1>6.1"
    assert chosen(texts, entry("6.2", "ro lsm=yama"), entry("6.2")) == "1>6.2"
    own = entry("6.2", "ro lsm=yama", generated=False)
    assert chosen({"6.1": UNLISTED, "6.2": GOOD}, own, entry("6.1")) == "1>6.1"


def test_one_for_recovery_is_none_and_one_that_tells_nothing_comes_last() -> None:
    assert chosen({"6.1": GOOD}, entry("6.1", recovery=True)) == ""
    assert chosen({"6.1": GOOD}, entry("6.9"), entry("6.1")) == "1>6.1"
    assert chosen({}, entry("6.9")) == "0>6.9"


@given(st.text())
def test_no_configuration_is_too_strange(text: str) -> None:
    assert len(kernels.judge(text, None)) == len(NEEDED) + 1


@given(st.text(), st.text())
def test_releases_of_any_kind_can_be_sorted(one: str, other: str) -> None:
    assert sorted([one, other], key=kernels.version_key)
