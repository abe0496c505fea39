"""Refusals as ``aegisbpf diagnose`` sees them: now, lately, and not at all."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from battery import Host, refused

from aegis_tools.cli.main import run
from aegis_tools.incident.facts import Facts, read_facts
from aegis_tools.incident.scenarios import Diagnosis, diagnose
from aegis_tools.paths import Paths

pytestmark = pytest.mark.once


@pytest.fixture
def paths(host: Host, tmp_path: Path) -> Iterator[Paths]:
    """Return a root of the test's own, with the pins of the host."""
    pins = tmp_path / "root/sys/fs/bpf/aegis"
    pins.parent.mkdir(parents=True)
    pins.symlink_to(host.pins.base)
    yield Paths(tmp_path / "root")
    run(["--root", str(tmp_path / "root"), "block", "clear"])


def asked(paths: Paths, meanwhile: object = None) -> tuple[Diagnosis, Facts]:
    """Diagnose, with something happening between the two looks."""
    facts = read_facts(
        paths, seconds=1, sleep=lambda _: meanwhile() if callable(meanwhile) else None,
        systemd=False,
    )  # fmt: skip
    return diagnose(facts), facts


def test_refusals_are_found_while_they_come_and_for_a_while_after(
    paths: Paths, tmp_path: Path
) -> None:
    secret = tmp_path / "secret"
    secret.write_text("x")
    assert run(["--root", str(paths.root), "block", "add", str(secret)]) == 0

    def use() -> None:
        for _ in range(5):
            with refused():
                secret.read_text()

    found, facts = asked(paths, use)
    assert facts.state == "enforcing"
    assert (found.findings[0].scenario, found.severity) == ("blocking", "critical")
    assert f"manual:path:{secret}" in "\n".join(found.findings[0].evidence)
    assert any(hook.runs > 0 for hook in facts.hooks)
    later, _ = asked(paths)
    assert (later.findings[0].scenario, later.severity) == ("blocking", "high")
    assert run(["--root", str(paths.root), "mode", "audit"]) == 0
    after, facts = asked(paths)
    assert not [one for one in after.findings if one.scenario == "blocking"], facts
    assert run(["--root", str(paths.root), "mode", "enforce"]) == 0
