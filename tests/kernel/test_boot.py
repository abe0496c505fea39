"""What a boot brings back: the stored policy, verified, and the mode that was set for good."""

from __future__ import annotations

import json
import time
from pathlib import Path

import pytest
from apply_support import Host, policy_files, signed_bundles

from aegis_tools.cli.mode import change_or_stay
from aegis_tools.cli.output import App
from aegis_tools.control.bootclock import BOOT_ID
from aegis_tools.control.capacity import read_samples
from aegis_tools.control.live import Live
from aegis_tools.control.store import Store
from aegis_tools.kernel.layout import Config
from aegis_tools.kernel.pins import Pins
from aegis_tools.paths import Paths

SMALL = ("--max-rules", "64", "--max-manual-rules", "64", "--max-deny-inodes", "64",
         "--max-deny-paths", "64", "--max-deny-dirs", "64")  # fmt: skip


class Machine(Host):
    """A host that can be rebooted: what is pinned is lost, and the boot has another id."""

    def reboot(self) -> None:
        Pins(self.paths.pins).remove_all()
        path = self.paths.root / BOOT_ID
        path.parent.mkdir(parents=True, exist_ok=True)
        number = int(path.read_text()[-13:], 16) + 1 if path.exists() else 1
        path.write_text(f"00000000-0000-4000-8000-{number:012x}\n")

    def mode(self) -> int:
        with Live(Pins(self.paths.pins)) as live:
            return live.config(Config.MODE)


@pytest.fixture
def machine(paths: Paths, capsys: pytest.CaptureFixture[str]) -> Machine:
    found = Machine(paths, capsys)
    found("load", *SMALL)
    return found


@pytest.fixture
def files(tmp_path: Path) -> dict[str, Path]:
    return policy_files(tmp_path)


def test_a_boot_brings_back_policy_and_sizes_and_a_second_one_changes_nothing(
    machine: Machine, files: dict[str, Path]
) -> None:
    digest = machine("policy", "apply", files["policy"])["digest"]
    machine.reboot()
    assert machine("boot", "--dry-run")["digest"] == digest
    assert not Pins(machine.paths.pins).is_loaded()
    done = machine("boot")
    assert (done["fresh"], done["changed"], done["digest"]) == (True, True, digest)
    assert machine.digest().hex() == digest
    with Live(Pins(machine.paths.pins)) as live:
        assert live.capacity("deny_inode_map") == 64
        before = live.info()
    again = machine("boot")
    assert (again["fresh"], again["changed"], again["digest"]) == (False, False, digest)
    with Live(Pins(machine.paths.pins)) as live:
        assert live.info() == before
    assert [e["action"] for e in machine("history")["entries"]].count("boot") == 1


@pytest.fixture
def rules(machine: Machine, tmp_path: Path) -> Path:
    """Apply a policy of two rules, of which one starts in audit."""
    (tmp_path / "policy.yaml").write_text(
        "version: 1\nrules:\n  - {id: r1, ip: 203.0.113.1}\n"
        "  - {id: r2, ip: 203.0.113.2}\n  - {id: r3, ip: 203.0.113.3, mode: audit}\n"
    )
    machine("policy", "apply", tmp_path / "policy.yaml")
    return tmp_path / "policy.yaml"


def modes(machine: Machine) -> dict[str, str]:
    return {row["rule"]: row["mode"] for row in machine("rule", "list")["rules"]}


def test_a_demotion_outlives_reboots_until_it_is_taken_back_and_a_promotion_does_not(
    machine: Machine, rules: Path
) -> None:
    machine("rule", "demote", "r1")
    machine("rule", "promote", "r3")
    for _ in range(2):
        machine.reboot()
        done = machine("boot")
        assert done["notes"] == ["demoted by hand, so only audited: r1"]
        assert modes(machine) == {"r1": "audit", "r2": "enforce", "r3": "audit"}
    assert machine("boot")["changed"] is False
    machine("policy", "apply", rules)
    machine.reboot()
    assert machine("boot")["notes"], "an apply keeps it"

    machine("rule", "promote", "r1", "--force")
    machine.reboot()
    assert machine("boot")["notes"] == []
    machine("rule", "demote", "r1")
    machine("policy", "apply", rules, "--reset")
    machine.reboot()
    machine("boot")
    assert modes(machine)["r1"] == "enforce"


@pytest.mark.usefixtures("rules")
def test_a_reboot_takes_an_unconfirmed_promotion_of_a_demoted_rule_back(machine: Machine) -> None:
    machine("rule", "demote", "r1")
    machine("rule", "promote", "r1", "--force", "--confirm-within", "1h", "--no-probe")
    machine("rule", "demote", "r2")
    machine.reboot()
    machine("boot")
    assert modes(machine) == {"r1": "audit", "r2": "audit", "r3": "audit"}

    machine("rule", "promote", "r1", "--force", "--confirm-within", "1h", "--no-probe")
    machine("policy", "confirm")
    machine.reboot()
    machine("boot")
    assert modes(machine)["r1"] == "enforce"


def test_a_change_that_was_not_confirmed_before_the_reboot_is_gone(
    machine: Machine, files: dict[str, Path]
) -> None:
    first = machine("policy", "apply", files["policy"])["digest"]
    files["policy"].write_text("version=1\n[deny_ip]\n203.0.113.9\n")
    machine("policy", "apply", files["policy"], "--confirm-within", "1h")
    machine.reboot()
    assert machine("boot")["digest"] == first
    assert not machine.paths.pending.exists()
    assert any("reverted by reboot" in e["note"] for e in machine("history")["entries"])
    assert machine("policy", "confirm", code=8)["message"] == "there is nothing to confirm"


def test_one_of_this_boot_is_left_alone(machine: Machine, files: dict[str, Path]) -> None:
    machine("policy", "apply", files["policy"])
    files["policy"].write_text("version=1\n[deny_ip]\n203.0.113.9\n")
    new = machine("policy", "apply", files["policy"], "--confirm-within", "1h")["digest"]
    done = machine("boot")
    assert done["pending"]
    assert done["digest"] == machine.digest().hex() == new
    machine("policy", "confirm")


def test_a_boot_without_a_policy_only_loads(machine: Machine) -> None:
    machine.reboot()
    done = machine("boot")
    assert (done["fresh"], done["digest"], done["mode"]) == (True, "", "audit")


def test_a_boot_and_a_confirmation_are_samples_of_how_full_the_maps_are(
    machine: Machine, files: dict[str, Path]
) -> None:
    def samples() -> list[int]:
        found = read_samples(machine.paths.capacity_log)
        return [sample.entries.get("rules", 0) for sample in found]

    machine("policy", "apply", files["policy"])
    machine.reboot()
    machine("boot")
    assert samples() == [3, 3]
    machine("boot")  # changes nothing
    machine("policy", "apply", files["other"], "--confirm-within", "1h")
    assert samples() == [3, 3]
    machine("policy", "confirm")
    assert samples() == [3, 3, 1]


def break_bundle(machine: Machine, bundle: Path) -> None:
    del machine
    bundle.write_bytes(bundle.read_bytes().replace(b"version", b"Version", 1)[:-3])


def remove_bundle(machine: Machine, bundle: Path) -> None:
    del machine
    bundle.unlink()


def break_record(machine: Machine, bundle: Path) -> None:
    del bundle
    machine.paths.current.write_bytes(b'{"format": 1, "current": 5}')


def break_serials(machine: Machine, bundle: Path) -> None:
    del bundle
    machine.paths.serials.write_bytes(b"{")


def distrust(machine: Machine, bundle: Path) -> None:
    del bundle
    for key in machine.paths.keys.iterdir():
        key.unlink()


@pytest.mark.parametrize(
    ("damage", "code"),
    [(break_bundle, 8), (remove_bundle, 8), (break_record, 8), (break_serials, 8), (distrust, 4)],
)
def test_a_policy_that_cannot_be_trusted_is_not_applied_and_nothing_is_denied(
    machine: Machine, files: dict[str, Path], tmp_path: Path, damage: object, code: int
) -> None:
    bundle = signed_bundles(machine, files, tmp_path)["one"]
    digest = machine("policy", "apply", bundle)["digest"]
    machine.paths.boot.write_text('{"format":1,"mode":"enforce","capacities":{},"ringbuf_bytes":0}')
    assert callable(damage)
    damage(machine, machine.paths.bundles / f"{digest}.json")
    machine.reboot()
    error = machine("boot", code=code)
    assert error["hint"]
    assert Pins(machine.paths.pins).is_loaded()
    assert (machine.digest(), machine.mode()) == (bytes(32), 0)
    entries = machine("history")["entries"]
    assert any(e["action"] == "boot" and e["result"] != "ok" for e in entries)


def test_a_failing_boot_leaves_what_is_live_alone(machine: Machine, files: dict[str, Path]) -> None:
    digest = machine("policy", "apply", files["policy"])["digest"]
    machine.paths.current.write_bytes(b"{")
    machine("boot", code=8)
    assert machine.digest().hex() == digest


def test_a_policy_that_has_expired_is_applied_with_a_warning(
    machine: Machine, files: dict[str, Path], tmp_path: Path
) -> None:
    made = signed_bundles(machine, files, tmp_path)
    late = tmp_path / "late.bundle"
    machine("policy", "sign", files["policy"], "--key", made["k1"], "--serial", "7",
            "--expires", "2s", "--output", late)  # fmt: skip
    digest = machine("policy", "apply", late)["digest"]
    machine.reboot()
    time.sleep(2.1)
    done = machine("boot")
    assert done["digest"] == digest
    assert any("expired" in note for note in done["notes"])


def test_an_unsigned_policy_of_a_host_that_asks_for_signatures_needs_leave(
    machine: Machine, files: dict[str, Path], tmp_path: Path
) -> None:
    signed_bundles(machine, files, tmp_path)
    digest = machine("policy", "apply", files["policy"], "--allow-unsigned")["digest"]
    machine.reboot()
    assert machine("boot", code=4)["error"] == "trust_unsigned"
    assert machine("boot", "--allow-unsigned")["digest"] == digest


def test_enforce_is_set_last_and_where_it_cannot_be_the_policy_stands_in_audit(
    machine: Machine, files: dict[str, Path]
) -> None:
    digest = machine("policy", "apply", files["policy"])["digest"]
    machine.paths.boot.write_text('{"format":1,"mode":"enforce","capacities":{},"ringbuf_bytes":0}')
    machine.reboot()
    assert "audit fallback" in machine("boot", code=6)["message"]
    assert (machine.digest().hex(), machine.mode()) == (digest, 0)


def test_a_host_that_is_held_in_audit_boots_in_audit_and_says_so(
    machine: Machine, files: dict[str, Path]
) -> None:
    machine("policy", "apply", files["policy"])
    machine.paths.boot.write_text('{"format":1,"mode":"enforce","capacities":{},"ringbuf_bytes":0}')
    machine.paths.fallback.write_text(
        json.dumps({"format": 1, "since": 1, "reason": "crash-loop", "detail": "",
                    "mode_before": "enforce"})
    )  # fmt: skip
    machine.reboot()
    done = machine("boot")
    assert (done["mode"], machine.mode()) == ("audit", 0)
    assert "crash-loop" in done["held"]


def test_a_damaged_mode_is_told_after_the_policy_is_applied_in_audit(
    machine: Machine, files: dict[str, Path]
) -> None:
    digest = machine("policy", "apply", files["policy"])["digest"]
    machine.paths.boot.write_bytes(b"{")
    machine.reboot()
    assert "stays in audit" in machine("boot", code=8)["message"]
    assert machine.digest().hex() == digest


def test_the_kernel_command_line_keeps_everything_from_loading(
    machine: Machine, files: dict[str, Path]
) -> None:
    machine("policy", "apply", files["policy"])
    machine.reboot()
    (machine.paths.root / "proc/cmdline").write_text("ro quiet aegisbpf.disable=1\n")
    for command in (("boot",), ("load",), ("load", "--dry-run"), ("boot", "--dry-run")):
        assert "command line" in machine(*command, code=5)["message"]
    assert not next(c for c in machine("health", code=5)["checks"] if c["name"] == "enabled")["ok"]
    assert not Pins(machine.paths.pins).is_loaded()
    (machine.paths.root / "proc/cmdline").write_text("ro quiet\n")
    machine("boot")
    assert Store(machine.paths).records()[0] is not None


def force(machine: Machine, tmp_path: Path) -> str:
    """Have a policy confirmed that denies what every login needs, the host being in audit."""
    file = tmp_path / "lockout.conf"
    file.write_text("version=1\n[deny_path]\n/etc/passwd\n")
    forced = ("--i-know-this-locks-me-out", "--confirm-within", "10m")
    digest = machine("policy", "apply", file, *forced)["digest"]
    machine("policy", "confirm")
    return str(digest)


def enforce_at_boot(machine: Machine, *forced: str) -> None:
    state = {"format": 1, "mode": "enforce", "capacities": {}, "ringbuf_bytes": 0}
    machine.paths.boot.write_text(json.dumps({**state, "forced": list(forced)}))


def test_a_policy_that_would_lock_everybody_out_by_now_is_held_in_audit(
    machine: Machine, files: dict[str, Path], tmp_path: Path
) -> None:
    digest = force(machine, tmp_path)
    enforce_at_boot(machine)
    machine.reboot()
    done = machine("boot")
    assert (done["mode"], machine.mode(), machine.digest().hex()) == ("audit", 0, digest)
    assert "lockout" in done["held"]
    assert "/etc/passwd" in done["held"]
    assert "lockout" in machine("mode")["held"]
    health = machine("health", "--allow-fallback", code=6)
    assert any(c["name"] == "held" and "lockout" in c["message"] for c in health["checks"])

    refused = machine("resume", code=3)
    assert (refused["error"], "aegisbpf mode audit" in refused["hint"]) == ("lockout", True)
    assert "lockout" in machine("mode")["held"]

    machine("policy", "apply", files["policy"])
    # Natively nothing can be refused, and the resume gets as far as to say so.
    assert "audit fallback" in machine("resume", code=6)["message"]


def test_a_hold_that_ends_in_audit_needs_no_proof(machine: Machine, tmp_path: Path) -> None:
    force(machine, tmp_path)
    enforce_at_boot(machine)
    machine.reboot()
    assert machine("boot")["held"]
    machine("mode", "audit")
    assert machine("resume")["mode"] == "audit"


def test_what_a_person_forced_and_confirmed_boots_as_confirmed(
    machine: Machine, tmp_path: Path
) -> None:
    force(machine, tmp_path)
    enforce_at_boot(machine, "path:/etc/passwd")
    machine.reboot()
    # It gets as far as to enforce, which this kernel refuses.
    assert "audit fallback" in machine("boot", code=6)["message"]
    assert machine("mode")["held"] == ""


def test_a_service_that_is_pinned_to_enforce_does_not_lock_out_either(
    machine: Machine, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    force(machine, tmp_path)
    capsys.readouterr()
    with Live(Pins(machine.paths.pins)) as live:
        assert not change_or_stay(App(paths=machine.paths), live, "enforce")
    assert "would lock you out" in capsys.readouterr().err
    assert "lockout" in machine("mode")["held"]
