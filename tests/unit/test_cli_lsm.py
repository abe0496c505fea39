"""The command ``lsm`` as a person and a program see it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from boot_support import ACTIVE, LIST, Grub

from aegis_tools.cli.main import run

KEYS = {
    "changed", "dry_run", "before", "after", "diff", "pending", "active", "working", "active_list",
    "pending_list", "reboot_needed", "loader", "foreign", "warnings",
}  # fmt: skip


@pytest.fixture
def host(tmp_path: Path) -> Grub:
    return Grub(tmp_path)


@pytest.fixture
def lsm(host: Grub, capsys: pytest.CaptureFixture[str]) -> Any:
    def call(*words: str) -> tuple[int, str]:
        code = run(["--root", str(host.paths.root), "lsm", *words])
        captured = capsys.readouterr()
        return code, captured.out + captured.err

    return call


def test_status_says_the_three_facts(lsm: Any) -> None:
    code, text = lsm("status")
    assert code == 0
    assert [line.split()[:2] for line in text.splitlines()[:3]] == [
        ["pending", "no"], ["active", "no"], ["working", "-"],
    ]  # fmt: skip
    shown = json.loads(lsm("status", "--json")[1])
    assert set(shown) == KEYS
    assert shown["active_list"] == list(ACTIVE)
    assert (shown["loader"], shown["working"], shown["reboot_needed"]) == ("grub", None, False)


def test_a_dry_run_shows_the_drop_in_and_writes_nothing(host: Grub, lsm: Any) -> None:
    before = host.files()
    code, text = lsm("enable", "--dry-run")
    assert code == 0
    assert f'+GRUB_CMDLINE_LINUX_DEFAULT="$GRUB_CMDLINE_LINUX_DEFAULT lsm={LIST}"' in text
    assert "a reboot is needed" in text
    shown = json.loads(lsm("enable", "--dry-run", "--json")[1])
    assert (shown["changed"], shown["dry_run"], shown["reboot_needed"]) == (True, True, True)
    assert (shown["before"]["pending"], shown["after"]["pending"]) == (False, True)
    assert shown["diff"]["after_header"] == "/etc/default/grub.d/99-aegisbpf.cfg"
    assert host.files() == before
    assert lsm("disable", "--dry-run")[1] == "nothing to do\nno reboot is needed\n"


def test_a_foreign_list_is_shown_and_refused_with_exit_code_5(host: Grub, lsm: Any) -> None:
    host.put("etc/default/grub.d/50-x.cfg", 'GRUB_CMDLINE_LINUX="lsm=yama"\n')
    host.update()
    assert "lsm=yama in /etc/default/grub.d/50-x.cfg" in lsm("status")[1]
    code, text = lsm("enable", "--dry-run")
    assert code == 5
    assert "--merge" in text
    error = json.loads(lsm("enable", "--json")[1])
    assert error["foreign"] == [{"where": "/etc/default/grub.d/50-x.cfg", "value": "yama"}]
    code, text = lsm("enable", "--merge", "--dry-run")
    assert code == 0
    assert "warning: active now and kept" in text


def test_another_roots_boot_loader_is_never_run(host: Grub, lsm: Any) -> None:
    before = host.files()
    code, text = lsm("enable")
    assert code == 5
    assert "another root" in text
    assert host.files() == before


def test_a_boot_that_lacks_something_fails_with_the_whole_picture(host: Grub, lsm: Any) -> None:
    assert lsm("status", "--verify-boot")[0] == 0
    host.put("sys/kernel/security/lsm", "lockdown,capability,bpf")
    code, text = lsm("status", "--verify-boot", "--json")
    error = json.loads(text)
    assert code == error["exit_code"] == 5
    assert set(error) > KEYS
    assert "aegisbpf lsm enable" in error["hint"]
