"""What a match leads to, settings, health's pure parts."""

from __future__ import annotations

from pathlib import Path

import pytest
from boot_support import Grub

from aegis_tools.control.health import Check, Report, boot_checks, next_boot, pending_text
from aegis_tools.control.posture import judge
from aegis_tools.control.settings import parse_rate, setting, shown, to_sample
from aegis_tools.errors import UsageError
from aegis_tools.kernel.features import Features
from aegis_tools.kernel.layout import SAMPLE_ALL
from aegis_tools.paths import Paths


@pytest.mark.parametrize(
    ("facts", "state"),
    [
        ({}, "enforcing"),
        ({"mode": 0}, "auditing"),
        ({"mode": 7}, "auditing"),
        ({"deadline": 5.0}, "enforcing"),
        ({"deadline": -0.1}, "deadline-passed"),
        ({"mode": 0, "deadline": -1.0}, "auditing"),
        ({"fallback": True}, "audit-fallback"),
        ({"fallback": True, "disabled": True}, "disabled"),
        ({"disabled": True}, "disabled"),
        ({"attached": False, "disabled": True}, "detached"),
    ],
)
def test_only_enforce_with_everything_in_place_enforces(
    facts: dict[str, object], state: str
) -> None:
    known: dict[str, object] = {"disabled": False, "attached": True, "fallback": False}
    given = {"mode": 1, "deadline": None, **known, **facts}
    mode, deadline = given.pop("mode"), given.pop("deadline")
    posture = judge(mode, deadline, **given)  # type: ignore[arg-type]
    assert posture.state == state
    assert posture.enforcing == (state == "enforcing")


def test_an_unconfirmed_policy_says_for_how_long_it_enforces() -> None:
    posture = judge(1, 61.2, disabled=False, attached=True, fallback=False)
    assert "61 s" in posture.meaning
    assert posture.to_dict()["deadline_seconds"] == 61.2


@pytest.mark.parametrize("text", ["0.1", "0", "1", "1e-3", "0.25"])
def test_a_rate_comes_back_as_it_was_given(text: str) -> None:
    stored = to_sample(parse_rate(text))
    assert float(shown(stored / SAMPLE_ALL)) == pytest.approx(float(text), rel=1e-6)


def test_a_tenth_is_shown_as_a_tenth() -> None:
    assert shown(to_sample(0.1) / SAMPLE_ALL) == "0.1"
    assert shown(1.0) == "1"


def test_a_tiny_rate_is_not_none_at_all() -> None:
    assert to_sample(1e-300) == 1
    assert to_sample(0) == 0
    assert to_sample(1) == SAMPLE_ALL


@pytest.mark.parametrize("text", ["-0.1", "1.1", "nan", "inf", "10%", "", "0x1"])
def test_what_is_no_rate_is_a_usage_error(text: str) -> None:
    with pytest.raises(UsageError):
        parse_rate(text)


def test_an_unknown_setting_lists_the_known_ones() -> None:
    with pytest.raises(UsageError) as caught:
        setting("sample")
    assert "event-sample-rate" in caught.value.hint


def features(**given: object) -> Features:
    known: dict[str, object] = {
        "release": "6.1", "lsms": ("capability", "bpf"), "btf": True, "disabled": False,
    }  # fmt: skip
    return Features(**{**known, **given})  # type: ignore[arg-type]


def failed(checks: list[Check]) -> list[str]:
    return [check.name for check in checks if check.ok is False]


def test_a_kernel_with_everything_has_nothing_to_complain_about() -> None:
    assert failed(boot_checks(features(), "x")) == []


def test_pending_is_not_active() -> None:
    checks = boot_checks(features(lsms=("capability",)), "x")
    assert failed(checks) == ["lsm-active"]
    assert next(c for c in checks if c.name == "lsm-pending").ok is None


def test_the_first_failure_makes_the_exit_code() -> None:
    checks = boot_checks(features(btf=False, lsms=()), "x")
    assert failed(checks) == ["btf", "lsm-active"]
    assert Report(tuple(checks)).exit_code == 6
    assert Report(tuple(boot_checks(features(lsms=()), "x"))).exit_code == 5
    assert Report(tuple(boot_checks(features(), "x"))).exit_code == 0


def test_what_is_pending_is_what_the_boot_configuration_says(tmp_path: Path) -> None:
    def text() -> str:
        return pending_text(next_boot(host.paths, host.active))

    host = Grub(tmp_path)
    assert "without bpf: its kernel's list is without it" in text()
    host.put("etc/default/grub.d/50-x.cfg", 'GRUB_CMDLINE_LINUX="lsm=yama"\n')
    assert "without bpf: its kernel's list" in text(), "the menu is not made anew yet"
    host.update()
    assert "without bpf: lsm= leaves it out" in text()
    host.put("etc/default/grub.d/60-x.cfg", 'GRUB_CMDLINE_LINUX_DEFAULT="lsm=yama,bpf"\n')
    host.update()
    assert "has bpf, by lsm=" in text()
    host.paths.lsm_record.parent.mkdir(parents=True)
    host.paths.lsm_record.write_text("damaged")
    assert "cannot be read" in text()
    assert "no boot loader" in pending_text(next_boot(Paths(tmp_path / "none"), ("bpf",)))
