"""An unconfirmed change, a confirmation and a revert, killed before each of their effects."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
from apply_support import Host
from confirm_support import KILLED_AT, LATER, config, killed, put, staged
from kernel_support import REPOSITORY

from aegis_tools.control import confirm
from aegis_tools.control.pending import read_pending
from aegis_tools.control.store import Store
from aegis_tools.kernel.layout import Config

INSTANTS = [*range(1, 60, 12), *range(60, 460, 25)]


@pytest.mark.parametrize("instant", INSTANTS)
def test_killed_at_any_instant_the_old_policy_and_mode_come_back(
    host: Host, files: dict[str, Path], instant: int
) -> None:
    first = host("policy", "apply", files["policy"])["digest"]
    put(host, Config.MODE, 1)
    apply = ("policy", "apply", files["other"], "--mode", "audit", "--confirm-within", "10m")
    assert killed(host, instant, *apply) or instant > 300
    live = host.digest().hex()
    current, _ = Store(host.paths).records()
    assert current is not None
    assert current.digest == first, "a boot brings the old one"
    if live != first:
        assert config(host, Config.DEADLINE), "the new policy is never live without its deadline"
    if config(host, Config.DEADLINE) or not config(host, Config.MODE):
        assert host.paths.pending.exists(), "nothing is changed without a record"
    confirm.revert_if_overdue(host.paths, seams=LATER)
    assert (host.digest().hex(), config(host, Config.MODE)) == (first, 1)
    assert config(host, Config.DEADLINE) == 0
    assert not host.paths.pending.exists()


@pytest.mark.parametrize("instant", [1, 9, 17, 25, 33, 45, 60, 100, 150])
@pytest.mark.parametrize("what", ["confirm", "revert"])
def test_a_killed_confirmation_or_revert_is_finished_by_whoever_looks_next(
    host: Host, files: dict[str, Path], instant: int, what: str
) -> None:
    put(host, Config.MODE, 1)
    first = staged(host, files, "--mode", "audit")
    new = host.digest().hex()
    killed(host, instant, "policy", what)
    pending = read_pending(host.paths)
    begun = pending is None or pending.confirmed
    confirm.revert_if_overdue(host.paths, seams=LATER)
    kept = what == "confirm" and begun
    assert host.digest().hex() == (new if kept else first)
    assert config(host, Config.MODE) == (0 if kept else 1)
    current, _ = Store(host.paths).records()
    assert current is not None
    assert current.digest == (new if kept else first)
    assert config(host, Config.DEADLINE) == 0
    assert not host.paths.pending.exists()


def test_a_revert_that_is_killed_in_its_last_steps_is_repeated(
    host: Host, files: dict[str, Path]
) -> None:
    put(host, Config.MODE, 1)
    first = staged(host, files, "--mode", "audit")
    host("policy", "revert")  # the second time, slots and maps are as they will be from then on
    apply = ("policy", "apply", files["other"], "--mode", "audit", "--confirm-within", "10m")
    host(*apply)
    command = (0, host.paths.root, "policy", "revert")
    done = subprocess.run(
        [sys.executable, "-c", KILLED_AT, *map(str, command)],
        cwd=REPOSITORY, stdin=subprocess.DEVNULL, capture_output=True, check=True, text=True,
    )  # fmt: skip
    last = int(done.stderr.split()[-1])
    for instant in range(last - 9, last):
        host(*apply)
        assert killed(host, instant, "policy", "revert")
        confirm.revert_if_overdue(host.paths, seams=LATER)
        assert (host.digest().hex(), config(host, Config.MODE)) == (first, 1), last - instant
