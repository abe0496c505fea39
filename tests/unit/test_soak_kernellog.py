"""What of the kernel's log is trouble, and what only looks like it."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from aegis_tools.paths import Paths
from aegis_tools.soak import kernellog
from aegis_tools.soak.kernellog import MAX_TEXT, Message, classify, crash_records, look, read

OOM = (
    "oom-kill:constraint=CONSTRAINT_MEMCG,nodemask=(null),cpuset=/,mems_allowed=0,"
    "oom_memcg=/system.slice/{unit},task_memcg=/system.slice/{unit},task=python3,pid=812,uid=0"
)


def kmsg(*texts: str, first: int = 0, level: int = 4) -> str:
    lines = [f"{level},{first + n},{(first + n) * 1000},-;{text}\n" for n, text in enumerate(texts)]
    return "".join(lines)


@pytest.mark.parametrize(
    ("level", "text", "kind"),
    [
        (0, "Kernel panic - not syncing: Fatal exception", "panic"),
        (1, "BUG: kernel NULL pointer dereference, address: 0000000000000008", "bug"),
        (4, "Oops: 0000 [#1] PREEMPT SMP NOPTI", "bug"),
        (2, "kernel BUG at mm/slub.c:305!", "bug"),
        (4, "general protection fault, probably for non-canonical address", "bug"),
        (6, OOM.format(unit="aegisbpf.service"), "oom"),
        (6, OOM.format(unit="aegis-soak-workload.service"), "warning"),
        (4, "WARNING: CPU: 0 PID: 1 at kernel/bpf/verifier.c:3801 backtrack_insn+0x1", "bpf"),
        (3, "bpf: Failed to allocate fsession trampoline", "bpf"),
        (4, "WARNING: CPU: 1 PID: 2 at fs/ext4/inode.c:1 ext4_x+0x1", "warning"),
        (3, "BPF: Invalid name", "warning"),
        (4, "failed to validate module [ext4] BTF: -22", "warning"),
        (0, "watchdog: BUG: soft lockup - CPU#0 stuck for 26s! [python3:1]", "warning"),
        (3, "rcu: INFO: rcu_preempt detected stalls on CPUs/tasks:", "warning"),
        (3, "INFO: task bash:12 blocked for more than 120 seconds.", "warning"),
    ],
)
def test_what_tells_of_trouble_is_of_its_class(level: int, text: str, kind: str) -> None:
    assert classify(Message(1, level, 0.0, text)) == kind


@pytest.mark.parametrize(
    ("level", "text"),
    [
        (5, "Kernel command line: quiet lsm=lockdown,capability,bpf"),
        (6, "LSM: initializing lsm=lockdown,capability,bpf"),
        (6, "bpf_lsm: LSM support for eBPF active"),
        (4, "Spectre V2 : WARNING: Unprivileged eBPF is enabled with eIBRS on"),
        (4, " ? __x64_sys_bpf+0x1a/0x20"),
        (4, "RIP: 0010:bpf_prog_6deef7357e7b4530_aegis_file_open+0x1/0x2"),
        (4, "Modules linked in: bpf_preload 9p"),
        (3, "Out of memory: Killed process 812 (python3) total-vm:1kB"),
        # Of facility 1 and 3: a process has written it there.
        (8, "Kernel panic - not syncing: says who?"),
        (28, "bpf: a message of systemd's"),
    ],
)
def test_what_only_looks_like_trouble_is_none(level: int, text: str) -> None:
    assert classify(Message(1, level, 0.0, text)) == ""


def test_only_what_is_new_is_told_and_what_was_overwritten_is_counted() -> None:
    text = kmsg("bpf: one", "hello", "bpf: two", first=7)
    assert [one.text for one in look(text, -1).found] == ["bpf: one", "bpf: two"]
    assert look(text, -1).lost == 7
    later = look(text, 7)
    assert ([one.text for one in later.found], later.last, later.lost) == (["bpf: two"], 9, 0)
    assert look(text, 3).lost == 3
    assert look(text, 9) == ((), 9, 0)
    assert look("", 5) == ((), 5, 0)


def test_the_values_below_a_message_are_no_messages_of_their_own() -> None:
    text = "3,1,5000000,-;bpf: one\n SUBSYSTEM=bpf\n DEVICE=+bpf: 1,2,3,4;bpf: no\n"
    (found,) = look(text, -1).found
    assert (found.text, found.boot_s, found.class_) == ("bpf: one", 5.0, "bpf")


def test_what_would_drive_a_terminal_is_escaped_and_cut() -> None:
    (found,) = look(kmsg("bpf: \x1b[2J" + "x" * 1000), -1).found
    assert "\x1b" not in found.text
    assert len(found.text) <= MAX_TEXT


@given(st.text(max_size=300), st.integers(-1, 5))
def test_any_text_is_read_without_an_error(text: str, after: int) -> None:
    found = look(text, after)
    assert found.last >= after
    assert found.lost >= 0


@given(st.lists(st.text(max_size=60).filter(lambda t: "\n" not in t), max_size=10))
def test_every_message_comes_back_with_its_number(texts: list[str]) -> None:
    found = list(kernellog.parse(kmsg(*texts)))
    assert [one.text for one in found] == texts
    assert [one.sequence for one in found] == list(range(len(texts)))


def test_it_is_read_below_the_root_of_a_test(tmp_path: Path) -> None:
    (tmp_path / "dev").mkdir()
    (tmp_path / "dev/kmsg").write_text(kmsg("bpf: one"))
    assert [one.class_ for one in read(Paths(tmp_path), -1).found] == ["bpf"]


def test_what_a_crash_left_is_found_in_both_places(tmp_path: Path) -> None:
    assert crash_records(Paths(tmp_path)) == ()
    for name in ("sys/fs/pstore/dmesg-efi-1", "var/lib/systemd/pstore/165000000/x",
                 "sys/fs/pstore/console-ramoops"):  # fmt: skip
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text("x")
    assert crash_records(Paths(tmp_path)) == ("165000000", "dmesg-efi-1")
