"""Monitors come and go: by command, at any instant of a kill, and as bpftool itself loads them."""

from __future__ import annotations

import hashlib
import json
import os
import random
import shutil
import signal
import stat
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from edit_support import Host
from kernel_support import REPOSITORY, kill_after, start_python

from aegis_tools.errors import CommandError, KernelError
from aegis_tools.kernel import syscall
from aegis_tools.kernel.loader import OBJECTS
from aegis_tools.kernel.run import run
from aegis_tools.monitors import filters
from aegis_tools.monitors.choose import kernel_names
from aegis_tools.monitors.filters import Filter
from aegis_tools.monitors.layout import FILTER
from aegis_tools.monitors.load import load, unload
from aegis_tools.monitors.pins import MonitorPins, leftovers
from aegis_tools.monitors.registry import MONITORS, Variant
from aegis_tools.monitors.status import counters
from aegis_tools.paths import Paths

NAME = "process-monitor"
PROCESS = MONITORS[NAME]
CHANGE = """
import sys
from pathlib import Path
from aegis_tools.kernel import run
from aegis_tools.monitors.load import load, unload
from aegis_tools.monitors.registry import MONITORS
import sh
base = Path(sys.argv[1])
print("ready", flush=True)
if sys.argv[2] == "load":
    load(base, MONITORS["process-monitor"], lambda name: True)
else:
    unload(base, "process-monitor")
"""


@pytest.fixture
def base(paths: Paths) -> Iterator[Path]:
    yield paths.monitor_pins
    unload(paths.monitor_pins, NAME)


@pytest.fixture
def pins(base: Path) -> MonitorPins:
    return MonitorPins(base, NAME)


@pytest.fixture
def host(paths: Paths, base: Path, capsys: pytest.CaptureFixture[str]) -> Host:
    """Return a host on which commands run, with nothing loaded."""
    del base
    return Host(paths, capsys)


def load_it(base: Path, **more: Any) -> Any:
    with kernel_names() as has:
        return load(base, PROCESS, has, **more)


def links_of(monitor: str) -> int:
    """Return how many programs with a monitor's name the kernel has, whoever pinned them."""
    done = run(["bpftool", "--json", "prog", "list"])
    return sum(monitor in json.dumps(one.get("metadata", "")) for one in json.loads(done))


def test_a_load_attaches_all_and_an_unload_leaves_nothing(base: Path, pins: MonitorPins) -> None:
    done = load_it(base)
    assert (done.fresh, done.changed, done.about.variant) == (True, True, "portable")
    assert pins.is_attached()
    assert pins.names("links") == ["sched_process_exec", "sched_process_exit"]
    assert {"PROCESS_EVENTS", "CMDLINE_BUF", "stats", "filter"} < set(pins.names("maps"))
    there = sorted(path.name for path in pins.folder.iterdir())
    assert there == ["about", "links", "maps", "progs"]
    assert stat.S_IMODE(base.stat().st_mode) == stat.S_IMODE(pins.folder.stat().st_mode) == 0o700
    assert unload(base, NAME) == len([*"ll", *"pp"]) + 9
    assert not base.exists()
    assert unload(base, NAME) == 0


def test_a_second_load_changes_the_filter_alone(base: Path, pins: MonitorPins) -> None:
    load_it(base, wanted=Filter(uids=frozenset({1, 2}), min_bytes=9))
    with pins.open_map("filter") as opened:
        before = opened.id
    new = Filter(frozenset({2, 3}), frozenset({77}), frozenset({"sshd", "x" * 15}), 0, 0.25)
    done = load_it(base, wanted=new)
    assert (done.fresh, done.changed) == (False, True)
    assert filters.read(pins) == new
    with pins.open_map("filter") as opened:
        assert opened.id == before
    assert load_it(base, wanted=new).changed is False
    assert load_it(base).changed is True
    assert filters.read(pins) == Filter()
    with pins.open_map("filter_uids") as opened:
        assert opened.count() == 0


def test_a_ring_has_the_size_that_was_asked_for(base: Path, pins: MonitorPins) -> None:
    load_it(base, ring_bytes=1 << 16)
    with pins.open_map("PROCESS_EVENTS") as ring:
        assert ring.max_entries == 1 << 16
    assert load_it(base, ring_bytes=1 << 16).changed is False
    assert load_it(base).changed is False
    with pytest.raises(KernelError, match="ring of 65536 bytes") as caught:
        load_it(base, ring_bytes=1 << 17)
    assert "--ring-size 131072" in caught.value.hint


def test_folders_may_have_dots(tmp_path: Path, paths: Paths) -> None:
    del tmp_path
    base = paths.bpffs / "monitors"
    dotted = paths.root / "host.example" / "bpf"
    dotted.parent.mkdir()
    dotted.symlink_to(paths.bpffs)
    try:
        load_it(dotted / "monitors")
        assert MonitorPins(base, NAME).is_attached()
    finally:
        unload(base, NAME)


def test_pins_that_were_taken_away_are_told_of(base: Path, pins: MonitorPins) -> None:
    load_it(base)
    pins.path("links", "sched_process_exit").unlink()
    with pytest.raises(KernelError, match="not all of it") as caught:
        load_it(base)
    assert f"monitor unload {NAME} && aegisbpf monitor load {NAME}" in caught.value.hint
    pins.path("maps", "stats").unlink()
    with pytest.raises(KernelError, match="were removed"):
        counters(pins)


@pytest.fixture
def objects(tmp_path: Path) -> Path:
    """Return a folder of objects of which one is none that a kernel takes."""
    folder = tmp_path / "objects"
    folder.mkdir()
    shutil.copy(OBJECTS / "process-monitor.bpf.o", folder)
    (folder / "bad.bpf.o").write_bytes(b"\x7fELF and nothing else")
    sums = {path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in folder.iterdir()}
    text = "".join(f"{digest}  {name}\n" for name, digest in sums.items())
    (folder / "SHA256SUMS").write_text(text)
    return folder


def with_variants(*before: Variant) -> Any:
    return replace(PROCESS, variants=(*before, *PROCESS.variants))


def test_what_does_not_fit_or_is_refused_is_passed_over_and_remembered(
    base: Path, pins: MonitorPins, objects: Path
) -> None:
    monitor = with_variants(
        Variant("unfit", "none.bpf.o", ("no_such_function",)), Variant("bad", "bad.bpf.o", ())
    )
    with kernel_names() as has:
        load(base, monitor, has, objects=objects)
    about = pins.about()
    assert about.variant == "portable"
    unfit, bad = about.refused
    assert (unfit.variant, unfit.reason) == ("unfit", "the kernel has no function no_such_function")
    assert bad.variant == "bad"
    assert bad.reason
    assert pins.is_attached()
    assert leftovers(base) == []


def test_where_the_kernel_takes_none_nothing_is_left_and_why_is_told(
    base: Path, objects: Path
) -> None:
    monitor = replace(PROCESS, variants=(Variant("bad", "bad.bpf.o", ()),))
    with pytest.raises(KernelError, match="does not take process-monitor: bad: ") as caught:
        load(base, monitor, lambda _: True, objects=objects)
    assert caught.value.data["refused"][0]["variant"] == "bad"
    assert not base.exists()


def failing(said: str) -> Callable[..., str]:
    def runner(argv: Sequence[str], *, timeout: float = 60) -> str:
        if "loadall" in argv and "bad.bpf.o" in " ".join(argv):
            raise CommandError("bpftool failed", detail=said, data={"stderr": said})
        return run(argv, timeout=timeout)

    return runner


def test_the_reason_is_what_the_kernel_said_of_the_program(
    base: Path, pins: MonitorPins, objects: Path
) -> None:
    said = (
        "libbpf: prog 'tcp_connect': BPF program load failed: Operation not permitted\n"
        "libbpf: prog 'tcp_connect': failed to load: -1\nlibbpf: failed to load object 'x'\n"
        "Error: failed to load object file"
    )
    monitor = with_variants(Variant("bad", "bad.bpf.o", ()))
    load(base, monitor, lambda _: True, objects=objects, runner=failing(said))
    [one] = pins.about().refused
    assert one.reason == "tcp_connect is refused: Operation not permitted"


def test_a_missing_bpftool_is_no_refusal(base: Path) -> None:
    def runner(argv: Sequence[str], *, timeout: float = 60) -> str:
        raise CommandError(f"{argv[0]} is not installed {timeout}", hint="install it")

    with pytest.raises(CommandError, match="not installed"):
        load(base, PROCESS, lambda _: True, runner=runner)
    assert not base.exists()


def test_a_program_that_cannot_be_attached_is_a_refusal(base: Path, objects: Path) -> None:
    # A program of a kind that does not know where it belongs to.
    shutil.copy(OBJECTS / "inode_keys.bpf.o", objects)
    text = (OBJECTS / "SHA256SUMS").read_text().splitlines()
    [line] = [line for line in text if line.endswith("inode_keys.bpf.o")]
    with (objects / "SHA256SUMS").open("a") as file:
        file.write(f"{line}\n")
    monitor = replace(PROCESS, variants=(Variant("odd", "inode_keys.bpf.o", ()),))
    with pytest.raises(KernelError):
        load(base, monitor, lambda _: True, objects=objects)
    assert not base.exists()


@pytest.mark.parametrize("seed", range(12))
def test_a_load_that_is_killed_leaves_a_monitor_that_is_loaded_or_is_not(
    base: Path, pins: MonitorPins, seed: int
) -> None:
    process = start_python(CHANGE, base, "load")
    kill_after(process, random.Random(seed).uniform(0, 0.5))
    assert pins.is_loaded() == pins.is_attached()
    if pins.is_loaded():
        assert pins.about().variant == "portable"
    load_it(base)
    assert pins.is_attached()
    assert leftovers(base) == []
    unload(base, NAME)
    assert not base.exists()


@pytest.mark.parametrize("seed", range(8))
def test_an_unload_that_is_killed_leaves_a_monitor_that_is_loaded_or_is_not(
    base: Path, pins: MonitorPins, seed: int
) -> None:
    load_it(base)
    process = start_python(CHANGE, base, "unload")
    kill_after(process, random.Random(seed).uniform(0, 0.02))
    assert pins.is_loaded() == pins.is_attached()
    unload(base, NAME)
    assert not base.exists()


def test_what_a_killed_load_left_is_cleared_by_the_next(base: Path, pins: MonitorPins) -> None:
    load_it(base)
    pins.folder.rename(base / "staging-1-process-monitor")
    assert not pins.is_loaded()
    assert [one.name for one in leftovers(base)] == [NAME]
    assert load_it(base).fresh is True
    assert leftovers(base) == []
    assert pins.is_attached()


def test_a_host_goes_through_load_status_and_unload_by_command(host: Host) -> None:
    assert [one["loaded"] for one in host("monitor", "list")["monitors"]] == [False] * 5
    [would] = host("monitor", "load", "process", "--dry-run")["monitors"]
    assert (would["would_load"], would["variant"]) == (True, "portable")
    assert not host.paths.monitor_pins.exists()
    [done] = host("monitor", "load", "process", "--only-command", "sshd")["monitors"]
    assert (done["fresh"], done["filter"]["commands"]) == (True, ["sshd"])
    listed = [one["variant"] for one in host("monitor", "list")["monitors"]]
    assert listed == ["portable", *[""] * 4]
    [told] = host("monitor", "status", "process")["monitors"]
    assert (told["attached"], told["current"], told["lost"]) == (True, True, 0)
    assert [one["name"] for one in told["programs"]] == ["sched_process_exec", "sched_process_exit"]
    assert told["ring"] == {"bytes": 1 << 20, "pending_bytes": 0, "percent": 0.0}
    assert 1 << 20 < told["memory_bytes"] < 2 << 20
    assert told["filter"]["commands"] == ["sshd"]
    assert host("monitor", "unload", "--dry-run") == {"would_unload": [NAME]}
    assert host("monitor", "unload")["unloaded"] == [NAME]
    assert not host.paths.monitor_pins.exists()
    assert host("monitor", "unload")["unloaded"] == []
    actions = [entry["action"] for entry in host("history")["entries"]]
    assert actions == ["monitor unload", "monitor load"]


def test_the_status_of_a_monitor_reads_well(host: Host) -> None:
    host("monitor", "load", "process")
    lines = host.text("monitor", "status")
    assert lines[0] == "process-monitor: loaded (portable)"
    assert any("lost 0" in line for line in lines)
    assert "disk-io-monitor: not loaded" in lines


@pytest.mark.parametrize("where", ["run", "etc"])
def test_a_host_that_is_to_load_nothing_loads_no_monitor(host: Host, where: str) -> None:
    (host.paths.root / where).mkdir(exist_ok=True)
    (host.paths.root / where / "aegisbpf.disable").touch()
    assert host.any("monitor", "load", "process")["error"] == "boot"
    assert not host.paths.monitor_pins.exists()
    assert host("monitor", "list")


@pytest.mark.parametrize(
    "line",
    [
        "load nothing", "load process --only-uid nobody-of-that-name",
        "load --only-cgroup /no/such",
        "load process --ring-size 5000", "load process --sample 0", "load process --sample x",
        "events process --event read", "events --event no-such", "top --interval 0",
    ],
)  # fmt: skip
def test_what_cannot_be_meant_is_a_usage_error(host: Host, line: str) -> None:
    if line.startswith("events process"):
        host("monitor", "load", "process")
    assert host.any("monitor", *line.split())["error"] == "usage"


@pytest.mark.parametrize("line", ["events", "events process", "top", "top --by io --once"])
def test_what_is_not_loaded_cannot_be_looked_at(host: Host, line: str) -> None:
    told = host.any("monitor", *line.split())
    assert (told["error"], told["exit_code"]) == ("kernel", 6)
    assert "aegisbpf monitor load" in told["hint"]


def following(host: Host, *more: str) -> subprocess.Popen[bytes]:
    """Start to follow what /bin/true does, and return once that is so."""
    command = [sys.executable, "-m", "aegis_tools", "--root", str(host.paths.root), "monitor"]
    process = subprocess.Popen(
        [*command, "events", "process", *more],
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, cwd=REPOSITORY,
    )  # fmt: skip
    end = time.monotonic() + 60
    while reader(host) != process.pid and process.poll() is None and time.monotonic() < end:
        time.sleep(0.01)
    assert reader(host) == process.pid, process.communicate()
    return process


def reader(host: Host) -> int:
    """Return the process that the monitor says nothing of."""
    with MonitorPins(host.paths.monitor_pins, NAME).open_map("filter") as opened:
        return int(FILTER.unpack(opened.get(bytes(4)) or b"")[2])


def test_events_come_as_lines_of_json_and_end_after_so_many(host: Host) -> None:
    host("monitor", "load", "process")
    process = following(host, "--json", "--comm", "true", "--event", "exec", "--count", "2")
    for number in range(3):
        subprocess.run(["/bin/true", "a b", str(number)], check=True)
    out, err = process.communicate(timeout=60)
    events = [json.loads(line) for line in out.splitlines()]
    assert [event["arguments"] for event in events] == [["/bin/true", "a b", n] for n in "01"]
    assert (process.returncode, err) == (0, b"")


def test_ctrl_c_leaves_a_monitor_as_it_was(host: Host) -> None:
    host("monitor", "load", "process")
    process = following(host, "--comm", "true")
    subprocess.run(["/bin/true"], check=True)
    assert process.stdout is not None
    line = process.stdout.readline().decode()
    assert f"uid {os.getuid()}" in line
    assert "/true: /bin/true" in line
    refused = host.any("monitor", "events", "process")
    assert refused["error"] == "state"
    assert f"process {process.pid}" in refused["message"]
    process.send_signal(signal.SIGINT)
    _, err = process.communicate(timeout=60)
    assert (process.returncode, err) == (130, b"")
    assert reader(host) == 0
    assert host.text("monitor", "events", "--for", "0s") == []


def test_what_waited_in_the_ring_is_told_when_asked_for(host: Host) -> None:
    host("monitor", "load", "process", "--only-command", "true")
    subprocess.run(["/bin/true", "before"], check=True)
    assert host.text("monitor", "events", "--for", "0s") == []
    lines = host.text("monitor", "events", "--for", "1s", "--waiting", "--event", "exec")
    assert [line.split("  ")[-1] for line in lines] == ["/usr/bin/true: /bin/true before"]


def test_the_schema_is_printed_with_nothing_loaded(host: Host) -> None:
    assert host("monitor", "events", "--schema")["title"] == "An event of a monitor"


def test_bpftool_loads_what_is_prebuilt_as_the_plan_says(paths: Paths, built: None) -> None:
    del built
    pin = paths.bpffs / NAME
    line = f"bpftool prog load prebuilt-ebpf/{NAME} {pin} && bpftool prog list | grep {NAME}"
    done = subprocess.run(
        ["sh", "-c", line], cwd=REPOSITORY, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    assert f'"{NAME}"' in done.stdout
    syscall_fd = syscall.obj_get(str(pin))
    os.close(syscall_fd)
    assert links_of(NAME) >= 1
    pin.unlink()


def test_the_script_at_the_top_loads_by_the_program(host: Host, tmp_path: Path) -> None:
    script = (REPOSITORY / "load_all_monitors.sh").resolve()
    copy = tmp_path / "checkout" / "scripts" / script.name
    copy.parent.mkdir(parents=True)
    shutil.copy(script, copy)
    link = copy.parent.parent / "load_all_monitors.sh"
    link.symlink_to(f"scripts/{script.name}")
    folder = tmp_path / "bin"
    host.shell("true", folder)
    (folder / "aegisbpf").rename(folder / "aegis-tools")
    done = subprocess.run(
        ["./load_all_monitors.sh", "process"], cwd=link.parent,
        capture_output=True, text=True, check=False,
        env={**os.environ, "PATH": f"{folder}:{os.environ['PATH']}", "PYTHONPATH": str(REPOSITORY)},
    )  # fmt: skip
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout == "process-monitor: loaded (portable)\n"
    assert MonitorPins(host.paths.monitor_pins, NAME).is_attached()


def test_who_follows_what_is_unloaded_is_told(host: Host) -> None:
    host("monitor", "load", "process")
    process = following(host, "--comm", "true")
    host("monitor", "unload", "process")
    _, err = process.communicate(timeout=60)
    assert process.returncode == 6
    assert b"process-monitor was unloaded meanwhile" in err
