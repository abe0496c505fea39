"""A flood of refusals: the agent's memory stays flat, every event is told of or counted."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest
from battery import Host, Mode, Stat, file_rule
from flood_support import Process, end, endure, running_agent, told

FILES = 500
OPENS = 200_000
WARM = 20_000
FLAT_KIB = 3072
"""What may come on top of the memory after the first events."""
SOME_REFUSED = 123
"""xargs(1): a program ended with 1 to 125, as grep does where it cannot open a file."""


def start_flood(folder: Path, opens: int) -> Process:
    """Open files of a folder as fast as two processors can, and print what is in them."""
    names = folder.parent / f"names-{opens}"
    names.write_text("".join(f"f{number % FILES}\n" for number in range(opens)))
    with names.open("rb") as file:
        return subprocess.Popen(
            ["xargs", "-P2", "grep", "-hs", "."], cwd=folder, stdin=file, stdout=subprocess.PIPE
        )


def refused(flood: Process) -> bool:
    """Return whether a flood that is over has not read a single byte."""
    out, _ = flood.communicate()
    return flood.returncode == SOME_REFUSED and out == b""


@pytest.mark.once("6.12")
def test_a_flood_of_refusals_leaves_memory_flat_and_no_event_uncounted(
    host: Host, tmp_path: Path
) -> None:
    folder, out = tmp_path / "files", tmp_path / "out"
    folder.mkdir()
    for number in range(FILES):
        (folder / f"f{number}").write_text("secret\n")
    host.apply(file_rule(folder, depth=1), mode=Mode.ENFORCE)
    host.ring.drain()
    with running_agent(out, "run") as agent, host.counted() as found:
        first = start_flood(folder, WARM)
        early = endure(first, agent)
        second = start_flood(folder, OPENS - WARM)
        highest = endure(second, agent)
        said = end(agent)
    print(f"{early=} {highest=} {found=}")
    assert highest < early + FLAT_KIB
    assert refused(first)
    assert refused(second)
    assert found[Stat.BLOCKS] == OPENS
    assert found[Stat.EVENTS] + found[Stat.RINGBUF_DROPS] == OPENS  # no drops: it was no flood
    assert told(out) == found[Stat.EVENTS]
    assert f"{found[Stat.RINGBUF_DROPS]} dropped meanwhile".encode() in said
