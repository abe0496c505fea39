"""The machine in which a kernel is tried: what is in it, and what its console means."""

from __future__ import annotations

import subprocess
from pathlib import Path

from vmharness.trykernel import COMMAND_LINE, INIT, archive, verdict

CAME_UP = "[    1.0] x\r\nTRIED release 6.1.0\r\nTRIED lsm lockdown,yama,bpf\r\nTRIED btf yes\r\n"


def test_what_is_packed_is_unpacked_by_cpio_with_its_modes(tmp_path: Path) -> None:
    files = {"init": (0o100755, b"#!"), "usr/lib/a b": (0o100644, b"x" * 4097)}
    data = archive(files)
    subprocess.run(["busybox", "cpio", "-i"], input=data, cwd=tmp_path, check=True)
    assert (tmp_path / "usr/lib/a b").read_bytes() == b"x" * 4097
    assert (tmp_path / "init").stat().st_mode & 0o777 == 0o755
    assert (tmp_path / "proc").is_dir()


def test_a_kernel_that_loads_it_and_one_that_refuses_are_told_apart() -> None:
    good = verdict(f"{CAME_UP}TRIED loaded yes\r\nTRIED end yes\r\n")
    assert (good["came_up"], good["btf"], good["loaded"], good["detail"]) == (True, True, True, [])
    bad = verdict(f"{CAME_UP}libbpf: load failed\r\nTRIED end yes\r\n")
    assert (bad["came_up"], bad["loaded"]) == (True, False)
    assert bad["detail"] == ["[    1.0] x", "libbpf: load failed"]


def test_programs_that_load_into_a_kernel_that_does_not_ask_them_are_no_success() -> None:
    found = verdict(CAME_UP.replace(",bpf", "") + "TRIED loaded yes\r\n")
    assert (found["came_up"], found["loaded"]) == (True, False)


def test_a_machine_that_says_nothing_did_not_come_up() -> None:
    assert verdict("")["came_up"] is False


def test_the_machine_asks_for_bpf_and_runs_what_is_in_it() -> None:
    assert "bpf" in COMMAND_LINE.rpartition("lsm=")[2].split(",")
    assert INIT.startswith("#!/busybox sh\n")
