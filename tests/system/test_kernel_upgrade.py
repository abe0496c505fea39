"""A kernel without BPF LSM comes by an upgrade and boots by default: foreseen, and undone."""

from __future__ import annotations

import base64
import json
import subprocess
import sys
from pathlib import Path

import pytest
from enforcing_support import SECRET
from vmharness.system.machine import Machine

REPOSITORY = Path(__file__).resolve().parents[2]
NEW = "6.99.0-1-cloud-amd64"
COMMAND = ("incident", "kernel-upgrade")
# It is Debian's own kernel under another name: that it starts no bpf is said by its entries.
INJECT = f"""
old=$(uname -r)
for name in vmlinuz initrd.img config System.map; do ln -f /boot/$name-$old /boot/$name-{NEW}; done
rm /boot/config-{NEW}
sed -e 's/^CONFIG_BPF_LSM=y/# CONFIG_BPF_LSM is not set/' -e '/^CONFIG_LSM=/s/,bpf//' \
    /boot/config-$old > /boot/config-{NEW}
sed -i '/^linux_entry ()/,/^}}/s/^  args="$4"$/&\\n  case "$version" in 6.99*) args="$args lsm=lockdown,yama,apparmor" ;; esac/' \
    /etc/grub.d/10_linux
update-grub
"""  # noqa: E501

pytestmark = pytest.mark.timeout(1500)


@pytest.fixture
def host(enforcing_machine: Machine) -> Machine:
    """Return a host that enforces, with the new kernel installed."""
    enforcing_machine.run(INJECT)
    return enforcing_machine


def refused(machine: Machine) -> bool:
    return "not permitted" in machine.run(f"cat {SECRET}", check=False, new=True).stderr


def test_a_kernel_is_tried_in_a_throwaway_machine(machine: Machine, tmp_path: Path) -> None:
    image = tmp_path / "vmlinuz"
    image.write_bytes(base64.b64decode(machine.run("base64 /boot/vmlinuz-$(uname -r)").stdout))
    done = subprocess.run(
        [sys.executable, "scripts/try-kernel", "--json", str(image)],
        cwd=REPOSITORY,
        stdout=subprocess.PIPE,
        text=True,
        check=False,
    )
    found = json.loads(done.stdout)
    assert (done.returncode, found["loaded"], found["btf"]) == (0, True, True), found
    assert found["release"] == machine.run("uname -r").stdout.strip()


def test_the_kernel_before_becomes_the_default_and_later_gives_way_again(host: Machine) -> None:
    old = host.run("uname -r").stdout.strip()
    foreseen = host.run(f"aegisbpf incident kernel-upgrade --check {NEW}", check=False)
    assert foreseen.status == 5
    assert "CONFIG_BPF_LSM" in foreseen.stderr
    assert host.run("aegisbpf incident kernel-upgrade --check", check=False).status == 5
    assert host.aegis(*COMMAND, "--check", old)["found"] is False

    host.reboot()
    assert f"vmlinuz-{NEW}" in host.get("/proc/cmdline")
    assert "bpf" not in host.get("/sys/kernel/security/lsm").split(",")
    assert not refused(host)

    before = host.run("sha256sum /boot/grub/grub.cfg").stdout
    planned = host.aegis(*COMMAND, "--dry-run")
    assert (planned["found"], planned["changed"], planned["id"]) == (True, True, "")
    assert host.run("sha256sum /boot/grub/grub.cfg").stdout == before

    done = host.aegis(*COMMAND)
    assert (done["found"], done["changed"], done["reboot_needed"]) == (True, True, True), done
    again = host.aegis(*COMMAND)
    assert (again["changed"], again["reboot_needed"]) == (False, True)

    host.reboot()
    assert f"vmlinuz-{old}" in host.get("/proc/cmdline")
    assert refused(host)
    closed = host.aegis(*COMMAND)
    assert (closed["found"], closed["changed"]) == (False, False)
    assert host.aegis("incident", "show", done["id"])["result"] == "recovered"

    still = host.run("aegisbpf incident kernel-upgrade --back", check=False)
    assert (still.status, "it has no BPF LSM" in still.stderr) == (5, True)
    host.run(f"cp /boot/config-{old} /boot/config-{NEW} && sed -i /6.99/d /etc/grub.d/10_linux")
    assert host.aegis(*COMMAND, "--back")["result"] == "recovered"
    assert host.aegis("lsm", "status")["pending"] is True
    assert 'set default="0"' in host.get("/boot/grub/grub.cfg")
