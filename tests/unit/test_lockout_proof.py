"""The lockout proof on a made-up host: what it refuses, why, and what it lets be."""

from __future__ import annotations

from pathlib import Path

import pytest
from lockout_support import FakeHost, rule

from aegis_tools.control.lockout.model import READ, RUN
from aegis_tools.errors import LockoutError
from aegis_tools.policy.model import Kind, Mode, Op

LIB = "/usr/lib/x86_64-linux-gnu"

# A rule, and words of the reason that must be given for refusing it.
LOCKOUTS = [
    ("/usr/sbin/sshd", "sshd needs it to let you in"),
    ("/sbin/sshd", "sshd needs it"),
    ("/srv/twin", "sshd needs it"),  # a hard link
    ("/lib/x86_64-linux-gnu/libpam.so.0", "sshd → libpam.so.0"),
    (f"{LIB}/libpam.so.0.85", "sshd → libpam.so.0"),
    ("/srv/innocent", "libpam.so.0"),  # a symbolic link
    ("/lib/x86_64-linux-gnu/", "sshd needs it"),
    ("/lib/", "sshd needs it"),
    ("/usr/lib/", "sshd needs it"),
    ("/usr/", "sshd"),
    ("/srv/usr/", "sshd"),
    ("/", "sshd"),
    ("/usr", "recovery needs what is in it"),
    ("/etc/", "the loader finds libraries by it"),
    ("/etc/ssh/", "sshd → sshd_config"),
    ("/etc/ssh/sshd_config", "sshd → sshd_config"),
    ("/etc/ssh/sshd_config.d/site.conf", "sshd needs it"),
    ("/etc/ssh/ssh_host_ed25519_key", "sshd shows it"),
    ("/root/.ssh/authorized_keys", "keys of root"),
    ("/root/.ssh/", "keys of root"),
    ("/root/", "keys of root"),
    ("/people/", "keys of alice"),
    ("/people/alice/.ssh/authorized_keys", "keys of alice"),
    ("/etc/pam.d/sshd", "PAM needs it"),
    ("/etc/pam.d/common-auth", "PAM needs it"),
    ("/etc/pam.d/", "PAM needs it"),
    (f"{LIB}/security/pam_unix.so", "PAM → pam.d/common-auth → pam_unix.so"),
    (f"{LIB}/security/", "pam_unix.so"),
    ("/usr/sbin/unix_chkpwd", "pam_unix.so"),
    ("/etc/nsswitch.conf", "looked up"),
    (f"{LIB}/libnss_ldap.so.2", "nsswitch.conf → libnss_ldap.so.2"),
    ("/etc/passwd", "every login"),
    ("/etc/shadow", "PAM looks in it"),
    ("/etc/group", "every login"),
    ("/etc/hosts", "names of hosts"),
    ("/etc/resolv.conf", "names of hosts"),
    ("/etc/ld.so.cache", "the loader"),
    ("/lib64/ld-linux-x86-64.so.2", "no program starts without it"),
    ("/usr/bin/sudo", "makes you root"),
    ("/etc/sudoers", "sudo reads it"),
    ("/etc/sudoers.d/ops", "sudo reads it"),
    ("/usr/libexec/sudo/sudoers.so", "sudo loads it"),
    ("/bin/bash", "shell of root"),
    ("/usr/bin/fish", "shell of alice"),
    ("/bin/sh", "scripts and Ansible run in it"),
    ("/usr/bin/perl", "bpftool is a script for it"),
    ("/usr/bin/python3", "Ansible works through it"),
    ("/usr/lib/python3.11/os.py", "Ansible's Python"),
    ("/usr/lib/python3.11/json/", "Ansible's Python"),
    ("/usr/lib/systemd/systemd-logind", "the system runs on it"),
    ("/usr/sbin/bpftool", "it loads and unloads"),
    ("/dev/null", "shells and services"),
    ("/dev/pts/", "a terminal session"),
    ("/dev/", "shells and services"),
    ("/tmp/", "Ansible, sudo and shells"),
    ("/var/tmp/", "Ansible, sudo and shells"),
    ("/dev/shm/", "Ansible, sudo and shells"),
    ("/root/.ansible", "Ansible's files go there when it logs in as root"),
    ("/proc/", "looked at"),
    ("/sys/fs/bpf/", "looked at"),
    ("/run/sshd", "before a login"),
    ("/run/", "sshd"),
    ("/var/log/wtmp", "a login is recorded"),
]
HARMLESS = [
    "/srv/secrets/", "/srv/secrets/key", "/srv/secrets/not-there-yet", "/opt/", "/opt/app/",
    "/opt/app/bin/server", "/etc/shadow-", "/etc/motd", "/etc/ssh/ssh_config", "/etc/passwd-",
    "/etc/shadow.bak", "/etc/pam.d/game", "/etc/not-there", "/root/notes", "/root/.ssh/id_rsa",
    "/root/.ssh/config", "/people/alice/diary", "/people/bob/", "/people/bob/diary",
    "/people/bob/.ssh/authorized_keys", "/usr/share/doc/", "/usr/share/doc/sshd/README",
    "/usr/bin/unrelated", "/usr/bin/script", "/usr/bin/not-there", "/usr/lib/python3.11/test/",
    f"{LIB}/libgame.so.1", f"{LIB}/libnss_wins.so.2", f"{LIB}/security/pam_unused.so",
    f"{LIB}/libpam.so.1", "/dev/sda", "/var/log/app.log", "/var/spool/", "/tmp/some-file",
    "/dev/shm/some-file", "/root/.bash_history", "/usr/sbin/sshd.dpkg-new", "/usr/local/x",
]  # fmt: skip
NET_LOCKOUTS = [
    (Kind.CIDR, "0.0.0.0/0", "127.0.0.1"),
    (Kind.CIDR, "::/0", "::1"),
    (Kind.CIDR, "192.0.2.0/24", "somebody is logged in from there"),
    (Kind.IP, "192.0.2.77", "session from 192.0.2.77"),
    (Kind.IP, "::ffff:192.0.2.77", "session from 192.0.2.77"),
    (Kind.IP, "127.0.0.1", "talk to each other"),
    (Kind.IP, "::1", "talk to each other"),
    (Kind.CIDR, "127.0.0.0/8", "talk to each other"),
    (Kind.IP, "10.0.0.1", "default gateway"),
    (Kind.IP, "10.0.0.53", "names are looked up"),
    (Kind.IP, "10.0.0.5", "own address"),
    (Kind.CIDR, "10.0.0.0/8", "default gateway"),
    (Kind.PORT, "2222", "sshd listens there"),
    (Kind.PORT, "2222:tcp:bind", "sshd listens there"),
    (Kind.PORT, "53:udp:egress", "resolv.conf → 10.0.0.53"),
    (Kind.IP_PORT, "10.0.0.53:53:udp", "names are looked up"),
]
NET_HARMLESS = [
    (Kind.PORT, "22"), (Kind.PORT, "25"), (Kind.PORT, "8080"), (Kind.PORT, "2222:udp"),
    (Kind.PORT, "2222:tcp:egress"), (Kind.PORT, "53:tcp:bind"), (Kind.PORT, "2223"),
    (Kind.CIDR, "203.0.113.0/24"), (Kind.IP, "198.51.100.9"), (Kind.IP, "192.0.2.78"),
    (Kind.IP, "10.0.0.54"), (Kind.CIDR, "10.0.1.0/24"), (Kind.CIDR, "2001:db8::/32"),
    (Kind.IP_PORT, "10.0.0.53:80:tcp"), (Kind.IP_PORT, "192.0.2.77:443:tcp"),
    (Kind.CIDR, "192.0.2.0/26"), (Kind.IP, "2001:db8::1"),
]  # fmt: skip


@pytest.fixture(scope="module")
def host(tmp_path_factory: pytest.TempPathFactory) -> FakeHost:
    return FakeHost(tmp_path_factory.mktemp("host"))


@pytest.mark.parametrize(("target", "reason"), LOCKOUTS)
def test_a_rule_that_locks_out_is_refused_with_its_reason(
    host: FakeHost, target: str, reason: str
) -> None:
    (found,) = host.prove(rule(target))
    assert found.enforce
    assert any(reason in hit.text() for hit in found.worst), found.text()
    assert found.text().startswith("rule r denies ")


@pytest.mark.parametrize("target", HARMLESS)
def test_a_harmless_neighbour_is_not_refused(host: FakeHost, target: str) -> None:
    assert host.prove(rule(target)) == []


def network(kind: Kind, text: str, *, bind: bool = False) -> rule:  # type: ignore[valid-type]
    ops = {"egress": Op.EGRESS, "bind": Op.BIND}
    head, _, last = text.rpartition(":")
    if last in ops:
        return rule(head, kind, ops[last])
    return rule(text, kind, Op.BIND if bind else None)


@pytest.mark.parametrize(("kind", "target", "reason"), NET_LOCKOUTS)
def test_an_address_or_port_that_locks_out_is_refused(
    host: FakeHost, kind: Kind, target: str, reason: str
) -> None:
    (found,) = host.prove(network(kind, target))
    assert any(reason in hit.text() for hit in found.worst), found.text()


@pytest.mark.parametrize(("kind", "target"), NET_HARMLESS)
def test_a_harmless_address_or_port_is_not_refused(host: FakeHost, kind: Kind, target: str) -> None:
    assert host.prove(network(kind, target)) == []


def test_what_is_done_with_a_file_decides(host: FakeHost) -> None:
    for target, ops in (
        ("/usr/sbin/sshd", Op.WRITE | Op.MODIFY),
        ("/etc/shadow", Op.WRITE | Op.MODIFY | Op.EXEC),
        ("/usr/", Op.WRITE | Op.MODIFY),
        ("/tmp/", Op.EXEC),
        ("/etc/", Op.EXEC),
    ):
        assert host.prove(rule(target, ops=ops)) == [], target
    for target, ops in (
        ("/usr/sbin/sshd", Op.EXEC),
        ("/etc/shadow", Op.READ),
        (f"{LIB}/libc.so.6", Op.EXEC),
        ("/tmp/", Op.MODIFY),
        ("/var/log/wtmp", Op.WRITE),
    ):
        assert len(host.prove(rule(target, ops=ops))) == 1, target


def test_a_folder_rule_reaches_as_deep_as_it_says(host: FakeHost) -> None:
    exec_only = rule("/usr/", ops=Op.EXEC)
    assert host.prove(exec_only._replace(depth=1)) == []
    assert len(host.prove(exec_only._replace(depth=2))) == 1  # /usr/sbin/sshd


def test_an_inode_rule_is_seen_through(host: FakeHost) -> None:
    number = (host.root / "usr/sbin/sshd").stat().st_ino
    (found,) = host.prove(rule(f"1:{number}", Kind.INODE, READ))
    assert "/usr/sbin/sshd" in found.worst[0].what
    other = (host.root / "srv/secrets/key").stat().st_ino
    assert host.prove(rule(f"1:{other}", Kind.INODE, READ)) == []


def test_an_audit_rule_is_a_warning_and_hides_no_enforcing_one(host: FakeHost) -> None:
    audit = rule("/usr/sbin/sshd", mode=Mode.AUDIT)
    (found,) = host.prove(audit)
    assert not found.enforce
    assert found.text().startswith("rule r would deny, if it enforced, /usr/sbin/sshd")
    both = host.prove(audit, rule("/usr/sbin/")._replace(id="wide"))
    assert [(one.rule, one.enforce) for one in both] == [("wide", True), ("r", False)]


def test_a_wide_rule_names_the_worst_and_counts_the_rest(host: FakeHost) -> None:
    (found,) = host.prove(rule("/"))
    assert len(found.worst) == 3
    assert found.needs > 50
    assert f"and {found.needs - 1} more" in found.text()
    assert [hit.rank for hit in found.worst] == sorted(hit.rank for hit in found.worst)


def test_all_refusals_are_told_at_once(host: FakeHost) -> None:
    found = host.prove(
        rule("/etc/shadow")._replace(id="one"), rule("/usr/sbin/sshd")._replace(id="two")
    )
    error = LockoutError(found)
    assert (error.code, error.exit_code) == ("lockout", 3)
    assert "2 rules would lock you out" in error.message
    assert "rule one denies /etc/shadow" in error.message
    assert "rule two denies /usr/sbin/sshd" in error.message
    assert [one["rule"] for one in error.data["refusals"]] == ["two", "one"]


def test_code_is_for_the_survival_list_and_secrets_are_not(host: FakeHost) -> None:
    code = {need.path for need in host.needs if need.code}
    assert {"/usr/sbin/sshd", "/lib/x86_64-linux-gnu/libpam.so.0", "/usr/bin/perl"} <= code
    assert not code & {"/etc/shadow", "/etc/passwd", "/etc/ssh/ssh_host_ed25519_key", "/tmp"}
    assert all(need.code for need in host.needs if need.ops == RUN)


def test_a_rule_that_cannot_be_placed_is_not_refused(host: FakeHost) -> None:
    assert host.prove(rule("/nowhere/at/all")) == []
    assert host.prove(rule("/nowhere/")) == []


def test_a_replaced_library_is_found_again(tmp_path: Path) -> None:
    host = FakeHost(tmp_path)
    library = tmp_path / f"{LIB[1:]}/libpam.so.0.85"
    new = library.with_suffix(".new")
    new.write_text("")
    new.replace(library)
    (found,) = host.prove(rule(f"{LIB}/libpam.so.0.85"))
    assert "libpam.so.0" in found.text()
