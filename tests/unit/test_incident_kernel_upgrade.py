"""A kernel without BPF LSM that boots by default: found, and another one is chosen."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest
from boot_support import ACTIVE, BUILTIN, RELEASE, Bls, Grub

from aegis_tools.control.bootclock import Seams
from aegis_tools.control.bootconfig import default
from aegis_tools.control.store import Store
from aegis_tools.errors import BootError
from aegis_tools.incident import kernel_upgrade
from aegis_tools.incident.case import Case, Outcome
from aegis_tools.incident.kernels import NEEDED
from aegis_tools.incident.record import Record

NEW = "6.99.0-1-cloud-amd64"
CONFIG = "".join(f"{name}=y\n" for name in NEEDED) + f'CONFIG_LSM="{BUILTIN}"\n'
LACKING = CONFIG.replace("CONFIG_BPF_LSM=y", "# CONFIG_BPF_LSM is not set").replace(",bpf", "")
DROP_IN = "etc/default/grub.d/99-aegisbpf-kernel.cfg"
WITH_BPF = (*ACTIVE, "bpf")


class Upgraded(Grub):
    """A host with two kernels; the newer one comes first in the menu."""

    def __init__(self, root: Path, active: tuple[str, ...] = WITH_BPF) -> None:
        super().__init__(root, active, BUILTIN)
        Store(self.paths).prepare()
        self.put(f"boot/config-{RELEASE}", CONFIG)
        self.put(f"boot/config-{NEW}", LACKING)
        self.put("sys/kernel/btf/vmlinux", "")
        self.update()

    def menu(self) -> str:
        """Return what grub-mkconfig makes: entries of both, and the default that is asked for."""
        text = super().menu()
        entries = re.search(r"(?ms)^(menuentry .*?^\}\n)(submenu .*?^\}\n)", text)
        assert entries
        simple, sub = entries.groups()
        new = simple.replace(RELEASE, NEW)
        opening, rest = sub.split("\n", 1)
        text = text.replace(
            simple + sub, f"{new}{opening}\n{rest.replace(RELEASE, NEW)[:-2]}{rest}"
        )
        folder = self.paths.root / "etc/default"
        files = (folder / "grub", *sorted(folder.glob("*/*.cfg")))
        asked = re.findall(
            r'(?m)^GRUB_DEFAULT="?([^"\n]*)', "\n".join(f.read_text() for f in files)
        )
        return re.sub(r'(?m)^(\s*set default=")0"', rf'\g<1>{asked[-1]}"', text)

    def incident(
        self, deed: Callable[..., Outcome], *given: str, dry_run: bool = False, **options: Any
    ) -> tuple[Outcome, bool]:
        """Do as the command does; return how it ended, and whether it changed anything."""
        seams = Seams(run=self.run)
        begun = Record.begin(self.paths, "kernel-upgrade", dry_run=dry_run, clock=seams)
        with begun as record:
            case = Case(self.paths, record, dry_run=dry_run, seams=seams)
            outcome = deed(case, *given, **options)
            if not outcome.keep_open:
                record.close(outcome.result)
            return outcome, case.changed

    def repair(self, **options: Any) -> tuple[Outcome, bool]:
        return self.incident(kernel_upgrade.run, **options)


@pytest.fixture
def host(tmp_path: Path) -> Upgraded:
    return Upgraded(tmp_path)


def booting(host: Upgraded) -> str:
    entry = host.facts().default
    assert entry
    return entry.release


def test_a_default_kernel_without_bpf_lsm_gives_way_to_the_one_before(host: Upgraded) -> None:
    assert booting(host) == NEW
    before = host.files()
    planned, would = host.repair(dry_run=True)
    assert (planned.found, would) == (True, True)
    assert host.files() == before

    done, _ = host.repair()
    assert (done.result, done.data["reboot_needed"]) == ("recovered", False)
    assert booting(host) == RELEASE
    assert "CONFIG_BPF_LSM" in done.summary

    again, changed = host.repair()
    assert (again.found, again.result, changed) == (False, "nothing-to-do", False)


def test_after_a_boot_without_bpf_the_record_stays_open_for_the_reboot(tmp_path: Path) -> None:
    host = Upgraded(tmp_path, ACTIVE)
    host.put("proc/sys/kernel/osrelease", f"{NEW}\n")
    done, _ = host.repair()
    assert done.data["reboot_needed"]
    assert done.keep_open
    assert "systemctl reboot" in done.next
    assert f"this boot ({NEW}): it has no BPF LSM" in done.summary

    host.put("proc/sys/kernel/osrelease", f"{RELEASE}\n")
    host.put("sys/kernel/security/lsm", ",".join(WITH_BPF))
    host.repair()
    [record] = host.paths.incidents.glob("*/*.json")
    facts = json.loads(record.read_text())["facts"]
    assert "it has no BPF LSM" in facts["causes"][0], "what was wrong stays in the record"


def test_the_default_is_given_back_only_to_a_kernel_that_has_it(host: Upgraded) -> None:
    host.repair()
    with pytest.raises(BootError, match="it has no BPF LSM"):
        host.repair(back=True)
    assert booting(host) == RELEASE

    host.put(f"boot/config-{NEW}", CONFIG)
    assert host.repair(back=True)[0].result == "recovered"
    assert booting(host) == NEW
    assert not (host.paths.root / DROP_IN).exists()
    assert host.repair(back=True)[0].result == "nothing-to-do"


def test_giving_back_that_was_killed_half_way_is_finished(host: Upgraded) -> None:
    host.repair()
    host.put(f"boot/config-{NEW}", CONFIG)

    def kill() -> None:
        raise KeyboardInterrupt

    host.meddle = kill
    with pytest.raises(KeyboardInterrupt):
        host.repair(back=True)
    (host.paths.root / DROP_IN).unlink()  # as a power cut leaves it, before the menu
    host.meddle = lambda: None
    assert host.repair(back=True)[0].result == "recovered"
    assert booting(host) == NEW


def test_where_no_kernel_has_it_nothing_is_changed(host: Upgraded) -> None:
    host.put(f"boot/config-{RELEASE}", LACKING)
    before = host.files()
    with pytest.raises(BootError, match="no kernel that is installed"):
        host.repair(dry_run=True)
    assert host.files() == before


def test_a_kernel_that_is_known_to_come_up_can_be_named(host: Upgraded) -> None:
    host.put(f"boot/config-{NEW}", CONFIG)
    done, _ = host.repair(kernel=RELEASE)
    assert (done.result, booting(host)) == ("recovered", RELEASE)
    with pytest.raises(BootError, match=r"no boot entry is for the kernel 9\.9"):
        host.repair(kernel="9.9")


def test_a_list_that_lost_bpf_gets_it_back(tmp_path: Path) -> None:
    host = Upgraded(tmp_path, ACTIVE)
    host.put(f"boot/config-{NEW}", CONFIG.replace(",bpf", ""))
    theirs = 'GRUB_CMDLINE_LINUX_DEFAULT="$GRUB_CMDLINE_LINUX_DEFAULT lsm=lockdown,yama"\n'
    host.put("etc/default/grub.d/50-site.cfg", theirs)
    host.update()
    done, _ = host.repair()
    assert done.data["reboot_needed"]
    assert host.facts().pending
    assert booting(host) == NEW


def disable(host: Upgraded) -> None:
    host.put("etc/default/grub.d/98-aegisbpf-disable.cfg",
             'GRUB_CMDLINE_LINUX="$GRUB_CMDLINE_LINUX aegisbpf.disable=1"\n')  # fmt: skip
    host.put("etc/aegisbpf.disable", "")
    host.put(f"boot/config-{NEW}", CONFIG)
    host.update()


def test_what_was_switched_off_stays_so_until_somebody_says_otherwise(host: Upgraded) -> None:
    disable(host)
    before = host.files()
    kept, changed = host.repair()
    assert (kept.found, changed) == (True, False)
    assert "--undo-disable" in kept.next[0]
    assert {k: v for k, v in host.files().items() if "incidents" not in k} == before

    done, _ = host.repair(undo_disable=True)
    assert done.result == "recovered", done
    entry = host.facts().default
    assert entry
    assert "aegisbpf.disable=1" not in entry.line
    assert not (host.paths.root / "etc/aegisbpf.disable").exists()


def test_a_kernel_is_judged_before_it_boots(host: Upgraded) -> None:
    before = host.files()
    for release in ("", NEW):
        with pytest.raises(BootError, match="CONFIG_BPF_LSM"):
            host.incident(kernel_upgrade.check, release)
    found, _ = host.incident(kernel_upgrade.check, RELEASE)
    assert (found.found, found.data["checked"]["works"]) == (False, True)
    assert host.files() == before


def test_a_kernel_that_is_not_there_is_said(host: Upgraded) -> None:
    with pytest.raises(BootError, match="is not here"):
        host.incident(kernel_upgrade.check, "4.4")


@pytest.fixture
def unknown_loader(tmp_path: Path) -> Upgraded:
    """Return a host without BPF LSM, and without a boot loader that we know."""
    host = Upgraded(tmp_path, active=ACTIVE)
    host.put("proc/cmdline", "root=/dev/vda1\n")
    (tmp_path / "usr/sbin/update-grub").unlink()
    return host


@pytest.mark.parametrize("dry_run", [True, False])
def test_where_no_boot_loader_is_known_it_says_so_and_what_to_do_by_hand(
    unknown_loader: Upgraded, dry_run: bool
) -> None:
    outcome, changed = unknown_loader.repair(dry_run=dry_run)
    assert (outcome.result, changed) == ("not-recovered", False)
    assert "next boot has" not in outcome.summary
    assert outcome.error is not None
    assert "add bpf to lsm= by hand" in outcome.error.hint


def test_where_no_boot_loader_is_known_the_running_kernel_is_judged(
    unknown_loader: Upgraded,
) -> None:
    unknown_loader.put(f"boot/config-{RELEASE}", CONFIG.replace(",bpf", ""))
    with pytest.raises(BootError, match="bpf is not in its own list") as caught:
        unknown_loader.incident(kernel_upgrade.check)
    assert "by hand" in caught.value.hint
    (unknown_loader.paths.root / f"boot/config-{RELEASE}").unlink()
    with pytest.raises(BootError, match="bpf is not among its active modules"):
        unknown_loader.incident(kernel_upgrade.check)
    with pytest.raises(BootError) as caught:
        unknown_loader.incident(kernel_upgrade.check, "5.4.0-1")
    assert RELEASE in caught.value.hint


def test_where_securityfs_is_not_mounted_nothing_is_said_of_the_list(tmp_path: Path) -> None:
    host = Upgraded(tmp_path, active=())
    outcome, _ = host.repair(dry_run=True)
    assert "securityfs is not mounted" in outcome.summary


def test_a_menu_that_somebody_elses_setting_decides_is_not_put_in_place(host: Upgraded) -> None:
    host.put("etc/default/grub.d/zz-late.cfg", 'GRUB_DEFAULT="0"\n')
    before = host.files()
    with pytest.raises(BootError, match="still not boot the entry"):
        host.repair()
    assert {k: v for k, v in host.files().items() if "incidents" not in k} == before


def test_grubby_is_asked_for_the_kernel_itself(tmp_path: Path) -> None:
    host, asked = Bls(tmp_path), list[list[str]]()
    facts = host.facts()
    names = list(default.choices(host.paths, facts))
    assert names == [f"/boot/vmlinuz-{RELEASE}", "/boot/vmlinuz-0-rescue-c445"]

    def run(argv: Sequence[str], *, timeout: float = 60) -> str:
        assert timeout > 60
        asked.append(list(argv))
        return ""

    default.choose(host.paths, facts, names[0], run)
    default.undo_disable(host.paths, facts, run)
    assert asked[0] == ["grubby", f"--set-default=/boot/vmlinuz-{RELEASE}"]
    assert asked[1][2] == "--remove-args=aegisbpf.disable=1"


def test_a_name_that_means_something_to_a_shell_is_not_written_down(host: Upgraded) -> None:
    before = host.files()
    with pytest.raises(BootError, match="cannot be written down"):
        default.choose(host.paths, host.facts(), 'x"; reboot; "', host.run)
    assert host.files() == before
