"""Work whose rate is measured: sysbench, fio, iperf3, and single system calls.

Files are on a disk that is named, or on an ext4 of their own on a loop disk in memory: the whole
way down to block requests is gone, and no disk's pace hides what is added to it. The network is the
loopback of a namespace of its own, once at the pace of a link and once as fast as it goes. Each run
is one short program, ended with whoever started it.
"""

from __future__ import annotations

import contextlib
import functools
import json
import os
import re
import shutil
import subprocess
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import NamedTuple

from benchmarks.calls import COMPILER, Calls, build
from benchmarks.process import cpu_seconds
from benchmarks.programs import ProgramError, first_cpu, last_cpu, on_cpu, output_of

DISK = 384 << 20
FILE = 64 << 20
PACKAGES = {"sysbench": "sysbench", "fio": "fio", "iperf3": "iperf3", COMPILER: COMPILER,
            "mke2fs": "e2fsprogs", "ip": "iproute2"}  # fmt: skip
_LINK = ("tc", "qdisc", "add", "dev", "lo", "root", "tbf",
         "rate", "1gbit", "burst", "256k", "latency", "20ms")  # fmt: skip


class Done(NamedTuple):
    """What a run came to.

    Attributes:
        rate: Work in a second.
        amount: Work of the whole run; 0 where the rate is the best part's.
    """

    rate: float
    amount: float = 0.0


@dataclass(frozen=True)
class Workload:
    """Something whose rate is measured.

    Attributes:
        name: For tables.
        kind: ``cpu``, ``io``, ``network`` or ``calls``: which limit it is held against.
        unit: Of the rate.
        run: Works for about so many seconds.
        cpu: Returns the processor seconds until now of those who work and are no ended children.
    """

    name: str
    kind: str
    unit: str
    run: Callable[[float], Done]
    cpu: Callable[[], float] = float


def missing() -> list[str]:
    """Return the Debian packages that are needed and not there."""
    return sorted({package for name, package in PACKAGES.items() if not shutil.which(name)})


@contextlib.contextmanager
def workloads(folder: Path, disk: Path | None = None) -> Iterator[dict[str, Workload]]:
    """Make ready what all of them need; yield them by name.

    Args:
        folder: An empty folder in memory.
        disk: A folder on the disk to measure instead of one in memory.
    """
    with contextlib.ExitStack() as stack:
        files = stack.enter_context(_files(folder, disk))
        enter = stack.enter_context(_namespace())
        found = [
            Workload("sysbench cpu", "cpu", "events/s", _sysbench_cpu),
            *_io(files, in_memory=disk is None),
            *stack.enter_context(_throughput(enter)),
            *_calls(folder, files, enter),
        ]
        yield {one.name: one for one in found}


def figure(text: str, label: str) -> float:
    """Return the number after ``label:`` in what sysbench says. Raises ProgramError."""
    found = re.search(rf"{re.escape(label)}:\s*([0-9.]+)", text)
    if not found:
        raise ProgramError(f"sysbench did not say {label!r}")
    return float(found[1])


def _sysbench_cpu(seconds: float) -> Done:
    threads, whole = len(os.sched_getaffinity(0)), _whole(seconds)
    text = output_of(["sysbench", "cpu", f"--threads={threads}", f"--time={whole}", "run"])
    rate = figure(text, "events per second")
    return Done(rate, rate * whole)


def _whole(seconds: float) -> int:
    """Sysbench and iperf3 know no parts of a second."""
    return max(1, round(seconds))


@contextlib.contextmanager
def _files(folder: Path, disk: Path | None) -> Iterator[Path]:
    if disk is not None:
        own = disk / f"aegis-bench-{os.getpid()}"
        own.mkdir()
        try:
            yield own
        finally:
            shutil.rmtree(own)
        return
    image, mounted = folder / "image", folder / "ext4"
    mounted.mkdir()
    with image.open("wb") as file:
        file.truncate(DISK)
    subprocess.run(["modprobe", "--quiet", "--all", "loop", "ext4"], check=False)
    output_of(["mke2fs", "-q", "-F", "-t", "ext4", str(image)])
    output_of(["mount", "-o", "loop", str(image), str(mounted)])
    try:
        yield mounted
    finally:
        output_of(["umount", str(mounted)])
        image.unlink()


def _io(files: Path, *, in_memory: bool) -> Iterator[Workload]:
    """Yield the work on files; held against a limit where there is a disk that it waits for."""
    for one in (_sequential(files), _random(files, "read"), _random(files, "write")):
        yield replace(one, name=f"{one.name}, in memory", kind="calls") if in_memory else one


def _sequential(files: Path) -> Workload:
    folder = files / "sysbench"
    folder.mkdir()
    words = ["sysbench", "fileio", f"--file-total-size={FILE}", "--file-num=4",
             "--file-test-mode=seqwr"]  # fmt: skip
    output_of([*words, "prepare"], folder)

    def run(seconds: float) -> Done:
        whole = _whole(seconds)
        rate = figure(output_of([*words, f"--time={whole}", "run"], folder, last_cpu()),
                      "written, MiB/s")  # fmt: skip
        return Done(rate, rate * whole)

    return Workload("sysbench fileio seqwr", "io", "MiB/s", run)


def _random(files: Path, way: str) -> Workload:
    def run(seconds: float) -> Done:
        [job] = _fio(
            [f"--name={way}", f"--filename={files / 'fio'}", f"--size={FILE}", f"--rw=rand{way}",
             "--bs=4k", "--direct=1", "--ioengine=psync", "--time_based",
             f"--runtime={_milliseconds(seconds)}"],
            last_cpu(),
        )  # fmt: skip
        return Done(job[way]["iops"], job[way]["total_ios"])

    return Workload(f"fio 4k random {way}", "io", "requests/s", run)


def _fio(words: list[str], cpu: int | None) -> list[dict[str, dict[str, float]]]:
    text = output_of(["fio", "--output-format=json", "--randrepeat=1", *words], cpu=cpu)
    try:
        # Before it may come lines for a person.
        jobs: list[dict[str, dict[str, float]]] = json.loads(text[text.index("{") :])["jobs"]
    except (ValueError, LookupError) as error:
        raise ProgramError(f"fio said something else: {error}") from None
    return jobs


def _milliseconds(seconds: float) -> str:
    return f"{round(seconds * 1000)}ms"


@contextlib.contextmanager
def _namespace() -> Iterator[list[str]]:
    """Make a network namespace; yield what to put before a command to run it there."""
    holder = subprocess.Popen(["unshare", "--net", "sleep", "infinity"])
    try:
        enter = ["nsenter", f"--net=/proc/{holder.pid}/ns/net"]
        _until(lambda: _leads_elsewhere(holder.pid), "a network namespace")
        output_of([*enter, "ip", "link", "set", "lo", "up"])
        yield enter
    finally:
        holder.kill()
        holder.wait()


def _leads_elsewhere(pid: int) -> bool:
    own, other = (Path(f"/proc/{who}/ns/net").readlink() for who in ("self", pid))
    return own != other


def _until(holds: Callable[[], bool], what: str, seconds: float = 30) -> None:
    end = time.monotonic() + seconds
    while not holds():
        if time.monotonic() > end:
            raise ProgramError(f"{what} does not get ready")
        time.sleep(0.01)


@contextlib.contextmanager
def _throughput(enter: Sequence[str]) -> Iterator[list[Workload]]:
    server = subprocess.Popen(
        [*on_cpu(first_cpu()), *enter, "iperf3", "--server"],
        stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, stdin=subprocess.DEVNULL,
    )  # fmt: skip
    listening = [*enter, "ss", "--tcp", "--listening", "--no-header", "--numeric"]

    def run(seconds: float) -> Done:
        text = output_of(
            [*enter, "iperf3", "--client", "127.0.0.1", "--time", str(_whole(seconds)), "--json"],
            cpu=last_cpu(),
        )
        received = json.loads(text)["end"]["sum_received"]
        return Done(received["bits_per_second"] / 1e9, received["bytes"])

    def run_on_link(seconds: float) -> Done:
        output_of([*enter, *_LINK])
        try:
            return run(seconds)
        finally:
            output_of([*enter, "tc", "qdisc", "delete", "dev", "lo", "root"])

    cpu = functools.partial(cpu_seconds, server.pid)
    try:
        _until(lambda: ":5201" in output_of(listening), "iperf3")
        yield [
            Workload("iperf3 TCP, 1 Gbit/s", "network", "Gbit/s", run_on_link, cpu),
            Workload("iperf3 TCP, no link", "calls", "Gbit/s", run, cpu),
        ]
    finally:
        server.terminate()
        server.wait()


def _calls(folder: Path, files: Path, enter: Sequence[str]) -> list[Workload]:
    own, path = build(folder), files / "byte"
    inside = replace(own, enter=tuple(enter))
    path.write_bytes(b"x")
    kinds = {"getppid": "g", "read of 1 byte": "r", "write of 1 byte": "w"}
    requests = functools.partial(_rate_of_calls, inside, "n", str(path))
    found = [Workload("small requests", "calls", "requests/s", requests)]
    for name, letter in kinds.items():
        run = functools.partial(_rate_of_calls, own, letter, str(path))
        found.append(Workload(name, "calls", "calls/s", run))
    execute = functools.partial(_rate_of_programs, str(own.program))
    return [*found, Workload("exec", "calls", "programs/s", execute)]


def _rate_of_calls(calls: Calls, letter: str, path: str, seconds: float) -> Done:
    return Done(1 / calls.best(letter, path, seconds))


def _rate_of_programs(program: str, seconds: float, batch: int = 20) -> Done:
    best, end = float("inf"), time.perf_counter() + seconds
    while time.perf_counter() < end:
        start = time.perf_counter()
        for _ in range(batch):
            os.waitpid(os.posix_spawn(program, [program], {}), 0)
        best = min(best, time.perf_counter() - start)
    return Done(batch / best)
