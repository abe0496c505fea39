"""Lists of security modules and kernel command lines, as the kernel understands them."""

from __future__ import annotations

import pytest
from boot_support import ACTIVE, BUILTIN, LIST
from hypothesis import given
from hypothesis import strategies as st

from aegis_tools.control.bootconfig import cmdline, lsmlist
from aegis_tools.errors import BootError

MEASURED = [
    ("", "lockdown,capability,landlock,yama,apparmor,tomoyo,bpf"),
    ("lsm=lockdown,yama,apparmor,bpf", "lockdown,capability,yama,apparmor,bpf"),
    ("lsm=bpf", "lockdown,capability,bpf"),
    ("lsm=!bpf", "lockdown,capability"),
    ("lsm=apparmor lsm=bpf", "lockdown,capability,bpf"),
    ("security=apparmor lsm=yama,bpf", "lockdown,capability,yama,bpf"),
    ("lsm=bpf,capability,nonsense,yama", "lockdown,capability,bpf,yama"),
]
"""Debian's 6.1.192: the command line, and what the kernel then said was active."""


def booted(line: str) -> set[str]:
    """Return what our reading of a command line says will be active on Debian's kernel."""
    value = cmdline.effective(line)
    asked = lsmlist.split(BUILTIN if value is None else value)
    possible = {"landlock", "yama", "apparmor", "tomoyo", "bpf"}
    return {"lockdown", "capability"} | (set(asked) & possible)


@pytest.mark.parametrize(("line", "active"), MEASURED)
def test_our_reading_is_what_the_kernel_did(line: str, active: str) -> None:
    assert booted(line) == set(active.split(","))


@pytest.mark.parametrize(("line", "active"), MEASURED)
def test_what_a_boot_would_lose_is_named(line: str, active: str) -> None:
    value = cmdline.effective(line)
    then = lsmlist.split(BUILTIN if value is None else value)
    gone = lsmlist.lost(ACTIVE, then, lsmlist.always_on(ACTIVE, lsmlist.split(BUILTIN)))
    assert set(gone) == set(ACTIVE) - set(active.split(","))


def test_what_this_boot_has_without_asking_no_other_boot_loses() -> None:
    always = lsmlist.always_on(("capability", "yama", "ima", "bpf"), ("yama", "bpf"))
    assert lsmlist.lost(("capability", "yama", "ima", "bpf"), ("bpf",), always) == ("yama",)


@pytest.mark.parametrize(
    ("active", "base", "wanted"),
    [
        ("lockdown,capability,landlock,yama,apparmor,tomoyo", "", LIST),
        ("lockdown,capability,yama,bpf,apparmor", "", "lockdown,yama,bpf,apparmor"),
        ("capability", "", "bpf"),
        ("lockdown,capability,yama", "yama,selinux", "yama,selinux,lockdown,bpf"),
        ("capability,yama", "bpf,yama,capability", "bpf,yama"),
        ("lockdown,capability,selinux,ima,evm", "", "lockdown,selinux,ima,evm,bpf"),
    ],
)
def test_the_list_keeps_what_there_is_in_its_order(active: str, base: str, wanted: str) -> None:
    assert ",".join(lsmlist.desired(lsmlist.split(active), lsmlist.split(base))) == wanted


@pytest.mark.parametrize("name", ["!bpf", "a b", 'a"', "$x", "`id`", "a\nb", "Bpf", "a;b", "a-b"])
def test_a_name_that_a_shell_could_take_for_something_else_is_refused(name: str) -> None:
    with pytest.raises(BootError):
        lsmlist.desired(("yama", name))


names = st.lists(st.sampled_from(["capability", "yama", "bpf", "selinux", "ima"]), max_size=6)


@given(active=names, base=names)
def test_the_list_has_everything_once_and_is_stable(active: list[str], base: list[str]) -> None:
    found = lsmlist.desired(active, base)
    assert set(found) == {*active, *base, "bpf"} - {"capability"}
    assert len(set(found)) == len(found)
    assert lsmlist.desired(found) == found
    assert lsmlist.lost(active, found, lsmlist.always_on(active, None)) == ()


@pytest.mark.parametrize(
    ("text", "wanted"),
    [
        ('CONFIG_LSM="yama,bpf"\nCONFIG_BPF_LSM=y\n', (("yama", "bpf"), True)),
        ("# CONFIG_BPF_LSM is not set\n", (None, False)),
        ('CONFIG_LSM_MMAP_MIN_ADDR=65536\n#CONFIG_LSM="bpf"\n', (None, None)),
        ("", (None, None)),
    ],
)
def test_a_kernels_own_list_is_read_from_its_configuration(text: str, wanted: object) -> None:
    assert lsmlist.parse_config(text) == wanted


@pytest.mark.parametrize(
    ("line", "wanted"),
    [
        ("quiet lsm=a,b ro", "a,b"),
        ("lsm=a lsm=b", "b"),
        ('lsm="a,b" x', "a,b"),
        ('"lsm=a,b" x', "a,b"),
        ('x="y lsm=a"', None),
        ('"x y" lsm=a', "a"),
        ("lsm.debug=1 lsm_x=2 xlsm=3 LSM=4 lsm", None),
        ("lsm", None),
        ("lsm=", ""),
        ("lsm=a=b", "a=b"),
        ("quiet -- lsm=a", None),
        ("lsm=a -- lsm=b", "a"),
        ("lsm=a --x lsm=b", "b"),
        ('dyndbg="file a +p" lsm=a\tlsm=b\n', "b"),
        ('x="unclosed lsm=a', None),
        ("=lsm=a", None),
        ("", None),
    ],
)
def test_the_last_lsm_argument_counts(line: str, wanted: str | None) -> None:
    assert cmdline.effective(line) == wanted


def next_arg(text: str) -> list[tuple[str, str | None]]:
    """Do what lib/cmdline.c does, as it does it: one character after the other, on one buffer."""
    found: list[tuple[str, str | None]] = []
    text = text.lstrip(" \t\n\v\f\r")
    while text:
        quoted = in_quote = text[0] == '"'
        buffer, equals, size = [*text[quoted:], "\0"], 0, 0
        while buffer[size] != "\0":
            if buffer[size] in " \t\n\v\f\r" and not in_quote:
                break
            if equals == 0 and buffer[size] == "=":
                equals = size
            if buffer[size] == '"':
                in_quote = not in_quote
            size += 1
        rest = "".join(buffer[size + 1 : -1]) if buffer[size] != "\0" else ""
        buffer[size:] = ["\0"]
        start = None
        if equals:
            buffer[equals] = "\0"
            start = equals + 1
            if buffer[start] == '"':
                start += 1
                if buffer[size - 1] == '"':
                    buffer[size - 1] = "\0"
        if quoted and size > 0 and buffer[size - 1] == '"':
            buffer[size - 1] = "\0"
        key = "".join(buffer).split("\0")[0]
        value = None if start is None else "".join(buffer[start:]).split("\0")[0]
        if key == "--" and value is None:
            break
        found.append((key, value))
        text = rest.lstrip(" \t\n\v\f\r")
    return found


lines = st.text(st.sampled_from('lsm=," \t-ab'), max_size=40) | st.text(max_size=20).filter(
    lambda text: "\0" not in text
)


@given(line=lines)
def test_arguments_are_what_the_kernel_makes_of_them(line: str) -> None:
    assert [(one.key, one.value) for one in cmdline.arguments(line)] == next_arg(line)


@given(line=lines, value=st.none() | st.sampled_from(["a", "yama,bpf"]))
def test_setting_the_list_leaves_everything_else(line: str, value: str | None) -> None:
    if line.count('"') % 2:
        line += '"'
    changed = cmdline.with_lsm(line, value)
    assert cmdline.values(changed) == ([] if value is None else [value])
    others = [o for o in cmdline.arguments(line) if o.key != "lsm" or o.value is None]
    assert [o for o in cmdline.arguments(changed) if o.key != "lsm" or o.value is None] == others
    assert cmdline.with_lsm(changed, value) == changed
