"""``aegisbpf status``."""

from __future__ import annotations

import argparse
from collections.abc import Iterator

from aegis_tools import __version__
from aegis_tools.cli.keys import trust_line
from aegis_tools.cli.output import App, table
from aegis_tools.control.status import Status, drops, read_status
from aegis_tools.kernel.layout import Stat


def build(parser: argparse.ArgumentParser) -> None:
    """Add the options of the command."""
    parser.epilog = (
        "one look at a host; the exit code is that of: aegisbpf health\n\n"
        "example: aegisbpf status --json | jq '.policy.digest, .mode.mode'"
    )
    parser.set_defaults(run=run)


def run(app: App, arguments: argparse.Namespace) -> int:
    """Print what there is to know."""
    del arguments
    status = read_status(app.paths)
    app.show(lambda: {"version": __version__, **status.to_dict()}, lambda: as_text(status))
    return status.health.exit_code


def as_text(status: Status) -> str:
    """Return a line for each part, the verdict last."""
    lines = [table(_rows(status))]
    lines += [f"! {problem}" for problem in status.problems]
    failed = status.health.failed
    lines.append(f"not healthy: {failed[0].message}" if failed else "healthy")
    if failed and failed[0].hint:
        lines.append(f"  next: {failed[0].hint}")
    return "\n".join(lines)


def _rows(status: Status) -> Iterator[tuple[str, str]]:
    yield "host", f"{status.host}, Linux {status.kernel}, aegis-tools {__version__}"
    if status.posture:
        yield "mode", f"{status.posture.mode}: {status.posture.meaning}"
    yield "policy", _policy(status)
    if status.trust:
        trust = status.trust
        line = trust_line(trust["threshold"], len(trust["keyids"]), trust["signed_only"])
        yield "trust", f"{line}; group {trust['group']}"
    if status.snapshot:
        count = status.snapshot.counters
        yield (
            "since load",
            (
                f"{count[Stat.BLOCKS]} blocked, {count[Stat.AUDITS]} audited, "
                f"{drops(status)} events lost"
            ),
        )
    if status.fullest:
        yield "fullest map", status.fullest.line()
    yield "agent", _agent(status)


def _policy(status: Status) -> str:
    policy = status.policy
    if policy is None:
        return "-" if status.loaded or status.problems else "nothing is loaded"
    counts = {
        "made by hand": policy.manual, "promoted": policy.promoted, "demoted": policy.demoted,
    }  # fmt: skip
    by_hand = "".join(f", {count} rules {what}" for what, count in counts.items() if count)
    if not policy.digest:
        return f"none{by_hand}"
    signed = f"serial {policy.serial}" if policy.signers else "unsigned"
    return f"{policy.name or '?'}, {signed}, {policy.digest[:12]}{by_hand}"


def _agent(status: Status) -> str:
    agent = status.agent
    if not agent["running"]:
        return "does not run: events are not written down"
    return f"runs, {agent.get('deny_rate', 0)} refusals a second"
