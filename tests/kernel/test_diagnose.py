"""``aegisbpf diagnose`` on real maps: what it finds is there, and it changes nothing."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jsonschema
import pytest
from edit_support import Host

from aegis_tools.cli.diagnose import lines
from aegis_tools.cli.main import run
from aegis_tools.control.live import Live
from aegis_tools.incident.facts import read_facts
from aegis_tools.incident.scenarios import diagnose
from aegis_tools.kernel.pins import Pins
from aegis_tools.paths import Paths

NOBODY = 65534


def asked(host: Host, *words: str, seconds: float = 0) -> dict[str, Any]:
    """Return what diagnose says; the exit code is the one that it tells."""
    facts = read_facts(host.paths, seconds=seconds, systemd=False)
    found = diagnose(facts)
    text = "\n".join(lines(found, facts))
    for word in words:
        assert word in text, text
    return found.to_dict()


def scenarios(found: dict[str, Any]) -> dict[str, str]:
    return {one["scenario"]: one["severity"] for one in found["findings"]}


def test_a_host_without_bpf_lsm_is_told_so_and_nothing_is_written(host: Host) -> None:
    before = sorted(host.paths.root.rglob("*"))
    found = host("diagnose", "--seconds", "0", code=21)
    assert scenarios(found) == {"kernel-upgrade": "medium"}
    assert found["facts"]["state"] == "audit-fallback"
    assert sorted(host.paths.root.rglob("*")) == before


def test_a_document_and_a_text_say_the_same(host: Host) -> None:
    found = host("diagnose", "--seconds", "0", code=21)
    text = host.text("diagnose", "--seconds", "0", code=21)
    assert ", Linux " in text[0]
    assert text[1].startswith("MEDIUM  kernel-upgrade: ")
    assert f"  next: {found['findings'][0]['command']}" in text
    schema = {"required": ["version", "scenario", "severity", "exit_code", "findings", "notes",
                           "unknown", "facts"]}  # fmt: skip
    jsonschema.validate(found, schema)


def test_a_full_map_is_found_with_what_is_in_it(host: Host, tmp_path: Path) -> None:
    wanted = tmp_path / "wanted"
    wanted.mkdir()
    policy = tmp_path / "policy.conf"
    names = [wanted / f"f{number}" for number in range(500)]
    for name in names:
        name.touch()
    policy.write_text("version=1\n[deny_path]\n" + "".join(f"{name}\n" for name in names))
    host.text("policy", "apply", policy)
    found = asked(host, "deny_inode_map: 500/512 entries (97% full)", "incident map-full")
    assert scenarios(found)["map-full"] == "low"
    more = [tmp_path / f"g{number}" for number in range(20)]
    for name in more:
        name.touch()
    policy.write_text(policy.read_text() + "".join(f"{name}\n" for name in more))
    host.text("policy", "apply", policy, code=3)
    found = asked(host, "does not fit", "policy apply")
    assert scenarios(found)["map-full"] == "medium"


def test_matches_between_the_two_looks_are_counted_by_rule(host: Host, tmp_path: Path) -> None:
    secret = tmp_path / "secret"
    secret.write_text("x")
    host.text("block", "add", secret)

    def meanwhile(_: float) -> None:
        for _ in range(5):
            os.close(os.open(secret, os.O_RDONLY))

    facts = read_facts(host.paths, seconds=1, sleep=meanwhile, systemd=False)
    (rule,) = facts.rules
    assert (rule.audits, rule.by_hand, rule.mode) == (5, True, "enforce")
    assert rule.audit_rate > 0
    assert facts.rates["audits"] > 0
    assert facts.seconds > 0


def test_pins_that_are_gone_are_found(host: Host) -> None:
    Pins(host.paths.pins).remove("maps", "rules")
    found = asked(host, "maps/rules", "reset --dry-run")
    assert scenarios(found)["crash-loop"] == "high"


def test_a_host_that_was_set_up_and_has_nothing_loaded_is_in_trouble(
    host: Host, files: dict[str, Path]
) -> None:
    host.text("policy", "apply", files["policy"])
    Pins(host.paths.pins).remove_all()
    found = asked(host, "nothing is loaded", "aegisbpf boot")
    assert scenarios(found)["crash-loop"] == "high"


def test_a_damaged_policy_is_found_before_the_next_start(
    host: Host, files: dict[str, Path]
) -> None:
    host.text("policy", "apply", files["policy"])
    (stored,) = host.paths.bundles.iterdir()
    stored.write_bytes(b"damaged")
    found = asked(host, "what the next start needs cannot be used")
    assert scenarios(found)["crash-loop"] == "medium"


@pytest.mark.parametrize(
    "name", ["fallback", "pending", "boot", "current", "starts", "agent_status"]
)
@pytest.mark.parametrize("data", [b"", b"{", b"\xff" * 100, b"[" * 100000], ids=str)
def test_state_that_cannot_be_read_never_ends_the_look(host: Host, name: str, data: bytes) -> None:
    path = getattr(host.paths, name)
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(data)
    asked(host)


def test_sampling_is_told(host: Host) -> None:
    host.text("config", "set", "event-sample-rate", "0.1")
    found = asked(host, "10 % are sent")
    assert any("sample" in note["command"] for note in found["notes"])


def test_a_change_that_waits_and_one_that_is_overdue_are_told(
    host: Host, files: dict[str, Path]
) -> None:
    host.text("policy", "apply", files["policy"], "--confirm-within", "60s", "--no-probe")
    asked(host, "waits for its confirmation", "policy confirm")
    later = read_facts(host.paths, seconds=0, systemd=False)
    assert later.pending_left is not None
    assert 0 < later.pending_left <= 60


@contextlib.contextmanager
def as_nobody() -> Iterator[None]:
    os.seteuid(NOBODY)
    try:
        yield
    finally:
        os.seteuid(0)


def test_without_root_it_says_what_it_cannot_see(
    host: Host, capsys: pytest.CaptureFixture[str]
) -> None:
    asked(host)  # imports what is imported late
    with as_nobody():
        code = run(["--root", str(host.paths.root), "diagnose", "--seconds", "0"])
    told = capsys.readouterr()
    assert code in (8, 20, 21, 22, 23), told
    assert "not run as root" in told.out
    assert "sudo aegisbpf diagnose" in told.out
    assert not told.err


def test_nothing_loaded_and_nothing_set_up_is_no_incident(
    paths: Paths, capsys: pytest.CaptureFixture[str]
) -> None:
    host = Host(paths, capsys)
    found = asked(host, "nothing was set up here")
    assert found["findings"] == []


def test_a_map_of_another_shape_is_a_part_that_cannot_be_read(host: Host) -> None:
    with Live(Pins(host.paths.pins)) as live:
        live.map("config")
    pins = Pins(host.paths.pins)
    pins.remove("maps", "block_stats")
    (pins.path("maps", "config")).rename(pins.path("maps", "block_stats"))
    assert asked(host)["unknown"]
