"""Which tests are run one after the other, and which side by side."""

from __future__ import annotations

from pathlib import Path

import pytest
from testrun.kinds import KINDS as ALL
from testrun.kinds import LANES, LONG, machines_at_once, stages

KERNELS = ("6.1", "7.2")
KINDS = tuple(kind for kind in ALL if kind != "long")


def test_what_takes_long_is_one_stage_and_each_short_kind_one_before_it(tmp_path: Path) -> None:
    found = stages(KINDS, tmp_path, KERNELS)
    assert [stage.name for stage in found] == [
        "check",
        "vm, kernel, molecule, system, counted, unit",
    ]


def test_the_longest_begin_first(tmp_path: Path) -> None:
    names = [job.name for job in stages(KINDS, tmp_path, KERNELS)[-1].jobs]
    first = ["system image", "vm 6.1", "vm 7.2", "molecule image", "kernel fleets", "kernel"]
    assert names[:6] == first
    assert [name.split()[0] for name in names[6:8]] == ["molecule", "system"]
    assert {name.split()[0] for name in names[7:-2]} == {"system"}
    assert names[-2:] == ["counted 7.2", "unit"]


def test_what_takes_long_is_run_when_it_is_asked_for_and_only_then(tmp_path: Path) -> None:
    jobs = stages(("long",), tmp_path, KERNELS)[-1].jobs
    assert [job.name for job in jobs if not job.prepares] == list(LONG)
    assert {name for job in jobs for name in job.after} == {j.name for j in jobs if j.prepares}
    others = [job.name for stage in stages(KINDS, tmp_path, KERNELS) for job in stage.jobs]
    assert not set(others) & set(LONG)


@pytest.mark.parametrize("kind", ["system", "molecule"])
def test_whole_systems_wait_for_what_they_start_from(tmp_path: Path, kind: str) -> None:
    jobs = stages((kind,), tmp_path, KERNELS)[-1].jobs
    assert jobs[0].prepares
    assert jobs[1:]
    assert {job.after for job in jobs[1:]} == {(jobs[0].name,)}


def test_every_command_of_a_stage_writes_results_of_its_own(tmp_path: Path) -> None:
    jobs = [job for stage in stages(KINDS, tmp_path, KERNELS) for job in stage.jobs]
    assert len({job.results for job in jobs}) == len(jobs)


def test_what_is_run_side_by_side_keeps_its_output_to_itself(tmp_path: Path) -> None:
    assert all(job.quiet for job in stages(KINDS, tmp_path, KERNELS)[-1].jobs)


def test_only_what_was_asked_for_is_run(tmp_path: Path) -> None:
    assert [stage.name for stage in stages(("unit",), tmp_path, KERNELS)] == ["unit"]
    (stage,) = stages(("kernel", "vm"), tmp_path, KERNELS)
    assert [job.name for job in stage.jobs] == ["vm 6.1", "vm 7.2", "kernel fleets", "kernel"]


def test_instructions_are_counted_on_some_kernels(tmp_path: Path) -> None:
    (stage,) = stages(("counted",), tmp_path, ("5.10", *KERNELS))
    assert [job.argv[-3:] for job in stage.jobs] == [("--icount", "--kernel", "7.2")]
    assert [job.results.name for job in stage.jobs] == ["counted-7.2.xml"]


def test_a_kind_without_a_command_is_told_and_not_forgotten(tmp_path: Path) -> None:
    (stage,) = stages(("vm", "kernel"), tmp_path, ())
    assert stage.empty == ["vm"]
    assert [job.name for job in stage.jobs] == ["kernel fleets", "kernel"]


def test_every_file_of_kernel_tests_is_run_once(tmp_path: Path) -> None:
    fleets, others = stages(("kernel",), tmp_path, ())[0].jobs
    files = {word for word in fleets.argv if word.endswith(".py")}
    left_out = {word.removeprefix("--ignore=") for word in others.argv if "--ignore=" in word}
    assert files == left_out
    assert len(files) > 5
    assert "tests/kernel" in others.argv


def test_what_waits_is_run_beside_the_others_not_in_turn_with_them(tmp_path: Path) -> None:
    jobs = [job for stage in stages(ALL, tmp_path, KERNELS) for job in stage.jobs]
    assert {job.name: job.lane for job in jobs if job.lane} == LANES


def test_soaks_begin_when_the_machines_have_ended(tmp_path: Path) -> None:
    jobs = {job.name: job for job in stages(KINDS, tmp_path, KERNELS)[-1].jobs}
    assert jobs["system soaks"].after == ("system image", "vm 6.1", "vm 7.2")
    begun = list(jobs)
    assert begun.index("system soaks") > begun.index("vm 7.2")


def test_a_small_host_runs_one_at_a_time() -> None:
    assert machines_at_once(16384, 2) == 2
    assert machines_at_once(16384, 1) == machines_at_once(4096, 2) == 1
