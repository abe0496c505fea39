"""What is damaged is mended, what the kernel does not take is found out, and nothing else moves."""

from __future__ import annotations

import hashlib
import shutil
from pathlib import Path
from typing import Any

import pytest
from edit_support import Host
from systemd_support import BAD_OPTION, Systemd, procedure

from aegis_tools.control.live import Live
from aegis_tools.control.store import Store
from aegis_tools.incident import collect
from aegis_tools.incident.classify import Cause, classify
from aegis_tools.kernel import loader
from aegis_tools.kernel.features import Features
from aegis_tools.kernel.layout import Config
from aegis_tools.kernel.pins import Pins
from aegis_tools.kernel.run import run

CRASH = ("incident", "crash-loop", "--stable-for", "1s")
LSM = Features(release="", lsms=("bpf",), btf=True, disabled=False)


def live(host: Host) -> str:
    with Live(Pins(host.paths.pins)) as found:
        return found.info().bundle.hex() if any(found.info().bundle) else ""


def enforce(host: Host) -> None:
    """Set the mode as a host that can enforce has it: here nothing is refused anyway."""
    with Live(Pins(host.paths.pins)) as found:
        found.set_config(Config.MODE, 1)


def mode(host: Host) -> int:
    with Live(Pins(host.paths.pins)) as found:
        return found.config(Config.MODE)


def apply_two(host: Host, files: dict[str, Path]) -> tuple[str, str]:
    first = str(host("policy", "apply", files["policy"])["digest"])
    return first, str(host("policy", "apply", files["other"])["digest"])


def damage(host: Host, digest: str) -> Path:
    """Damage a stored policy; its content has another digest then."""
    (path,) = host.paths.bundles.glob(f"{digest}.*")
    path.write_bytes(path.read_bytes() + b"\n# damaged\n")
    return path


def states(answer: dict[str, Any]) -> dict[str, str]:
    return {step["action"]: step["state"] for step in answer["steps"]}


def test_a_healthy_host_is_left_alone(host: Host, files: dict[str, Path]) -> None:
    apply_two(host, files)
    enforce(host)
    found = host(*CRASH)
    assert (found["found"], found["changed"], found["result"]) == (False, False, "nothing-to-do")
    assert not host.paths.incidents.exists()
    assert mode(host) == 1


def test_the_policy_before_takes_the_place_of_a_damaged_one_and_the_kernel_goes_on(
    host: Host, files: dict[str, Path]
) -> None:
    first, second = apply_two(host, files)
    enforce(host)
    damage(host, second)
    dry = host(*CRASH, "--dry-run")
    assert (dry["found"], dry["changed"]) == (True, True)
    assert Store(host.paths).records()[0].digest == second  # type: ignore[union-attr]
    found = host(*CRASH)
    assert (found["result"], found["cause"]["cause"]) == ("recovered", "configuration")
    assert "a stored policy is damaged" in found["cause"]["lines"]
    current, previous = Store(host.paths).records()
    assert current is not None
    assert (current.digest, previous) == (first, None)
    assert (live(host), mode(host)) == (second, 1), "the kernel enforces what it enforced"
    assert any("apply its file again" in text for text in found["record"]["follow_ups"])
    assert {one["name"] for one in found["record"]["files"]} >= {"damaged.txt"}
    assert host(*CRASH)["result"] == "nothing-to-do"


def test_what_is_live_is_the_first_choice_where_only_the_record_is_damaged(
    host: Host, files: dict[str, Path]
) -> None:
    _, second = apply_two(host, files)
    host.paths.current.write_bytes(b"{")
    assert host(*CRASH)["result"] == "recovered"
    current, _ = Store(host.paths).records()
    assert current is not None
    assert current.digest == second == live(host)
    Pins(host.paths.pins).remove_all()
    assert host("boot")["digest"] == second, "and a boot takes it"


def test_a_signed_policy_is_gone_back_to_only_while_its_key_is_trusted(
    host: Host, signed: dict[str, Path], tmp_path: Path
) -> None:
    first = str(host("policy", "apply", signed["one"])["digest"])
    second = str(host("policy", "apply", signed["two"])["digest"])
    path = damage(host, second)
    path.write_bytes(b'{"payloadType": 1}')
    (kept,) = host.paths.bundles.glob(f"{first}.*")
    away = tmp_path / "away"
    shutil.move(kept, away)
    found = host(*CRASH, code=6)
    assert found["result"] == "not-recovered"
    assert "no policy that this host applied before can be used" in found["message"]
    shutil.move(away, kept)
    assert host(*CRASH)["result"] == "recovered"
    current, _ = Store(host.paths).records()
    assert current is not None
    assert (current.digest, current.signed, current.serial) == (first, True, 1)


def test_a_boot_that_failed_is_made_good_in_audit_until_a_person_resumes(
    host: Host, files: dict[str, Path]
) -> None:
    first, second = apply_two(host, files)
    host.paths.boot.write_text(
        '{"format": 1, "mode": "enforce", "capacities": {}, "ringbuf_bytes": 0, "forced": []}'
    )
    host.paths.boot.chmod(0o600)
    damage(host, second)
    Pins(host.paths.pins).remove_all()
    host("boot", code=8)
    assert live(host) == ""
    found = host(*CRASH)
    assert found["result"] == "recovered", found
    assert states(found)["hold"] == states(found)["apply-stored"] == "done"
    assert (live(host), mode(host)) == (first, 0)
    assert "aegisbpf resume" in found["next"]
    assert host("mode")["held"].startswith("crash-loop")
    assert host(*CRASH)["result"] == "nothing-to-do", "and again nothing is changed"


def test_nothing_loaded_is_loaded_again_with_the_stored_policy(
    host: Host, files: dict[str, Path]
) -> None:
    first, second = apply_two(host, files)
    damage(host, second)
    Pins(host.paths.pins).remove_all()
    found = host(*CRASH)
    assert found["result"] == "recovered", found
    assert live(host) == first
    assert Pins(host.paths.pins).stagings() == []


def test_a_hold_by_the_guard_is_looked_into_once(host: Host, files: dict[str, Path]) -> None:
    apply_two(host, files)
    enforce(host)
    host.paths.fallback.write_text(
        '{"format": 1, "since": 1700000000, "reason": "crash-loop", "detail": "x",'
        ' "mode_before": "enforce"}'
    )
    host.paths.fallback.chmod(0o600)
    found = host(*CRASH)
    assert (found["found"], found["changed"], found["result"]) == (True, False, "recovered")
    assert host(*CRASH)["found"] is False, "it is known, and waits for a person"


@pytest.mark.parametrize(
    ("journal", "held"), [(BAD_OPTION, False), ("", True), ("a stored policy is damaged", True)]
)
def test_a_loop_stops_enforcement_only_where_the_cause_may_be_policy_or_programs(
    host: Host, files: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch,
    journal: str, held: bool,
) -> None:  # fmt: skip
    program = tmp_path / "venv/bin/aegisbpf"
    program.parent.mkdir(parents=True)
    program.touch()
    monkeypatch.setattr("sys.prefix", str(tmp_path / "venv"))
    _, second = apply_two(host, files)
    enforce(host)
    outcome, answer = procedure(Systemd(host.paths, journal=journal))
    assert outcome.result == "recovered", answer
    assert (answer["held"], mode(host)) == (held, int(not held))
    assert live(host) == second
    if held:
        assert host("resume", "--dry-run")["fallback"]["mode_before"] == "enforce"


def refused_objects(folder: Path) -> Path:
    """Return objects that the verifier does not take: no program of them has an end."""
    objects = Path(shutil.copytree(loader.OBJECTS, folder / "objects"))
    path, sums = objects / loader.FALLBACK_OBJECT, objects / "SHA256SUMS"
    good = hashlib.sha256(path.read_bytes()).hexdigest()
    exits, falls = bytes.fromhex("9500000000000000"), bytes.fromhex("0500000000000000")
    path.write_bytes(path.read_bytes().replace(exits, falls))
    bad = hashlib.sha256(path.read_bytes()).hexdigest()
    sums.write_text(sums.read_text().replace(good, bad))
    return objects


def test_a_trial_says_what_the_verifier_says_and_leaves_nothing(host: Host, tmp_path: Path) -> None:
    pins = Pins(host.paths.pins)
    before = pins.names("links"), pins.names("maps")
    nothing = Features(release="", lsms=(), btf=True, disabled=False)
    assert collect.trial(pins, nothing, run) == ""
    text = collect.trial(pins, nothing, run, objects=refused_objects(tmp_path))
    assert classify({"trial": text}).cause is Cause.VERIFIER
    assert pins.stagings() == []
    assert (pins.names("links"), pins.names("maps")) == before
    pins.remove_all()
    collect.trial(pins, nothing, run)
    assert not pins.base.exists()


def test_the_audit_fallback_is_loaded_where_it_is_asked_for(host: Host) -> None:
    pins = Pins(host.paths.pins)
    pins.remove_all()
    loaded = loader.load(pins, LSM, loader.LoadOptions(), fallback="the kernel takes no other")
    assert (loaded.fallback, loaded.reason) == (True, "the kernel takes no other")
    assert pins.is_fallback()


@pytest.mark.parametrize("what", ["loaded", "not loaded"])
def test_a_trial_is_needed_only_where_the_kernel_has_not_taken_these_programs(
    host: Host, what: str
) -> None:
    pins = Pins(host.paths.pins)
    if what == "not loaded":
        pins.remove_all()
    assert collect.needs_trial(pins) is (what == "not loaded")
