"""What a rule on running a program stops, whichever way it is started."""

from __future__ import annotations

import ctypes
import errno
import mmap
import os
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
from battery import Host, Op, can_read, file_rule, in_child, libc, refused, touch

LOADER = "/lib64/ld-linux-x86-64.so.2"
PAGE = mmap.PAGESIZE


@pytest.fixture
def program(place: Path) -> Path:
    path = place / "program"
    shutil.copy("/bin/true", path)
    return path


def running(path: Path | str, *arguments: str) -> Callable[[], None]:
    return lambda: os.execv(path, [str(path), *arguments])


def map_file(fd: int, prot: int) -> int:
    libc.mmap.restype = ctypes.c_void_p
    address = libc.mmap(None, ctypes.c_size_t(PAGE), prot, mmap.MAP_PRIVATE, fd, ctypes.c_long(0))
    if address == ctypes.c_void_p(-1).value:
        raise OSError(ctypes.get_errno(), "mmap")
    return int(address)


def test_it_cannot_be_run_but_read(host: Host, program: Path) -> None:
    assert in_child(running(program)) == 0
    host.apply(file_rule(program, Op.EXEC))
    assert in_child(running(program)) == errno.EPERM
    assert can_read(program)


def test_it_cannot_be_run_by_descriptor(host: Host, tmp_path: Path) -> None:
    program = tmp_path / "program"
    shutil.copy("/bin/true", program)
    host.apply(file_rule(program, Op.EXEC))

    def by_descriptor() -> None:
        os.execve(os.open(program, os.O_RDONLY), ["true"], {})

    assert in_child(by_descriptor) == errno.EPERM


def test_running_is_not_reading(host: Host, program: Path) -> None:
    host.apply(file_rule(program, Op.READ))
    assert in_child(running(program)) == 0
    assert not can_read(program)


def test_the_loader_cannot_run_it(host: Host, program: Path) -> None:
    assert in_child(running(LOADER, str(program))) == 0
    host.apply(file_rule(program, Op.EXEC))
    assert in_child(running(LOADER, str(program))) != 0


def test_a_script_cannot_be_run(host: Host, tmp_path: Path) -> None:
    script = tmp_path / "script"
    script.write_text("#!/bin/true\n")
    script.chmod(0o755)
    assert in_child(running(script)) == 0
    host.apply(file_rule(script, Op.EXEC))
    assert in_child(running(script)) == errno.EPERM


def test_a_script_cannot_be_run_by_a_denied_interpreter(host: Host, tmp_path: Path) -> None:
    interpreter, script = tmp_path / "interpreter", tmp_path / "script"
    shutil.copy("/bin/true", interpreter)
    script.write_text(f"#!{interpreter}\n")
    script.chmod(0o755)
    host.apply(file_rule(interpreter, Op.EXEC))
    assert in_child(running(script)) == errno.EPERM


def test_it_cannot_be_mapped_to_run(host: Host, program: Path) -> None:
    fd = os.open(program, os.O_RDONLY)
    try:
        host.apply(file_rule(program, Op.EXEC))
        map_file(fd, mmap.PROT_READ)
        with refused():
            map_file(fd, mmap.PROT_READ | mmap.PROT_EXEC)
    finally:
        os.close(fd)


def test_a_mapping_cannot_become_executable(host: Host, program: Path) -> None:
    fd = os.open(program, os.O_RDONLY)
    try:
        address = map_file(fd, mmap.PROT_READ)
        host.apply(file_rule(program, Op.EXEC))
        assert libc.mprotect(ctypes.c_void_p(address), ctypes.c_size_t(PAGE), 1 | 4) == -1
        assert ctypes.get_errno() == errno.EPERM
        host.clear()
        assert libc.mprotect(ctypes.c_void_p(address), ctypes.c_size_t(PAGE), 1 | 4) == 0
    finally:
        os.close(fd)


def test_a_directory_rule_stops_running_too(host: Host, program: Path) -> None:
    host.apply(file_rule(program.parent, Op.EXEC, depth=1))
    assert in_child(running(program)) == errno.EPERM
    touch(program)
    with refused():
        fd = os.open(program, os.O_RDONLY)
        try:
            map_file(fd, mmap.PROT_EXEC)
        finally:
            os.close(fd)
