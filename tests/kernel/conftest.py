"""Tests of this folder use this kernel's own bpf(2), as root, on a bpffs of their own.

They are all marked ``kernel``. Selected where they cannot run they are an error, never skipped.
What is loaded here is the audit fallback, whatever this kernel can: nothing is ever denied.
"""

from __future__ import annotations

import ctypes
import os
import subprocess
from collections.abc import Generator, Iterator
from pathlib import Path

import pytest
from apply_support import policy_files, signed_bundles
from check_support import Checks, loaded_checks
from edit_support import Host
from kernel_support import NO_LSM, REPOSITORY

from aegis_tools.kernel import loader
from aegis_tools.kernel.features import mount_if_missing
from aegis_tools.kernel.pins import Pins
from aegis_tools.paths import Paths

HERE = Path(__file__).parent
MNT_DETACH = 2


@pytest.hookimpl(wrapper=True, tryfirst=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> Generator[None, None, None]:
    for item in items:
        if HERE in item.path.parents:
            item.add_marker("kernel")
    yield
    if os.geteuid() != 0 and any(item.get_closest_marker("kernel") for item in items):
        raise pytest.UsageError("tests/kernel need root: sudo make kernel")


@pytest.fixture(scope="session")
def built() -> None:
    """Build the objects: cheap where they are there."""
    subprocess.run(["make", "--silent", "-C", "bpf", "all", "tests"], cwd=REPOSITORY, check=True)


@pytest.fixture
def paths(tmp_path: Path, built: None) -> Iterator[Paths]:
    """Return paths below a temporary root with a BPF file system."""
    del built
    paths = Paths(tmp_path / "root")
    mount_if_missing("bpf", paths.bpffs)
    yield paths
    libc = ctypes.CDLL(None, use_errno=True)
    assert libc.umount2(os.fsencode(paths.bpffs), MNT_DETACH) == 0


@pytest.fixture
def pins(paths: Paths) -> Pins:
    """Return where a test pins what it loads; nothing is loaded."""
    return Pins(paths.pins)


@pytest.fixture(scope="session")
def all_checks(tmp_path_factory: pytest.TempPathFactory, built: None) -> Iterator[Checks]:
    """Load the programs of check_test.bpf.c once."""
    del built
    bpffs = tmp_path_factory.mktemp("check") / "bpf"
    mount_if_missing("bpf", bpffs)
    with loaded_checks(bpffs) as checks:
        yield checks
    assert ctypes.CDLL(None).umount2(os.fsencode(bpffs), MNT_DETACH) == 0


@pytest.fixture
def checks(all_checks: Checks) -> Checks:
    """Return the programs of check_test.bpf.c, with no rule, and nothing counted by rule."""
    all_checks.clear()
    for key, _ in list(all_checks.live.map("rule_hits").items()):
        all_checks.live.map("rule_hits").delete(key)
    return all_checks


@pytest.fixture
def loaded(pins: Pins) -> Pins:
    """Return the pins of a finished load with small maps."""
    sizes = {spec.name: 512 for spec in loader.POLICY_MAPS}
    loader.load(pins, NO_LSM, loader.LoadOptions(capacities=sizes))
    return pins


@pytest.fixture
def host(paths: Paths, loaded: Pins, capsys: pytest.CaptureFixture[str]) -> Host:
    """Return a host on which commands run, with nothing applied."""
    del loaded
    return Host(paths, capsys)


@pytest.fixture
def files(tmp_path: Path) -> dict[str, Path]:
    """Return two files, a policy that denies both, and another that denies the first."""
    return policy_files(tmp_path)


@pytest.fixture
def signed(host: Host, files: dict[str, Path], tmp_path: Path) -> dict[str, Path]:
    """Return keys, and bundles of that policy."""
    return signed_bundles(host, files, tmp_path)
