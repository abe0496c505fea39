"""Events from a real ring: exact in number, whole in content, and never in the way."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jsonschema
import pytest
from kernel_support import NO_LSM, REPOSITORY

from aegis_tools.agent.decode import Decoder
from aegis_tools.agent.enrich import place_of
from aegis_tools.cli.main import run
from aegis_tools.control.live import Live
from aegis_tools.control.settings import to_sample
from aegis_tools.control.store import Record, Store
from aegis_tools.kernel import loader
from aegis_tools.kernel.cgroups import cgroup_path, mount_point
from aegis_tools.kernel.layout import Config, Stat
from aegis_tools.kernel.pins import Pins
from aegis_tools.kernel.ringbuf import RingBuffer, open_ring
from aegis_tools.paths import Paths

SMALL_RING = 4096


@pytest.fixture
def secret(paths: Paths, pins: Pins, tmp_path: Path) -> Path:
    """Load with the smallest ring, deny a file, and return it."""
    loader.load(pins, NO_LSM, loader.LoadOptions(ringbuf_bytes=SMALL_RING))
    return deny(paths, tmp_path)


@pytest.fixture
def wide(paths: Paths, loaded: Pins, tmp_path: Path) -> Path:
    """The same with a ring of the usual size."""
    del loaded
    return deny(paths, tmp_path)


def deny(paths: Paths, tmp_path: Path) -> Path:
    path = tmp_path / "secret"
    path.write_text("x")
    policy = tmp_path / "policy.conf"
    policy.write_text(f"version=1\n[deny_path]\n{path}\n")
    assert run(["--root", str(paths.root), "policy", "apply", str(policy)]) == 0
    return path


def touch(path: Path, times: int = 1) -> None:
    """Open it without Python's own stat calls."""
    for _ in range(times):
        os.close(os.open(path, os.O_RDONLY))


def counters(pins: Pins) -> dict[Stat, int]:
    with Live(pins) as live:
        return live.stats()


def read_all(ring: RingBuffer) -> list[bytes]:
    return [record for batch in iter(lambda: ring.read(100), []) for record in batch]


def start(paths: Paths, *argv: str, **more: Any) -> subprocess.Popen[bytes]:
    """Start ``aegisbpf run`` and wait until it streams."""
    process = subprocess.Popen(
        [sys.executable, "-m", "aegis_tools", "--root", str(paths.root), "run", *argv],
        cwd=REPOSITORY,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        **more,
    )
    assert process.stderr is not None
    for line in process.stderr:
        if b"events follow" in line:
            return process
    raise AssertionError(f"it ended with {process.wait()}")


def end(process: subprocess.Popen[bytes], number: int = signal.SIGTERM) -> tuple[int, bytes, bytes]:
    """Ask it to end; return its code and the rest of its output."""
    process.send_signal(number)
    out, err = process.communicate(timeout=20)
    return process.returncode, out, err


def wait_until(process: subprocess.Popen[bytes], text: bytes) -> None:
    """Read what it says until it says that."""
    assert process.stderr is not None
    assert any(text in line for line in process.stderr)


def lines_of(out: bytes) -> list[dict[str, Any]]:
    assert out == b"" or out.endswith(b"\n")
    return [json.loads(line) for line in out.splitlines()]


def test_an_open_is_told_with_all_that_is_known_of_it(paths: Paths, wide: Path) -> None:
    process = start(paths, "--audit")
    before = time.time()
    subprocess.run(["/bin/cat", str(wide)], check=True, stdout=subprocess.DEVNULL)
    code, out, err = end(process)
    assert code == 0
    assert b"1 events written, 0 dropped" in err
    (event,) = lines_of(out)
    assert b'"action":"AUDIT"' in out
    assert (event["path"], event["rule"]) == (str(wide), f"path:{wide}")
    assert (event["reason"], event["operation"]) == ("audit-fallback", "read")
    assert (event["comm"], event["ppid"], event["uid"]) == ("cat", os.getpid(), os.geteuid())
    assert event["cgroup"].startswith("/")
    at = time.mktime(time.strptime(event["time"][:19], "%Y-%m-%dT%H:%M:%S")) - time.timezone
    assert abs(at - before) < 5
    assert event["time"].endswith("Z")


SCHEMA = json.loads(
    (REPOSITORY / "aegis_tools/agent/event.schema.json").read_text(encoding="utf-8")
)


def test_every_event_is_as_the_schema_says(paths: Paths, wide: Path) -> None:
    process = start(paths, "--audit")
    touch(wide)
    for comm in (b'\xff\x1b[2J"', b'","rule":"x', b"plain"):
        script = f"open('/proc/self/comm','wb').write({comm!r}); open({str(wide)!r})"
        subprocess.run([sys.executable, "-c", script], check=True)
    _, out, _ = end(process)
    events = lines_of(out)
    assert len(events) == 4
    for event in events:
        jsonschema.Draft202012Validator(SCHEMA).validate(event)
    assert {event["rule"] for event in events} == {f"path:{wide}"}


def test_an_event_says_which_policy_its_rule_came_from(
    paths: Paths, wide: Path, tmp_path: Path
) -> None:
    """Whatever is live by the time it is read."""
    store = Store(paths)
    first = store.records()[0]
    touch(wide)
    policy = tmp_path / "second.conf"
    policy.write_text(f"version=1\n# another\n[deny_path]\n{wide}\n")
    assert run(["--root", str(paths.root), "policy", "apply", str(policy)]) == 0
    touch(wide)
    third = tmp_path / "third.conf"
    third.write_text("version=1\n[deny_path]\n/nowhere/at/all\n")
    assert run(["--root", str(paths.root), "policy", "apply", str(third)]) == 0
    _, out, _ = end(start(paths))
    digests = [event["bundle"] for event in lines_of(out)]
    assert lines_of(out)[-1]["rule"] == f"path:{wide}"  # though it is not live any more
    second = store.records()[1]
    assert first is not None
    assert second is not None
    assert digests == [first.digest, second.digest]


def test_a_signed_policy_is_told_with_its_signers(
    paths: Paths, loaded: Pins, tmp_path: Path
) -> None:
    del loaded
    path = tmp_path / "secret"
    path.write_text("x")
    signed = sign_and_apply(paths, tmp_path, path)
    touch(path)
    _, out, _ = end(start(paths))
    (event,) = lines_of(out)
    assert (event["bundle"], event["signers"]) == (signed.digest, list(signed.signers))
    assert signed.signers


def sign_and_apply(paths: Paths, tmp_path: Path, path: Path) -> Record:
    root = ["--root", str(paths.root)]
    policy, key, bundle = (tmp_path / name for name in ("p.conf", "ops.key", "p.bundle"))
    policy.write_text(f"version=1\n[deny_path]\n{path}\n")
    assert run([*root, "keys", "generate", str(tmp_path / "ops")]) == 0
    assert run([*root, "keys", "add", str(tmp_path / "ops.pub")]) == 0
    sign = ["policy", "sign", str(policy), "--key", str(key), "--output", str(bundle)]
    assert run([*root, *sign]) == 0
    assert run([*root, "policy", "apply", str(bundle)]) == 0
    record = Store(paths).records()[0]
    assert record is not None
    return record


def test_program_and_unit_are_told_while_they_are_there(paths: Paths, wide: Path) -> None:
    process = start(paths)
    assert process.stdout is not None
    touch(wide)
    event = json.loads(process.stdout.readline())
    assert Path(event["exe"]).samefile("/proc/self/exe")
    assert event["unit"] == place_of(event["cgroup"]).unit
    assert end(process)[0] == 0


def test_a_storm_is_a_few_lines_that_count_every_event(
    paths: Paths, pins: Pins, wide: Path
) -> None:
    process = start(paths, "--events-file", str(paths.root / "events.jsonl"))
    for _ in range(20):
        touch(wide, 250)
        time.sleep(0.01)
    _, out, err = end(process)
    events = lines_of(out)
    found = counters(pins)
    assert sum(event["count"] for event in events) == found[Stat.EVENTS]
    assert found[Stat.EVENTS] + found[Stat.RINGBUF_DROPS] == 5000
    assert len(events) < 10
    assert events[0]["count"] == 1
    assert events[-1]["first"] < events[-1]["last"]
    assert (paths.root / "events.jsonl").read_bytes() == out
    assert f"{found[Stat.EVENTS]} events written".encode() in err


def test_a_full_disk_ends_nothing(paths: Paths, wide: Path, tmp_path: Path) -> None:
    disk = tmp_path / "disk"
    disk.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=16k", "full", disk], check=True)
    try:
        filler = disk / "filler"
        filler.write_bytes(b"x" * (12 << 10))
        process = start(paths, "--events-file", str(disk / "events.jsonl"))
        assert process.stdout is not None
        for number in range(40):  # another name each time, so that nothing is folded
            script = f"open('/proc/self/comm','w').write('n{number}'); open({str(wide)!r})"
            subprocess.run([sys.executable, "-S", "-c", script], check=True)
        wait_until(process, b"cannot be written")
        filler.unlink()
        touch(wide)
        _, out, err = end(process)
        kept = lines_of((disk / "events.jsonl").read_bytes())
        told = lines_of(out)
        assert kept
        assert kept[-1] == told[-1]
        assert len(told) == 41
        assert 1 < len(kept) < 41
        assert f"{41 - len(kept)} events since the start are not in it".encode() in err
    finally:
        subprocess.run(["umount", disk], check=True)


def test_events_come_at_once_though_stdout_is_a_pipe(paths: Paths, wide: Path) -> None:
    process = start(paths)
    assert process.stdout is not None
    touch(wide)
    assert json.loads(process.stdout.readline())["path"] == str(wide)
    code, _, _ = end(process)
    assert code == 0


def test_ctrl_c_ends_with_130_and_enforcement_stays(paths: Paths, pins: Pins, wide: Path) -> None:
    del wide
    links = pins.names("links")
    code, _, _ = end(start(paths), signal.SIGINT)
    assert code == 130
    assert pins.names("links") == links
    assert links


def test_a_second_reader_is_refused_with_the_first_one_s_number(paths: Paths, wide: Path) -> None:
    del wide
    first = start(paths)
    second = subprocess.run(
        [sys.executable, "-m", "aegis_tools", "--root", str(paths.root), "run"],
        cwd=REPOSITORY, capture_output=True, check=False, timeout=30,
    )  # fmt: skip
    assert second.returncode == 8
    assert f"process {first.pid}" in second.stderr.decode()
    assert end(first)[0] == 0
    assert end(start(paths))[0] == 0


def test_the_fallback_is_stated_and_enforcing_in_it_is_an_error(
    paths: Paths, wide: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    del wide
    assert run(["--root", str(paths.root), "mode"]) == 0
    assert "AUDIT FALLBACK" in capsys.readouterr().out
    assert run(["--root", str(paths.root), "run", "--enforce"]) == 6
    assert "fallback" in capsys.readouterr().err
    assert run(["--root", str(paths.root), "mode", "enforce"]) == 6


def test_a_reader_that_leaves_ends_the_stream(paths: Paths, wide: Path) -> None:
    process = start(paths)
    assert process.stdout is not None
    process.stdout.close()
    touch(wide)
    assert process.wait(timeout=10) == 141
    assert process.stderr is not None
    assert b"Traceback" not in process.stderr.read()
    process.stderr.close()


@pytest.mark.parametrize("way", ["reset", "rm"])
def test_removing_the_pins_ends_the_stream_without_a_failure(
    paths: Paths, pins: Pins, wide: Path, way: str
) -> None:
    """A service manager that restarts what failed must not load it again."""
    del wide
    process = start(paths)
    if way == "reset":
        assert run(["--root", str(paths.root), "reset"]) == 0
    else:
        subprocess.run(["rm", "-rf", str(pins.base)], check=True)
    _, err = process.communicate(timeout=20)
    assert process.returncode == 0
    assert b"pins were removed" in err
    assert not pins.is_loaded()


def test_a_change_of_state_is_told(paths: Paths, wide: Path) -> None:
    del wide
    process = start(paths)
    assert process.stderr is not None
    assert run(["--root", str(paths.root), "config", "set", "disabled", "on"]) == 0
    assert b"disabled is on" in process.stderr.readline()
    assert end(process)[0] == 0


def rss(pid: int) -> int:
    status = Path(f"/proc/{pid}/status").read_text(encoding="ascii")
    return next(int(line.split()[1]) for line in status.splitlines() if line.startswith("VmRSS"))


def test_a_slow_reader_costs_events_and_no_memory(paths: Paths, pins: Pins, wide: Path) -> None:
    process = start(paths)
    touch(wide, 3000)
    time.sleep(0.5)
    early = rss(process.pid)
    touch(wide, 20000)
    time.sleep(0.5)
    assert rss(process.pid) < early + 2048
    assert counters(pins)[Stat.RINGBUF_DROPS] > 0
    began = time.monotonic()
    process.send_signal(signal.SIGTERM)
    assert process.wait(timeout=10) == 0
    assert time.monotonic() - began < 5
    assert process.stdout is not None
    assert process.stderr is not None
    assert b"events dropped" in process.stderr.read()
    for line in process.stdout.read().splitlines(keepends=True)[:-1]:
        assert json.loads(line)["path"] == str(wide)
    process.stdout.close()
    process.stderr.close()


@pytest.mark.parametrize("rate", [1.0, 0.5, 0.0])
def test_received_dropped_and_sampled_out_are_all_there_were(
    pins: Pins, secret: Path, rate: float
) -> None:
    with Live(pins) as live:
        live.set_config(Config.SAMPLE, to_sample(rate))
    with open_ring(pins.path("maps", "events")) as ring:
        touch(secret, 2000)
        received = len(read_all(ring))
    found = counters(pins)
    assert found[Stat.AUDITS] == 2000
    assert received == found[Stat.EVENTS]
    lost = found[Stat.RINGBUF_DROPS] + found[Stat.SAMPLED_OUT]
    assert received + lost == 2000
    assert (found[Stat.SAMPLED_OUT] == 0) == (rate == 1.0)
    assert (found[Stat.RINGBUF_DROPS] == 0) == (rate == 0.0)
    if rate == 0.5:
        assert 800 < found[Stat.SAMPLED_OUT] < 1200  # 9 standard deviations


def test_the_ring_goes_round_without_losing_its_place(pins: Pins, secret: Path) -> None:
    decoder = Decoder()
    times: list[str] = []
    with open_ring(pins.path("maps", "events")) as ring:
        for turn in range(300):
            count = turn % 6 + 1
            touch(secret, count)
            records = ring.read(1) + ring.read(100)
            assert len(records) == count
            events = [decoder.decode(record) for record in records]
            assert {event["path"] for event in events} == {str(secret)}
            assert {event["pid"] for event in events} == {os.getpid()}
            times += [event["time"] for event in events]
        assert ring.pending == 0
    assert times == sorted(times)
    assert counters(pins)[Stat.RINGBUF_DROPS] == 0


def test_what_an_earlier_reader_left_is_read_by_the_next(pins: Pins, secret: Path) -> None:
    touch(secret, 4)
    with open_ring(pins.path("maps", "events")) as ring:
        assert len(ring.read(1)) == 1
    with open_ring(pins.path("maps", "events")) as ring:
        assert len(ring.read(100)) == 3


@pytest.fixture
def cgroup() -> Iterator[Path]:
    base = mount_point()
    assert base is not None
    path = base / f"aegis-test-{os.getpid()}"
    path.mkdir()
    yield path
    with contextlib.suppress(OSError):
        path.rmdir()


def test_a_cgroup_is_found_by_its_number_until_it_is_gone(cgroup: Path) -> None:
    number = cgroup.stat().st_ino
    assert cgroup_path(number) == f"/{cgroup.name}"
    assert cgroup_path(1 << 60) is None
    cgroup.rmdir()
    assert cgroup_path(number) is None
