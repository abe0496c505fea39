"""Why an agent dies, told from real texts: each was made by breaking something once.

The first line of each file in ``data/crash_loop`` says how.
"""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from aegis_tools.incident.classify import (
    MAX_LINES,
    MEANING,
    NEXT,
    SOURCES,
    Cause,
    Finding,
    classify,
)

DATA = Path(__file__).with_name("data") / "crash_loop"
SHOWN = {
    "verifier.txt": ("trial", Cause.VERIFIER, "R0 invalid mem access 'map_value_or_null'"),
    "relocation.txt": ("trial", Cause.KERNEL, "no_such_field_of_any_kernel"),
    "damaged-policy.txt": ("journal", Cause.CONFIGURATION, "a stored policy is damaged"),
    "disk-full.txt": ("journal", Cause.RESOURCES, "no space left on device"),
    "map-too-small.txt": ("journal", Cause.MAP_SIZE, "needs 3 entries in deny_inode_map"),
    "option.txt": ("journal", Cause.CONFIGURATION, "--no-such-option"),
}
OOM = "LoadState=loaded\nResult=oom-kill\nExecMainCode=2\nExecMainStatus=9\n"


def text_of(name: str) -> str:
    """Return what was provoked, without the line that says how."""
    first, _, text = (DATA / name).read_text(encoding="utf-8").partition("\n")
    assert first.startswith("# ")
    return text


def test_every_text_is_used() -> None:
    assert {path.name for path in DATA.iterdir()} == set(SHOWN)


@pytest.mark.parametrize("name", SHOWN)
def test_a_cause_is_told_with_the_line_that_shows_it(name: str) -> None:
    source, cause, line = SHOWN[name]
    found = classify({source: text_of(name)})
    assert (found.cause, found.source) == (cause, source)
    assert any(line in shown for shown in found.lines), found.lines
    assert len(found.lines) <= MAX_LINES


def test_what_proves_more_decides() -> None:
    texts = {"trial": text_of("verifier.txt"), "journal": text_of("option.txt"), "systemd": OOM}
    assert classify(texts).cause is Cause.VERIFIER
    del texts["trial"]
    assert classify(texts).cause is Cause.RESOURCES
    del texts["systemd"]
    assert classify(texts).cause is Cause.CONFIGURATION


@pytest.mark.parametrize(
    ("texts", "spares"),
    [
        ({"journal": text_of("option.txt")}, True),
        ({"systemd": OOM}, True),
        ({"journal": text_of("damaged-policy.txt")}, False),
        ({"state": "a stored policy is damaged"}, False),
        ({"trial": text_of("verifier.txt")}, False),
        ({}, False),
    ],
)
def test_only_what_is_of_the_process_alone_lets_the_host_go_on_enforcing(
    texts: dict[str, str], spares: bool
) -> None:
    assert classify(texts).spares_enforcement is spares


def test_in_a_journal_the_newest_death_decides() -> None:
    older, newer = text_of("disk-full.txt"), text_of("damaged-policy.txt")
    assert classify({"journal": older + newer}).cause is Cause.CONFIGURATION
    assert classify({"journal": newer + older}).cause is Cause.RESOURCES


def test_an_event_is_no_message_of_ours_whatever_a_file_is_called() -> None:
    line = '{"time":"2026-11-21T12:00:00.000000Z","path":"/srv/no space left on device"}'
    assert classify({"journal": f"host aegisbpf[1]: {line}"}).cause is Cause.UNKNOWN


def test_of_the_kernels_log_only_what_is_ours_counts() -> None:
    killed = "Out of memory: Killed process 12 ({}) total-vm:1kB"
    assert classify({"kernel": killed.format("mysqld")}).cause is Cause.UNKNOWN
    assert classify({"kernel": killed.format("aegisbpf")}).cause is Cause.RESOURCES


def test_a_warning_that_the_agent_lives_with_is_no_cause() -> None:
    text = "aegisbpf: warning: cannot write the record: no space left on device"
    assert classify({"journal": text}).cause is Cause.UNKNOWN


def test_of_what_nothing_explains_it_is_said_how_it_ended() -> None:
    journal = "systemd[1]: aegisbpf.service: Main process exited, code=killed, status=9/KILL"
    found = classify({"journal": journal, "systemd": "ExecMainCode=2\nExecMainStatus=9\n"})
    assert found.cause is Cause.UNKNOWN
    assert found.lines == (journal, "the process was killed by signal 9")
    assert classify({}) == Finding(Cause.UNKNOWN)


@given(st.dictionaries(st.sampled_from(SOURCES), st.text(max_size=300)))
def test_any_text_leads_to_an_answer(texts: dict[str, str]) -> None:
    found = classify(texts)
    assert len(found.lines) <= MAX_LINES
    assert found.to_dict()["next"] == NEXT[found.cause]


def test_every_cause_has_a_meaning_and_a_next_step() -> None:
    assert set(MEANING) == set(NEXT) == set(Cause)
