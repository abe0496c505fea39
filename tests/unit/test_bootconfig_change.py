"""Enable and disable: what they do to a host's files, and what they leave when they cannot."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

import pytest
from boot_support import (
    ACTIVE,
    BUILTIN,
    LIST,
    RELEASE,
    WITHOUT,
    Bls,
    Grub,
    Host,
    disable,
    enable,
    failing,
)

from aegis_tools.control.bootconfig import record, verify
from aegis_tools.control.bootconfig.change import carry_out
from aegis_tools.control.bootconfig.plan import document, plan_disable, plan_enable
from aegis_tools.control.store import Store
from aegis_tools.errors import BootError

SITE = "etc/default/grub.d/50-site.cfg"
DROP_IN = "etc/default/grub.d/99-aegisbpf.cfg"
LATE = "etc/default/grub.d/zz-late.cfg"
STOCK = (*ACTIVE, "bpf")


def appended(value: str, variable: str = "GRUB_CMDLINE_LINUX_DEFAULT") -> str:
    return f'{variable}="${variable} lsm={value}"\n'


@pytest.fixture(params=[Grub, Bls], ids=["grub", "grubby"])
def make(request: pytest.FixtureRequest, tmp_path: Path) -> Callable[..., Host]:
    def made(**options: object) -> Host:
        host: Host = request.param(tmp_path, **options)
        Store(host.paths).prepare()
        return host

    return made


@pytest.fixture
def grub(tmp_path: Path) -> Grub:
    host = Grub(tmp_path)
    Store(host.paths).prepare()
    return host


def test_the_next_boot_has_bpf_and_all_of_now_and_disable_goes_back(
    make: Callable[..., Host],
) -> None:
    host = make()
    before = host.files()
    facts = enable(host)
    assert facts.pending
    assert facts.default is not None
    assert facts.default.lsm == LIST
    assert not facts.lost
    assert facts.is_settled

    assert not plan_enable(host.facts(), merge=False).changed
    after = disable(host)
    assert not after.pending
    assert host.files() == before
    assert not plan_disable(host.facts()).changed


def test_where_the_kernel_has_it_anyway_nothing_is_done(make: Callable[..., Host]) -> None:
    host = make(active=STOCK, builtin=BUILTIN)
    before = host.files()
    plan = plan_enable(host.facts(), merge=False)
    assert (plan.changed, plan.before.pending) == (False, True)
    enable(host)
    assert host.files().keys() - before.keys() == {"var/lib/aegisbpf/lsm.json"}
    disable(host)
    assert host.files() == before


def test_a_later_boot_that_would_lose_it_is_changed(grub: Grub) -> None:
    grub.active = STOCK
    facts = enable(grub)
    assert facts.pending
    assert facts.pending_list == (*(n for n in STOCK if n != "capability"),)


def test_recovery_entries_stay_as_they_are(grub: Grub) -> None:
    before = [one for one in grub.facts().entries if one.recovery]
    enable(grub)
    assert [one for one in grub.facts().entries if one.recovery] == before
    assert grub.paths.grub_menu.stat().st_mode & 0o777 == 0o444


def test_a_foreign_list_is_refused_named_and_merged_when_asked(grub: Grub) -> None:
    grub.put(SITE, appended("yama,selinux"))
    grub.update()
    before = grub.files()
    with pytest.raises(BootError, match=SITE) as caught:
        enable(grub)
    assert "--merge" in caught.value.hint
    assert caught.value.data["foreign"] == [{"where": f"/{SITE}", "value": "yama,selinux"}]
    assert grub.files() == before

    facts = enable(grub, merge=True)
    wanted = "yama,selinux,lockdown,landlock,apparmor,tomoyo,bpf"
    assert facts.default is not None
    assert facts.default.lsm == wanted
    assert grub.files()[SITE] == before[SITE]
    disable(grub)
    assert grub.files() == before


def test_a_foreign_list_with_all_of_it_is_nobodys_business(grub: Grub) -> None:
    grub.put(SITE, appended(LIST, "GRUB_CMDLINE_LINUX"))
    grub.update()
    assert not plan_enable(grub.facts(), merge=False).changed
    grub.put(SITE, appended(LIST.replace(",tomoyo", ""), "GRUB_CMDLINE_LINUX"))
    grub.update()
    assert grub.facts().lost == ("tomoyo",)
    with pytest.raises(BootError, match=SITE):
        plan_enable(grub.facts(), merge=False)


def test_what_others_add_later_is_said_and_merged_when_asked(grub: Grub) -> None:
    grub.put(SITE, appended("yama"))
    enable(grub, merge=True)
    grub.put(SITE, appended("yama,selinux"))
    facts = enable(grub)
    assert facts.pending_list == ("yama", *LIST.replace("yama,", "").split(","))
    assert any("selinux" in text for text in facts.warnings)
    assert "selinux" in enable(grub, merge=True).pending_list


def test_settings_that_are_not_in_the_menu_yet_count_as_well(grub: Grub) -> None:
    grub.active = STOCK
    grub.put(f"boot/config-{RELEASE}", f'CONFIG_LSM="{BUILTIN}"\n')
    assert not plan_enable(grub.facts(), merge=False).changed
    grub.put(SITE, appended("yama"))
    assert grub.facts().pending
    with pytest.raises(BootError, match=SITE):
        plan_enable(grub.facts(), merge=False)
    assert enable(grub, merge=True).pending
    disable(grub)
    assert not grub.facts().pending


def test_what_others_leave_out_is_kept_and_said(grub: Grub) -> None:
    grub.put(SITE, appended("yama"))
    grub.update()
    plan = plan_enable(grub.facts(), merge=True)
    assert plan.kept == ("landlock", "apparmor", "tomoyo")
    assert any("landlock, apparmor, tomoyo" in text for text in plan.warnings())


def test_a_list_of_one_boot_only_is_not_made_permanent(grub: Grub) -> None:
    grub.put("proc/cmdline", "BOOT_IMAGE=/boot/x ro quiet lsm=yama\n")
    grub.active = ("lockdown", "capability", "yama")
    facts = enable(grub)
    assert facts.pending_list == (*WITHOUT.split(","), "bpf")

    disable(grub)
    grub.paths.root.joinpath(f"boot/config-{RELEASE}").unlink()
    with pytest.raises(BootError, match="not that of the boot configuration"):
        enable(grub)


def test_after_our_own_reboot_the_list_is_what_is_active(grub: Grub) -> None:
    enable(grub)
    grub.put("proc/cmdline", f"ro quiet lsm={LIST}\n")
    grub.active = STOCK
    assert not plan_enable(grub.facts(), merge=False).changed
    grub.paths.grub_drop_in.unlink()
    assert not grub.facts().is_settled
    assert enable(grub).pending_list == tuple(LIST.split(","))
    grub.paths.grub_drop_in.unlink()
    grub.update()
    assert enable(grub).pending_list == tuple(LIST.split(","))


def test_settings_after_ours_that_win_are_noticed_and_nothing_is_left(grub: Grub) -> None:
    grub.put(LATE, 'GRUB_CMDLINE_LINUX_DEFAULT="quiet"\n')
    before = grub.files()
    with pytest.raises(BootError, match=r"has no lsm=; .* is as it was") as caught:
        enable(grub)
    assert caught.value.exit_code == 5
    assert grub.files() == before


def test_a_tool_that_fails_leaves_everything_as_it_was(make: Callable[..., Host]) -> None:
    host = make()
    before = host.files()
    plan = plan_enable(host.facts(), merge=False)
    with pytest.raises(BootError, match="is as it was") as caught:
        carry_out(host.paths, plan, failing)
    assert caught.value.detail == "no space"
    assert host.files() == before

    enable(host)
    enabled = host.files()
    with pytest.raises(BootError, match="is as it was"):
        carry_out(host.paths, plan_disable(host.facts()), _only_reading(host))
    assert host.files() == enabled


def _only_reading(host: Host) -> Callable[..., str]:
    def run(argv: Sequence[str], *, timeout: float = 60) -> str:
        if argv[1].startswith("--info") and host.files()["proc/cmdline"]:
            raise BootError("cannot be read", hint="x")
        return failing() if argv[0] == "grub-mkconfig" else host.run(argv, timeout=timeout)

    return run


def test_a_menu_without_entries_is_not_put_in_place(grub: Grub, tmp_path: Path) -> None:
    del tmp_path
    before = grub.files()

    def empty(argv: Sequence[str], *, timeout: float = 60) -> str:
        assert timeout > 60
        Path(argv[2]).write_text("# nothing found\n")
        return ""

    with pytest.raises(BootError, match="no normal entry"):
        carry_out(grub.paths, plan_enable(grub.facts(), merge=False), empty)
    assert grub.files() == before


def test_a_menu_that_somebody_else_makes_meanwhile_is_not_lost(grub: Grub) -> None:
    once = iter([True])

    def meddle() -> None:
        if next(once, False):
            grub.paths.grub_menu.chmod(0o644)
            grub.paths.grub_menu.write_text(grub.menu() + "# a kernel came\n")

    grub.meddle = meddle
    enable(grub)
    assert len(grub.asked) == 2

    grub.meddle = lambda: grub.paths.grub_menu.write_text(f"{grub.menu()}# {len(grub.asked)}\n")
    with pytest.raises(BootError, match="somebody else"):
        disable(grub)
    assert grub.get("boot/grub/grub.cfg").endswith(f"# {len(grub.asked)}\n")
    assert (grub.paths.root / DROP_IN).exists()


def test_a_kernel_without_bpf_lsm_is_not_asked_for_it(make: Callable[..., Host]) -> None:
    host = make()
    host.put(f"boot/config-{RELEASE}", "# CONFIG_BPF_LSM is not set\n")
    with pytest.raises(BootError, match="built without BPF LSM"):
        enable(host)


def test_a_host_of_another_kind_is_told_to_do_it_by_hand(tmp_path: Path) -> None:
    host = Host(tmp_path)
    assert (host.facts().pending, host.facts().loader) == (False, None)
    with pytest.raises(BootError, match="neither GRUB"):
        enable(host)
    host.active = STOCK
    assert not plan_enable(host.facts(), merge=False).changed


def test_unreadable_lists_and_ancient_parameters_are_said(grub: Grub) -> None:
    with pytest.raises(BootError, match="does not say which"):
        plan_enable(replace(grub.facts(), active=()), merge=False)
    grub.put(SITE, 'GRUB_CMDLINE_LINUX="$GRUB_CMDLINE_LINUX security=apparmor"\n')
    grub.put("etc/default/grub.d/60-x.cfg", "GRUB_DISABLE_RECOVERY=true\n")
    grub.update()
    assert any("security=" in text for text in grub.facts().warnings)


def test_a_verified_boot_has_what_was_there(grub: Grub) -> None:
    verify.check_boot(replace(grub.facts(), builtin={}, loader=None), "b", None)
    enable(grub)
    grub.put("proc/sys/kernel/random/boot_id", "x")
    facts = grub.facts()
    assert facts.record is not None
    with pytest.raises(BootError) as caught:
        verify.check_boot(facts, facts.record.boot_id, None)
    assert caught.value.hint == "reboot"
    with pytest.raises(BootError, match="not active in this one") as caught:
        verify.check_boot(facts, "another", None)
    assert "Command line" in caught.value.hint

    verify.check_boot(replace(facts, active=STOCK), "another", True)
    with pytest.raises(BootError, match="hook does not run"):
        verify.check_boot(replace(facts, active=STOCK), "another", False)
    less = tuple(name for name in STOCK if name not in ("apparmor", "yama"))
    with pytest.raises(BootError, match="gone: yama, apparmor") as caught:
        verify.check_boot(replace(facts, active=less), "another", None)
    assert caught.value.data == {"gone": ["yama", "apparmor"]}
    assert facts.default is not None
    with pytest.raises(BootError, match="neither this boot nor the next one"):
        verify.check_boot(
            replace(facts, default=facts.default._replace(line="ro")), "another", None
        )
    disable(grub)
    with pytest.raises(BootError, match="the next boot will not have it"):
        verify.check_boot(replace(grub.facts(), active=STOCK), "another", None)


def test_the_document_of_a_dry_run_is_that_of_the_deed(make: Callable[..., Host]) -> None:
    host = make()
    plan = plan_enable(host.facts(), merge=False)
    would = document(plan, plan.after, None, dry_run=True)
    done = document(plan, carry_out(host.paths, plan, host.run), None, dry_run=True)
    assert {**would, "warnings": 0} == {**done, "warnings": 0}
    assert would["reboot_needed"]
    assert would["changed"]

    back = plan_disable(host.facts())
    would = document(back, back.after, None, dry_run=True)
    done = document(back, carry_out(host.paths, back, host.run), None, dry_run=True)
    assert would == done


def test_a_drop_in_that_somebody_emptied_is_still_ours(grub: Grub) -> None:
    before = grub.files()
    grub.put(DROP_IN, "# emptied\n")
    assert disable(grub).own is None
    assert grub.files() == before
    enable(grub)
    grub.put(DROP_IN, "# emptied\n")
    assert enable(grub).pending_list == tuple(LIST.split(","))
    disable(grub)
    assert grub.files() == before


def test_a_damaged_record_is_said_and_nothing_is_changed(grub: Grub) -> None:
    enable(grub)
    for data in (b"", b"{}", b'{"format":1}', b'{"format":2,"active":[],"names":[]}', b"\xff"):
        grub.paths.lsm_record.write_bytes(data)
        with pytest.raises(Exception, match="record of the boot configuration is damaged"):
            grub.facts()
    good = record.Record("grub", "b", ("x",), ("y",), {"k": "l"}, {"f": "\xff"}, {"f": "0"}, "o")
    assert record.parse(good.to_bytes()) == good
