"""A host whose GRUB leaves BPF LSM out gets it, loses nothing, and gets back what it had."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from vmharness.system.machine import Done, Machine

DOCUMENT = Path(__file__).resolve().parents[2] / "docs" / "boot.md"
SITE = "/etc/default/grub.d/50-site.cfg"
THEIRS = "lockdown,yama,apparmor,tomoyo"
SETTINGS = f'GRUB_CMDLINE_LINUX_DEFAULT="$GRUB_CMDLINE_LINUX_DEFAULT lsm={THEIRS}"\n'
FILES = (
    "find /etc/default/grub /etc/default/grub.d /boot/grub/grub.cfg -type f"
    " -printf '%p %m %u %g ' -exec sha256sum {} ';' | sort"
)
REFUSED = 5
NONE, MEDIUM, HIGH = 0, 21, 22
"""Exit codes of diagnose."""

pytestmark = pytest.mark.timeout(1500)


@pytest.fixture
def host(machine: Machine) -> Machine:
    """Return a host whose administrator has set an ``lsm=`` without bpf."""
    machine.put(SITE, SETTINGS)
    machine.run("update-grub")
    machine.reboot()
    return machine


def documented() -> set[str]:
    """Return the commands about the boot list that the document shows."""
    blocks = re.findall(r"^```sh\n(.*?)^```", DOCUMENT.read_text(encoding="utf-8"), re.M | re.S)
    lines = {line for block in blocks for line in block.splitlines()}
    return {line for line in lines if line.startswith("aegisbpf lsm ")}


@pytest.fixture
def aegis(host: Machine) -> Callable[..., Any]:
    """Return what runs a command of the document and returns its JSON."""

    def call(line: str, status: int = 0) -> Any:
        done: Done = host.run(f"{line} --json", check=False)
        assert done.status == status, done.stdout + done.stderr
        ran.add(line)
        return done.json()

    ran: set[str] = set()
    call.ran = ran  # type: ignore[attr-defined]
    return call


def diagnosed(host: Machine, status: int) -> str:
    """Return which scenario diagnose finds first, once its exit code is what it should be."""
    done = host.run("aegisbpf diagnose --json", check=False)
    assert done.status == status, done.stdout + done.stderr
    found = done.json()
    assert found["unknown"] == []
    return str(found["scenario"])


def test_a_host_gets_bpf_keeps_what_it_had_and_can_go_back(
    host: Machine, aegis: Callable[..., Any]
) -> None:
    before = host.run(FILES).stdout
    now = aegis("aegisbpf lsm status")
    assert (now["active"], now["pending"], now["working"]) == (False, False, None)
    had = now["active_list"]
    assert [one["where"] for one in now["foreign"]] == [SITE]
    assert diagnosed(host, NONE) == "none"  # nothing was set up
    host.run("aegisbpf load")
    assert diagnosed(host, MEDIUM) == "kernel-upgrade"
    host.run("aegisbpf reset")

    assert SITE in aegis("aegisbpf lsm enable", REFUSED)["message"]
    aegis("aegisbpf lsm enable --dry-run", REFUSED)
    plan = aegis("aegisbpf lsm enable --merge --dry-run")
    assert host.run(FILES).stdout == before

    done = aegis("aegisbpf lsm enable --merge")
    assert done["changed"]
    assert done["reboot_needed"]
    assert (done["after"], done["diff"]) == (plan["after"], plan["diff"])
    menu = [line.split() for line in host.get("/boot/grub/grub.cfg").splitlines()]
    lines = [line for line in menu if line[:1] == ["linux"]]
    assert [line[-1] == f"lsm={THEIRS},bpf" for line in lines] == [True, True, False]
    assert aegis("aegisbpf lsm enable --merge")["changed"] is False
    assert aegis("aegisbpf lsm status --verify-boot", REFUSED)["hint"] == "reboot"

    host.reboot()
    host.run("aegisbpf load")

    verified = aegis("aegisbpf lsm status --verify-boot")
    assert (verified["active"], verified["pending"], verified["working"]) == (True, True, True)
    assert verified["active_list"] == [*had, "bpf"]
    health = {
        one["name"]: one for one in host.run("aegisbpf health --json", check=False).json()["checks"]
    }
    assert "has bpf" in health["lsm-pending"]["message"]
    assert diagnosed(host, NONE) == "none"

    assert aegis("aegisbpf lsm disable --dry-run")["pending"] is False
    gone = aegis("aegisbpf lsm disable")
    assert (gone["changed"], gone["pending"], gone["reboot_needed"]) == (True, False, True)
    assert host.run(FILES).stdout == before
    assert diagnosed(host, HIGH) == "kernel-upgrade"
    assert documented() == aegis.ran  # type: ignore[attr-defined]
