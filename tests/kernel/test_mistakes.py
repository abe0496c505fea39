"""What a person gets wrong is said so that it can be put right, and changes no host."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import pytest
from fleet_support import Controller
from fleetsim.fleet import Fleet

CURRENT = "/opt/aegisbpf/current"


@pytest.fixture(scope="module")
def controller(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Controller]:
    with Fleet(1) as fleet:
        found = Controller(fleet, tmp_path_factory.mktemp("controller"))
        found.on(1, "load")
        found.sign("one")
        found.play("site", aegisbpf_policy=found.bundle("one"))
        yield found


def fold(told: str) -> str:
    """Return what was told without the breaks of its lines."""
    return " ".join(told.split())


def test_a_private_key_does_not_go_to_a_new_host(controller: Controller) -> None:
    key = controller.folder / "ops.key"
    secret = key.read_text().split()[-1]
    controller.shell(1, f"mv {CURRENT} {CURRENT}.away")
    try:
        told = controller.play("site", "-vvv", "--check", status=2,
                               aegisbpf_trusted_keys=[str(key)])  # fmt: skip
    finally:
        controller.shell(1, f"mv {CURRENT}.away {CURRENT}")
    assert "private key" in fold(told)
    assert secret not in told
    assert "Boot |" not in told


@pytest.mark.parametrize("playbook", ["block", "rollout", "site"])
def test_no_time_is_no_change_for_good(controller: Controller, playbook: str) -> None:
    given = {"aegisbpf_policy": controller.bundle(controller.sign(f"{playbook}-timeless"))}
    given = given if playbook != "block" else {"aegisbpf_block_paths": "/srv/one"}
    before = controller.on(1, "status")["policy"]
    told = controller.play(playbook, status=2, aegisbpf_confirm_within="", **given)
    assert "is no duration" in fold(told)
    assert controller.on(1, "status")["policy"] == before
    assert controller.on(1, "policy", "verify-live")["drifted"] is False


@pytest.mark.parametrize(
    ("playbook", "variables", "words"),
    [
        ("block", {}, "no file is named; next: set aegisbpf_block_paths"),
        ("rollout", {"aegisbpf_policy": ""}, "no policy is named; next: set aegisbpf_policy"),
        ("upgrade", {}, "no wheelhouse: aegisbpf_wheelhouse must name an archive"),
    ],
)
def test_what_is_missing_is_named(
    controller: Controller, playbook: str, variables: dict[str, object], words: str
) -> None:
    assert words in fold(controller.play(playbook, status=2, **variables))


@pytest.mark.parametrize("playbook", ["upgrade", "rotate_keys"])
def test_a_host_without_the_program_is_told_from_one_with_troubles(
    controller: Controller, playbook: str
) -> None:
    controller.shell(1, f"mv {CURRENT} {CURRENT}.away")
    try:
        told = fold(controller.play(playbook, status=2))
    finally:
        controller.shell(1, f"mv {CURRENT}.away {CURRENT}")
    assert "aegisbpf is not installed; next: site.yml" in told


def test_who_is_not_root_is_told_so(controller: Controller, tmp_path: Path) -> None:
    inventory = json.loads(controller.inventory.read_text())
    inventory["all"]["vars"]["ansible_become_user"] = "nobody"
    (tmp_path / "nobody.json").write_text(json.dumps(inventory))
    told = controller.play("status", "-i", str(tmp_path / "nobody.json"), status=2)
    assert "root" in fold(told).partition("FAILED! =>")[2]


def test_an_archive_of_another_build_leaves_nothing_behind(
    controller: Controller, tmp_path: Path
) -> None:
    house = tmp_path / "house.tar"
    house.write_bytes(b"cut short")
    house.with_name("house.tar.sha256").write_text(f"{'0a' * 32}  house.tar\n")
    told = fold(controller.play("upgrade", status=2, aegisbpf_wheelhouse=str(house)))
    assert "make both anew with scripts/build-wheelhouse" in told
    assert controller.shell(1, "ls /var/cache | grep -c aegisbpf- || true").strip() == "0"


def test_keys_and_waves_may_be_given_as_text(controller: Controller) -> None:
    key = str(controller.folder / "ops.pub")
    told = controller.play("site", aegisbpf_trusted_keys=key, aegisbpf_threshold="1",
                           aegisbpf_policy=controller.bundle("one"))  # fmt: skip
    assert "changed=0" in told
    assert "Trust |" not in told
    controller.roll("one", aegisbpf_waves="1,50%")


def test_waves_without_a_size_are_not_everybody_at_once(controller: Controller) -> None:
    told = fold(controller.roll("one", status=4, aegisbpf_waves=0))
    assert "aegisbpf_waves: '0' is no size of a wave" in told


def test_a_play_for_nobody_is_an_error(controller: Controller) -> None:
    told = fold(controller.roll("one", status=1, aegisbpf_hosts="wbe"))
    assert "wbe" in told


def test_a_folder_that_cannot_be_written_is_said_once(
    controller: Controller, tmp_path: Path
) -> None:
    (tmp_path / "file").touch()
    told = fold(controller.roll("one", aegisbpf_report=str(tmp_path / "file")))
    assert told.count("no report: nothing can be written into") == 1
    assert "Callback dispatch" not in told


def test_a_file_that_was_denied_under_another_spelling_is_let_go(controller: Controller) -> None:
    def denied() -> set[str]:
        return {rule["target"] for rule in controller.on(1, "block", "list")["rules"]}

    given = {"aegisbpf_block_paths": "/srv//other"}
    before = denied()
    controller.play("block", **given)
    assert denied() == before | {"/srv/other"}
    controller.play("block", aegisbpf_block_state="absent", **given)
    assert denied() == before
    again = controller.play("block", aegisbpf_block_state="absent", **given)
    assert "changed=0" in again
