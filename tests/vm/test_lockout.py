"""Policies that would lock an operator out are refused here, harmless ones are not, and whoever
forces one gets the host back: by the probe at once, or by the kernel's clock."""

from __future__ import annotations

import json
import shutil
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from battery import Host, can_read, refused, searched_once

from aegis_tools.cli.main import run
from aegis_tools.control.lockout import check
from aegis_tools.control.lockout.model import Refusal
from aegis_tools.control.lockout.prove import prove
from aegis_tools.control.resolve import resolve
from aegis_tools.kernel.inode_keys import Identifier
from aegis_tools.paths import Paths
from aegis_tools.policy.model import OPEN_OPS, Kind, Op, Policy, Rule
from aegis_tools.policy.targets import canonical, default_operations

FORCE = "--i-know-this-locks-me-out"
LIB = "/lib/x86_64-linux-gnu"
Prove = Callable[..., list[Refusal]]

LOCKOUTS = {
    "/": "sshd",
    "/usr/": "sshd",
    "/usr": "recovery needs what is in it",
    "/bin/": "shell of root",
    "/sbin/": "sshd",
    "/lib/": "sshd",
    "/usr/lib/": "sshd",
    f"{LIB}/": "sshd",
    "/usr/lib/x86_64-linux-gnu/": "sshd",
    "/lib64/": "recovery needs what is in it",
    "/usr/sbin/sshd": "sshd needs it to let you in",
    f"{LIB}/libpam.so.0": "sshd → libpam.so.0",
    f"{LIB}/libcrypto.so.3": "sshd → libcrypto.so.3",
    f"{LIB}/libc.so.6": "libc.so.6",
    f"{LIB}/libaudit.so.1": "sshd → libaudit.so.1",
    "/lib64/ld-linux-x86-64.so.2": "no program starts without it",
    "/etc/ld.so.cache": "the loader finds libraries by it",
    f"{LIB}/security/pam_unix.so": "PAM → pam.d/",
    f"{LIB}/security/pam_permit.so": "PAM → pam.d/",
    f"{LIB}/security/": "pam_",
    "/etc/pam.d/": "PAM",
    "/etc/pam.d/sshd": "PAM",
    "/etc/pam.d/common-auth": "PAM",
    "/etc/pam.d/sudo": "PAM",
    f"{LIB}/libnss_files.so.2": "nsswitch.conf → libnss_files.so.2",
    "/etc/nsswitch.conf": "looked up",
    "/etc/passwd": "every login looks the account up in it",
    "/etc/shadow": "PAM looks in it",
    "/etc/group": "every login looks the groups up in it",
    "/etc/": "the loader",
    "/etc/ssh/": "sshd",
    "/etc/ssh/sshd_config": "sshd needs it to let you in",
    "/usr/bin/sudo": "makes you root",
    "/usr/libexec/sudo/sudoers.so": "sudo loads it",
    "/etc/sudoers": "sudo reads it each time",
    "/usr/bin/su": "makes you root",
    "/bin/bash": "shell of root",
    "/bin/sh": "scripts and Ansible run in it",
    "/usr/bin/env": "Ansible's tasks",
    "/usr/bin/python3": "python3",
    "/usr/lib/python3.11/os.py": "Ansible's Python",
    "/usr/lib/python3.11/": "Ansible's Python",
    "/usr/lib/systemd/systemd": "the system runs on it",
    "/usr/sbin/bpftool": "loads and unloads",
    "/root/": "root",
    "/root/.ansible": "Ansible's files go there",
    "/tmp/": "Ansible, sudo and shells",
    "/var/tmp/": "Ansible, sudo and shells",
    "/dev/shm/": "Ansible, sudo and shells",
    "/dev/": "shells and services open it",
    "/dev/null": "shells and services open it",
    "/dev/pts/": "a terminal session",
    "/proc/": "looked at",
    "/sys/fs/bpf/": "looked at",
    "cidr 0.0.0.0/0": "127.0.0.1",
    "cidr ::/0": "::1",
    "cidr 127.0.0.0/8": "talk to each other",
    "ip 127.0.0.1": "talk to each other",
    "ip ::ffff:127.0.0.1": "talk to each other",
    "ip ::1": "talk to each other",
    "port 22": "sshd listens there",
    "port 22:tcp": "sshd listens there",
}
HARMLESS = [
    "/srv/secrets/", "/srv/secrets/key", "/opt/app/bin/server", "/opt/app/", "/etc/shadow-",
    "/etc/passwd-", "/etc/group-", "/etc/motd", "/etc/issue", "/etc/ssh/ssh_config", "/etc/fstab",
    "/etc/hostname", "/etc/pam.d/chsh", "/etc/pam.d/newusers", "/etc/not-there",
    "/etc/debian_version", "/root/.bash_history", "/root/.ssh/id_rsa", "/root/notes.txt",
    "/usr/share/doc/", "/usr/share/man/", "/usr/share/doc/sudo/", "/usr/share/zoneinfo/",
    "/usr/include/", "/usr/src/", "/usr/games/", "/usr/bin/gcc", "/usr/bin/git",
    "/usr/bin/qemu-system-x86_64", "/usr/bin/xz", "/usr/bin/not-there", "/usr/sbin/sshd.dpkg-new",
    "/usr/lib/python3.11/test/", "/usr/lib/git-core/", "/usr/local/games/", f"{LIB}/libpam.so.9",
    f"{LIB}/security/pam_not_there.so", "/var/www/", "/var/backups/", "/var/cache/", "/var/spool/",
    "/tmp/somebodys-file", "/dev/sda", "/boot/", "cidr 203.0.113.0/24", "cidr 2001:db8::/32",
    "ip 198.51.100.7", "port 25", "port 6667:tcp", "port 22:udp", "ip_port 203.0.113.1:22:tcp",
    "ip_port 192.0.2.9:53:udp",
]  # fmt: skip


proof = pytest.mark.once("5.10")
"""The proof is arithmetic on what the kernel calls files, and that is tested on every kernel."""


@pytest.fixture(scope="module")
def judge(loaded: Host) -> Iterator[Prove]:
    """Return what puts a rule to this machine, which is searched once."""
    paths = Paths(Path("/run/lockout-test"))
    # What Ansible needs depends on whether it was ever here, or started from here.
    shutil.rmtree("/root/.ansible", ignore_errors=True)
    with searched_once(paths), Identifier(loaded.pins) as identify:
        placed = check.search(paths, identify)
        peers = check.peers()

        def decide(text: str, ops: Op | None = None) -> list[Refusal]:
            rules = resolve(Policy((rule(text, ops),)), identify, {}, now=0)
            return prove(placed, peers, rules.maps, walk=rules.walk, name_of=rules.ids.__getitem__)

        yield decide


def rule(text: str, ops: Op | None = None) -> Rule:
    kind_text, _, target = text.rpartition(" ")
    kind = Kind(kind_text) if kind_text else Kind.DIRECTORY if text.endswith("/") else Kind.PATH
    wanted = ops or (default_operations(kind) if kind_text else OPEN_OPS)
    return Rule("r7", kind, canonical(kind, target), wanted)


@proof
def test_policies_that_lock_out_are_refused_with_their_reason(judge: Prove) -> None:
    assert len(LOCKOUTS) >= 40
    wrong = {}
    for target, reason in LOCKOUTS.items():
        found = judge(target)
        said = found[0].text() if found else "not refused"
        if (
            not found
            or not any(reason in hit.text() for hit in found[0].worst)
            or not said.startswith("rule r7 denies ")
        ):
            wrong[target] = said
    assert wrong == {}


@proof
def test_links_and_numbers_are_seen_through(judge: Prove, tmp_path: Path) -> None:
    link = tmp_path / "innocent"
    link.symlink_to("/usr/sbin/sshd")
    assert "sshd needs it" in judge(str(link))[0].text()
    folder = tmp_path / "folder"
    folder.symlink_to("/usr/lib")
    assert judge(f"{folder}/")


@proof
def test_harmless_neighbours_are_not_refused(judge: Prove) -> None:
    assert len(HARMLESS) >= 40
    refusals = {target: found[0].text() for target in HARMLESS if (found := judge(target))}
    assert refusals == {}


@proof
def test_writing_may_be_denied_where_reading_may_not(judge: Prove) -> None:
    for target in ("/etc/shadow", "/usr/sbin/sshd", "/etc/", "/usr/"):
        assert judge(target, Op.WRITE | Op.MODIFY) == []
        assert judge(target, Op.READ)


@pytest.fixture
def aegisbpf(host: Host, capsys: pytest.CaptureFixture[str]) -> Iterator[Callable[..., Any]]:
    """Return the program, with its state where only root writes, and the pins of the host."""
    root = Path("/run/lockout-root")
    pins = root / "sys/fs/bpf/aegis"
    pins.parent.mkdir(parents=True, exist_ok=True)
    if not pins.is_symlink():
        pins.symlink_to(host.pins.base)

    def command(*argv: str | Path, code: int = 0) -> dict[str, Any]:
        capsys.readouterr()
        result = run(["--json", "--root", str(root), *map(str, argv)])
        out = capsys.readouterr().out
        assert result == code, out
        return dict(json.loads(out))

    with searched_once(Paths(root)):
        yield command
    host.set(DEADLINE=0, MODE=0)
    run(["--root", str(root), "policy", "revert"])


def bad_policy(tmp_path: Path) -> Path:
    file = tmp_path / "policy.yaml"
    file.write_text("version: 1\nrules:\n  - {id: r7, path: /etc/passwd, operations: [read]}\n")
    return file


@pytest.mark.once  # what is new in it is sshd and sudo, three times
def test_who_forces_it_is_brought_back_by_the_probe(
    aegisbpf: Callable[..., Any], tmp_path: Path
) -> None:
    worked = aegisbpf("policy", "probe")
    assert {one["name"]: one["state"] for one in worked["checks"]}[
        "log in through sshd on loopback"
    ] == "ok", worked
    file = bad_policy(tmp_path)
    assert aegisbpf("policy", "apply", file, "--mode", "enforce", code=3)["error"] == "lockout"
    found = aegisbpf(
        "policy", "apply", file, "--mode", "enforce", FORCE, "--confirm-within", "10m", code=3
    )
    assert found["error"] == "probe"
    assert "log in" in found["message"]
    assert can_read(Path("/etc/passwd"))
    assert aegisbpf("policy", "show")["rules"] == 0
    notes = [entry["note"] for entry in aegisbpf("history")["entries"]]
    assert any("the probe failed" in note for note in notes)
    assert any("forced past the lockout proof: r7" in note for note in notes)


@pytest.mark.once("5.10", "7.2")
def test_who_forces_it_without_a_probe_is_brought_back_by_the_clock(
    aegisbpf: Callable[..., Any], tmp_path: Path
) -> None:
    file = bad_policy(tmp_path)
    words = ("--mode", "enforce", FORCE, "--no-probe", "--confirm-within", "10s")
    aegisbpf("policy", "apply", file, *words)
    end = time.monotonic() + 60
    with refused():
        Path("/etc/passwd").read_bytes()
    while not can_read(Path("/etc/passwd")):  # the kernel's clock, no program of ours
        assert time.monotonic() < end
        time.sleep(0.2)
    aegisbpf("policy", "revert", "--if-overdue")
    assert aegisbpf("policy", "show")["rules"] == 0
