"""What an event's numbers stand for: units, containers, programs, policies."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from event_records import BUNDLE, DIGEST
from hypothesis import given
from hypothesis import strategies as st

from aegis_tools.agent.enrich import Bundle, Bundles, Place, Programs, place_of

ID = "0123456789abcdef" * 4
OTHER = "f" * 64


@pytest.mark.parametrize(
    ("cgroup", "unit", "container"),
    [
        ("/", "", ""),
        ("", "", ""),
        ("/init.scope", "init.scope", ""),
        ("/system.slice/nginx.service", "nginx.service", ""),
        ("/system.slice/system-postgresql.slice/postgresql@15-main.service",
         "postgresql@15-main.service", ""),
        ("/user.slice/user-1000.slice/session-4.scope", "session-4.scope", ""),
        ("/user.slice/user-1000.slice/user@1000.service/app.slice/a.service",
         "user@1000.service", ""),
        ("/system.slice/_cgroup.service", "cgroup.service", ""),
        ("/system.slice/x.service/sub/deeper", "x.service", ""),
        (f"/system.slice/docker-{ID}.scope", f"docker-{ID}.scope", ID),
        (f"/docker/{ID}", "", ID),
        (f"/docker/{ID}/docker/{OTHER}", "", ID),
        (f"/machine.slice/libpod-{ID}.scope/container", f"libpod-{ID}.scope", ID),
        (f"/libpod_parent/libpod-{ID}", "", ID),
        (f"/machine.slice/libpod-conmon-{ID}.scope", f"libpod-conmon-{ID}.scope", ""),
        (f"/user.slice/user-1000.slice/user@1000.service/user.slice/libpod-{ID}.scope",
         "user@1000.service", ID),
        (f"/kubepods.slice/kubepods-burstable.slice/kubepods-burstable-podab_cd.slice/"
         f"cri-containerd-{ID}.scope", f"cri-containerd-{ID}.scope", ID),
        (f"/kubepods/besteffort/pod11111111-2222-3333-4444-555555555555/{ID}", "", ID),
        (f"/kubepods.slice/kubepods-pod1.slice/crio-{ID}.scope", f"crio-{ID}.scope", ID),
        (f"/system.slice/containerd.service/kubepods-burstable-pod1.slice:cri-containerd:{ID}",
         "containerd.service", ID),
        (f"/k8s.io/{ID}", "", ID),
        (f"/system.slice/nerdctl-{ID}.scope", f"nerdctl-{ID}.scope", ID),
        (f"/docker/{ID[:-1]}", "", ""),
        (f"/evil/x{ID}", "", ""),
        ("/system.slice", "", ""),
        ("/a.service.d/b", "", ""),
    ],
)  # fmt: skip
def test_a_cgroup_s_path_tells_unit_and_container(cgroup: str, unit: str, container: str) -> None:
    assert place_of(cgroup) == Place(cgroup, unit, container)


@given(st.text(max_size=5000))
def test_any_name_of_a_cgroup_is_borne(cgroup: str) -> None:
    place = place_of(cgroup)
    assert len(place.cgroup) <= 1024
    assert place.container == "" or len(place.container) == 64


def test_policies_are_found_by_the_beginning_of_their_digest_and_kept() -> None:
    now, asked = [0.0], []
    stored = {DIGEST[:16]: Bundle(DIGEST, ("ops", "second"))}

    def find(start: str) -> Bundle | None:
        asked.append(start)
        return stored.get(start)

    bundles = Bundles(find, lambda: now[0], room=2)
    assert bundles.get(0) == Bundle()
    assert bundles.get(BUNDLE) == Bundle(DIGEST, ("ops", "second"))
    assert bundles.get(BUNDLE).signers == ("ops", "second")
    assert asked == [DIGEST[:16]]
    assert bundles.get(1) == Bundle("0100000000000000")
    assert bundles.get(2) == Bundle("0200000000000000")
    assert asked[1:] == ["0100000000000000", "0200000000000000"]
    stored["0100000000000000"] = Bundle("01" + "0" * 62)
    assert bundles.get(1) == Bundle("0100000000000000")  # asked for once a second at most
    now[0] = 3.0
    assert bundles.get(1) == Bundle("01" + "0" * 62)


def process(proc: Path, pid: int, tid: int, exe: str, comm: str) -> None:
    task = proc / str(pid) / "task" / str(tid)
    task.mkdir(parents=True)
    (task / "comm").write_text(comm + "\n")
    (proc / str(pid) / "exe").symlink_to(exe)


def test_a_program_is_told_while_the_process_bears_the_name(tmp_path: Path) -> None:
    process(tmp_path, 7, 8, "/usr/bin/cat", "cat")
    programs = Programs(str(tmp_path))
    assert programs.get(7, 8, b"cat".ljust(16, b"\0")) == "/usr/bin/cat"
    assert programs.get(7, 8, b"dd") == ""
    assert programs.get(7, 9, b"cat") == ""
    assert programs.get(99, 99, b"cat") == ""


def test_programs_are_looked_up_a_bounded_number_of_times(tmp_path: Path) -> None:
    for pid in (1, 2, 3):
        process(tmp_path, pid, pid, f"/bin/p{pid}", "p")
    programs = Programs(str(tmp_path), budget=2)
    assert [programs.get(pid, pid, b"p") for pid in (1, 2, 3, 1)] == [
        "/bin/p1", "/bin/p2", "", "/bin/p1",
    ]  # fmt: skip
    programs.renew()
    assert programs.get(3, 3, b"p") == "/bin/p3"


def test_our_own_program_is_found() -> None:
    comm = Path("/proc/self/comm").read_bytes().strip()
    found = Programs().get(os.getpid(), os.getpid(), comm)
    assert Path(found).samefile("/proc/self/exe")
