"""Commands that look: stats, metrics, health, footprint, config, why, history, completion."""

from __future__ import annotations

import json
import os
import resource
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from kernel_support import REPOSITORY

from aegis_tools.cli.main import run
from aegis_tools.control import footprint
from aegis_tools.control.live import Live
from aegis_tools.kernel import syscall
from aegis_tools.kernel.accounting import memlock, read_kernel
from aegis_tools.kernel.layout import POLICY_MAPS, MapSpec
from aegis_tools.kernel.maps import Map
from aegis_tools.kernel.pins import Pins
from aegis_tools.paths import Paths


class Host:
    """A host below a temporary root."""

    def __init__(self, paths: Paths, capsys: pytest.CaptureFixture[str]) -> None:
        self.paths, self._capsys = paths, capsys

    def text(self, *argv: str | Path, code: int = 0) -> str:
        """Run a command and return what it prints, stderr after stdout."""
        self._capsys.readouterr()
        result = run(["--root", str(self.paths.root), *map(str, argv)])
        found = self._capsys.readouterr()
        assert result == code, found
        return found.out + found.err

    def json(self, *argv: str | Path, code: int = 0) -> dict[str, Any]:
        """The same with --json."""
        return dict(json.loads(self.text("--json", *argv, code=code)))


@pytest.fixture
def empty(paths: Paths, capsys: pytest.CaptureFixture[str]) -> Host:
    return Host(paths, capsys)


@pytest.fixture
def host(paths: Paths, loaded: Pins, capsys: pytest.CaptureFixture[str]) -> Host:
    del loaded
    return Host(paths, capsys)


@pytest.fixture
def secret(host: Host, tmp_path: Path) -> Path:
    path = tmp_path / "secret"
    path.write_text("x")
    policy = tmp_path / "policy.conf"
    policy.write_text(
        f"version=1\n[deny_path]\n{path}\n[deny_cidr]\n198.51.0.0/16\n[deny_port]\n2022:tcp\n"
    )
    host.text("policy", "apply", policy)
    return path


def grep(text: str, *words: str) -> list[str]:
    return [line for line in text.splitlines() if any(word in line for word in words)]


def test_stats_has_the_lines_that_the_runbooks_look_for(host: Host, secret: Path) -> None:
    for _ in range(3):
        os.close(os.open(secret, os.O_RDONLY))
    text = host.text("stats")
    assert grep(text, "Total blocks:") == ["Total blocks: 0"]
    assert grep(text, "Total audits:") == ["Total audits: 3"]
    assert grep(text, "Ringbuf drops:") == ["Ringbuf drops: 0"]
    assert "deny_inode_map: 1/512 entries (0% full)" in text
    assert len(grep(text, "entries (")) == len(POLICY_MAPS)
    assert [line for line in text.splitlines() if "cpu" in line.lower()]
    assert "AUDIT FALLBACK" in text
    assert len(host.text("stats", "--detailed").splitlines()) > len(text.splitlines())
    assert host.json("stats")["counters"]["audits"] == 3


def test_stats_of_nothing_says_what_to_do(empty: Host) -> None:
    assert "aegisbpf load" in empty.text("stats", code=6)


def test_the_soak_script_s_pipelines_give_numbers(host: Host, secret: Path) -> None:
    del secret
    script = (
        'STATS=$("$@" stats); METRICS=$("$@" metrics)\n'
        'echo "$STATS" | grep "Total blocks:" | awk \'{print $3}\'\n'
        'echo "$STATS" | grep "Ringbuf drops:" | awk \'{print $3}\'\n'
        'echo "$METRICS" | grep "aegisbpf_deny_path_entries" | awk \'{print $2}\'\n'
        'echo "$METRICS" | grep "aegisbpf_deny_inode_entries" | awk \'{print $2}\'\n'
        'echo "$METRICS" | grep "aegisbpf_allow_cgroup_entries" | awk \'{print $2}\'\n'
    )
    command = [sys.executable, "-m", "aegis_tools", "--root", str(host.paths.root)]
    out = subprocess.run(
        ["sh", "-c", script, "sh", *command], capture_output=True, check=True, cwd=REPOSITORY
    ).stdout
    assert [float(word) for word in out.split()] == [0, 0, 1, 1, 0]


def test_metrics_names_the_rules_that_match(host: Host, secret: Path, tmp_path: Path) -> None:
    os.close(os.open(secret, os.O_RDONLY))
    assert f'rule="path:{secret}"}} 1.0' in host.text("metrics")
    out = tmp_path / "aegis.prom"
    assert host.text("metrics", "--out", out) == ""
    assert "# TYPE aegisbpf_blocks_total counter" in out.read_text()
    assert out.stat().st_mode & 0o777 == 0o644
    assert [path.name for path in tmp_path.iterdir() if path.name.startswith(".")] == []


def test_metrics_of_nothing_say_that_nothing_is_loaded(empty: Host) -> None:
    assert "aegisbpf_loaded 0.0" in empty.text("metrics").splitlines()


def names(report: dict[str, Any], ok: bool | None) -> set[str]:
    return {check["name"] for check in report["checks"] if check["ok"] is ok}


def test_health_sees_the_hook_run_and_says_that_it_is_the_fallback(host: Host) -> None:
    report = host.json("health", code=5)
    assert {"working", "loaded", "attached", "layout", "objects", "bpffs"} <= names(report, True)
    assert "enforceable" in names(report, False)
    assert "AUDIT FALLBACK" in host.text("health", code=5)
    host.text("health", "--allow-fallback")


def test_health_of_nothing_loaded_is_not_healthy(empty: Host) -> None:
    assert "loaded" in names(empty.json("health", "--allow-fallback", code=6), False)


def test_health_notices_a_missing_link(host: Host) -> None:
    host.text("detach")
    report = host.json("health", "--allow-fallback", code=6)
    assert {"attached", "working"} <= names(report, False)
    host.text("attach")
    host.text("health", "--allow-fallback")


def test_health_notices_what_a_dead_load_left(host: Host) -> None:
    (host.paths.pins / "staging-1").mkdir()
    assert "staging" in names(host.json("health", "--allow-fallback", code=6), False)
    host.text("load")
    host.text("health", "--allow-fallback")


def test_check_config_reads_what_the_next_boot_would_apply(host: Host, secret: Path) -> None:
    del secret
    assert names(host.json("health", "--check-config"), False) == set()
    (stored,) = (host.paths.bundles).iterdir()
    stored.write_text("damaged")
    assert names(host.json("health", "--check-config", code=8), False) == {"policy"}
    host.paths.etc.mkdir(parents=True, exist_ok=True)
    host.paths.trust_config.write_text("{")
    assert {"policy", "trust"} <= names(host.json("health", "--check-config", code=8), False)


def test_settings_are_read_changed_and_remembered(host: Host) -> None:
    assert host.text("config", "get", "event-sample-rate") == "1\n"
    host.text("config", "set", "event-sample-rate", "0.1", "--dry-run")
    assert host.text("config", "get", "event-sample-rate") == "1\n"
    host.text("config", "set", "event-sample-rate", "0.1")
    assert host.text("config", "get", "event-sample-rate") == "0.1\n"
    host.text("config", "set", "disabled", "on")
    assert host.json("config", "get")["disabled"] is True
    assert host.json("mode")["state"] == "disabled"
    notes = [entry["note"] for entry in host.json("history")["entries"]]
    assert notes == ["disabled: off -> on", "event-sample-rate: 1 -> 0.1"]
    assert "disabled: off -> on" in host.text("history", "--limit", "1")


@pytest.mark.parametrize(
    "argv",
    [
        ("config", "get", "sample"),
        ("config", "set", "event-sample-rate", "2"),
        ("config", "set", "enforce-deadline", "5"),
        ("config", "set", "disabled", "yes"),
        ("config", "set", "mode", "strict"),
        ("run", "--deny-rate-threshold=-3"),
        ("run", "--enforce-signal=kill"),
        ("run", "--event-sample-rate=3"),
        ("why", "nonsense"),
        ("why", "10.0.0.1:99999"),
        ("history", "--limit", "0"),
        ("footprint", "--deny-ips=-1"),
    ],
)
def test_wrong_command_lines_are_usage_errors_that_change_nothing(
    host: Host, argv: tuple[str, ...]
) -> None:
    assert "next:" in host.text(*argv, code=2) or argv[0] in ("history", "footprint")
    assert host.json("config", "get")["event-sample-rate"] == 1


def test_why_names_the_rule_its_policy_and_the_way_it_matched(host: Host, secret: Path) -> None:
    answer = host.json("why", secret, "--operation", "read")
    (match,) = answer["matches"]
    assert (match["rule"], match["action"]) == (f"path:{secret}", "AUDIT")
    assert answer["policy"]["name"] == "policy.conf"
    assert "no live rule" in host.text("why", secret.parent)
    assert [m["rule"] for m in host.json("why", "198.51.2.3:2022")["matches"]] == [
        "cidr:198.51.0.0/16", "port:2022:tcp", "cidr:198.51.0.0/16",
    ]  # fmt: skip
    assert host.json("why", "[2001:db8::1]:443")["matches"] == []


def filled(spec: MapSpec, entries: int, capacity: int) -> Map:
    made = Map(syscall.map_create(spec.type, spec.key_size, spec.value_size, capacity, spec.name))
    size = spec.key_size - 4 if spec.lpm else spec.key_size
    prefix = (size * 8).to_bytes(4, "little") if spec.lpm else b""
    made.fill({prefix + i.to_bytes(size, "big"): bytes(spec.value_size) for i in range(entries)})
    return made


@pytest.mark.parametrize("entries", [1, 1000, 4000])
@pytest.mark.parametrize("spec", [*POLICY_MAPS, footprint.HITS], ids=lambda spec: spec.name)
def test_the_memory_formula_is_the_kernel_s_count(spec: MapSpec, entries: int) -> None:
    with filled(spec, entries, 8192) as made:
        counted = memlock(made.fd)
    of_kind = footprint.trie_memory if spec.lpm else footprint.hash_memory
    memory = of_kind(spec, entries, 8192, read_kernel())
    assert abs(memory.counted - counted) < max(0.01 * counted, 512)
    assert memory.bytes >= memory.counted


def test_the_ring_s_formula_is_the_kernel_s_count(host: Host) -> None:
    with Pins(host.paths.pins).open_map("events") as events:
        counted = memlock(events.fd)
    of_formula = footprint.ring_memory(events.max_entries, read_kernel()).counted
    assert abs(of_formula - counted) < 0.01 * counted


def test_footprint_of_a_policy_and_of_numbers(host: Host, secret: Path) -> None:
    policy = secret.with_name("policy.conf")
    of_file = {m["name"]: m["entries"] for m in host.json("footprint", policy)["maps"]}
    assert (of_file["deny_path_map"], of_file["deny_cidr_v4_map"]) == (1, 1)
    text = host.text(
        "footprint", "--deny-inodes=10000", "--deny-paths=5000", "--deny-ips=1000",
        "--deny-cidrs=500", "--deny-ports=100", "--ringbuf-bytes=524288",
    )  # fmt: skip
    assert "total:" in text
    assert "peak while applying:" in text
    assert "deny_port_map holds 512" in host.text("footprint", "--deny-ports=5000")


def test_footprint_verify_is_what_the_kernel_counts(host: Host, secret: Path) -> None:
    found = host.json("footprint", "--verify")
    assert abs(found["error_percent"]) < 1
    assert found["meaning"] == "use"
    assert found["programs"]["types"] > 0
    policy = secret.with_name("policy.conf")
    assert host.json("footprint", policy, "--verify")["within_5_percent"]
    assert "total" in host.text("footprint", "--verify")


def test_footprint_verify_fails_where_the_prediction_is_wrong(host: Host) -> None:
    found = host.json("footprint", "--deny-inodes=60000", "--verify", code=9)
    assert found["error_percent"] > 5


def test_footprint_takes_the_sizes_of_what_is_loaded(host: Host) -> None:
    by_name = {m["name"]: m for m in host.json("footprint", "--deny-ports=1")["maps"]}
    with Live(Pins(host.paths.pins)) as live:
        assert by_name["deny_port_map"]["capacity"] == live.capacity("deny_port_map")
    by_name = {m["name"]: m for m in host.json("footprint", "--max-deny-ports=77")["maps"]}
    assert by_name["deny_port_map"]["capacity"] == 77


def test_capacity_shows_every_map_and_grows_with_the_history(host: Host) -> None:
    found = host.json("capacity")
    assert {m["name"] for m in found["maps"]} == {
        *(spec.name for spec in POLICY_MAPS), "rule_hits", "survival_allowlist",
    }  # fmt: skip
    assert found["maps"][0]["days_to_full"] is None
    samples = found["samples"]
    assert "0 samples so far" in host.text("capacity")
    host.text("network", "deny", "add", "--ip", "203.0.113.77")
    assert host.json("capacity")["samples"] == samples + 1
    assert "1 sample so far" in host.text("capacity")
    host.text("network", "deny", "add", "--ip", "203.0.113.78", "--dry-run")
    assert host.json("capacity")["samples"] == samples + 1
    assert "not enough data" in host.text("capacity")


def test_capacity_tells_by_its_exit_code_that_a_map_is_nearly_full(host: Host) -> None:
    with Live(Pins(host.paths.pins)) as live:
        index = [spec.name for spec in POLICY_MAPS].index("deny_ipv4_map")
        live.map("capacities").set(index.to_bytes(4, "little"), (1).to_bytes(4, "little"))
    host.text("network", "deny", "add", "--ip", "203.0.113.77")
    assert "deny_ipv4_map" in host.json("capacity", code=6)["over"]
    assert "next: aegisbpf" in host.text("capacity", "--warn=100", code=6)


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_completion_knows_every_command_of_ours(host: Host, shell: str) -> None:
    script = host.text("completion", shell)
    for word in ("stats", "footprint", "event-sample-rate", "check-config", "dry-run"):
        assert word in script
    if shell == "bash":
        subprocess.run(["bash", "-n"], input=script, text=True, check=True)


def cpu_seconds(command: list[str], times: int = 11) -> float:
    """CPU time of a command, the median of some runs: others' load does not count."""
    found = []
    for _ in range(times):
        before = resource.getrusage(resource.RUSAGE_CHILDREN)
        subprocess.run(command, stdout=subprocess.DEVNULL, check=True, cwd=REPOSITORY)
        after = resource.getrusage(resource.RUSAGE_CHILDREN)
        found.append(after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime)
    return sorted(found)[times // 2]


def test_stats_starts_cold_in_a_few_interpreter_starts(host: Host) -> None:
    entry = "import sys; from aegis_tools.cli.main import main; sys.argv[0] = 'aegisbpf'; main()"
    stats = [sys.executable, "-c", entry, "--root", str(host.paths.root), "stats"]
    assert cpu_seconds(stats) < 6 * cpu_seconds([sys.executable, "-c", "pass"])
