"""Apply, plan, roll back, verify: the commands against real maps, trust and a real disk."""

from __future__ import annotations

import contextlib
import json
import os
import random
import shlex
import signal
import subprocess
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
from apply_support import Host

from aegis_tools.cli.main import run
from aegis_tools.control.live import Live
from aegis_tools.control.reset import holders
from aegis_tools.kernel import syscall
from aegis_tools.kernel.layout import Config
from aegis_tools.kernel.pins import Pins


def test_a_plan_changes_nothing_and_the_apply_does_what_it_said(host: Host, files: Any) -> None:
    before = host.digest()
    planned = host("policy", "plan", files["policy"])
    assert host.digest() == before
    applied = host("policy", "apply", files["policy"])["plan"]
    assert applied["changes"] == planned["changes"]
    assert planned["counts"]["added"] == 3
    assert host.digest().hex() == planned["after"]


def test_an_apply_bound_to_a_plan_carries_out_that_plan_only(host: Host, files: Any) -> None:
    planned = host("policy", "plan", files["policy"])["digest"]
    host("block", "add", files["policy"])  # somebody's change since
    refused = host("policy", "apply", files["policy"], "--plan", planned, code=9)
    assert refused["error"] == "drift"
    assert refused["plan"]["digest"] != planned
    assert host.digest() == bytes(32)
    applied = host("policy", "apply", files["policy"], "--plan", refused["plan"]["digest"])
    assert applied["plan"]["digest"] == refused["plan"]["digest"]


def test_a_plan_says_how_to_carry_out_it_and_no_other(
    host: Host, files: Any, capsys: pytest.CaptureFixture[str]
) -> None:
    root = ["--root", str(host.paths.root)]
    for command in (["plan"], ["apply", "--dry-run"], ["diff"]):
        assert run([*root, "policy", *command, str(files["policy"])]) in (0, 9)
        told = capsys.readouterr().out.splitlines()
        [said] = (line for line in told if "policy apply" in line)
        words = shlex.split(said.partition("aegisbpf ")[2])
    assert words[:2] == ["policy", "apply"]
    assert run([*root, *words]) == 0
    assert "--plan" not in capsys.readouterr().out
    assert run([*root, "policy", "plan", "--reset", "--mode", "audit", str(files["other"])]) == 0
    assert capsys.readouterr().out.rstrip().endswith("--reset --mode audit")


def test_a_plan_is_of_one_policy(host: Host, files: Any) -> None:
    planned = host("policy", "plan", files["policy"])["digest"]
    host("policy", "apply", files["other"], "--plan", planned, code=9)
    host("policy", "apply", files["policy"], "--plan", "no digest at all", code=9)


def test_a_file_replaced_since_the_plan_is_no_other_plan(
    host: Host, files: Any, tmp_path: Path
) -> None:
    host("policy", "apply", files["policy"])
    planned = host("policy", "plan", files["policy"])["digest"]
    (tmp_path / "new").write_text("secret")
    (tmp_path / "new").rename(files["a"])
    assert host("policy", "apply", files["policy"], "--plan", planned)["plan"]["refreshed"] >= 2


def test_a_dry_run_changes_nothing(host: Host, files: Any) -> None:
    assert host("policy", "apply", files["policy"], "--dry-run")["applied"] is False
    assert host.digest() == bytes(32)
    assert not host.paths.current.exists()


def test_a_second_apply_finds_nothing_to_do(host: Host, files: Any) -> None:
    host("policy", "apply", files["policy"])
    assert host("policy", "apply", files["policy"])["plan"]["changed"] is False
    assert host("policy", "diff", files["policy"])["changed"] is False


def test_a_replaced_file_is_seen_as_a_refresh(host: Host, files: Any, tmp_path: Path) -> None:
    host("policy", "apply", files["policy"])
    (tmp_path / "new").write_text("secret")
    (tmp_path / "new").rename(files["a"])
    plan = host("policy", "diff", files["policy"], code=9)
    assert plan["changes"] == []
    assert plan["refreshed"] >= 2
    host("policy", "apply", files["policy"])
    assert host("policy", "diff", files["policy"])["changed"] is False


def test_a_missing_file_is_a_warning_and_with_strict_an_error(host: Host, files: Any) -> None:
    files["b"].unlink()
    plan = host("policy", "plan", files["policy"])
    assert [problem["rule"] for problem in plan["problems"]] == [f"path:{files['b']}"]
    error = host("policy", "apply", files["policy"], "--strict", code=3)
    assert "does not exist yet" in error["message"]
    assert host.digest() == bytes(32)
    host("policy", "apply", files["policy"])


def test_every_error_of_a_policy_is_reported_at_once(host: Host, files: Any) -> None:
    files["policy"].write_text("version=1\n[deny_path]\nrelative\n[deny_ip]\n999.1.1.1\n[what]\n")
    found = host("policy", "lint", files["policy"], code=3)
    assert [problem["line"] for problem in found["problems"]] == [3, 5, 6]
    assert host("policy", "apply", files["policy"], code=3)["problems"] == found["problems"]


def test_a_signed_policy_can_remove_a_rule(host: Host, files: Any, signed: Any) -> None:
    host("policy", "apply", signed["one"])
    plan = host("policy", "apply", signed["two"])["plan"]
    assert plan["changes"] == [{"sign": "-", "rule": f"path:{files['b']}", "what": ""}]


def test_the_same_bundle_is_accepted_after_a_restart(host: Host, signed: Any) -> None:
    host("policy", "apply", signed["one"])
    host("reset")
    host("load")
    host("policy", "apply", signed["one"])
    assert host("policy", "show")["serial"] == 1


def test_a_rollback_brings_the_policy_before_back(host: Host, signed: Any) -> None:
    host("policy", "apply", signed["one"])
    first = host.digest()
    host("policy", "apply", signed["two"])
    plan = host("policy", "rollback", "--dry-run")["plan"]
    assert [change["sign"] for change in plan["changes"]] == ["+"]
    assert host.digest() != first
    host("policy", "rollback")
    assert host.digest() == first
    assert host("policy", "apply", signed["one"], code=4)["error"] == "trust_serial_too_low"


def test_a_rollback_without_a_past_says_so(host: Host, files: Any) -> None:
    host("policy", "apply", files["policy"])
    assert "no previous policy" in host("policy", "rollback", code=8)["message"]


@pytest.mark.parametrize(
    ("how", "code"),
    [
        ("tampered", "bad_signature"),
        ("expired", "expired"),
        ("not_yet", "not_yet_valid"),
        ("group", "wrong_group"),
        ("stranger", "unknown_signer"),
        ("threshold", "under_threshold"),
        ("replayed", "serial_too_low"),
        ("reused", "serial_reused"),
        ("plain", "unsigned"),
    ],
)
def test_a_bundle_that_is_not_acceptable_is_refused_for_its_own_reason(
    host: Host, files: Any, signed: Any, tmp_path: Path, how: str, code: str
) -> None:
    bad = tmp_path / "bad.bundle"
    sign = ("policy", "sign", files["policy"], "--output", bad, "--key")
    if how == "tampered":
        import base64

        envelope = json.loads(signed["one"].read_bytes())
        payload = base64.b64decode(envelope["payload"]).replace(b'"serial":1', b'"serial":9')
        bad.write_text(json.dumps({**envelope, "payload": base64.b64encode(payload).decode()}))
    elif how == "expired":
        host(*sign, signed["k1"], "--expires", "1s")
        time.sleep(1.1)
    elif how == "not_yet":
        from aegis_tools.control.keystore import load_private_key
        from aegis_tools.policy.bundle import make_bundle

        later = int(time.time()) + 9999
        bad.write_bytes(
            make_bundle(
                files["policy"].read_text(), policy_name="p.conf", serial=9, created=later,
                expires=None, keys=[load_private_key(signed["k1"])],
            ).to_bytes()
        )  # fmt: skip
    elif how == "group":
        host(*sign, signed["k1"], "--group", "web")
    elif how == "stranger":
        host(*sign, signed["k2"])
    elif how == "threshold":
        host("keys", "add", tmp_path / "k2.pub")
        host("keys", "trust", "--threshold", "2")
        bad = signed["one"]
    elif how == "replayed":
        host("policy", "apply", signed["two"])
        bad = signed["one"]
    elif how == "reused":
        host("policy", "apply", signed["one"])
        host(*sign, signed["k1"], "--serial", "1")
    else:
        bad = files["policy"]
    before = host.digest()
    error = host("policy", "apply", bad, code=4)
    assert error["error"] == f"trust_{code}"
    assert error["hint"]
    assert host.digest() == before
    entry = host("policy", "history")["entries"][0]
    assert (entry["action"], entry["result"]) == ("policy apply", f"trust_{code}")


def test_two_of_two_signatures_are_enough(host: Host, signed: Any, tmp_path: Path) -> None:
    host("keys", "add", tmp_path / "k2.pub")
    host("keys", "trust", "--threshold", "2")
    both = tmp_path / "both.bundle"
    host("policy", "cosign", signed["one"], "--key", signed["k2"], "--output", both)
    assert len(host("policy", "apply", both)["signers"]) == 2


def test_a_map_changed_behind_our_back_is_found(host: Host, files: Any) -> None:
    host("policy", "apply", files["policy"])
    assert host("policy", "verify-live")["tampered"] is False
    with Live(Pins(host.paths.pins)) as live:
        inner = live.inner("deny_ipv4_map")
        assert inner is not None
        with inner:
            inner.delete(bytes([203, 0, 113, 7]))
    found = host("policy", "verify-live", code=9)
    assert found["tampered"] is True
    assert found["counts"] == {"deny_ipv4_map": {"recorded": 1, "found": 0}}


def test_a_swapped_value_is_found_though_the_counts_agree(host: Host, files: Any) -> None:
    host("policy", "apply", files["policy"])
    with Live(Pins(host.paths.pins)) as live:
        inner = live.inner("rules")
        assert inner is not None
        with inner:
            uid = next(uid for uid, _ in inner.items())
            inner.set(uid, bytes(8))
    found = host("policy", "verify-live", code=9)
    assert found["tampered"] is True
    assert found["counts"] == {}
    assert found["altered"]


def test_a_policy_that_does_not_fit_touches_nothing_and_says_what_to_raise(
    host: Host, files: Any
) -> None:
    host("policy", "apply", files["policy"])
    before = host.digest()
    lines = "\n".join(f"1:{n}" for n in range(1, 600))
    files["policy"].write_text(f"version=1\n[deny_inode]\n{lines}\n")
    error = host("policy", "apply", files["policy"], code=3)
    assert error["wanted"] > error["capacity"] == 512
    assert error["option"] in error["hint"]
    assert host.digest() == before


@contextlib.contextmanager
def mounted(where: Path, *options: str) -> Iterator[None]:
    where.mkdir(parents=True, exist_ok=True)
    subprocess.run(["mount", "-t", "tmpfs", *options, "tmpfs", str(where)], check=True)
    try:
        yield
    finally:
        subprocess.run(["umount", "-l", str(where)], check=True)


@pytest.mark.parametrize("fault", ["read-only", "full"])
def test_with_a_state_folder_that_cannot_be_written_the_old_policy_stays(
    host: Host, files: Any, fault: str
) -> None:
    with mounted(host.paths.state, "-o", "size=64k,mode=700"):
        host("policy", "apply", files["policy"])
        before = host.digest()
        files["policy"].write_text(files["policy"].read_text() + "198.51.100.1\n" * 1)
        if fault == "full":
            filler = host.paths.state / "filler"
            with contextlib.suppress(OSError):
                filler.write_bytes(bytes(1 << 20))
        else:
            remount = ["mount", "-o", "remount,ro", str(host.paths.state)]
            subprocess.run(remount, check=True)
        error = host("policy", "apply", files["policy"], code=8)
        assert error["hint"]
        assert host.digest() == before
        if fault == "full":
            filler.unlink()
        else:
            subprocess.run(["mount", "-o", "remount,rw", str(host.paths.state)], check=True)
        host("policy", "apply", files["policy"])
        assert host.digest() != before


def test_killed_at_any_instant_an_apply_leaves_the_old_or_the_new_policy(
    host: Host, signed: Any
) -> None:
    rng = random.Random(7)
    host("policy", "apply", signed["one"])
    host("policy", "apply", signed["two"])
    known = {host("policy", "show")["digest"]}
    host("policy", "rollback")
    known.add(host("policy", "show")["digest"])
    seen = set()
    for _ in range(40):
        process = host.start("policy", "rollback")
        time.sleep(rng.uniform(0.05, 0.45))
        with contextlib.suppress(ProcessLookupError):
            os.kill(process.pid, signal.SIGKILL)
        process.communicate()
        seen.add(host.digest().hex())
    assert seen <= known
    host("policy", "rollback")
    host("policy", "verify-live")


def test_two_applies_at_once_both_succeed_and_one_is_live(
    host: Host, files: Any, tmp_path: Path
) -> None:
    other = tmp_path / "other.conf"
    other.write_text("version=1\n[deny_port]\n4444:tcp\n")
    with ThreadPoolExecutor(4) as pool:
        wanted = [files["policy"], other] * 3
        started = [host.start("--json", "policy", "apply", path) for path in wanted]
        results = list(pool.map(lambda process: process.communicate(), started))
    assert [process.returncode for process in started] == [0] * 6, results
    digests = {json.loads(out)["digest"] for out, _ in results}
    assert len(digests) == 2
    assert host.digest().hex() in digests
    assert host("policy", "verify-live")["drifted"] is False
    assert host("policy", "show")["digest"] == host.digest().hex()


def test_reset_says_what_it_did_and_can_be_repeated(host: Host, files: Any) -> None:
    host("policy", "apply", files["policy"])
    assert host("reset", "--dry-run")["would_remove"]["links"]
    report = host("reset")
    assert report["programs_left"] == 0
    assert sorted(report["probed"]) == sorted(str(files[name]) for name in "ab")
    assert host("reset")["pins"] == 0
    assert host("policy", "plan", files["policy"], code=6)["error"] == "not_loaded"


def test_reset_works_with_half_of_the_pins_gone(host: Host, files: Any) -> None:
    host("policy", "apply", files["policy"])
    for part in ("maps", "links"):
        for name in Pins(host.paths.pins).names(part)[::2]:
            Pins(host.paths.pins).remove(part, name)
    assert host("reset")["programs_left"] == 0
    assert not host.paths.pins.exists()


def test_who_holds_a_program_or_its_link_is_found(host: Host) -> None:
    pins = Pins(host.paths.pins)
    name = pins.names("links")[0]
    program = pins.open_program(name)
    known = syscall.program_info(program)["id"]
    assert os.getpid() in holders([known])
    os.close(program)
    assert os.getpid() not in holders([known])
    link = syscall.obj_get(str(pins.path("links", name)))
    assert os.getpid() in holders([known])
    os.close(link)


def test_export_writes_what_is_live(host: Host, files: Any, tmp_path: Path) -> None:
    host("policy", "apply", files["policy"])
    host("policy", "export", tmp_path / "live.conf")
    assert host("policy", "diff", tmp_path / "live.conf")["changed"] is True  # another digest
    text = (tmp_path / "live.conf").read_text()
    assert sorted(text.split()) == sorted(files["policy"].read_text().split())


def test_an_edit_that_died_is_told_from_tampering_and_an_apply_heals_it(
    host: Host, files: Any
) -> None:
    host("policy", "apply", files["policy"])
    with Live(Pins(host.paths.pins)) as live:
        info = live.info()
        live.set_info(live.slot, info._replace(entries=(*info.entries[:15], 1)))
    found = host("policy", "verify-live", code=9)
    assert (found["tampered"], found["interrupted"]) == (False, True)
    files["policy"].write_text(files["policy"].read_text() + "203.0.113.8\n")
    host("policy", "apply", files["policy"])
    assert host("policy", "verify-live")["drifted"] is False


def test_a_plan_shows_the_mode_that_would_change(host: Host, files: Any) -> None:
    with Live(Pins(host.paths.pins)) as live:
        live.set_config(Config.MODE, 1)
    plan = host("policy", "plan", files["policy"], "--mode", "audit")
    assert plan["mode"] == "enforce → audit"
    host("policy", "apply", files["policy"], "--mode", "audit")
    assert host("policy", "plan", files["policy"], "--mode", "audit")["changed"] is False


def test_enforce_is_refused_before_anything_changes_where_nothing_can_be_refused(
    host: Host, files: Any
) -> None:
    before = host.digest()
    error = host("policy", "apply", files["policy"], "--mode", "enforce", code=6)
    assert "audit fallback" in error["message"]
    assert host.digest() == before


def test_a_failed_apply_in_audit_leaves_the_host_enforcing(host: Host, files: Any) -> None:
    host("policy", "apply", files["policy"])
    with Live(Pins(host.paths.pins)) as live:
        live.set_config(Config.MODE, 1)
    files["policy"].write_text(files["policy"].read_text() + "198.51.100.9\n")
    with mounted(host.paths.bundles, "-o", "size=4k,mode=700"):
        (host.paths.bundles / "filler").write_bytes(bytes(4096))
        host("policy", "apply", files["policy"], "--mode", "audit", code=8)
        with Live(Pins(host.paths.pins)) as live:
            assert live.config(Config.MODE) == 1
