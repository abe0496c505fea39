"""A kernel without BPF LSM that boots by default: found, and another one is chosen."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from pathlib import Path

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

    def case(self, *, dry_run: bool = False) -> Case:
        seams = Seams(run=self.run)
        record = Record.begin(self.paths, "kernel-upgrade", dry_run=dry_run, clock=seams)
        return Case(self.paths, record, dry_run=dry_run, seams=seams)


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
    planned = kernel_upgrade.run(dry := host.case(dry_run=True))
    assert (planned.found, dry.changed) == (True, True)
    assert host.files() == before

    case = host.case()
    done = kernel_upgrade.run(case)
    assert (done.result, done.data["reboot_needed"]) == ("recovered", False)
    assert booting(host) == RELEASE
    assert "CONFIG_BPF_LSM" in done.summary
    case.record.close(done.result)

    again = kernel_upgrade.run(case := host.case())
    assert (again.found, again.result, case.changed) == (False, "nothing-to-do", False)


def test_after_a_boot_without_bpf_the_record_stays_open_for_the_reboot(tmp_path: Path) -> None:
    host = Upgraded(tmp_path, ACTIVE)
    host.put("proc/sys/kernel/osrelease", f"{NEW}\n")
    done = kernel_upgrade.run(host.case())
    assert done.data["reboot_needed"]
    assert done.keep_open
    assert "systemctl reboot" in done.next
    assert f"this boot ({NEW}): it has no BPF LSM" in done.summary


def test_the_default_is_given_back_only_to_a_kernel_that_has_it(host: Upgraded) -> None:
    kernel_upgrade.run(host.case())
    with pytest.raises(BootError, match="it has no BPF LSM"):
        kernel_upgrade.run(host.case(), back=True)
    assert booting(host) == RELEASE

    host.put(f"boot/config-{NEW}", CONFIG)
    assert kernel_upgrade.run(host.case(), back=True).result == "recovered"
    assert booting(host) == NEW
    assert not (host.paths.root / DROP_IN).exists()
    assert kernel_upgrade.run(host.case(), back=True).result == "nothing-to-do"


def test_where_no_kernel_has_it_nothing_is_changed(host: Upgraded) -> None:
    host.put(f"boot/config-{RELEASE}", LACKING)
    before = host.files()
    with pytest.raises(BootError, match="no kernel that is installed"):
        kernel_upgrade.run(host.case(dry_run=True))
    assert host.files() == before


def test_a_kernel_that_is_known_to_come_up_can_be_named(host: Upgraded) -> None:
    host.put(f"boot/config-{NEW}", CONFIG)
    done = kernel_upgrade.run(host.case(), kernel=RELEASE)
    assert (done.result, booting(host)) == ("recovered", RELEASE)
    with pytest.raises(BootError, match=r"no boot entry is for the kernel 9\.9"):
        kernel_upgrade.run(host.case(), kernel="9.9")


def test_a_list_that_lost_bpf_gets_it_back(tmp_path: Path) -> None:
    host = Upgraded(tmp_path, ACTIVE)
    host.put(f"boot/config-{NEW}", CONFIG.replace(",bpf", ""))
    theirs = 'GRUB_CMDLINE_LINUX_DEFAULT="$GRUB_CMDLINE_LINUX_DEFAULT lsm=lockdown,yama"\n'
    host.put("etc/default/grub.d/50-site.cfg", theirs)
    host.update()
    done = kernel_upgrade.run(host.case())
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
    kept = kernel_upgrade.run(case := host.case())
    assert (kept.found, case.changed) == (True, False)
    assert "--undo-disable" in kept.next[0]
    assert {k: v for k, v in host.files().items() if "incidents" not in k} == before

    done = kernel_upgrade.run(host.case(), undo_disable=True)
    assert done.result == "recovered", done
    entry = host.facts().default
    assert entry
    assert "aegisbpf.disable=1" not in entry.line
    assert not (host.paths.root / "etc/aegisbpf.disable").exists()


@pytest.mark.parametrize(
    ("release", "wrong"),
    [("", "CONFIG_BPF_LSM"), (NEW, "CONFIG_BPF_LSM"), (RELEASE, "")],
)
def test_a_kernel_is_judged_before_it_boots(host: Upgraded, release: str, wrong: str) -> None:
    before = host.files()
    found: Outcome = kernel_upgrade.check(host.case(), release)
    assert (found.error is not None, wrong in found.summary) == (bool(wrong), True)
    assert host.files() == before


def test_a_kernel_that_is_not_there_is_said(host: Upgraded) -> None:
    with pytest.raises(BootError, match="is not here"):
        kernel_upgrade.check(host.case(), "4.4")


def test_a_menu_that_somebody_elses_setting_decides_is_not_put_in_place(host: Upgraded) -> None:
    host.put("etc/default/grub.d/zz-late.cfg", 'GRUB_DEFAULT="0"\n')
    before = host.files()
    failing: Callable[[], Outcome] = lambda: kernel_upgrade.run(host.case())  # noqa: E731
    with pytest.raises(BootError, match="still not boot the entry"):
        failing()
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
