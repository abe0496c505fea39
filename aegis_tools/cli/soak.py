"""``aegisbpf soak``: a long run that ends in a verdict."""

from __future__ import annotations

import argparse
from typing import TYPE_CHECKING, Any

from aegis_tools.cli import soak_report, types
from aegis_tools.cli.duration import parse_duration
from aegis_tools.cli.output import App, plain, table

if TYPE_CHECKING:
    from aegis_tools.soak.status import Status

SCENARIOS = ("shadow", "enforce", "stress")
WORKLOADS = ("none", "idle", "developer", "git", "web", "database", "stress")
DEAD = 1
"""Exit code of a row that says DAEMON_DEAD, as the seed's sampler ends."""


def build(parser: argparse.ArgumentParser) -> None:
    """Add the subcommands."""
    kinds = parser.add_subparsers(required=True, metavar="COMMAND", parser_class=type(parser))
    _build_start(kinds)
    status = kinds.add_parser("status", help="how far it is, what the last turn saw, the verdict")
    status.add_argument("id", metavar="ID", nargs="?", default="",
                        help="default: the running one, or else the newest")  # fmt: skip
    status.epilog = (
        "examples:\n  aegisbpf soak status\n  aegisbpf soak status --json | jq .left_seconds"
    )
    status.set_defaults(run=run_status)
    stop = kinds.add_parser("stop", help="end the running soak now; it is judged as it stands")
    stop.epilog = "example: aegisbpf soak stop"
    _dry_run(stop)
    stop.set_defaults(run=run_stop)
    listing = kinds.add_parser("list", help="all soaks of this host, newest first")
    listing.epilog = "example: aegisbpf soak list --json"
    listing.set_defaults(run=run_list)
    soak_report.build_report(
        kinds.add_parser("report", help="what a soak has shown, and its files")
    )
    soak_report.build_compare(kinds.add_parser("compare", help="two soaks beside each other"))
    _build_sample(kinds)
    parser.epilog = (
        "A soak watches for days what the agent and the hooks cost, and whether they do their\n"
        "work, and ends in PASS, FAIL or INCONCLUSIVE with the figures.\n\n"
        "examples:\n"
        "  aegisbpf soak start --scenario shadow --duration 14d\n"
        "  aegisbpf soak status"
    )


def _dry_run(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--dry-run", action="store_true", help="only say what would be done")


def _build_start(kinds: Any) -> None:
    start = kinds.add_parser("start", help="begin a soak; a systemd timer makes its turns")
    start.add_argument(
        "--scenario", choices=SCENARIOS, required=True,
        help="shadow and stress need mode audit, enforce needs mode enforce",
    )  # fmt: skip
    start.add_argument(
        "--duration", type=parse_duration, metavar="TIME", required=True, help="12h, 7d, 2w"
    )
    start.add_argument(
        "--interval", type=parse_duration, metavar="TIME", default=60,
        help="from turn to turn (default: 60s)",
    )  # fmt: skip
    start.add_argument(
        "--workload", choices=WORKLOADS, default="none",
        help="work to do meanwhile (default: %(default)s, the host's own)",
    )  # fmt: skip
    start.add_argument(
        "--expect", metavar="RULE", action="append", default=[],
        help="with enforce: a live rule (aegisbpf rule list) whose denials are as they should be; "
        "may be given again",
    )  # fmt: skip
    start.add_argument(
        "--override", metavar="REASON", default="",
        help="enforce without a passed soak in shadow; it is in every report",
    )  # fmt: skip
    start.add_argument("--note", metavar="TEXT", default="", help="anything else for the report")
    start.add_argument(
        "--foreground", action="store_true",
        help="make the turns in this process, and end as soak report does; Ctrl-C ends the soak",
    )  # fmt: skip
    _dry_run(start)
    start.epilog = (
        "It goes on over reboots and restarts of the agent. One that enforces begins only after\n"
        "one in shadow of the same policy has passed, in full. Workloads are bounded: half a\n"
        "core, 512 MiB.\n\n"
        f"exit codes with --foreground: {soak_report.VERDICTS}\n\n"
        "examples:\n"
        "  aegisbpf soak start --scenario shadow --duration 14d\n"
        "  aegisbpf soak start --scenario enforce --duration 7d --expect no-shadow\n"
        "  aegisbpf soak start --scenario stress --duration 3d --workload stress\n"
        "  aegisbpf soak start --scenario shadow --duration 10m --interval 5s --foreground"
    )
    start.set_defaults(run=run_start)


def _build_sample(kinds: Any) -> None:
    sample = kinds.add_parser(
        "sample", help="make one turn of the running soak: what the timer does"
    )
    what = sample.add_mutually_exclusive_group()
    what.add_argument(
        "--until-end", action="store_true", help="make all that are left, in this process"
    )
    what.add_argument(
        "--csv", metavar="FILE", type=types.path,
        help="no soak: add one row of the seed's columns to a file",
    )  # fmt: skip
    _dry_run(sample)
    sample.epilog = (
        f"With --csv the exit code is {DEAD} where the agent does not run.\n"
        f"exit codes with --until-end: {soak_report.VERDICTS}\n\n"
        "examples:\n"
        "  aegisbpf soak sample\n"
        "  aegisbpf soak sample --until-end\n"
        "  aegisbpf soak sample --csv /var/log/aegisbpf-soak-metrics.csv"
    )
    sample.set_defaults(run=run_sample)


def run_start(app: App, arguments: argparse.Namespace) -> int:
    """Begin a soak."""
    from aegis_tools.cli import soak_run

    return soak_run.start(app, arguments)


def run_sample(app: App, arguments: argparse.Namespace) -> int:
    """Make a turn, all that are left, or a row of the seed's sampler."""
    from aegis_tools.cli import soak_run

    return soak_run.sample(app, arguments)


def run_stop(app: App, arguments: argparse.Namespace) -> int:
    """End the running soak."""
    from aegis_tools.cli import soak_run

    return soak_run.stop(app, arguments)


def run_list(app: App, arguments: argparse.Namespace) -> int:
    """List all soaks."""
    del arguments
    from aegis_tools.soak.status import overview
    from aegis_tools.soak.verdict import span

    rows = overview(app.paths)

    def text() -> str:
        lines = [
            (one["id"], one["state"], span(one["duration_seconds"] or 0), one["workload"] or "-",
             one["verdict"] or "-")
            for one in rows
        ]  # fmt: skip
        return table(lines, ("SOAK", "STATE", "LENGTH", "WORKLOAD", "VERDICT")) or (
            "no soak was begun here: aegisbpf soak start --help"
        )

    app.show({"soaks": rows}, text)
    return 0


def run_status(app: App, arguments: argparse.Namespace) -> int:
    """Say how a soak stands."""
    from aegis_tools.soak import status

    name = status.wanted(app.paths, arguments.id)
    if not name:
        app.show({"id": "", "running": False}, "no soak was begun here: aegisbpf soak start --help")
        return 0
    found = status.read(app.paths, name)
    app.show(found.to_dict(), lambda: "\n".join(_lines(found)))
    return 0


def _lines(found: Status) -> list[str]:
    from aegis_tools.soak.status import open_points
    from aegis_tools.soak.verdict import span

    settings, last = found.soak.settings, found.last
    far = f"{span(found.elapsed_s)} of {span(settings.duration_s)}"
    if found.state == "running":
        percent = 100 * min(found.elapsed_s / settings.duration_s, 1.0)
        far += f" ({percent:.0f} %), {span(found.left_s)} left"
    digest = settings.policy.digest[:12] if settings.policy else "none"
    lines = [
        f"{settings.id}: {found.state}, {far}",
        f"  mode {settings.mode}, policy {digest}, workload {settings.workload}, "
        f"a turn every {span(settings.interval_s)}",
    ]
    if settings.override:
        lines.append(f"  begun without a passed soak in shadow: {plain(settings.override)}")
    if last is not None:
        lines.append(_last_line(found))
    if found.late:
        lines.append("  NO TURNS ARE MADE any more: systemctl status aegis-soak.timer   "
                     "(or: aegisbpf soak sample --until-end)")  # fmt: skip
    counts = ", ".join(f"{kind} {count}" for kind, count in sorted(found.counts.items()))
    lines.append(f"  happened: {counts or 'nothing'}")
    lines += [f"  damaged: {plain(problem)}" for problem in found.soak.problems]
    so_far = " so far" if found.state == "running" else ""
    lines.append(f"  verdict{so_far}: {found.verdict.text}")
    return [*lines, *(f"    {line}" for line in open_points(found.verdict))]


def _last_line(found: Status) -> str:
    from aegis_tools.soak.verdict import span

    last = found.last
    assert last is not None  # noqa: S101 # for mypy: the caller has looked
    parts = [f"agent {last.agent}"]
    if last.cpu_pct is not None:
        parts.append(f"{last.cpu_pct:.2f} % of a core")
    if last.mem_mb is not None and last.present:
        parts.append(f"{last.mem_mb:.1f} MB")
    parts.append(f"canary {last.canary}")
    ago = span(found.age_s or 0.0)
    return f"  turn {len(found.soak.samples)}, {ago} ago: {', '.join(parts)}"
