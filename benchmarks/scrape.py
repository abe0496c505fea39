"""What a scrape costs: by the server that keeps the maps open, and as a command of its own.

    python -m benchmarks.scrape [--json] [--rounds N]

With 1 rule and with 65,536, each having been hit or none of them: names and hits are what grows.
``first`` is a scrape that also compares the live maps with their digest, as the server does at
most once a minute; ``next`` is every other. ``share`` is what scrapes every 15 s take of a core.
"""

from __future__ import annotations

import subprocess
import time
import urllib.request
from pathlib import Path
from typing import NamedTuple

from prometheus_client import CollectorRegistry

from aegis_tools.agent.metrics import exposition, registry_of
from aegis_tools.agent.scrape import Scraper
from aegis_tools.control.live import Live
from aegis_tools.kernel.layout import RULE_HITS
from aegis_tools.kernel.maps import Map
from aegis_tools.kernel.pins import Pins
from benchmarks.apply import apply, inode_lines
from benchmarks.measure import Row, arguments, children_cpu, report, run_main, spread
from benchmarks.sandbox import REPOSITORY, Sandbox, sandbox

EVERY = 15.0
CHECK_EVERY = 60.0
_COLUMNS = ("rules live", "of them hit", "first ms", "next ms", "command ms", "bytes",
            "share", "memory MiB")  # fmt: skip


class Cost(NamedTuple):
    """Processor seconds of one kind of scrape, and the bytes it gave."""

    seconds: float
    size: int


def timed(registry: CollectorRegistry) -> Cost:
    """Return what a page costs."""
    start = time.process_time()
    text = exposition(registry)
    return Cost(time.process_time() - start, len(text))


def command(box: Sandbox) -> float:
    """Return the processor seconds of ``aegisbpf metrics``."""
    before = children_cpu()
    done = box.run("metrics")
    if done.returncode:
        raise SystemExit(f"metrics failed: {done.stderr.decode()}")
    return children_cpu() - before


def hit_all(box: Sandbox) -> int:
    """Let every rule have been hit, as the hooks would write it; return how many."""
    with Live(Pins(box.paths.pins)) as live:
        uids = list(live.entries("rules"))
        live.map("rule_hits").fill({uid: RULE_HITS.pack(1, 2, 3) for uid in uids})
    return len(uids)


def server_memory(box: Sandbox) -> float:
    """Return the MiB that a server holds after some scrapes."""
    process = subprocess.Popen(
        box.command("metrics", "--listen", "127.0.0.1:0"),
        cwd=REPOSITORY, env=box.environment, stderr=subprocess.PIPE, text=True,
    )  # fmt: skip
    try:
        assert process.stderr is not None
        url = process.stderr.readline().split()[-1]
        for _ in range(5):
            with urllib.request.urlopen(url, timeout=60) as answer:
                answer.read()
            time.sleep(0.3)  # a page is shown again for a quarter of a second
        status = Path(f"/proc/{process.pid}/status").read_text(encoding="ascii")
        return int(status.split("VmRSS:")[1].split()[0]) / 1024
    finally:
        process.terminate()
        process.communicate(timeout=30)


def measure(box: Sandbox, rules: int, hit: int, rounds: int) -> Row:
    """Measure one state."""
    firsts, nexts, commands = [], [], []
    size = 0
    for _ in range(rounds):
        with Scraper(box.paths) as scraper:
            registry = registry_of(scraper.read)
            firsts.append(timed(registry).seconds)
            for _ in range(3):
                cost = timed(registry)
                nexts.append(cost.seconds)
                size = cost.size
        commands.append(command(box))
    first, following, whole = spread(firsts), spread(nexts), spread(commands)
    check = max(first.median - following.median, 0)
    share = following.median / EVERY + check / max(CHECK_EVERY, 100 * check)
    return {
        "rules live": rules, "of them hit": hit, "first": first.to_dict(),
        "next": following.to_dict(), "command": whole.to_dict(), "bytes": size, "share": share,
        "memory MiB": round(server_memory(box), 1),
        "text": {
            "first ms": first.text(1000, 1), "next ms": following.text(1000, 1),
            "command ms": whole.text(1000, 0), "share": f"{share:.3%}",
        },
    }  # fmt: skip


def main() -> None:
    parser = arguments(__doc__, 5)
    options = parser.parse_args()
    rows = []
    with sandbox() as box:
        for count in (1, 65536):
            apply(box, box.bundle(inode_lines(min(count, 65535)), "deny_inode"))
            rows.append(measure(box, count, 0, options.rounds))
            rows.append(measure(box, count, hit_all(box), options.rounds))
            clear(box)
    notes = [
        "processor time; of this process, but that of the command with starting an interpreter",
        "memory is what a server holds (resident) after five scrapes",
    ]
    report(rows, _COLUMNS, notes, as_json=options.json)


def clear(box: Sandbox) -> None:
    """Forget all hits."""
    with Map.pinned(box.pins.path("maps", "rule_hits")) as hits:
        for uid, _ in list(hits.items()):
            hits.delete(uid)


if __name__ == "__main__":
    run_main(main)
