"""``aegisbpf stats``."""

from __future__ import annotations

import argparse
import time

from aegis_tools.cli.output import App
from aegis_tools.control.live import Live
from aegis_tools.control.stats import Snapshot, read_snapshot
from aegis_tools.kernel.layout import Stat
from aegis_tools.kernel.pins import Pins

DETAILS = {
    Stat.TERM: "Killed with SIGTERM",
    Stat.KILL: "Killed with SIGKILL",
    Stat.INT: "Killed with SIGINT",
    Stat.CONNECT_BLOCKS: "Blocked connects",
    Stat.BIND_BLOCKS: "Blocked binds",
    Stat.SEND_BLOCKS: "Blocked sends",
    Stat.CGROUP_ALLOWED: "Allowed by cgroup",
    Stat.SURVIVAL_ALLOWED: "Spared for survival",
    Stat.SAMPLED_OUT: "Sampled out",
    Stat.HITS_LOST: "Hits without a rule counter",
}


def build(parser: argparse.ArgumentParser) -> None:
    """Add the options of the command."""
    parser.add_argument("--detailed", action="store_true", help="all counters, and each hook")
    parser.epilog = "example: aegisbpf stats | grep 'map.*entries'"
    parser.set_defaults(run=run)


def run(app: App, arguments: argparse.Namespace) -> int:
    """Print one snapshot."""
    with Live(Pins(app.paths.pins)) as live:
        snapshot = read_snapshot(live, app.paths)
    app.show(snapshot.to_dict(), lambda: as_text(snapshot, detailed=arguments.detailed))
    return 0


def as_text(snapshot: Snapshot, *, detailed: bool) -> str:
    """Return the snapshot for a person, and for grep."""
    count = snapshot.counters
    lines = [
        f"Mode: {snapshot.posture.mode} ({snapshot.posture.meaning})",
        policy_line(snapshot),
        f"Total blocks: {count[Stat.BLOCKS]}",
        f"Total audits: {count[Stat.AUDITS]}",
        f"Events sent: {count[Stat.EVENTS]}",
        f"Ringbuf drops: {count[Stat.RINGBUF_DROPS]}",
    ]
    if detailed:
        lines += [f"{label}: {count[stat]}" for stat, label in DETAILS.items()]
        lines.append(f"Ringbuf size: {snapshot.ring_bytes} bytes")
        lines.append(f"Event sample rate: {snapshot.sample_rate:.6g}")
    lines.append(snapshot.cpu_line())
    lines += [use.line() for use in snapshot.maps]
    if detailed:
        lines += [
            f"{program.name}: {program.runs} runs, {program.nanoseconds} ns"
            for program in snapshot.programs
        ]
    return "\n".join(lines)


def policy_line(snapshot: Snapshot) -> str:
    """Return which policy is live."""
    info = snapshot.info
    if not any(info.bundle):
        return "Policy: none applied"
    when = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(info.applied_ns // 1_000_000_000))
    serial = f"serial {info.serial}" if info.serial else "unsigned"
    return f"Policy: {info.bundle.hex()[:16]}, {serial}, applied {when}"
