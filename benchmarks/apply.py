"""Applying a signed policy, from the command line to the flip, against bpftool.

    python -m benchmarks.apply [--json] [--rounds N] [--sizes 1024,8192,65536]

Measured is the whole process: interpreter start, verification, resolving, plan, commit, records.
``flip`` is the time until the config map names the new slot, seen by a thread here that looks
every half millisecond; ``exit`` until the process has ended. Compared with it, in turns:

* ``bpftool batch file`` of the same number of entries, of the same key and value size, into a
  fresh hash map of the same kind: one map, no policy, no check, no record;
* one ``bpftool map update`` an entry, timed on a sample and multiplied.

``cpu`` is the processor time of the process, user and system, as a ratio to that of bpftool: on a
busy machine it says more than the time that passed.
"""

from __future__ import annotations

import os
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

from aegis_tools.control.live import Live
from aegis_tools.kernel.layout import SPECS
from aegis_tools.kernel.pins import FALLBACK_PROGRAM
from benchmarks.measure import (
    Row,
    arguments,
    children_cpu,
    in_turns,
    interval,
    ratios,
    report,
    run_main,
    slope,
    spread,
)
from benchmarks.sandbox import Sandbox, sandbox

SAMPLE = 300
_LOOK = 0.0005
_MAPS = {"inode": "deny_inode_map", "path": "deny_path_map"}
_SECTIONS = {"inode": "deny_inode", "path": "deny_path"}
_COLUMNS = ("rules", "n", "state", "flip ms", "exit ms", "batch ms", "flip / batch",
            "cpu ms", "batch cpu ms", "cpu / batch", "one by one")  # fmt: skip


class Timing(NamedTuple):
    """Seconds from the start of a process to the flip and to its end, and of processors."""

    flip: float
    exit: float
    cpu: float


class Watch:
    """Looks at the active slot until it is another."""

    def __init__(self, live: Live) -> None:
        self._live = live
        self._before = live.slot
        self._over = threading.Event()
        self.flipped = 0.0
        self._thread = threading.Thread(target=self._look)
        self._thread.start()

    def _look(self) -> None:
        while not self._over.wait(_LOOK):
            if self._live.slot != self._before:
                self.flipped = time.perf_counter()
                return

    def stop(self) -> None:
        self._over.set()
        self._thread.join()


def timed_apply(box: Sandbox, live: Live, lines: list[str], section: str) -> Timing:
    """Apply a signed policy over an empty one."""
    apply(box, box.bundle((), section))
    bundle = box.bundle(lines, section)
    watch = Watch(live)
    cpu, start = children_cpu(), time.perf_counter()
    try:
        apply(box, bundle)
        end = time.perf_counter()
    finally:
        watch.stop()
    if not watch.flipped:
        raise SystemExit("the policy was applied, but the slot never flipped")
    return Timing(watch.flipped - start, end - start, children_cpu() - cpu)


def apply(box: Sandbox, bundle: Path) -> None:
    done = box.run("policy", "apply", str(bundle))
    if done.returncode:
        raise SystemExit(f"policy apply failed: {done.stderr.decode()}")


class Bpftool:
    """The same number of entries by bpftool, into a fresh map of the same kind."""

    def __init__(self, box: Sandbox, kind: str, count: int) -> None:
        spec = SPECS[_MAPS[kind]]
        self._pin = box.paths.bpffs / "bench_map"
        self._create = ["bpftool", "map", "create", str(self._pin), "type", "hash",
                        "key", str(spec.key_size), "value", str(spec.value_size),
                        "entries", str(spec.capacity), "name", "bench", "flags", "1"]  # fmt: skip
        self._sizes = spec.key_size, spec.value_size
        self._file = box.folder / f"batch_{kind}_{count}"
        with self._file.open("w") as file:
            file.writelines(" ".join(self.update(number)) + "\n" for number in range(count))

    def update(self, number: int) -> list[str]:
        key, value = self._sizes
        words = [str(byte) for byte in number.to_bytes(8, "little") + bytes(key - 8)]
        return ["map", "update", "pinned", str(self._pin), "key", *words,
                "value", *["0"] * value]  # fmt: skip

    @contextmanager
    def fresh(self) -> Iterator[None]:
        subprocess.run(self._create, check=True)
        try:
            yield
        finally:
            self._pin.unlink()

    def batch(self) -> Timing:
        """Time ``bpftool batch file``."""
        command = ["bpftool", "batch", "file", str(self._file)]
        with self.fresh():
            cpu, start = children_cpu(), time.perf_counter()
            subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
            took = time.perf_counter() - start
            return Timing(took, took, children_cpu() - cpu)

    def one_by_one(self, count: int) -> float:
        """Return the seconds of a call, from a sample."""
        with self.fresh():
            start = time.perf_counter()
            for number in range(count):
                subprocess.run(["bpftool", *self.update(number)], check=True)
            return (time.perf_counter() - start) / count


def inode_lines(count: int) -> list[str]:
    """Return inode rules of files that do not exist: their number decides, nothing looks."""
    return [f"{250 << 20 | 7}:{1_000_000 + number}" for number in range(count)]


def path_lines(folder: Path, count: int) -> list[str]:
    """Make ``count`` files, 1,024 in a folder, and return their path rules."""
    lines = []
    for number in range(count):
        parent = folder / f"d{number >> 10:03}"
        if not number & 1023:
            parent.mkdir(parents=True, exist_ok=True)
        path = parent / f"file-{number:05}"
        os.close(os.open(path, os.O_CREAT | os.O_WRONLY, 0o600))
        lines.append(str(path))
    return lines


def look_like_lsm(box: Sandbox) -> None:
    """Take the fallback's program away: the maps are then filled as with the LSM hooks.

    The hooks would be attached as well, but none of them runs for what an apply does with
    O_PATH and bpf(2).
    """
    for part in ("links", "progs"):
        box.pins.remove(part, FALLBACK_PROGRAM)


def measure(
    box: Sandbox, live: Live, kind: str, lines: list[str], *, state: str, rounds: int
) -> Row:
    """Measure one kind and number of rules."""
    bpftool = Bpftool(box, kind, len(lines))
    cases: dict[str, Callable[[], Timing]] = {
        "ours": lambda: timed_apply(box, live, lines, _SECTIONS[kind]),
        "batch": bpftool.batch,
    }
    found = in_turns(rounds, cases)
    figures = {
        "flip": [timing.flip for timing in found["ours"]],
        "exit": [timing.exit for timing in found["ours"]],
        "batch": [timing.exit for timing in found["batch"]],
        "cpu": [timing.cpu for timing in found["ours"]],
        "batch cpu": [timing.cpu for timing in found["batch"]],
    }
    row: Row = {"rules": kind, "n": len(lines), "state": state, "text": {}}
    for name, values in figures.items():
        row[f"{name.replace(' ', '_')}_s"] = spread(values).to_dict()
        row["text"][f"{name} ms"] = spread(values).text(1000, 0)
    for name, base in (("flip", "batch"), ("exit", "batch"), ("cpu", "batch cpu")):
        ratio = ratios(figures[name], figures[base])
        parts = zip(figures[name], figures[base], strict=True)
        low, high = interval([a / b for a, b in parts])
        row[f"{name}_to_batch"] = {**ratio.to_dict(), "low_95": low, "high_95": high}
        row["text"][f"{name} / batch"] = ratio.text()
    return row


def add_one_by_one(box: Sandbox, row: Row) -> None:
    """Add the cost of one bpftool call an entry, from a sample."""
    each = Bpftool(box, row["rules"], 0).one_by_one(SAMPLE)
    row["one_by_one_s_extrapolated"] = each * row["n"]
    row["text"]["one by one"] = f"{each * row['n']:.0f} s, extrapolated from {SAMPLE}"


def run(sizes: list[int], rounds: int) -> tuple[list[Row], list[str]]:
    """Measure everything; return the results and what to know about them."""
    rows: list[Row] = []
    with sandbox() as box, Live(box.pins) as live:
        fallback = box.pins.is_fallback()
        states = ["audit fallback", "as on LSM"] if fallback else ["LSM"]
        lines = {"inode": inode_lines(max(sizes)), "path": path_lines(box.folder / "f", max(sizes))}
        for state in states:
            if state == "as on LSM":
                look_like_lsm(box)
            for kind in _MAPS:
                for size in sizes:
                    rows.append(
                        measure(box, live, kind, lines[kind][:size], state=state, rounds=rounds)
                    )
        for row in rows:
            if row["n"] == max(sizes) and row["state"] == states[-1]:
                add_one_by_one(box, row)
    notes = [_linearity(rows, state, kind) for state in states for kind in _MAPS]
    if fallback:
        notes.append("LSM programs cannot be loaded here: the maps and the commit are real, the "
                     "audit fallback fills one map more for path rules and runs on every system "
                     "call; 'as on LSM' is without it")  # fmt: skip
    return rows, notes


def _linearity(rows: list[Row], state: str, kind: str) -> str:
    points = [(r["n"], r["cpu_s"]["median"]) for r in rows
              if r["state"] == state and r["rules"] == kind]  # fmt: skip
    if len(points) < 2:
        return f"{kind} rules, {state}: one size only"
    (small, fixed), *_, (large, longest) = points
    each = (longest - fixed) / (large - small) * 1e6
    text = f"{kind} rules, {state}: {each:.2f} µs of processor a rule"
    if len(points) > 2:
        base = fixed - each * small / 1e6
        above = [(n, t - base) for n, t in points if t > base]
        text += f" above {base * 1000:.0f} ms; grows as n^{slope(*zip(*above, strict=True)):.2f}"
    return text


def main() -> None:
    """Run from the command line."""
    parser = arguments(__doc__, rounds=5)
    parser.add_argument("--sizes", default="1024,8192,65536")
    options = parser.parse_args()
    if os.geteuid():
        sys.exit("benchmarks need root")
    rows, notes = run([int(n) for n in options.sizes.split(",")], options.rounds)
    report(rows, _COLUMNS, notes, as_json=options.json)


if __name__ == "__main__":
    run_main(main)
