"""``aegisbpf policy lint``, ``validate`` and ``convert``: files alone, no kernel."""

from __future__ import annotations

import argparse
import os
import time
from pathlib import Path

from aegis_tools.cli.output import App
from aegis_tools.control import files
from aegis_tools.control.outputs import write_output
from aegis_tools.control.source import is_bundle
from aegis_tools.errors import PolicyError
from aegis_tools.policy.convert import convert as convert_policy
from aegis_tools.policy.lint import lint as lint_policy
from aegis_tools.policy.load import parse_policy, require_policy, shown
from aegis_tools.policy.model import Kind, Policy, Problem


def lint(app: App, arguments: argparse.Namespace) -> int:
    """Parse and lint."""
    return _report(app, arguments.file, *_findings(arguments.file))


def validate(app: App, arguments: argparse.Namespace) -> int:
    """Parse, lint, and look for the files."""
    policy, problems = _findings(arguments.file)
    return _report(app, arguments.file, policy, [*problems, *_missing(policy)])


def _findings(path: Path) -> tuple[Policy | None, list[Problem]]:
    data, name = _text_of(path)
    policy, problems = parse_policy(data, name)
    return policy, [*problems, *(lint_policy(policy, now=time.time()) if policy else [])]


def _text_of(path: Path) -> tuple[bytes, str]:
    data = files.read_policy_file(path)
    if not is_bundle(data):
        return data, path.name
    from aegis_tools.policy import dsse
    from aegis_tools.policy.bundle import read_bundle

    bundle = read_bundle(dsse.Envelope.from_bytes(data))
    return bundle.policy.encode(), bundle.policy_name


def _missing(policy: Policy | None) -> list[Problem]:
    found = []
    for rule in policy.rules if policy else ():
        if rule.kind is Kind.PATH and not os.path.lexists(rule.target):
            parent = os.path.dirname(rule.target)  # noqa: PTH120
            what = "does not exist yet" if os.path.isdir(parent) else f"{parent} does not exist"  # noqa: PTH112
            found.append(Problem(rule.line, f"{rule.target}: {what}", False, rule.id))
        elif rule.kind is Kind.PATH and os.path.isdir(rule.target):  # noqa: PTH112
            found.append(
                Problem(
                    rule.line,
                    f"{rule.target} is a directory: write {rule.target}/ for all below it",
                    False,
                    rule.id,
                )
            )
        elif rule.kind is Kind.DIRECTORY and not os.path.isdir(rule.target):  # noqa: PTH112
            found.append(Problem(rule.line, f"{rule.target} is no directory", False, rule.id))
    return found


def _report(app: App, path: Path, policy: Policy | None, problems: list[Problem]) -> int:
    errors = sum(problem.error for problem in problems)
    warnings = len(problems) - errors
    rules = len(policy.rules) if policy else 0
    lines = [f"{path}: {shown(problem)}" for problem in sorted(problems)]
    verdict = f"{path}: {rules} rules, {errors} errors, {warnings} warnings"
    app.show(
        {
            "ok": policy is not None,
            "rules": rules,
            "errors": errors,
            "warnings": warnings,
            "problems": [problem._asdict() for problem in sorted(problems)],
        },
        "\n".join([*lines, verdict]),
    )
    return 0 if policy is not None else PolicyError.exit_code


def convert(app: App, arguments: argparse.Namespace) -> int:
    """Rewrite in the other format."""
    data, name = _text_of(arguments.file)
    policy, _ = require_policy(data, name)
    text = convert_policy(policy, arguments.to)
    if arguments.output is None:
        app.write({"policy": text}, text)
        return 0
    write_output(arguments.output, text.encode(), what="policy file", inputs=[arguments.file])
    app.show(
        {"output": str(arguments.output), "rules": len(policy.rules)},
        f"{arguments.output}: {len(policy.rules)} rules",
    )
    return 0
