"""``aegisbpf why``."""

from __future__ import annotations

import argparse
import ipaddress
import os
from collections.abc import Mapping
from typing import Any, NamedTuple

from aegis_tools.cli.output import App, plain
from aegis_tools.control.live import Live
from aegis_tools.control.names import rules_by_uid
from aegis_tools.control.posture import Posture, read_posture
from aegis_tools.control.store import Record, Store
from aegis_tools.control.why import (
    FILE_ORDER,
    NET_ORDER,
    Verdict,
    file_findings,
    net_findings,
    syscall_findings,
    verdicts,
)
from aegis_tools.control.whyfile import Tables, look_at, survives
from aegis_tools.errors import UsageError
from aegis_tools.kernel.inode_keys import Identifier
from aegis_tools.kernel.mounts import read_mounts
from aegis_tools.kernel.pins import Pins
from aegis_tools.policy.model import FILE_OPS, NET_OPS, Op, Rule

OPERATIONS = {str(op.name).lower(): op for op in (*FILE_ORDER, *NET_ORDER)}


class Answer(NamedTuple):
    """What was found out.

    Attributes:
        target: What was asked for, as the hooks would see it.
        verdicts: By operation.
        remark: What could not be seen; may be empty.
    """

    target: str
    verdicts: list[Verdict]
    remark: str = ""


def build(parser: argparse.ArgumentParser) -> None:
    """Add the options of the command."""
    parser.add_argument("target", help="PATH, IP, IP:PORT or [IPv6]:PORT")
    parser.add_argument(
        "--operation",
        choices=OPERATIONS,
        action="append",
        help="only this operation; may be given again (default: all)",
    )
    parser.add_argument("--protocol", choices=("tcp", "udp", "any"), help="(default: tcp and udp)")
    parser.epilog = (
        "Asks the live maps as the hooks do. Processes in an allowed cgroup are exempt from all\n"
        "of it. Exit code 0, whether anything matches or not.\n\n"
        "example: aegisbpf why 10.0.0.1:443 --operation egress"
    )
    parser.set_defaults(run=run)


def run(app: App, arguments: argparse.Namespace) -> int:
    """Find out and print."""
    operations = Op(0)
    for name in arguments.operation or ():
        operations |= OPERATIONS[name]
    protocols = (arguments.protocol,) if arguments.protocol else ("tcp", "udp")
    with Live(Pins(app.paths.pins)) as live:
        posture = read_posture(live)
        peer = None if arguments.target.startswith(("/", ".")) else split_peer(arguments.target)
        if peer is None:
            path = os.path.abspath(arguments.target)  # noqa: PTH100 - pathlib cannot do surrogates
            answer = of_file(live, posture, path, check(operations, FILE_OPS, "a path"))
        else:
            wanted = check(operations, NET_OPS, "an address")
            answer = of_peer(live, posture, peer, wanted, protocols)
        rules = rules_by_uid(live, app.paths)
        record = live_record(app, live)
        allowed = len(live.entries("allow_cgroup_map"))
    show(app, answer, rules, record, allowed=allowed)
    return 0


def check(operations: Op, possible: Op, what: str) -> Op:
    """Return the operations to ask for. Raises UsageError where there is none."""
    if operations and not operations & possible:
        raise UsageError(f"that operation is not one of {what}", hint="see: aegisbpf why --help")
    return operations & possible or possible


def split_peer(text: str) -> tuple[str, int | None]:
    """Return address and port of ``IP``, ``IP:PORT`` or ``[IPv6]:PORT``.

    Raises:
        UsageError: It is none of these.
    """
    address, port = text, ""
    if text.startswith("["):
        address, _, port = text[1:].partition("]:")
        address = address.rstrip("]")
    elif text.count(":") == 1:
        address, _, port = text.partition(":")
    wrong = UsageError(
        f"'{plain(text)}' is neither an absolute path nor an address",
        hint="PATH, IP, IP:PORT or [IPv6]:PORT",
    )
    try:
        ipaddress.ip_address(address)
    except ValueError:
        raise wrong from None
    if not port:
        return address, None
    if not port.isascii() or not port.isdecimal() or int(port) > 65535:
        raise wrong
    return address, int(port)


def of_file(live: Live, posture: Posture, path: str, operations: Op) -> Answer:
    """Ask for a path."""
    with Tables(live) as tables:
        if live.pins.is_fallback():
            found = syscall_findings(tables.get, path, operations)
            decided = verdicts(found, tables.get, posture, survival=False)
            return Answer(path, decided, "audit fallback: only this very text of the path matches")
        with Identifier(live.pins) as identifier:
            file, remark = look_at(path, identifier, read_mounts())
        found = file_findings(tables.get, file, operations, live.info().walk)
        decided = verdicts(found, tables.get, posture, survival=survives(live, file))
        return Answer(file.path, decided, remark)


def of_peer(
    live: Live,
    posture: Posture,
    peer: tuple[str, int | None],
    operations: Op,
    protocols: tuple[str, ...],
) -> Answer:
    """Ask for an address."""
    address, port = peer
    with Tables(live) as tables:
        found = net_findings(tables.get, address, port, operations, protocols)
        decided = verdicts(found, tables.get, posture, survival=False)
    remark = "" if port is not None else "rules for ports were left out: give IP:PORT"
    if live.pins.is_fallback():
        remark = "audit fallback: network access is not watched at all"
    return Answer(address if port is None else f"{address} port {port}", decided, remark)


def live_record(app: App, live: Live) -> Record | None:
    """Return how the store knows the live policy."""
    digest = live.info().bundle.hex()
    return next((r for r in Store(app.paths).records() if r and r.digest == digest), None)


def show(
    app: App,
    answer: Answer,
    rules: Mapping[int, Rule],
    record: Record | None,
    *,
    allowed: int,
) -> None:
    """Print the answer."""
    data = {
        "target": answer.target,
        "matches": [facts(verdict, rules) for verdict in answer.verdicts],
        "policy": {"name": record.name, "digest": record.digest, "serial": record.serial,
                   "signers": list(record.signers)} if record else None,
        "allowed_cgroups": allowed,
        "remark": answer.remark,
    }  # fmt: skip
    app.show(data, lambda: as_text(data))


def facts(verdict: Verdict, rules: Mapping[int, Rule]) -> dict[str, Any]:
    """Return one verdict with what is known of its rule."""
    finding = verdict.finding
    rule = rules.get(finding.uid)
    return {
        "operation": str(verdict.operation.name).lower(),
        "protocol": verdict.protocol,
        "action": verdict.action,
        "reason": verdict.reason,
        "rule": rule.id if rule else f"unknown:{finding.uid:016x}",
        "rule_mode": rule.mode.value if rule else "",
        "rule_owner": rule.owner if rule else "",
        "rule_reason": rule.reason if rule else "",
        "by_hand": bool(rule and rule.id.startswith("manual:")),
        "map": finding.where,
        "matched": finding.what,
    }


def as_text(data: dict[str, Any]) -> str:
    """Return the answer for a person."""
    lines = []
    for match in data["matches"]:
        what = " ".join(filter(None, (match["operation"], match["protocol"])))
        because = f" ({match['reason']})" if match["reason"] else ""
        lines.append(f"{what}: {match['action']}{because} by {plain(match['rule'])}")
        lines.append(f"    matched {plain(match['matched'])} in {match['map']}")
        if match["rule_reason"] or match["rule_owner"]:
            reason, owner = (plain(match[f"rule_{what}"]) or "-" for what in ("reason", "owner"))
            lines.append(f"    reason: {reason}; owner: {owner}")
    if not lines:
        lines = [f"no live rule matches {plain(data['target'])}"]
    elif data["policy"] and not all(match["by_hand"] for match in data["matches"]):
        policy = data["policy"]
        signed = ", ".join(signer[:16] for signer in policy["signers"])
        lines.append(
            f"policy: {policy['name']} {policy['digest'][:16]}, "
            + (f"serial {policy['serial']}, signed by {signed}" if signed else "unsigned")
        )
    if data["matches"] and data["allowed_cgroups"]:
        lines.append(f"processes in {data['allowed_cgroups']} allowed cgroups are exempt")
    if data["remark"]:
        lines.append(f"note: {data['remark']}")
    return "\n".join(lines)
