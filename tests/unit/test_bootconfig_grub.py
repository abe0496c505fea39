"""GRUB's menu and settings, and grubby's entries: what we read in them."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest
from boot_support import DATA, LIST, MENU, Grub
from hypothesis import given
from hypothesis import strategies as st

from aegis_tools.control.bootconfig import grub, grubby
from aegis_tools.control.bootconfig.entries import normal

KERNEL = "/boot/vmlinuz-6.1.0-56-cloud-amd64"
WORD = st.text(st.characters(exclude_categories=["Cs", "Cc", "Zs", "Zl", "Zp"]), max_size=12)
PRINTABLE = st.text(st.characters(min_codepoint=32, exclude_categories=["Cs", "Cc"]), max_size=20)


def test_debians_menu_has_two_normal_entries_and_one_for_recovery() -> None:
    entries = grub.Menu(MENU).entries
    assert [(one.kernel, one.recovery, one.generated) for one in entries] == [
        (KERNEL, False, True), (KERNEL, False, True), (KERNEL, True, True),
    ]  # fmt: skip
    assert entries[0].line.endswith("ro console=ttyS0 quiet")
    assert entries[2].line.endswith("ro single console=ttyS0")
    assert entries[0].release == "6.1.0-56-cloud-amd64"
    assert entries[2].title == "Debian GNU/Linux, with Linux 6.1.0-56-cloud-amd64 (recovery mode)"


def entry(title: str, name: str, line: str, kernel: str = "/vmlinuz-1") -> str:
    quoted = title.replace("'", "'\\''")
    return (
        f"menuentry '{quoted}' --class os $menuentry_id_option '{name}' {{\n"
        f"\tif [ x$a = xy ]; then insmod x; fi\n\tlinux\t{kernel} {line}\n}}\n"
    )


TWO = f"submenu 'More' --id 'more' {{\n{entry('B', 'id-b', 'b')}{entry('C', 'id-c', 'c')}}}\n"


@pytest.mark.parametrize(
    ("default", "environment", "wanted"),
    [
        ("0", {}, "a"),
        ("1>1", {}, "c"),
        ("1", {}, "b"),
        ("more>id-c", {}, "c"),
        ("More>C", {}, "c"),
        ("id-a", {}, "a"),
        ("A b", {}, "a"),
        ("9", {}, "a"),
        ("gone", {}, "a"),
        ("${saved_entry}", {"saved_entry": "more>id-c"}, "c"),
        ("${saved_entry}", {}, "a"),
    ],
)
def test_the_entry_that_boots_is_the_one_grub_takes(
    default: str, environment: dict[str, str], wanted: str
) -> None:
    head = (
        'if [ "${next_entry}" ] ; then\n   set default="${next_entry}"\nelse\n'
        f'   set default="{default}"\nfi\nfunction x {{\n  y\n}}\n'
    )
    menu = grub.Menu(head + entry("A b", "id-a", "a") + TWO)
    found = menu.default_entry(environment)
    assert found is not None
    assert found.line == wanted


def test_entries_of_other_systems_are_not_ours_to_change() -> None:
    text = "".join(
        f"### BEGIN /etc/grub.d/{script} ###\n{entry(script, script, 'x')}"
        f"### END /etc/grub.d/{script} ###\n"
        for script in ("10_linux", "30_os-prober", "40_custom")
    )
    assert [one.title for one in normal(grub.Menu(text).entries)] == ["10_linux"]


@pytest.mark.parametrize(
    ("name", "line", "wanted"),
    [
        ("gnulinux-6.1-recovery-ab", "ro single", True),
        ("gnulinux-6.1-advanced-ab", "ro single", False),
        ("", "ro single", True),
        ("", "ro recovery nomodeset", True),
        ("", "ro quiet", False),
        ("", "ro single=1", False),
    ],
)
def test_recovery_is_told_by_the_id_and_without_one_by_what_is_booted(
    name: str, line: str, wanted: bool
) -> None:
    text = entry("x", name, line) if name else f"menuentry 'x' {{\nlinux /v-1 {line}\n}}\n"
    assert [one.recovery for one in grub.Menu(text).entries] == [wanted]


@given(
    text=st.text(max_size=200) | st.text(st.sampled_from("{}\nmenuetry'\"\\ #linux"), max_size=99)
)
def test_no_text_is_too_strange(text: str) -> None:
    menu = grub.Menu(text)
    menu.default_entry({})
    grub.foreign({"x": text})
    grub.parse_environment(text)
    grubby.parse_info(text)


@given(st.lists(st.tuples(PRINTABLE, st.lists(WORD, max_size=4), st.booleans()), max_size=5))
def test_every_entry_is_found_whatever_its_title(
    given_: list[tuple[str, list[str], bool]],
) -> None:
    text = ""
    for title, words, below in given_:
        line = " ".join(f"'{word.replace(chr(39), '')}'" for word in words)
        one = entry(title, f"gnulinux-advanced-{len(text)}", line)
        text += f"submenu 'x' {{\n{one}}}\n" if below else one
    found = grub.Menu(text).entries
    assert [one.title for one in found] == [title for title, _, _ in given_]
    lines = [" ".join(word.replace("'", "") for word in words) for _, words, _ in given_]
    assert [one.line for one in found] == lines


@pytest.mark.parametrize(
    ("text", "wanted"),
    [
        ('GRUB_CMDLINE_LINUX="quiet lsm=a,b"', ["a,b"]),
        ("GRUB_CMDLINE_LINUX='quiet lsm=a'", ["a"]),
        ('GRUB_CMDLINE_LINUX_DEFAULT="$GRUB_CMDLINE_LINUX_DEFAULT lsm=a"', ["a"]),
        ("export GRUB_CMDLINE_LINUX=lsm=a", ["a"]),
        ('GRUB_CMDLINE_LINUX+=" lsm=a"', ["a"]),
        ('if true; then GRUB_CMDLINE_LINUX="lsm=a"; fi', ["a"]),
        ('GRUB_CMDLINE_LINUX="a \\\n lsm=a"', ["a"]),
        ("GRUB_CMDLINE_LINUX='lsm=\"a,b\"'", ["a,b"]),
        ('# GRUB_CMDLINE_LINUX="lsm=a"', []),
        ('GRUB_CMDLINE_LINUX="x" # lsm=a', []),
        ('GRUB_CMDLINE_LINUX="lsm.debug=1 xlsm=2"', []),
        ('GRUB_CMDLINE_XEN="lsm=a"', []),
        ("GRUB_DISTRIBUTOR=`lsb_release -i -s 2> /dev/null || echo Debian`", []),
        ("it's not closed", []),
    ],
)
def test_a_foreign_list_is_found_in_settings(text: str, wanted: list[str]) -> None:
    assert [one.value for one in grub.foreign({"/etc/default/grub": text})] == wanted


def test_of_several_the_one_that_counts_comes_last() -> None:
    files = {
        "a": 'GRUB_CMDLINE_LINUX_DEFAULT="lsm=default1"',
        "b": 'GRUB_CMDLINE_LINUX_DEFAULT="lsm=default2"\nGRUB_CMDLINE_LINUX="lsm=always"',
    }
    assert [one.value for one in grub.foreign(files)] == ["always", "default1", "default2"]


def test_the_drop_in_is_shell_that_appends(tmp_path: Path) -> None:
    path = tmp_path / "x.cfg"
    path.write_text(grub.drop_in(LIST.split(",")))
    name = "GRUB_CMDLINE_LINUX_DEFAULT"
    script = f"""{name}="quiet 'a b'"; . "$0"; printf %s "${name}" """
    done = subprocess.run(["sh", "-euc", script, path], capture_output=True, text=True, check=True)
    assert done.stdout == f"quiet 'a b' lsm={LIST}"
    assert grub.drop_in_value(path.read_text()) == LIST
    assert grub.drop_in_value("# nothing\n") is None


def test_the_stand_in_makes_the_menu_that_debian_made(tmp_path: Path) -> None:
    assert Grub(tmp_path).get("boot/grub/grub.cfg") == MENU


def test_grubbys_entries_are_read_and_others_left_out() -> None:
    found = grubby.parse_info((DATA / "fedora37-grubby-info.txt").read_text())
    assert list(found) == ["0", "1", "2"]
    assert [one.release for one in found.values()][:2] == [
        "6.5.12-100.fc37.x86_64", "6.5.10-100.fc37.x86_64",
    ]  # fmt: skip
    assert found["0"].line.startswith("$tuned_params ro rootflags=subvol=root")
    assert {one.lsm for one in found.values()} == {None}
    assert [one.id.endswith("-0-rescue") for one in found.values()] == [False, False, True]


def test_what_grubby_is_asked_to_do() -> None:
    assert grubby.set_argv("a,b") == [
        "grubby", "--update-kernel=ALL", "--args=lsm=a,b", "--no-etc-grub-update",
    ]  # fmt: skip
    assert grubby.set_argv(None, "/boot/v")[1:3] == ["--update-kernel=/boot/v", "--remove-args=lsm"]
