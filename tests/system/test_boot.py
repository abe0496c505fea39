"""What a host that was set up once does at boot, with nobody there."""

from __future__ import annotations

from enforcing_support import POLICY, SECRET
from vmharness.system.machine import Machine

OTHER = "/srv/other"
UNITS = ("aegisbpf-boot.service", "aegisbpf.service")
SSHD = "/etc/ssh/sshd_config.d/keys.conf"


def moment(machine: Machine, unit: str, what: str) -> int:
    """Return when something of a unit happened, in microseconds since boot."""
    text = machine.run(f"systemctl show --value --property={what}TimestampMonotonic {unit}").stdout
    return int(text)


def test_what_was_confirmed_is_enforced_before_anybody_is_let_in(
    enforcing_machine: Machine,
) -> None:
    host = enforcing_machine
    host.put(OTHER, "harmless\n")
    host.put(POLICY, f"version=1\n[deny_path]\n{OTHER}\n")
    host.aegis("policy", "apply", POLICY, "--confirm-within", "1h", "--no-probe")
    assert host.run(f"cat {OTHER}", check=False).status == 1

    host.reboot()

    assert host.run(f"cat {OTHER}").stdout == "harmless\n"

    refused = host.run(f"cat {SECRET}", check=False, new=True)
    assert (refused.status, "Operation not permitted" in refused.stderr) == (1, True)
    enforced = moment(host, "aegisbpf-boot.service", "ExecMainExit")
    assert 0 < enforced < moment(host, "systemd-networkd.service", "ExecMainStart")
    assert enforced < moment(host, "ssh.service", "ExecMainStart")
    state = host.run("systemctl is-system-running --wait", check=False).stdout.strip()
    assert state == "running", host.run("systemctl --failed").stdout
    assert host.run("systemctl is-active aegisbpf.service").stdout.strip() == "active"


def test_a_policy_that_locks_out_since_it_was_confirmed_is_held_in_audit(
    enforcing_machine: Machine,
) -> None:
    host = enforcing_machine
    # Harmless, and then an upgrade has sshd read the keys there and nowhere else.
    host.run("install -D -m 0644 /root/.ssh/authorized_keys /srv/keys/root")
    host.put(POLICY, f"version=1\n[deny_path]\n{SECRET}\n/srv/keys/root\n")
    host.aegis("policy", "apply", POLICY)
    assert host.run("cat /srv/keys/root", check=False).status == 1
    host.put(SSHD, "AuthorizedKeysFile /srv/keys/%u\n")

    host.reboot()

    state = host.aegis("mode")
    assert (state["mode"], "/srv/keys/root" in state["held"]) == ("audit", True), state
    assert "held in audit: lockout" in host.run("aegisbpf health", check=False).stdout
    assert "lockout" in host.journal("aegisbpf-boot.service")
    assert host.run(f"cat {SECRET}").stdout == "secret\n"

    assert "would lock you out" in host.run("aegisbpf resume", check=False).stderr
    host.run(f"rm {SSHD} && systemctl reload ssh")
    host.aegis("resume")
    assert host.run(f"cat {SECRET}", check=False, new=True).status == 1


def test_a_boot_that_disables_it_leaves_nothing_loaded(enforcing_machine: Machine) -> None:
    host = enforcing_machine
    host.reboot("aegisbpf.disable=1")

    assert host.run(f"cat {SECRET}", new=True).stdout == "secret\n"
    assert not host.run("ls -A /sys/fs/bpf/aegis", check=False).stdout
    shown = host.run(f"systemctl show --value --property=ActiveState {' '.join(UNITS)}").stdout
    assert shown.split() == ["inactive"] * len(UNITS)
    skipped = host.run("journalctl --boot --output=cat --grep 'ConditionKernelCommandLine'").stdout
    assert len(skipped.splitlines()) >= len(UNITS)
    assert host.run("systemctl --failed --plain --no-legend").stdout == ""
