"""Break glass on a whole system: whatever a policy denies, it ends, provably, and stays ended.

One machine for all. Programs that a policy denies are replaced first, as an upgrade would: the
survival list knows those that were there. Each test comes back the way that the script tells.
"""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
from vmharness.system.machine import Done, Machine

REPOSITORY = Path(__file__).resolve().parents[2]
SCRIPT = (REPOSITORY / "scripts/break-glass").read_text()
POLICY = "/etc/aegisbpf/policy.yaml"
SECRET = "/srv/secret"
DEADLY = "/srv/deadly"
PYTHON = "/usr/bin/python3.11"
FORCED = "--mode enforce --i-know-this-locks-me-out --confirm-within 1h --no-probe"
FLAGS = ("/run/aegisbpf.disable", "/etc/aegisbpf.disable")
DISABLE = "/etc/default/grub.d/98-aegisbpf-disable.cfg"
MENU = "/boot/grub/grub.cfg"
RECORDS = "/var/lib/aegisbpf/incidents"
TOLD_BACK = re.compile(r"(?m)^  (rm -f .*|systemctl start .*)$")


@pytest.fixture(scope="module")
def host(shared_machine: Machine) -> Machine:
    """Return a host with units that start at boot."""
    shared_machine.put(SECRET, "secret\n")
    shared_machine.run("aegisbpf service install")
    return shared_machine


def enforce(machine: Machine, *rules: str, forced: bool = True) -> None:
    every = [f"path: {SECRET}", *rules]
    text = "".join(f"  - id: rule-{n}\n    {rule}\n" for n, rule in enumerate(every))
    machine.put(POLICY, f"version: 1\nrules:\n{text}")
    machine.run(f"aegisbpf policy apply {POLICY} {FORCED if forced else '--mode enforce'}")
    assert refused(machine, SECRET)


def refused(machine: Machine, path: str) -> bool:
    done = machine.run(f"cat {path}", check=False)
    return "Operation not permitted" in done.stderr


def glass(machine: Machine, *options: str, shell: str = "sh") -> Done:
    return machine.run(f"{shell} -s -- {' '.join(options)}", stdin=SCRIPT, check=False)


def assert_ended(machine: Machine, done: Done) -> None:
    assert done.status == 0, done
    assert "ENDED, and proven" in done.stdout
    assert not refused(machine, SECRET)
    assert machine.run("ls /sys/fs/bpf").stdout == ""
    assert "aegis_" not in machine.run("bpftool prog show").stdout


def come_back(machine: Machine, told: str) -> None:
    """Do what it said; the host comes up in audit, until somebody resumes."""
    for line in TOLD_BACK.findall(told):
        machine.run(line)
    state = machine.aegis("mode")
    # A full disk has no room for the reason.
    assert state["mode"] == "audit"
    assert re.match("break-glass|damaged", state["held"]), state
    machine.run("systemctl stop aegisbpf aegisbpf-survival.path")
    machine.put(POLICY, "version: 1\nrules: []\n")
    machine.run(f"aegisbpf policy apply {POLICY}")
    machine.aegis("resume")


def replace(machine: Machine, *paths: str) -> None:
    for path in paths:
        machine.run(f"f=$(readlink -f {path}) && cp -a $f $f.new && rm -rf $f && mv $f.new $f")


@pytest.fixture
def inventory(host: Machine, tmp_path: Path) -> Path:
    path = tmp_path / "hosts"
    options = "-o StrictHostKeyChecking=no -o UserKnownHostsFile=/dev/null"
    path.write_text(
        f"one ansible_host=127.0.0.1 ansible_port={host.port} ansible_user=admin"
        f" ansible_ssh_private_key_file={host.keys.private} ansible_ssh_common_args='{options}'\n"
    )
    return path


def play(inventory: Path, folder: Path, *words: str) -> subprocess.CompletedProcess[str]:
    playbook = Path(sys.executable).parent / "ansible-playbook"
    return subprocess.run(
        [str(playbook), "-i", str(inventory), "playbooks/break_glass.yml",
         "-e", f"aegisbpf_incidents={folder}", *words],
        cwd=REPOSITORY, capture_output=True, text=True, check=False, stdin=subprocess.DEVNULL,
        env={**os.environ, "ANSIBLE_HOME": str(folder / "home")},
    )  # fmt: skip


def test_the_playbook_needs_no_python_no_subsystem_and_nothing_of_ours(
    host: Machine, inventory: Path, tmp_path: Path
) -> None:
    replace(host, PYTHON, "/opt/aegis", "/usr/lib/openssh/sftp-server")
    enforce(
        host, f"path: {PYTHON}", "directory: /opt/aegis", "path: /usr/lib/openssh/sftp-server",
        "directory: /etc/aegisbpf",
    )  # fmt: skip
    assert host.run("python3 -c pass", check=False).status == 126
    assert host.run("aegisbpf --version", check=False).status != 0

    looked = play(inventory, tmp_path, "--check")
    assert looked.returncode == 0, looked.stdout
    assert refused(host, SECRET)
    assert not any(host.run(f"ls {flag}", check=False).status == 0 for flag in FLAGS)

    done = play(inventory, tmp_path)
    assert done.returncode == 0, done.stdout + done.stderr
    assert not refused(host, SECRET)
    [record] = tmp_path.glob("one/*-break-glass.txt")
    told = record.read_text()
    assert f"was refused, opens again: {SECRET}" in told
    assert "a program of ours is in the kernel: no" in told
    assert "ENDED, and proven" in host.run(f"cat {RECORDS}/*-break-glass/record.txt").stdout
    come_back(host, told)


def test_what_nobody_could_prove_ends_the_playbook_with_an_error(
    inventory: Path, tmp_path: Path
) -> None:
    with inventory.open("a") as file:
        file.write("gone ansible_host=127.0.0.1 ansible_port=1 ansible_user=admin\n")
    done = play(inventory, tmp_path, "--check", "-e", "ansible_timeout=5")
    assert done.returncode != 0
    assert "gone: not reached" in done.stdout


def test_where_nothing_may_run_that_removes_files_the_pins_go_with_their_file_system(
    host: Machine,
) -> None:
    programs = ["/usr/bin/rm", "/usr/bin/find", "/usr/bin/perl", PYTHON, "/usr/sbin/bpftool"]
    replace(host, *programs)
    enforce(host, *(f"path: {path}" for path in programs))
    assert "not permitted" in host.run("rm -f /nothing", check=False).stderr

    done = glass(host, SECRET)
    assert "switched off" not in done.stdout
    assert_ended(host, done)
    assert f"was refused, opens again: {SECRET}" in done.stdout
    come_back(host, done.stdout)


def test_pins_that_a_rule_keeps_from_being_removed_are_switched_off_first(host: Machine) -> None:
    host.put(DEADLY, "x\n")
    enforce(
        host,
        "directory: /sys/fs/bpf/aegis\n    operations: [modify]",
        f"path: {DEADLY}\n    signal: kill",
    )
    assert "not permitted" in host.run("rm -rf /sys/fs/bpf/aegis", check=False).stderr
    done = glass(host, SECRET, DEADLY, shell="bash")
    assert "the hooks are switched off" in done.stdout
    assert f"was refused, opens again: {SECRET} {DEADLY}\n" in done.stdout
    assert_ended(host, done)
    come_back(host, done.stdout)


def test_a_full_disk_keeps_it_from_nothing(host: Machine) -> None:
    enforce(host, forced=False)
    host.run("dd if=/dev/zero of=/fill bs=1M; dd if=/dev/zero of=/fill2 bs=1k; sync", check=False)
    assert host.run("echo x > /srv/more", check=False).status != 0

    done = glass(host, SECRET)
    assert_ended(host, done)
    assert "record: /run/" in done.stdout
    assert host.run("systemctl start aegisbpf-boot; systemctl is-active aegisbpf-boot",
                    check=False).stdout.strip() == "inactive"  # fmt: skip
    host.run("rm -f /fill /fill2 /srv/more")
    come_back(host, done.stdout)


HOLD = """
import sys, time
from aegis_tools.kernel import syscall
fd = syscall.obj_get("/sys/fs/bpf/aegis/links/aegis_file_open")
print("held", flush=True); time.sleep(600)
"""


def test_who_holds_a_hook_open_is_named_and_it_refuses_nothing_meanwhile(host: Machine) -> None:
    enforce(host, forced=False)
    host.put("/root/hold.py", HOLD)
    host.run("systemd-run --unit=holder --property=StandardOutput=file:/run/held"
             " /opt/aegis/bin/python3 /root/hold.py")  # fmt: skip
    host.run("until grep -q held /run/held; do sleep 0.2; done")
    holder = host.run("systemctl show --value --property=MainPID holder").stdout.strip()

    done = glass(host, SECRET)
    assert done.status == 1, done
    assert f"/proc/{holder}/fdinfo/" in done.stdout
    assert not refused(host, SECRET)

    host.run("systemctl stop holder")
    again = glass(host, SECRET)
    assert_ended(host, again)
    come_back(host, again.stdout)


def test_without_the_package_it_ends_and_the_next_boot_does_not_enforce(
    host: Machine, inventory: Path, tmp_path: Path
) -> None:
    enforce(host, forced=False)
    host.run("mv /opt/aegis /opt/gone")
    done = play(inventory, tmp_path, "-e", "aegisbpf_break_glass_boot=true")
    assert done.returncode == 0, done.stdout + done.stderr
    assert not refused(host, SECRET)
    [record] = tmp_path.glob("one/*-break-glass.txt")
    told = record.read_text()
    assert "ENDED, and proven" in told
    assert "the boot loader passes aegisbpf.disable=1" in told
    lines = [one for one in host.get(MENU).splitlines() if one.split()[:1] == ["linux"]]
    assert ["aegisbpf.disable=1" in line.split() for line in lines] == [True] * len(lines)
    host.run("mv /opt/gone /opt/aegis")
    # The file alone has to be enough.
    host.run(f"rm {DISABLE} && update-grub")

    host.reboot()
    assert not refused(host, SECRET)
    assert not host.run("ls -A /sys/fs/bpf/aegis", check=False).stdout
    said = host.run("aegisbpf load", check=False)
    assert (said.status, "the glass was broken" in said.stderr) == (5, True), said
    come_back(host, told)
    (last,) = host.aegis("incident", "list", "--limit", "1")["incidents"]
    assert (last["scenario"], last["result"]) == ("break-glass", "recovered")


@pytest.fixture
def reachable(host: Machine) -> Machine:
    """Let the host be reached in rescue mode, as an administrator may have it."""
    host.run("systemctl add-wants rescue.target ssh systemd-networkd qemu-guest-agent")
    return host


def test_grubs_recovery_entry_boots_without_enforcement(reachable: Machine) -> None:
    host = reachable
    enforce(host, forced=False)
    found = re.search(r"'(gnulinux-advanced-[^']*)'", host.get(MENU))
    entry = re.search(r"'(gnulinux-[^']*-recovery-[^']*)'", host.get(MENU))
    assert found
    assert entry
    host.run(f"grub-reboot '{found[1]}>{entry[1]}'")

    host.reboot()
    assert "single" in host.get("/proc/cmdline").split()
    assert host.run("systemctl is-active multi-user.target", check=False).stdout.strip() != "active"
    assert "bpf" in host.get("/sys/kernel/security/lsm")
    assert not refused(host, SECRET)
    host.run("systemctl start --no-block default.target")
    host.run("systemctl is-system-running --wait", check=False)
    assert not refused(host, SECRET)
    assert host.run("systemctl is-active aegisbpf", check=False).stdout.strip() == "inactive"

    host.reboot()
    assert refused(host, SECRET)
