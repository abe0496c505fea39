"""A policy file to a policy, whichever of the two forms it has."""

from __future__ import annotations

import re

from aegis_tools.errors import PolicyError
from aegis_tools.policy.model import Policy, Problem
from aegis_tools.policy.text import parse_text
from aegis_tools.policy.yamlform import TOP_KEYS, parse_yaml

YAML_SUFFIXES = (".yaml", ".yml")
TEXT_SUFFIXES = (".conf",)

_looks_like_yaml = re.compile(
    rb"(?:%|---|\{|\"|'|(?:" + "|".join(TOP_KEYS).encode() + rb")\s*:)"
).match
_first_entry = re.compile(rb"^[ \t]*[^#\s].*", re.MULTILINE).search


def parse_policy(data: bytes, name: str) -> tuple[Policy | None, list[Problem]]:
    """Parse a policy of either form.

    Args:
        data: The file's bytes.
        name: Its name; the ending tells the form (``.conf``; ``.yaml``, ``.yml``). With any
            other ending the first line that is no comment does.

    Returns:
        The policy, None if there is any error; and all problems, by line.
    """
    return (parse_yaml if is_yaml(data, name) else parse_text)(data)


def is_yaml(data: bytes, name: str) -> bool:
    """Return whether :func:`parse_policy` takes a file for YAML."""
    if name.lower().endswith(YAML_SUFFIXES):
        return True
    if name.lower().endswith(TEXT_SUFFIXES):
        return False
    entry = _first_entry(data)
    return bool(entry and _looks_like_yaml(entry[0].strip()))


def require_policy(data: bytes, name: str) -> tuple[Policy, list[Problem]]:
    """Parse as :func:`parse_policy`, and return the policy with its warnings.

    Raises:
        PolicyError: There are errors; ``data["problems"]`` lists all problems.
    """
    policy, problems = parse_policy(data, name)
    if policy is not None:
        return policy, problems
    errors = [problem for problem in problems if problem.error]
    more = f" (and {len(errors) - 1} more errors)" if len(errors) > 1 else ""
    raise PolicyError(
        f"the policy has errors: {shown(errors[0])}{more}",
        hint="list them all: aegisbpf policy lint FILE",
        detail="\n".join(map(shown, problems)),
        data={"problems": [problem._asdict() for problem in problems]},
    )


def shown(problem: Problem) -> str:
    """Return a problem as one line of text."""
    where = f"line {problem.line}: " if problem.line else ""
    return f"{where}{'' if problem.error else 'warning: '}{problem.message}"
