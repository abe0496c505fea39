"""filesystem-monitor, each variant that fits the kernel: the same as tests/kernel sees of one."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
from filesystem_support import check_compat, check_everything, check_flood
from monitor_support import Attached

from aegis_tools.monitors.registry import MONITORS, Variant

# All ways to look are on the oldest and the newest kernel; on those in between, test_monitor_load.
pytestmark = [pytest.mark.once("5.10", "7.2"), pytest.mark.seed("T2.2")]

FILESYSTEM = MONITORS["filesystem-monitor"]
CHECKS = [check_everything, check_compat, check_flood]


def fits(variant: Variant) -> bool:
    """Return whether this kernel is one that the variant is made for."""
    names = Path("/sys/kernel/btf/vmlinux").read_bytes()
    there = [f"\0{name}\0".encode() in names for name in variant.needs]
    return all(there) and not any(f"\0{name}\0".encode() in names for name in variant.lacks)


def test_one_variant_by_functions_fits_and_the_portable_one() -> None:
    *functions, portable = FILESYSTEM.variants
    assert sum(fits(variant) for variant in functions) == 1
    assert fits(portable)


@pytest.mark.parametrize("check", CHECKS, ids=lambda check: check.__name__)
@pytest.mark.parametrize("functions", [True, False], ids=["functions", "portable"])
def test_what_a_program_did_is_told_of(
    functions: bool, check: Callable[..., None], tmp_path: Path, folder: Path
) -> None:
    variant = next(
        one for one in FILESYSTEM.variants if fits(one) and functions == (one.name != "portable")
    )
    with Attached(FILESYSTEM, variant.object, folder) as attached:
        check(attached, tmp_path, functions=functions)
