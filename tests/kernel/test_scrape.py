"""Scraping real maps: what is read, what is kept open, and that nothing is changed by it."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from apply_support import Host, policy_files, signed_bundles
from kernel_support import NO_LSM, REPOSITORY
from metrics_support import values
from prometheus_client import CollectorRegistry

from aegis_tools.agent.metrics import exposition, registry_of
from aegis_tools.agent.scrape import Clock, Scraper
from aegis_tools.control.live import Live
from aegis_tools.kernel import loader
from aegis_tools.kernel.layout import RULE_ATTR, Config
from aegis_tools.kernel.pins import Pins
from aegis_tools.paths import Paths

SUPPORT = Path(__file__).with_name("seccomp_support.py")


class Time:
    """Clocks of the test's."""

    def __init__(self) -> None:
        self.now = 1000.0

    def clock(self) -> Clock:
        return Clock(lambda: self.now, lambda: self.now)


@pytest.fixture
def files(host: Host, tmp_path: Path) -> dict[str, Path]:
    found = policy_files(tmp_path)
    host("policy", "apply", found["policy"])
    return found


@pytest.fixture
def passing() -> Time:
    return Time()


@pytest.fixture
def scraper(paths: Paths, passing: Time) -> Iterator[Scraper]:
    with Scraper(paths, passing.clock()) as scraper:
        yield scraper


def sample(registry: CollectorRegistry, name: str, **labels: str) -> float | None:
    return values(exposition(registry)).get((name, tuple(sorted(labels.items()))))


def descriptors() -> set[Path]:
    return set(Path("/proc/self/fd").iterdir())


def test_what_happens_between_two_scrapes_is_seen(
    scraper: Scraper, host: Host, files: dict[str, Path]
) -> None:
    registry = registry_of(scraper.read)
    rule = f"path:{files['a']}"
    assert sample(registry, "aegisbpf_rule_hits_total", rule=rule, action="audit") is None
    os.close(os.open(files["a"], os.O_RDONLY))
    assert sample(registry, "aegisbpf_rule_hits_total", rule=rule, action="audit") == 1
    assert sample(registry, "aegisbpf_map_entries", map="rule_hits") == 1
    host("block", "add", files["policy"])
    os.close(os.open(files["policy"], os.O_RDONLY))
    found = values(exposition(registry))
    hits = {dict(labels)["rule"] for (name, labels) in found if name == "aegisbpf_rule_hits_total"}
    assert hits >= {rule, "other"}
    assert any(name.startswith("manual:") for name in hits), hits
    assert not [name for name in hits if name.startswith("unknown:")]


def test_maps_stay_open_between_scrapes(scraper: Scraper, files: dict[str, Path]) -> None:
    del files
    scraper.read()
    before = descriptors()
    scraper.read()
    assert descriptors() == before


def test_pins_that_were_replaced_are_noticed(
    scraper: Scraper, host: Host, files: dict[str, Path], paths: Paths
) -> None:
    registry = registry_of(scraper.read)
    assert sample(registry, "aegisbpf_map_entries", map="rules") == 3
    host("reset")
    loader.load(Pins(paths.pins), NO_LSM, loader.LoadOptions())
    assert sample(registry, "aegisbpf_map_entries", map="rules") == 0
    assert sample(registry, "aegisbpf_map_capacity", map="deny_inode_map") == 65536
    del files


def test_one_pin_that_is_gone_is_noticed_and_its_coming_back(
    scraper: Scraper, paths: Paths, files: dict[str, Path]
) -> None:
    del files
    scraper.read()
    pin, aside = (Pins(paths.pins).path("maps", name) for name in ("config", "aside"))
    pin.rename(aside)
    assert scraper.read().kernel is None
    assert scraper.read().loaded
    aside.rename(pin)
    assert scraper.read().kernel is not None


def test_removed_maps_are_let_go_without_a_scrape(
    scraper: Scraper, host: Host, files: dict[str, Path]
) -> None:
    del files
    scraper.read()
    opened = len(descriptors())
    host("reset")
    scraper.look()
    assert len(descriptors()) < opened - 10
    reading = scraper.read()
    assert (reading.loaded, reading.kernel) == (False, None)


def test_maps_changed_behind_our_back_are_drift_and_looked_for_once_a_minute(
    scraper: Scraper, passing: Time, paths: Paths, files: dict[str, Path]
) -> None:
    del files
    registry = registry_of(scraper.read)
    assert sample(registry, "aegisbpf_live_maps_drifted", kind="tampered") == 0
    with Live(Pins(paths.pins)) as live:
        inner = live.inner("rules")
        assert inner is not None
        with inner:
            uid, value = next(iter(inner.items()))
            inner.set(uid, RULE_ATTR.pack(1 - value[0], 0))
    passing.now += 59
    assert sample(registry, "aegisbpf_live_maps_drifted", kind="tampered") == 0
    passing.now += 2
    assert sample(registry, "aegisbpf_live_maps_drifted", kind="tampered") == 1
    assert sample(registry, "aegisbpf_live_maps_check_timestamp_seconds") == 1061


def test_changes_by_hand_are_no_drift(scraper: Scraper, host: Host, files: dict[str, Path]) -> None:
    host("block", "add", files["policy"])
    host("block", "del", files["a"])
    registry = registry_of(scraper.read)
    assert sample(registry, "aegisbpf_live_maps_drifted", kind="tampered") == 0
    assert sample(registry, "aegisbpf_map_entries", map="manual_rules") == 1


def test_a_deadline_in_the_kernel_is_an_unconfirmed_change(
    scraper: Scraper, paths: Paths, files: dict[str, Path]
) -> None:
    del files
    registry = registry_of(scraper.read)
    assert sample(registry, "aegisbpf_change_unconfirmed") == 0
    with Live(Pins(paths.pins)) as live:
        at = time.clock_gettime_ns(time.CLOCK_BOOTTIME) + 50 * 10**9
        live.set_config(Config.DEADLINE, at)
    assert sample(registry, "aegisbpf_change_unconfirmed") == 1
    left = sample(registry, "aegisbpf_enforce_deadline_seconds")
    assert left is not None
    assert 0 < left <= 50


def test_signers_serial_and_last_apply_of_a_signed_policy(
    scraper: Scraper, host: Host, tmp_path: Path
) -> None:
    made = signed_bundles(host, policy_files(tmp_path), tmp_path)
    host("policy", "apply", made["one"])
    found = values(exposition(registry_of(scraper.read)))
    assert found["aegisbpf_policy_serial", ()] == 1
    assert len([name for name, _ in found if name == "aegisbpf_policy_signer_info"]) == 1
    assert found["aegisbpf_last_apply_success", ()] == 1
    made["two"].write_text("broken")
    host("policy", "apply", made["two"], code=4)
    assert sample(registry_of(scraper.read), "aegisbpf_policy_serial") == 1


def guarded(paths: Paths, *argv: str) -> subprocess.Popen[str]:
    """Start a command of ours that is killed where it changes, loads or forks anything."""
    return subprocess.Popen(
        [sys.executable, str(SUPPORT), "--root", str(paths.root), *argv],
        cwd=REPOSITORY,
        env={**os.environ, "PYTHONPATH": str(REPOSITORY)},
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


@contextmanager
def served(paths: Paths) -> Iterator[tuple[subprocess.Popen[str], str]]:
    """Run a guarded server and yield it with its URL."""
    process = guarded(paths, "metrics", "--listen", "127.0.0.1:0")
    try:
        assert process.stderr is not None
        line = process.stderr.readline()
        assert "metrics at http://127.0.0.1:" in line, line + process.stderr.read()
        yield process, line.split()[-1]
    finally:
        process.kill()
        process.communicate(timeout=30)


def get(url: str) -> str:
    with urllib.request.urlopen(url, timeout=30) as answer:
        return str(answer.read().decode())


def test_a_scrape_loads_forks_and_changes_nothing(paths: Paths, files: dict[str, Path]) -> None:
    os.close(os.open(files["a"], os.O_RDONLY))
    with served(paths) as (process, url):
        for _ in range(3):
            found = values(get(url))
            assert found["aegisbpf_up", ()] == 1
            assert found["aegisbpf_live_maps_drifted", (("kind", "tampered"),)] == 0
        children = Path(f"/proc/{process.pid}/task/{process.pid}/children")
        assert not children.exists() or children.read_text(encoding="ascii") == ""
        process.send_signal(signal.SIGTERM)
        assert process.wait(timeout=30) == 0


@pytest.mark.parametrize("argv", [("mode", "audit"), ("config", "set", "event-sample-rate", "1")])
def test_what_does_change_something_dies_of_that_guard(paths: Paths, argv: tuple[str, ...],
                                                       files: dict[str, Path]) -> None:  # fmt: skip
    del files
    process = guarded(paths, *argv)
    out = process.communicate(timeout=60)
    assert process.returncode == -signal.SIGSYS, out


def test_the_server_answers_before_during_and_after_a_load(paths: Paths) -> None:
    with served(paths) as (_, url):
        assert values(get(url))["aegisbpf_loaded", ()] == 0
        loader.load(Pins(paths.pins), NO_LSM, loader.LoadOptions())
        time.sleep(0.3)  # a page is shown again for a quarter of a second
        assert values(get(url))["aegisbpf_up", ()] == 1
        Pins(paths.pins).remove_all()
        time.sleep(0.3)
        assert values(get(url))["aegisbpf_loaded", ()] == 0


def test_a_textfile_is_whole_and_written_again_until_told_to_stop(
    paths: Paths, files: dict[str, Path], tmp_path: Path
) -> None:
    target = tmp_path / "aegisbpf.prom"
    process = guarded(paths, "metrics", "--textfile", str(target), "--every", "1s")
    try:
        seen = set()
        end = time.monotonic() + 30
        while len(seen) < 3 and time.monotonic() < end:
            if target.exists():
                found = values(target.read_text(encoding="utf-8"))
                seen.add(found["aegisbpf_live_maps_check_timestamp_seconds", ()])
                seen.add(target.stat().st_ino)
            time.sleep(0.1)
        assert len(seen) >= 3
        assert target.stat().st_mode & 0o777 == 0o644
        process.send_signal(signal.SIGTERM)
        assert process.wait(timeout=30) == 0
    finally:
        process.kill()
        process.communicate(timeout=30)
    assert [path.name for path in tmp_path.glob(".aegis*")] == []
    del files


@pytest.mark.parametrize(
    "argv",
    [
        ("--listen", "0.0.0.0:0"),
        ("--listen", "nonsense"),
        ("--listen", "127.0.0.1:0", "--textfile", "x"),
        ("--every", "15s"),
        ("--textfile", "x", "--every", "0s"),
        ("--allow-remote",),
    ],
)
def test_options_that_make_no_sense_are_refused(host: Host, argv: tuple[str, ...]) -> None:
    assert json.dumps(host("metrics", *argv, code=2))
