"""What the agent uses: memory, processor time by events a second, start to ready, events decoded.

    python -m benchmarks.agent [--json] [--rounds N] [--seconds S]

Events come at an even pace, so that the agent wakes up for each of them, which is the dearest way;
of one file (storms are folded) and of 2,000 in turn (every event has its own line). ``bare`` is
a Python process that only waits for the same ring and throws away what it reads: what is left of
the ratio to it is the agent's own work. Memory is without the ring's pages, which are the kernel's.
"""

from __future__ import annotations

import itertools
import json
import os
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import NamedTuple

from aegis_tools.agent.pipeline import open_pipeline
from aegis_tools.agent.sinks import Output
from aegis_tools.agent.stream import BATCH
from aegis_tools.control.live import Live
from aegis_tools.kernel.ringbuf import RingBuffer, open_ring
from benchmarks.apply import apply
from benchmarks.measure import Row, arguments, in_turns, ratios, report, run_main, spread
from benchmarks.process import cpu_seconds, resident
from benchmarks.sandbox import REPOSITORY, Sandbox, sandbox

FILES = 2000
RATES = (0, 100, 1000)
DECODED = 20_000
MEMORY_AIM = 35 << 10
CPU_AIM = 0.02
DECODE_AIM = 100_000
_SETTLE = 1.5
_COLUMNS = ("what", "events/s", "% of a core", "bare %", "agent / bare", "own MB", "ring MB",
            "result", "aim met")  # fmt: skip
_BARE = """
import select, sys
from aegis_tools.kernel.ringbuf import open_ring
ring, poll = open_ring(sys.argv[1]), select.poll()
poll.register(ring, select.POLLIN)
print("up", flush=True)
while True:
    poll.poll(1000)
    ring.read(512)
"""


class Used(NamedTuple):
    """Of one measurement: share of a core, KiB, events a second that there really were."""

    share: float
    own: int
    ring: int
    rate: float


@contextmanager
def agent(box: Sandbox) -> Iterator[tuple[subprocess.Popen[bytes], float]]:
    """Run the agent as a service manager does; yield it with the seconds from start to ready."""
    path = box.folder / "notify"
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as listener:
        listener.bind(str(path))
        listener.settimeout(60)
        began = time.perf_counter()
        process = subprocess.Popen(
            box.command("run", "--audit"), cwd=REPOSITORY, stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL, env={**box.environment, "NOTIFY_SOCKET": str(path)},
        )  # fmt: skip
        try:
            while b"READY=1" not in listener.recv(4096).split(b"\n"):
                pass
            yield process, time.perf_counter() - began
        finally:
            process.terminate()
            process.wait(30)
            path.unlink()


@contextmanager
def bare(box: Sandbox) -> Iterator[tuple[subprocess.Popen[bytes], float]]:
    """Run a process that only reads the ring."""
    command = [sys.executable, "-c", _BARE, str(box.pins.path("maps", "events"))]
    process = subprocess.Popen(command, cwd=REPOSITORY, stdout=subprocess.PIPE, env=box.environment)
    try:
        assert process.stdout is not None
        if not process.stdout.readline():
            raise SystemExit("the bare reader did not start")
        yield process, 0.0
    finally:
        process.terminate()
        process.communicate()


def touch_evenly(files: Sequence[Path], rate: int, seconds: float) -> int:
    """Open files in turn at an even pace; return how many opens it were."""
    if not rate:
        time.sleep(seconds)
        return 0
    began, done = time.monotonic(), 0
    while (now := time.monotonic() - began) < seconds:
        while done < now * rate:
            os.close(os.open(files[done % len(files)], os.O_RDONLY))
            done += 1
        time.sleep(max(0.0, done / rate - (time.monotonic() - began)))
    return done


def use(
    box: Sandbox, reader: Callable[..., object], files: Sequence[Path], rate: int, seconds: float
) -> Used:
    """Measure a reader while events come."""
    with reader(box) as (process, _):  # type: ignore[attr-defined]
        touch_evenly(files, rate, _SETTLE)
        cpu, began = cpu_seconds(process.pid), time.perf_counter()
        count = touch_evenly(files, rate, seconds)
        took, spent = time.perf_counter() - began, cpu_seconds(process.pid) - cpu
        if process.poll() is not None:
            raise SystemExit(f"the reader ended with {process.returncode}")
        memory = resident(process.pid)
    return Used(spent / took, memory.own, memory.ring, count / took)


def load_rows(box: Sandbox, files: Sequence[Path], rounds: int, seconds: float) -> list[Row]:
    """Return the rows of processor time and memory by events a second."""
    cases: dict[str, Callable[[], Used]] = {}
    for rate in RATES:
        cases[f"bare {rate}"] = partial(use, box, bare, files, rate, seconds)
        cases[f"many {rate}"] = partial(use, box, agent, files, rate, seconds)
        if rate:
            cases[f"one {rate}"] = partial(use, box, agent, files[:1], rate, seconds)
    found = in_turns(rounds, cases, warm_up=0)
    return [
        load_row(name, rate, found[f"{kind} {rate}"], found[f"bare {rate}"])
        for kind, name in (("many", f"{FILES:,} files in turn"), ("one", "one file, folded"))
        for rate in RATES
        if f"{kind} {rate}" in found
    ]


def load_row(name: str, rate: int, used: Sequence[Used], base: Sequence[Used]) -> Row:
    """Return one of them."""
    share = spread([each.share for each in used])
    below = spread([each.share for each in base])
    ratio = ratios([each.share for each in used], [each.share for each in base])
    own, ring = (spread([each[column] for each in used]) for column in (1, 2))
    met = share.median < CPU_AIM and own.high < MEMORY_AIM
    return {
        "what": name if rate else "nothing happens", "events/s": rate,
        "events_per_second": spread([each.rate for each in used]).to_dict(),
        "share_of_core": share.to_dict(), "bare_share_of_core": below.to_dict(),
        "to_bare": ratio.to_dict(), "own_kib": own.to_dict(), "ring_kib": ring.to_dict(),
        "met": met,
        "text": {
            "% of a core": share.text(100), "bare %": below.text(100), "agent / bare": ratio.text(),
            "own MB": own.text(1 / 1024, 1), "ring MB": ring.text(1 / 1024, 1),
            "aim met": "yes" if met else "NO",
        },
    }  # fmt: skip


def start_row(box: Sandbox, rounds: int) -> Row:
    """Return how long it takes from start to ready, against an interpreter that does nothing."""

    def start() -> float:
        with agent(box) as (_, seconds):
            return seconds

    def nothing() -> float:
        began = time.perf_counter()
        subprocess.run([sys.executable, "-c", "pass"], check=True, env=box.environment)
        return time.perf_counter() - began

    found = in_turns(rounds, {"start": start, "nothing": nothing})
    seconds, ratio = spread(found["start"]), ratios(found["start"], found["nothing"])
    return {
        "what": "start to ready", "s": seconds.to_dict(), "to_nothing": ratio.to_dict(),
        "text": {"result": f"{seconds.text(1000, 0)} ms, {ratio.text(1, 1)} of python -c pass"},
    }  # fmt: skip


def fill(files: Iterator[Path], ring: RingBuffer) -> None:
    """Cause events until half the ring is full, so that none is dropped."""
    while ring.pending < ring.size // 2:
        os.close(os.open(next(files), os.O_RDONLY))


def decode(box: Sandbox, live: Live, files: Sequence[Path], wanted: int) -> float:
    """Return the processor seconds an event takes from the kernel's ring to a line."""
    spent, turn = 0.0, itertools.cycle(files)
    with (
        open(os.devnull, "wb") as null,
        open_ring(box.pins.path("maps", "events")) as ring,
        open_pipeline(box.paths, live, [Output(null.fileno())]) as pipeline,
    ):
        while pipeline.events < wanted:
            fill(turn, ring)
            began = time.process_time()
            while records := ring.read(BATCH):
                pipeline.take(records)
            spent += time.process_time() - began
        events = pipeline.events
        if len(files) > 1 and pipeline.written < events * 0.9:
            raise SystemExit("these events were to have a line each")
    return spent / events


def dumps(box: Sandbox, wanted: int) -> float:
    """Return the processor seconds that json.dumps alone takes for a dict like an event's."""
    event = {
        "time": "2026-01-01T00:00:00.000000000Z", "host": "web1", "action": "AUDIT",
        "rule": "path:/srv/x", "bundle": "ab" * 32, "signers": ["ops"], "operation": "read",
        "reason": "audit-mode", "path": str(box.folder), "pid": 1, "tid": 1, "ppid": 1, "uid": 0,
        "gid": 0, "comm": "python3", "parent_comm": "bash", "cgroup": "/system.slice/x.service",
        "unit": "x.service", "exe": sys.executable, "hook": "syscall", "ino": 1, "dev": "0:1",
    }  # fmt: skip
    began = time.process_time()
    for _ in range(wanted):
        json.dumps(event)
    return (time.process_time() - began) / wanted


def decode_rows(box: Sandbox, files: Sequence[Path], rounds: int) -> list[Row]:
    """Return how many events a second one core takes from the ring to lines."""
    rows: list[Row] = []
    with Live(box.pins) as live:
        cases: dict[str, Callable[[], float]] = {
            "dumps": partial(dumps, box, DECODED),
            f"{FILES:,} files in turn": partial(decode, box, live, files, DECODED),
            "one file, folded": partial(decode, box, live, files[:1], DECODED),
        }
        found = in_turns(rounds, cases)
    for name in list(cases)[1:]:
        rate = spread([1 / each for each in found[name]])
        ratio = ratios(found[name], found["dumps"])
        met = rate.median > DECODE_AIM
        text = f"{rate.text(1e-3, 0)} k events/s a core, {ratio.text()} of json.dumps"
        rows.append({"what": f"ring to line: {name}", "per_second": rate.to_dict(),
                     "to_json_dumps": ratio.to_dict(), "met": met,
                     "text": {"result": text, "aim met": "yes" if met else "NO"}})  # fmt: skip
    return rows


def run(rounds: int, seconds: float) -> tuple[list[Row], list[str]]:
    """Measure everything; return the results and what to know about them."""
    with sandbox() as box:
        files = [box.folder / f"f{number}" for number in range(FILES)]
        for path in files:
            path.touch()
        apply(box, box.bundle([str(path) for path in files], "deny_path"))
        rows = load_rows(box, files, rounds, seconds)
        rows.append(start_row(box, max(5, rounds)))
        rows += decode_rows(box, files, max(5, rounds))
        notes = ["aims: under 2 % of a core, under 35 MB without the ring, over 100 k events/s; "
                 "each page of the ring counts twice, as it is mapped"]  # fmt: skip
        if box.pins.is_fallback():
            notes.append("LSM programs cannot be loaded here: measured with the audit fallback, "
                         "which also looks at every system call of the agent")  # fmt: skip
    return rows, notes


def main() -> None:
    """Run from the command line."""
    parser = arguments(__doc__, rounds=3)
    parser.add_argument("--seconds", type=float, default=5.0, help="default: %(default)s")
    options = parser.parse_args()
    if os.geteuid():
        sys.exit("benchmarks need root")
    rows, notes = run(options.rounds, options.seconds)
    report(rows, _COLUMNS, notes, as_json=options.json)


if __name__ == "__main__":
    run_main(main)
