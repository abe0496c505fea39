"""The pins are the enforcement: nobody else is needed for it, and without them it ends."""

from __future__ import annotations

import os
import random
import shutil
import signal
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from battery import Host, Pins, can_read, file_rule, load_and_be_killed, load_at

from aegis_tools.kernel.loader import attach, detach

BASE = Path("/sys/fs/bpf/aegis-pins-test")


@pytest.fixture
def base() -> Iterator[Path]:
    yield BASE
    Pins(BASE).remove_all()
    assert not BASE.exists()


def wait_until_readable(path: Path, seconds: float = 5) -> bool:
    """Programs are freed after a grace period."""
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        if can_read(path):
            return True
        time.sleep(0.05)
    return False


def load_and_deny(base: Path, path: Path) -> None:
    path.write_text("data")
    load_and_be_killed(base)
    with Host(Pins(base)) as host:
        host.apply(file_rule(path))


def test_it_outlives_its_loader_and_ends_with_its_pins(base: Path, tmp_path: Path) -> None:
    path = tmp_path / "file"
    load_and_deny(base, path)
    pins = Pins(base)
    assert not can_read(path)

    names = pins.names("links")
    assert detach(pins) == names
    assert wait_until_readable(path)
    assert not pins.is_attached()
    assert attach(pins) == names
    assert not can_read(path)

    assert attach(pins) == []
    pins.remove("links", "aegis_file_open")
    assert wait_until_readable(path)
    load_at(base)  # again: mends what is missing, and forgets no rule
    assert pins.is_attached()
    assert not can_read(path)

    shutil.rmtree(base)
    assert wait_until_readable(path)


def test_a_load_killed_at_any_instant_leaves_the_next_one_a_clean_start(
    base: Path, tmp_path: Path, kernel_name: str
) -> None:
    if kernel_name != "6.1":
        return  # seven loads; what is tested does not depend on the kernel
    pins = Pins(base)
    started = time.monotonic()
    load_at(base)
    whole = time.monotonic() - started
    pins.remove_all()
    chance = random.Random(20240229)
    for _ in range(6):
        child = os.fork()
        if child == 0:
            os.setsid()  # bpftool is to die as well
            try:
                load_at(base)
            finally:
                os._exit(0)
        time.sleep(chance.uniform(0.05, whole))
        os.killpg(child, signal.SIGKILL)
        os.waitpid(child, 0)
        assert pins.is_loaded() == pins.path("links").is_dir()
    load_and_deny(base, tmp_path / "file")
    assert sorted(path.name for path in base.iterdir()) == ["links", "maps", "object", "progs"]
    assert not can_read(tmp_path / "file")
