"""What every other test of this folder takes for granted, and the first hour with the program."""

from __future__ import annotations

from vmharness.system.machine import Machine

POLICY = "version=1\n\n[deny_path]\n/srv/secret\n"


def test_a_host_that_grub_booted_is_healthy_once_loaded(machine: Machine) -> None:
    assert machine.get("/proc/cmdline").startswith("BOOT_IMAGE=/boot/vmlinuz-6.1.")
    assert "bpf" in machine.get("/sys/kernel/security/lsm").strip().split(",")
    assert machine.run("systemctl is-system-running").stdout.strip() == "running"
    assert machine.run("sudo -n id -u", user="admin", new=True).stdout.strip() == "0"

    machine.aegis("load")
    health = machine.aegis("health")

    assert health["healthy"], health
    checks = {check["name"]: check["ok"] for check in health["checks"]}
    assert checks["lsm-active"] is checks["working"] is True


def test_a_policy_refuses_in_enforce_only_and_reset_ends_it(loaded_machine: Machine) -> None:
    machine = loaded_machine
    machine.put("/srv/secret", "secret\n")
    machine.put("/etc/aegisbpf/policy.conf", POLICY)

    machine.aegis("policy", "apply", "/etc/aegisbpf/policy.conf", "--allow-unsigned")
    assert machine.run("cat /srv/secret", new=True).stdout == "secret\n"

    machine.aegis("mode", "enforce")
    refused = machine.run("cat /srv/secret", check=False, new=True)
    assert (refused.status, "Operation not permitted" in refused.stderr) == (1, True)
    assert machine.can_login(user="admin")

    machine.aegis("reset")
    assert machine.run("cat /srv/secret", new=True).stdout == "secret\n"


def test_nothing_is_loaded_after_a_boot_that_disables_it(machine: Machine) -> None:
    before = machine.boot_id()
    machine.reboot("aegisbpf.disable=1")

    assert machine.boot_id() != before
    assert "aegisbpf.disable=1" in machine.get("/proc/cmdline").split()
    refused = machine.run("aegisbpf load", check=False)
    assert refused.status != 0
    assert "aegisbpf.disable=1" in refused.stderr
    assert machine.run("ls /sys/fs/bpf").stdout == ""


def test_the_boot_clock_counts_a_suspension_and_the_wall_clock_can_be_set(
    machine: Machine,
) -> None:
    before = machine.clocks()
    machine.suspend(5)
    after = machine.clocks()
    asleep = (after["boot"] - after["monotonic"]) - (before["boot"] - before["monotonic"])
    assert asleep >= 4

    machine.set_clock(after["wall"] + 86400)
    jumped = machine.clocks()
    assert jumped["wall"] - after["wall"] >= 86400
    assert jumped["boot"] - after["boot"] < 3600
