"""The lockout proof on this host as it is, through the commands that change something."""

from __future__ import annotations

import os
import socket
from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path

import pytest
from edit_support import Host

from aegis_tools.control import survival
from aegis_tools.control.bootstate import read_boot_state
from aegis_tools.control.lockout import check, memory, stamps
from aegis_tools.control.lockout.model import RUN, Need
from aegis_tools.control.lockout.placed import place
from aegis_tools.control.lockout.sockets import LISTEN, Netlink
from aegis_tools.control.pending import read_pending, write_pending
from aegis_tools.control.resolve import resolve
from aegis_tools.kernel.inode_keys import Identifier, InodeId
from aegis_tools.kernel.layout import Config
from aegis_tools.kernel.mounts import read_mounts
from aegis_tools.paths import Paths
from aegis_tools.policy.model import OPEN_OPS, Kind, Mode, Policy, Rule

FORCE = "--i-know-this-locks-me-out"


@pytest.fixture
def host(paths: Paths, capsys: pytest.CaptureFixture[str]) -> Host:
    host = Host(paths, capsys)
    host("load", "--max-deny-inodes=512", "--max-deny-paths=512", "--max-network-entries=512")
    return host


def policy(tmp_path: Path, *targets: str) -> Path:
    file = tmp_path / "policy.conf"
    file.write_text("\n".join(["version=1", "[deny_path]", *targets, ""]))
    return file


def test_a_rule_by_hand_that_locks_out_is_refused_and_nothing_changes(host: Host) -> None:
    for target in ("/etc/passwd", "/usr/", "/", "/lib64/ld-linux-x86-64.so.2", "/bin/sh", "/tmp/"):
        found = host("block", "add", target, code=3)
        assert found["error"] == "lockout"
        assert found["refusals"][0]["rule"].endswith(target)
    assert host("block", "list")["rules"] == []


def test_several_rules_by_hand_are_all_told_of_and_none_is_added(
    host: Host, tmp_path: Path
) -> None:
    found = host("block", "add", tmp_path / "harmless", "/etc/passwd", "/etc/group", code=3)
    rules = [refusal["rule"] for refusal in found["refusals"]]
    assert sorted(rules) == ["manual:path:/etc/group", "manual:path:/etc/passwd"]
    assert host("block", "list")["rules"] == []


def test_a_dry_run_says_which_rule_would_be_refused(
    host: Host, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    from aegis_tools.cli.main import run

    harmless = str(tmp_path / "harmless")
    command = ["--root", str(host.paths.root), "block", "add", "--dry-run", harmless, "/etc/group"]
    assert run(command) == 0
    fine, refused = capsys.readouterr().out.splitlines()
    assert f"would be added: {harmless}" in fine
    assert "would be refused" in refused
    assert refused.endswith("/etc/group")


def test_a_dry_run_of_enforce_is_refused_as_enforce_is(host: Host) -> None:
    said = "cannot enforce: the audit fallback is loaded"
    assert host("mode", "enforce", "--dry-run", code=6)["message"] == said
    assert host("mode", "audit", "--dry-run")["would_change"] is False


def test_an_audit_rule_by_hand_is_added_with_a_warning(
    host: Host, capsys: pytest.CaptureFixture[str]
) -> None:
    from aegis_tools.cli.main import run

    root = ["--root", str(host.paths.root)]
    assert run([*root, "block", "add", "/etc/passwd", "--mode", "audit"]) == 0
    assert "would deny, if it enforced, /etc/passwd" in capsys.readouterr().err


def test_a_harmless_rule_by_hand_needs_no_search(host: Host, tmp_path: Path) -> None:
    host("block", "add", tmp_path / "zero")  # makes the state folder, which is a need
    host("block", "add", tmp_path / "one")
    (host.paths.run / "needs.json").unlink()  # a search would write it again
    host("block", "add", tmp_path / "two", tmp_path / "three")
    assert not (host.paths.run / "needs.json").exists()


class Counting:
    """Says what the kernel calls files, and counts how many it was asked for."""

    def __init__(self, identify: Identifier) -> None:
        self._identify = identify
        self.asked = 0

    def identify(self, paths: Iterable[str]) -> dict[str, InodeId | None]:
        found = self._identify.identify(paths)
        self.asked += len(found)
        return found

    def identify_in(self, directory: str, names: Iterable[str]) -> dict[str, InodeId | None]:
        return self._identify.identify_in(directory, names)


def test_what_recovery_needs_is_looked_up_once_however_many_rules_there_are(
    host: Host, tmp_path: Path
) -> None:
    with Identifier(host.live().pins) as identifier:
        targets = ["/etc/passwd", "/etc/group", *(str(tmp_path / f"f{n}") for n in range(30))]
        rules = [
            resolve(Policy((Rule(target, Kind.PATH, target, OPEN_OPS),)), identifier, {}, now=0)
            for target in targets
        ]
        check.check_added(host.paths, rules[:1], identifier)  # the search
        counts = []
        for some in (rules[:1], rules):
            counting = Counting(identifier)
            found = check.check_added(host.paths, some, counting)
            counts.append(counting.asked)
    assert sorted(refusal.rule for refusal in found) == ["/etc/group", "/etc/passwd"]
    assert counts[0] == counts[1] > 0


def test_loopback_every_address_and_the_ports_of_sshd_are_refused(host: Host) -> None:
    for words in (("--ip", "127.0.0.1"), ("--cidr", "0.0.0.0/0"), ("--cidr", "::/0")):
        found = host("network", "deny", "add", *words, code=3)
        assert found["error"] == "lockout"
    for words in (("--ip", "203.0.113.9"), ("--port", "6667"), ("--cidr", "198.51.100.0/24")):
        assert host("network", "deny", "add", *words)["changed"]


def test_plan_shows_what_apply_refuses(host: Host, tmp_path: Path) -> None:
    file = policy(tmp_path, "/etc/group", f"{tmp_path}/secret", "/usr/lib/")
    plan = host("policy", "plan", file)
    assert [one["rule"] for one in plan["refusals"]] == ["directory:/usr/lib/", "path:/etc/group"]
    assert any(
        "X rule path:/etc/group denies" in line for line in host.text("policy", "plan", file)
    )
    refused = host("policy", "apply", file, code=3)
    assert refused["error"] == "lockout"
    assert len(refused["refusals"]) == 2
    assert host("policy", "show")["rules"] == 0
    assert host("history")["entries"][0]["result"] == "lockout"


def test_a_dry_run_of_an_apply_exits_as_the_apply_and_shows_the_plan(
    host: Host, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    from aegis_tools.cli.main import run

    file = policy(tmp_path, "/etc/group")
    before = host("history")["entries"]
    refused = host("policy", "apply", file, "--dry-run", code=3)
    assert (refused["error"], refused["plan"]) == ("lockout", host("policy", "plan", file))
    assert run(["--root", str(host.paths.root), "policy", "apply", str(file), "--dry-run"]) == 3
    out, err = capsys.readouterr()
    assert "X rule path:/etc/group denies" in out
    assert "would lock you out" in err
    forced = host("policy", "apply", file, "--dry-run", FORCE, "--confirm-within", "60s")
    assert forced["applied"] is False
    assert host("history")["entries"] == before


def test_forcing_needs_a_confirm_window_and_is_remembered(host: Host, tmp_path: Path) -> None:
    file = policy(tmp_path, "/etc/group")
    assert host("policy", "apply", file, FORCE, code=2)["error"] == "usage"
    host("policy", "apply", file, FORCE, "--confirm-within", "60s")
    notes = " ".join(entry["note"] for entry in host("history")["entries"])
    assert "forced past the lockout proof: path:/etc/group" in notes
    host("policy", "revert")
    assert host("policy", "show")["rules"] == 0


@pytest.mark.parametrize("mode", Mode)
def test_what_was_forced_is_kept_for_the_boot_if_it_enforced_when_it_was_confirmed(
    host: Host, tmp_path: Path, mode: Mode
) -> None:
    host("policy", "apply", policy(tmp_path, "/etc/group"), FORCE, "--confirm-within", "60s")
    pending = read_pending(host.paths)
    assert pending is not None
    assert pending.forced == ("path:/etc/group",)
    # As --mode enforce would have, which is refused where nothing can be.
    write_pending(host.paths, replace(pending, now=replace(pending.now, mode=mode)))
    with host.live() as live:
        live.set_config(Config.MODE, int(mode is Mode.ENFORCE))
    host("policy", "confirm")
    kept = pending.forced if mode is Mode.ENFORCE else ()
    assert read_boot_state(host.paths).forced == kept

    host("policy", "apply", policy(tmp_path, f"{tmp_path}/harmless"))
    assert read_boot_state(host.paths).forced == ()


def test_a_promotion_is_proven(host: Host, tmp_path: Path) -> None:
    file = tmp_path / "policy.yaml"
    file.write_text(
        "version: 1\nrules:\n"
        "  - {id: bad, path: /etc/group, mode: audit}\n"
        f"  - {{id: good, path: {tmp_path}/x, mode: audit}}\n"
    )
    host("policy", "apply", file)
    assert host("rule", "promote", "bad", code=3)["error"] == "lockout"
    assert host("rule", "promote", "good")["promoted"] == ["good"]


def test_enforcing_live_rules_is_proven(host: Host, tmp_path: Path) -> None:
    file = policy(tmp_path, "/etc/group")
    host("policy", "apply", file, FORCE, "--confirm-within", "60s")
    host("policy", "confirm")
    assert host("mode", "enforce", code=3)["error"] == "lockout"


def test_the_survival_list_holds_what_is_run_and_no_secret(host: Host) -> None:
    files = host("survival", "list")
    names = {path.rpartition("/")[2] for path in files["files"]}
    assert files["missing"] == []
    assert any(name.startswith("libpam.so") for name in names)
    assert any(name.startswith("ld-linux") or name.startswith("ld-") for name in names)
    assert "dash" in names or "sh" in names
    assert not names & {"shadow", "passwd", "sudoers", "authorized_keys"}


def test_a_refresh_forgets_what_is_gone_and_learns_what_is_new(host: Host, tmp_path: Path) -> None:
    with host.live() as live:
        allowed = live.map("survival_allowlist")
        known = dict(allowed.items())
        key = next(iter(known))
        allowed.delete(key)
        with Identifier(live.pins) as identify:
            stranger = identify.identify([str(tmp_path)])[str(tmp_path)]
        assert stranger is not None
        allowed.set(stranger.key, b"\0\0\0\0")
        survival.refresh(live, host.paths)
        assert dict(allowed.items()) == known


def test_the_survival_list_has_room_to_spare(host: Host) -> None:
    with host.live() as live:
        allowed = live.map("survival_allowlist")
        assert len(dict(allowed.items())) * 4 < allowed.max_entries


def one_need(path: Path) -> list[Need]:
    return [Need(str(path), RUN, "it is needed", (), True, 1)]


def test_what_is_remembered_is_believed_only_while_nothing_changed(
    host: Host, tmp_path: Path
) -> None:
    folder = tmp_path / "bin"
    folder.mkdir()
    tool, other = folder / "tool", folder / "other"
    for file in (tool, other):
        file.write_text("x")
    paths = Paths(tmp_path / "own")
    with Identifier(host.live().pins) as identify:
        placed = place(one_need(tool), identify, read_mounts())
        memory.remember(paths, stamps.take([str(folder)], {}), placed)

        def resolved(path: Path):  # type: ignore[no-untyped-def]
            rule = Rule("r", Kind.PATH, str(path), OPEN_OPS)
            return [resolve(Policy((rule,)), identify, {}, now=0).maps]

        assert memory.recall(paths) == one_need(tool)
        assert memory.surely_harmless(paths, resolved(other))
        assert not memory.surely_harmless(paths, resolved(tool))
        hard = tmp_path / "hard"
        os.link(tool, hard)
        assert not memory.surely_harmless(paths, resolved(hard))
        other.rename(folder / "another")
        assert memory.recall(paths) is None
        assert not memory.surely_harmless(paths, resolved(other))


@pytest.mark.parametrize("damage", [b"", b"{}\n", b"[]\n[]", b"{\n", b"\xff\n\n", b"null\nnull"])
def test_a_damaged_memory_is_no_memory(tmp_path: Path, damage: bytes) -> None:
    paths = Paths(tmp_path)
    paths.run.mkdir(parents=True)
    for name in ("needs.json", "needs.index"):
        (paths.run / name).write_bytes(damage)
    assert memory.recall(paths) is None
    assert not memory.surely_harmless(paths, [{}])


def test_a_memory_that_others_can_write_is_not_believed(host: Host, tmp_path: Path) -> None:
    file = host.paths.run / "needs.json"
    assert memory.recall(host.paths)
    file.chmod(0o666)
    assert memory.recall(host.paths) is None
    del tmp_path


def test_netlink_knows_who_listens() -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
        found = [s for s in Netlink().sockets() if s.port == port]
        assert [(s.state, s.address) for s in found] == [(LISTEN, "127.0.0.1")]
        comm = Path("/proc/self/comm").read_text().strip()
        assert Netlink().owners([found[0].inode], comm) == {found[0].inode}
        assert Netlink().owners([found[0].inode], "no such program") == set()
    assert "127.0.0.1" in Netlink().addresses()


def test_the_needs_of_this_host_are_what_its_files_say(host: Host) -> None:
    needs = {need.path: need for need in check.needs_of(host.paths)}
    for path in ("/etc/passwd", "/etc/nsswitch.conf", "/usr/sbin/sshd", "/dev/null", "/"):
        assert path in needs, path
    assert needs["/usr/sbin/sshd"].code
    assert all(path.startswith("/") for path in needs)
