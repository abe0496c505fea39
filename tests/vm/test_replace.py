"""While the programs are replaced by others, what is denied is refused at every instant."""

from __future__ import annotations

import hashlib
import os
import shutil
import signal
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from battery import can_read, in_child, opened_without_end

from aegis_tools.cli.main import run
from aegis_tools.control import replace
from aegis_tools.errors import KernelError
from aegis_tools.kernel import loader
from aegis_tools.kernel.features import read_features
from aegis_tools.kernel.pins import Pins
from aegis_tools.paths import Paths

FOLDER = Path("/sys/fs/bpf/replace-test")
EXIT, FALL_THROUGH = bytes.fromhex("9500000000000000"), bytes.fromhex("0500000000000000")
KERNELS = ("5.10", "7.2")

pytestmark = pytest.mark.timeout(1500)


@pytest.fixture
def paths(tmp_path: Path) -> Iterator[Paths]:
    """Return a root that enforces a policy against ``tmp_path/secret``."""
    Path("/sys/kernel/rcu_expedited").write_text("1")
    FOLDER.mkdir()
    paths = Paths(tmp_path / "root")
    paths.bpffs.parent.mkdir(parents=True)
    paths.bpffs.symlink_to(FOLDER)
    secret, policy = tmp_path / "secret", tmp_path / "policy.conf"
    secret.write_text("secret")
    policy.write_text(f"version=1\n[deny_path]\n{secret}\n")
    loader.load(Pins(paths.pins), read_features(), loader.LoadOptions(), require_lsm=True)
    command(paths, "policy", "apply", str(policy), "--mode", "enforce")
    assert not can_read(secret)
    yield paths
    Pins(paths.pins).remove_all()
    FOLDER.rmdir()


def command(paths: Paths, *words: str) -> None:
    assert run(["--root", str(paths.root), *words]) == 0, words


def other_object(paths: Paths) -> None:
    """Let the pins say that an object of another version is loaded."""
    link = Pins(paths.pins).path("object")
    link.unlink()
    link.symlink_to("0" * 64)


def killed_before(paths: Paths, event: str, part: str) -> None:
    """Start a replacement and kill it before its first effect of a kind on a path."""

    def end(found: str, arguments: tuple[object, ...]) -> None:
        if found == event and part in " ".join(map(str, arguments)):
            os.kill(os.getpid(), signal.SIGKILL)

    def work() -> None:
        sys.addaudithook(end)
        command(paths, "load", "--replace")

    assert in_child(work, seconds=300) == -signal.SIGKILL, part


def refused_object(folder: Path) -> Path:
    """Return objects that the verifier does not take: no program of them has an end."""
    objects = Path(shutil.copytree(loader.OBJECTS, folder / "objects"))
    path = objects / loader.LSM_OBJECT
    good = hashlib.sha256(path.read_bytes()).hexdigest()
    path.write_bytes(path.read_bytes().replace(EXIT, FALL_THROUGH))
    bad = hashlib.sha256(path.read_bytes()).hexdigest()
    sums = objects / "SHA256SUMS"
    sums.write_text(sums.read_text().replace(good, bad))
    return objects


@pytest.mark.parametrize("kernel", [pytest.param(k, marks=pytest.mark.once(k)) for k in KERNELS])
def test_no_open_succeeds_while_programs_are_replaced_fail_or_are_killed(
    paths: Paths, tmp_path: Path, kernel: str
) -> None:
    del kernel
    pins, secret = Pins(paths.pins), tmp_path / "secret"
    hooks = pins.names("links")
    with opened_without_end(secret) as counts:
        other_object(paths)
        command(paths, "load", "--replace")
        assert pins.object() != "0" * 64

        command(paths, "load", "--replace", "--max-deny-inodes", "99")

        other_object(paths)
        objects, asked = refused_object(tmp_path), loader.LoadOptions()
        with pytest.raises(KernelError, match="did not accept"):
            replace.carry_out(paths, read_features(), asked, objects=objects)
        assert pins.stagings() == []

        killed_before(paths, "os.rename", f"links/{hooks[3]}")
        assert (pins.names("links"), pins.upgrade.base.exists()) == (hooks, True)
        command(paths, "load", "--replace")
        assert (pins.names("links"), pins.upgrade.base.exists()) == (hooks, False)
    assert counts[0] == 0
    assert counts[1] > 1000
    assert not can_read(secret)
    pins.remove_all()
    end = time.monotonic() + 60
    while not can_read(secret):  # programs are freed after a grace period
        assert time.monotonic() < end, "something is left attached"
        time.sleep(0.05)
