"""Whole-system machines: what is rendered, and how answers are read."""

from __future__ import annotations

import os
import socket
import threading
from collections.abc import Callable
from pathlib import Path

import pytest
from testrun.kinds import jobs
from vmharness.kernels import HarnessError
from vmharness.system import recipe
from vmharness.system.image import locked, run
from vmharness.system.machine import CommandError, Done, with_kernel_arguments
from vmharness.system.package import content_key, files
from vmharness.system.qemu import arguments
from vmharness.system.snapshot import KEEP_SECONDS, forget_old
from vmharness.system.wire import Agent, Wire, open_qmp


@pytest.fixture
def answering(tmp_path: Path) -> Callable[..., Path]:
    """Return what starts a server of one connection that says its lines, one a request."""

    def start(*lines: bytes, greeting: bytes = b"") -> Path:
        path = tmp_path / "socket"
        server = socket.create_server(str(path), family=socket.AF_UNIX)

        def serve() -> None:
            with server, server.accept()[0] as client:
                client.sendall(greeting)
                for line in lines:
                    client.recv(65536)
                    client.sendall(line)

        threading.Thread(target=serve, daemon=True).start()
        return path

    return start


def test_mmdebstrap_reads_its_sources_from_standard_input_and_places_files_first() -> None:
    command = recipe.mmdebstrap_arguments(Path("/s"), Path("/t"), ['Acquire::Retries "3";'])
    assert command[-3:] == ["bookworm", "/t", "-"]
    assert "--essential-hook=sync-in /s /" in command
    assert '--aptopt=Acquire::Retries "3";' in command
    assert not any("prometheus" in word for word in command)


def test_the_file_system_ends_with_the_disk() -> None:
    start = recipe.FIRST_SECTOR * recipe.SECTOR // 1024
    assert start + recipe.filesystem_kib() == recipe.DISK_MIB * 1024


def test_a_cache_name_depends_on_every_part() -> None:
    names = {recipe.key(["a", "b"]), recipe.key(["a", "c"]), recipe.key(["ab"]), recipe.base_key()}
    assert len(names) == 4
    assert recipe.base_key() == recipe.base_key()


def test_disks_are_kept_beside_the_kernels() -> None:
    assert recipe.folder({"AEGIS_CACHE": "/c"}) == Path("/c/system")


def test_a_stored_machine_gets_the_hardware_it_was_stored_with() -> None:
    fresh = arguments(Path("/f"), Path("/d"), incoming=False)
    stored = arguments(Path("/f"), Path("/d"), incoming=True)
    assert stored == [*fresh, "-incoming", "defer"]
    assert not any("accel=kvm" in word for word in fresh)
    assert fresh[fresh.index("-accel") + 1] == "tcg,thread=single"


def test_the_package_is_made_of_what_git_knows() -> None:
    names = {path.as_posix() for path in files()}
    assert {"pyproject.toml", "aegis_tools/paths.py", "bpf/aegis.bpf.c"} <= names
    assert not any("__pycache__" in name or name.startswith("tests/") for name in names)
    assert content_key() == content_key()


def test_kernel_arguments_go_to_every_entry_of_grub_and_nowhere_else() -> None:
    text = "set root=x\n\tlinux\t/boot/vmlinuz-6.1 root=/dev/vda1 ro\n\tinitrd /boot/initrd\n"
    changed = with_kernel_arguments(text, "aegisbpf.disable=1")
    assert changed == text.replace(" ro\n", " ro aegisbpf.disable=1\n")


def test_a_failed_command_says_all_that_it_printed() -> None:
    text = str(CommandError(Done("aegisbpf load", 6, "out\n", "err\n")))
    assert all(part in text for part in ("aegisbpf load", "status 6", "out", "err"))


def test_what_a_command_printed_is_read_as_json() -> None:
    assert Done("x", 0, '{"a": 1}', "").json() == {"a": 1}


def test_an_answer_is_found_among_events(answering: Callable[..., Path]) -> None:
    greeting = b'{"QMP": {}}\n'
    event = b'{"event": "RESUME"}\n{"return": {"status": "running"}}\n'
    wire = open_qmp(answering(b'{"return": {}}\n', event, greeting=greeting), seconds=5)
    assert wire.ask("query-status") == {"status": "running"}
    wire.close()


def test_an_error_is_ours_and_a_machine_that_ends_too(answering: Callable[..., Path]) -> None:
    wire = Wire(answering(b'{"error": {"desc": "no such command"}}\n'), seconds=5)
    with pytest.raises(HarnessError, match="no such command"):
        wire.ask("nonsense")
    with pytest.raises(HarnessError, match="no answer"):
        wire.ask("query-status")
    wire.close()


def test_a_machine_without_a_guest_agent_says_so(tmp_path: Path) -> None:
    with pytest.raises(HarnessError, match="no guest agent"):
        Agent(tmp_path / "nothing").ask("guest-ping")


def test_a_program_that_hangs_is_ended() -> None:
    with pytest.raises(HarnessError, match=r"took more than 0\.2 s"):
        run(["sleep", "60"], seconds=0.2)


def test_a_program_that_fails_shows_its_output() -> None:
    with pytest.raises(HarnessError) as caught:
        run(["sh", "-c", "echo why; exit 3"])
    assert caught.value.detail == "why"


def test_only_snapshots_nobody_uses_are_forgotten(tmp_path: Path) -> None:
    for name, age in (("ready-old", KEEP_SECONDS + 1), ("ready-new", 10), ("base-old", 10**9)):
        (tmp_path / name).mkdir()
        os.utime(tmp_path / name, (10**9 - age, 10**9 - age))
    forget_old(tmp_path, 10**9)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["base-old", "ready-new"]


def test_who_comes_second_waits(tmp_path: Path) -> None:
    seen = []

    def second() -> None:
        with locked(tmp_path / "lock"):
            seen.append("second")

    with locked(tmp_path / "lock"):
        thread = threading.Thread(target=second)
        thread.start()
        thread.join(0.1)
        seen.append("first")
    thread.join(10)
    assert seen == ["first", "second"]


def test_every_file_of_system_tests_is_a_job_with_results_of_its_own(tmp_path: Path) -> None:
    found = jobs("system", tmp_path, [])
    assert [job.name for job in found if job.name == "system machine"]
    assert len({job.results for job in found}) == len(found)
    assert all("-m" in job.argv and "system" in job.argv for job in found)
