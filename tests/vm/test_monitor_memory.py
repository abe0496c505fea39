"""memory-monitor on each kernel."""

from __future__ import annotations

from pathlib import Path

import pytest
from memory_support import MEMORY, check_drops, check_everything, check_interrupts
from monitor_facts import fitting

# All ways to look are on the oldest and the newest kernel; on those in between, test_monitor_load.
pytestmark = [pytest.mark.once("5.10", "7.2"), pytest.mark.seed("T2.4")]

BEST = {"5.10": "with-nodes", "6.1": "portable", "6.12": "portable", "7.2": "portable"}


@pytest.fixture
def best(kernel_name: str) -> str:
    """Return the object of the variant that this kernel is to have."""
    variant = fitting(MEMORY)[0]
    assert variant.name == BEST[kernel_name]
    return variant.object


def test_every_allocation_is_told_of_once_with_its_size(best: str, folder: Path) -> None:
    check_everything(best, folder)


def test_what_an_interrupt_takes_is_not_the_interrupted_program_s(best: str, folder: Path) -> None:
    check_interrupts(best, folder)


def test_what_the_ring_has_no_room_for_is_counted(best: str, folder: Path) -> None:
    check_drops(best, folder)
