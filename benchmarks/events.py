"""The agent's part: events decoded and folded a second on one core, and how long a query takes.

Needs no kernel: records are made as the kernel makes them. With ``--journal DIR`` a query is made
of journal files as well (of aegisbpf.service).
"""

from __future__ import annotations

import os
import random
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from subprocess import DEVNULL, PIPE, Popen

from aegis_tools.agent.decode import Decoder
from aegis_tools.agent.enrich import Bundle, Bundles
from aegis_tools.agent.fold import Fold
from aegis_tools.agent.names import Places
from aegis_tools.agent.pipeline import Pipeline
from aegis_tools.agent.sinks import Output
from aegis_tools.kernel.layout import EVENT, EVENT_PATH, FILE_EVENT_TAIL
from aegis_tools.kernel.mountpaths import MountPaths
from aegis_tools.kernel.mounts import read_mounts
from benchmarks import measure

EVENTS = 100_000
DAY = 500_000
BATCH = 512
DIGEST = "abcd" * 16
KINDS = {
    "the same open again and again": (1, 1),
    "200 files, 20 processes": (200, 20),
    "every event another file": (10**9, 20),
    "every event another file and process name": (10**9, 10**9),
}


def record(number: int, files: int, names: int, dev: int, rule: int) -> bytes:
    """Return a struct file_event."""
    path = b"file%d\0data\0app\0srv\0" % (number % files)
    head = EVENT.pack(
        10**15 + number * 1000, 5, number % 30000, number % 30000, 1, dev, 1000, 100,
        100 + number % 30, 1 + rule, int.from_bytes(bytes.fromhex(DIGEST)[:8], "little"),
        1, 0, 2, 0, 0, 0, 0, b"", b"proc%d" % (number % names), b"bash",
    )  # fmt: skip
    return head + FILE_EVENT_TAIL.pack(len(path), 0) + path.ljust(EVENT_PATH, b"\0")


def decoder() -> Decoder:
    """Return a decoder that looks names up as the agent's does."""
    return Decoder(
        rule=lambda uid: f"rule-{uid}",
        place=Places(lambda number: f"/system.slice/service{number}.service").get,
        locate=MountPaths(read_mounts, time.monotonic).locate,
        bundle=Bundles(lambda _: Bundle(DIGEST, ("ops",)), time.monotonic).get,
        host="web1",
    )


def rate(records: Sequence[bytes], *, interval: float) -> float:
    """Return the events a second of processor time that go from records to written lines."""
    with open(os.devnull, "wb") as sink:
        pipeline = Pipeline(
            decoder(), Fold(time.monotonic, interval=interval), [Output(sink.fileno())]
        )
        began = time.process_time()
        for at in range(0, len(records), BATCH):
            pipeline.take(records[at : at + BATCH])
        pipeline.close()
        spent = time.process_time() - began
    assert pipeline.events == len(records)
    return len(records) / spent


def rates(rounds: int) -> list[measure.Row]:
    """Return the rows of what is decoded a second."""
    dev = read_mounts()[0].dev
    rows = []
    for name, (files, names) in KINDS.items():
        records = [record(n, files, names, dev, n % 20 if files > 1 else 0) for n in range(EVENTS)]
        cases: dict[str, Callable[[], float]] = {
            "folded": lambda r=records: rate(r, interval=10.0),  # type: ignore[misc]
            "unfolded": lambda r=records: rate(r, interval=0.0),  # type: ignore[misc]
        }
        found = {case: measure.spread(v) for case, v in measure.in_turns(rounds, cases).items()}
        rows.append(
            {
                "what": name,
                **{f"{case}_per_second": each.to_dict() for case, each in found.items()},
                "text": {
                    f"{case}_per_second": each.text(scale=1e-3, digits=0) + " k"
                    for case, each in found.items()
                },
            }
        )
    return rows


def write_day(path: Path) -> None:
    """Write 24 hours' worth of events: 500,000, of 200 rules, 2,000 files, 40 processes."""
    source = random.Random(1)
    made = decoder()
    made.offset_ns = time.time_ns() - 86400 * 10**9 - 10**15
    dev = read_mounts()[0].dev
    step = 86400 * 10**6 // DAY
    with path.open("wb") as file:
        for number in range(DAY):
            raw = bytearray(record(source.randrange(2000), 2000, 40, dev, source.randrange(200)))
            raw[:8] = (10**15 + number * step * 1000).to_bytes(8, "little")
            file.write(made.line(bytes(raw)))
    path.chmod(0o640)


def query(*argv: str) -> tuple[float, int, int]:
    """Return seconds, lines printed and the highest resident memory in KiB of a query."""
    began = time.monotonic()
    program = [sys.executable, "-m", "aegis_tools", "events", "--since", "25h", *argv]
    process = Popen(program, stdout=PIPE, stderr=DEVNULL)
    assert process.stdout is not None
    lines = sum(
        piece.count(b"\n") for piece in iter(lambda: os.read(process.stdout.fileno(), 1 << 20), b"")
    )
    process.stdout.close()
    _, status, usage = os.wait4(process.pid, 0)
    process.returncode = status
    return time.monotonic() - began, lines, usage.ru_maxrss


def queries(rounds: int, where: Sequence[str], label: str) -> list[measure.Row]:
    """Return the rows of how long queries take."""
    cases = {
        "one rule of 200": ("--rule", "rule-7", "--json"),
        "one file of 2,000": ("--path", "*/data/file99", "--json"),
        "the last hour": ("--since", "1h", "--json"),
        "--top": ("--top",),
        "all of it, --json": ("--json",),
    }
    found = measure.in_turns(
        rounds, {name: lambda a=argv: query(*where, *a) for name, argv in cases.items()}
    )  # type: ignore[misc]
    rows = []
    for name, results in found.items():
        seconds = measure.spread([result[0] for result in results])
        rows.append(
            {
                "what": f"{label}: {name}",
                "seconds": seconds.to_dict(),
                "lines": results[0][1],
                "rss_kib": max(result[2] for result in results),
                "text": {"seconds": seconds.text()},
            }
        )
    return rows


def main() -> None:
    parser = measure.arguments(__doc__, rounds=5)
    parser.add_argument("--journal", metavar="DIR", default="", help="journal files to query")
    options = parser.parse_args()
    rows = []
    # First, while this process is small: a child's highest memory counts from its fork on.
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "events.jsonl"
        write_day(path)
        rows += queries(options.rounds, ("--file", str(path)), "file")
    if options.journal:
        rows += queries(options.rounds, ("--journal-dir", options.journal), "journal")
    measure.report(
        [*rates(options.rounds), *rows],
        ("what", "folded_per_second", "unfolded_per_second", "seconds", "lines", "rss_kib"),
        (f"{DAY:,} events in 24 hours; rates are per second of processor time, on one core",),
        as_json=options.json,
    )


if __name__ == "__main__":
    measure.run_main(main)
