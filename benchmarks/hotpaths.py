"""What user space does most often, timed; told in the form of Google Benchmark.

    aegisbpf_bench [--benchmark_format=json] [--benchmark_filter=REGEX] [--benchmark_repetitions=N]

Parsing, verifying, hashing, packing of keys, decoding and folding of events; a thousand of each a
run. Needs no privilege. The options have Google Benchmark's names and meanings. Repetitions are
made in turns, so that what disturbs the machine for a while disturbs all of them.
"""

from __future__ import annotations

import argparse
import itertools
import json
import os
import re
import socket
import statistics
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import NamedTuple

from aegis_tools.agent.fold import Fold
from aegis_tools.agent.pipeline import Pipeline
from aegis_tools.agent.sinks import Output
from aegis_tools.cli.types import positive
from aegis_tools.control.files import check_output, named, write_atomic
from aegis_tools.control.live import content_digest
from aegis_tools.control.resolve import file_entry, network_key
from aegis_tools.errors import UsageError
from aegis_tools.kernel.layout import INODE_KEY, NAME_KEY, uid_key
from aegis_tools.kernel.mounts import read_mounts
from aegis_tools.policy.bundle import make_bundle, open_bundle
from aegis_tools.policy.keys import PrivateKey
from aegis_tools.policy.model import Kind
from aegis_tools.policy.text import parse_text
from benchmarks.environment import environment
from benchmarks.events import decoder, record
from benchmarks.measure import Parser, Row, in_turns, pinned, run_main

ITEMS = 1000
_MOST = 10_000_000  # iterations
MOST_SECONDS = 3600
_UNITS = {"ns": 1e9, "us": 1e6, "ms": 1e3, "s": 1.0}
_AGGREGATES: dict[str, Callable[[Sequence[float]], float]] = {
    "mean": statistics.fmean, "median": statistics.median, "stddev": statistics.stdev,
}  # fmt: skip


class Timed(NamedTuple):
    """A repetition: seconds that passed and of processor time, of one iteration."""

    iterations: int
    real: float
    cpu: float


def subjects() -> dict[str, Callable[[], object]]:
    """Return what is timed, by name; each does :data:`ITEMS` of its work."""
    text = _policy(ITEMS)
    key = PrivateKey.generate()
    envelope = make_bundle(
        text, policy_name="bench.conf", serial=1, created=0, expires=None, keys=[key]
    ).to_bytes()
    ids = [f"path:/srv/app/data/file-{number}" for number in range(ITEMS)]
    entry = file_entry(uid_key(ids[0]), 7)
    entries = {INODE_KEY.pack(number, 1, 0): entry for number in range(ITEMS)}
    addresses = [f"10.{number >> 8}.{number & 255}.0/24" for number in range(ITEMS)]
    names = [b"file-%d" % number for number in range(ITEMS)]
    dev = read_mounts()[0].dev
    records = {files: [record(n, files, 20, dev, 0) for n in range(ITEMS)] for files in (1, 200)}
    return {
        "BM_ParsePolicy": lambda: parse_text(text.encode()),
        "BM_OpenBundle": lambda: open_bundle(envelope, [key.public], 1),
        "BM_HashRuleId": lambda: [uid_key(each) for each in ids],
        "BM_HashContent": lambda: content_digest({"deny_inode_map": entries}),
        "BM_PackInodeKey": lambda: [INODE_KEY.pack(number, 1, 0) for number in range(ITEMS)],
        "BM_PackNameKey": lambda: [NAME_KEY.pack(7, 1, len(name), name) for name in names],
        "BM_PackCidrKey": lambda: [network_key(Kind.CIDR, each) for each in addresses],
        "BM_DecodeEvent": lambda: _told(records[200], interval=0.0),
        "BM_FoldEvent": lambda: _told(records[1], interval=10.0),
    }


def _policy(count: int) -> str:
    lines = "\n".join(f"/srv/app/data/file-{number}" for number in range(count))
    return f"version=1\n[deny_path]\n{lines}\n"


def _told(records: Sequence[bytes], *, interval: float) -> None:
    with open(os.devnull, "wb") as sink:
        pipeline = Pipeline(
            decoder(), Fold(time.monotonic, interval=interval), [Output(sink.fileno())]
        )
        pipeline.take(list(records))
        pipeline.close()


def iterations_for(run: Callable[[], object], seconds: float) -> int:
    """Return how many runs take about so long; at least one."""
    count = 1
    while True:
        took = timed(run, count).real * count
        if took >= seconds or count >= _MOST:
            return count
        count = min(_MOST, max(count + 1, int(1.2 * count * seconds / max(took, 1e-9))))


def timed(run: Callable[[], object], iterations: int) -> Timed:
    """Time so many runs."""
    cpu, start = time.process_time(), time.perf_counter()
    for _ in range(iterations):
        run()
    real, spent = time.perf_counter() - start, time.process_time() - cpu
    return Timed(iterations, real / iterations, spent / iterations)


def measured(
    wanted: Mapping[str, Callable[[], object]], repetitions: int, seconds: float
) -> dict[str, list[Timed]]:
    """Time everything, in turns."""
    with pinned():
        cases = {
            name: partial(timed, run, iterations_for(run, seconds)) for name, run in wanted.items()
        }
        return in_turns(repetitions, cases, warm_up=0)


def rows_of(family: int, name: str, found: Sequence[Timed], unit: str) -> Iterator[Row]:
    """Yield a subject's results: its repetitions, and what they come to if there are some."""
    scale = _UNITS[unit]
    head = {
        "family_index": family, "per_family_instance_index": 0,
        "run_name": name, "repetitions": len(found), "threads": 1,
    }  # fmt: skip
    for number, each in enumerate(found):
        yield {
            "name": name, **head, "run_type": "iteration", "repetition_index": number,
            "iterations": each.iterations, "real_time": each.real * scale,
            "cpu_time": each.cpu * scale, "time_unit": unit,
            "items_per_second": ITEMS / max(each.cpu, 1e-12),
        }  # fmt: skip
    for what in _AGGREGATES if len(found) > 1 else ():
        real, cpu = (_AGGREGATES[what]([getattr(each, of) for each in found])
                     for of in ("real", "cpu"))  # fmt: skip
        yield {
            "name": f"{name}_{what}", **head, "run_type": "aggregate", "aggregate_name": what,
            "aggregate_unit": "time", "iterations": len(found), "real_time": real * scale,
            "cpu_time": cpu * scale, "time_unit": unit,
        }  # fmt: skip


def context(where: Row) -> Row:
    """Return Google Benchmark's context, and ours in it."""
    return {
        "date": where["date"], "host_name": socket.gethostname(),
        "executable": "aegisbpf_bench", "num_cpus": where["cpus"],
        "cpu_scaling_enabled": where["governor"] not in (None, "performance"), "caches": [],
        "load_avg": where["load_average"], "library_build_type": "release",
        "environment": where,
    }  # fmt: skip


def console(rows: Sequence[Row]) -> str:
    """Return the results for a person."""
    width = max((len(row["name"]) for row in rows), default=0)
    head = f"{'Benchmark':<{width}} {'Time':>13} {'CPU':>13} {'Iterations':>10}"
    line = "-" * len(head)
    told = [f"{row['name']:<{width}} {row['real_time']:>10,.0f} {row['time_unit']:<2} "
            f"{row['cpu_time']:>10,.0f} {row['time_unit']:<2} {row['iterations']:>10}"
            for row in rows]  # fmt: skip
    return "\n".join([line, head, line, *told]) + "\n"


def pattern(text: str) -> re.Pattern[str]:
    """Read the value of ``--benchmark_filter``."""
    try:
        return re.compile(text)
    except re.error as error:
        raise argparse.ArgumentTypeError(f"{text!r} is no regular expression: {error}") from None


def seconds(text: str) -> float:
    """Read the value of ``--benchmark_min_time``: ``0.5s``, as Google Benchmark has it, or 0.5."""
    try:
        found = float(text.removesuffix("s"))
    except ValueError:
        found = -1.0
    if not 0 <= found <= MOST_SECONDS:
        raise argparse.ArgumentTypeError(f"{text!r} are no seconds: 0.5s, at most {MOST_SECONDS}")
    return found


def parser() -> argparse.ArgumentParser:
    """Return the command line, in Google Benchmark's words."""
    made = Parser(prog="aegisbpf_bench", description=(__doc__ or "").splitlines()[0])
    made.add_argument("--benchmark_format", choices=("console", "json"), default="console")
    made.add_argument("--benchmark_filter", type=pattern, default=re.compile(""),
                      metavar="REGEX", help="only those whose name has a match")  # fmt: skip
    made.add_argument("--benchmark_repetitions", type=positive, default=1, metavar="N")
    made.add_argument("--benchmark_min_time", type=seconds, default=0.2, metavar="SECONDS",
                      help="of each repetition: 0.5s, or 0.5; default: %(default)s")  # fmt: skip
    made.add_argument("--benchmark_time_unit", choices=_UNITS, default="ns")
    made.add_argument("--benchmark_out", type=Path, metavar="FILE",
                      help="and write JSON there; a file is replaced")  # fmt: skip
    made.add_argument("--benchmark_list_tests", action="store_true")
    return made


def main() -> None:
    """Run from the command line."""
    options = parser().parse_args()
    if options.benchmark_out:
        check_output(options.benchmark_out, what="results")
    wanted = {f"{name}/{ITEMS}": run for name, run in subjects().items()}
    wanted = {name: run for name, run in wanted.items() if options.benchmark_filter.search(name)}
    if not wanted:
        raise UsageError(
            f"no benchmark matches {options.benchmark_filter.pattern!r}",
            hint="see: aegisbpf_bench --benchmark_list_tests",
        )
    if options.benchmark_list_tests:
        print("\n".join(wanted))
        return
    where = environment()
    found = measured(wanted, options.benchmark_repetitions, options.benchmark_min_time)
    every = [rows_of(family, name, each, options.benchmark_time_unit)
             for family, (name, each) in enumerate(found.items())]  # fmt: skip
    rows = list(itertools.chain.from_iterable(every))
    text = json.dumps({"context": context(where), "benchmarks": rows}, indent=1) + "\n"
    if options.benchmark_out:
        path = options.benchmark_out.absolute()
        write_atomic(path, text.encode(), what=f"results {named(path)}", mode=0o644)
    print(text if options.benchmark_format == "json" else console(rows), end="")


if __name__ == "__main__":
    run_main(main)
