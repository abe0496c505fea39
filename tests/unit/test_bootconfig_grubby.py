"""What enable and disable do to boot entries, by grubby: also those that real hosts have."""

from __future__ import annotations

from pathlib import Path

import pytest
from boot_support import (
    ACTIVE,
    DATA,
    LIST,
    RELEASE,
    SELINUX,
    WITHOUT,
    Bls,
    Rhel9,
    disable,
    enable,
)

from aegis_tools.control.bootconfig import grubby
from aegis_tools.control.bootconfig.change import carry_out
from aegis_tools.control.bootconfig.facts import read_facts
from aegis_tools.control.bootconfig.plan import plan_enable
from aegis_tools.control.store import Store
from aegis_tools.errors import BootError


@pytest.fixture
def bls(tmp_path: Path) -> Bls:
    host = Bls(tmp_path)
    host.put("etc/kernel/cmdline", "ro  crashkernel=1G\n")
    Store(host.paths).prepare()
    return host


@pytest.fixture(params=["rocky91-grubby-info.txt", "oracle94-grubby-info.txt"])
def info(request: pytest.FixtureRequest) -> str:
    """Return what grubby printed on a real host, without the line that says on which."""
    origin, text = (DATA / request.param).read_text().split("\n", 1)
    assert "not run here" in origin
    return str(text)


@pytest.fixture
def rhel(tmp_path: Path, info: str) -> Rhel9:
    host = Rhel9(tmp_path, info)
    Store(host.paths).prepare()
    return host


def test_the_stand_in_for_grubby_prints_what_the_real_one_printed(rhel: Rhel9, info: str) -> None:
    assert rhel.run(grubby.INFO) == info
    rhel.run(grubby.set_argv("a,b"))
    changed = [line for line in rhel.run(grubby.INFO).splitlines() if line not in info]
    assert [line.split()[-1] for line in changed] == ['lsm=a,b"'] * info.count("index=")
    rhel.run(grubby.set_argv(None))
    assert rhel.run(grubby.INFO) == info


def test_the_entries_of_a_real_host_get_bpf_and_give_it_back(rhel: Rhel9, info: str) -> None:
    before = rhel.files()
    facts = enable(rhel)
    wanted = "lockdown,yama,selinux,bpf"
    assert {one.lsm for one in facts.entries} == {wanted}
    assert all(
        text in info for one in facts.entries for text in one.line.split() if "lsm" not in text
    )
    assert (facts.pending, facts.lost, facts.loader) == (True, (), "grubby")
    assert ["--update-kernel=ALL", f"--args=lsm={wanted}"] in [argv[1:3] for argv in rhel.asked]
    assert not plan_enable(rhel.facts(), merge=False).changed
    disable(rhel)
    assert rhel.run(grubby.INFO) == info
    assert rhel.files() == before


def test_a_real_hosts_foreign_list_is_refused_merged_and_given_back(rhel: Rhel9, info: str) -> None:
    rhel.run(grubby.set_argv("selinux,landlock"))
    before, told = rhel.files(), rhel.run(grubby.INFO)
    with pytest.raises(BootError, match="lsm= is set already"):
        enable(rhel)
    assert rhel.files() == before
    facts = enable(rhel, merge=True)
    assert {one.lsm for one in facts.entries} == {"selinux,landlock,lockdown,yama,bpf"}
    disable(rhel)
    assert (rhel.files(), rhel.run(grubby.INFO)) == (before, told)
    assert told != info


def test_where_a_real_hosts_boot_has_it_nothing_is_done(tmp_path: Path, info: str) -> None:
    host = Rhel9(tmp_path, info, active=(*SELINUX, "bpf"))
    Store(host.paths).prepare()
    config = next((tmp_path / "boot").glob("config-*"))
    config.write_text(config.read_text().replace("selinux", "selinux,bpf"))
    told = host.run(grubby.INFO)
    assert not plan_enable(host.facts(), merge=False).changed
    enable(host)
    assert host.run(grubby.INFO) == told
    assert not [argv for argv in host.asked if "--update-kernel" in " ".join(argv)]


def test_the_boot_loader_that_is_asked_for_is_used(rhel: Rhel9) -> None:
    rhel.put("boot/grub/grub.cfg", "")  # as somebody's script of that name brings it
    rhel.put("usr/sbin/update-grub", "")
    assert rhel.facts().loader == "grub"
    facts = read_facts(rhel.paths, rhel.active, rhel.run, loader="grubby")
    assert facts.loader == "grubby"
    assert carry_out(rhel.paths, plan_enable(facts, merge=False), rhel.run).pending
    assert read_facts(rhel.paths, (), rhel.run, loader="grub").entries == ()


def test_later_kernels_and_every_entry_agree(bls: Bls) -> None:
    before = bls.files()
    enable(bls)
    assert {one.lsm for one in bls.facts().entries} == {LIST}
    assert bls.get("etc/kernel/cmdline") == f"ro crashkernel=1G lsm={LIST}\n"

    bls.entry("9.9", "ro quiet")
    assert bls.facts().pending is False
    assert not bls.facts().is_settled
    enable(bls)
    assert {one.lsm for one in bls.facts().entries} == {LIST}
    disable(bls)
    after = bls.files()
    assert after.pop("boot/loader/entries/c445-9.9.conf")[0].endswith(b"ro quiet\nid c445-9.9\n")
    assert after == before


def test_a_kernel_that_came_with_our_list_loses_it_with_the_others(bls: Bls) -> None:
    before = bls.files()
    enable(bls)
    bls.entry("9.9", f"ro quiet lsm={LIST}")
    assert not plan_enable(bls.facts(), merge=False).changed
    bls.active = (*ACTIVE, "smack", "bpf")
    bls.put(f"boot/config-{RELEASE}", f'CONFIG_LSM="{WITHOUT},smack"\n')
    enable(bls)
    assert {one.lsm for one in bls.facts().entries} == {f"{LIST},smack"}
    disable(bls)
    after = bls.files()
    assert after.pop("boot/loader/entries/c445-9.9.conf")[0].endswith(b"ro quiet\nid c445-9.9\n")
    assert after.pop(f"boot/config-{RELEASE}")
    before.pop(f"boot/config-{RELEASE}")
    assert after == before


def test_an_entrys_own_list_comes_back(bls: Bls) -> None:
    bls.entry("6.1.0-56-cloud-amd64", "ro lsm=yama,selinux  quiet")
    before = bls.files()
    with pytest.raises(BootError, match=r"lsm= is set already: entry Linux 6\.1"):
        enable(bls)
    enable(bls, merge=True)
    assert bls.facts().pending_list[:2] == ("yama", "selinux")
    disable(bls)
    assert bls.files() == before

    enable(bls, merge=True)
    bls.entry("9.9", "ro quiet")
    facts = enable(bls)
    assert facts.pending_list[:2] == ("yama", "selinux")
    bls.entry("6.1.0-56-cloud-amd64", f"ro more lsm={','.join(facts.pending_list)}")
    disable(bls)
    assert [one.lsm for one in bls.facts().entries] == [None, "yama,selinux", None]
