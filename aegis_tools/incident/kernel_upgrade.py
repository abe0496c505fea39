"""A kernel upgrade that takes BPF LSM away: foreseen before it, undone after it.

The next boot is what is repaired, in this order: a kernel that has all becomes the default one; bpf
comes back into its list; ``aegisbpf.disable=1`` goes where somebody says so. Nothing here reboots.
After the reboot the same command finds nothing to do, and closes the record. ``back`` gives the
default entry back to whoever chose it before, once that kernel is right again.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from aegis_tools.control.bootconfig import cmdline, default
from aegis_tools.control.bootconfig.change import carry_out
from aegis_tools.control.bootconfig.entries import Entry
from aegis_tools.control.bootconfig.facts import Facts, optional_text, read_facts
from aegis_tools.control.bootconfig.plan import plan_enable
from aegis_tools.control.health import working
from aegis_tools.control.remember import remember
from aegis_tools.errors import AegisError, BootError
from aegis_tools.incident import kernels
from aegis_tools.incident.case import Case, Outcome
from aegis_tools.incident.kernels import Kernel, Verdict
from aegis_tools.kernel.features import (
    DISABLE_FILES,
    DISABLE_PARAMETER,
    Features,
    read_features,
    why_disabled,
)
from aegis_tools.kernel.pins import Pins
from aegis_tools.paths import Paths

COMMAND = "aegisbpf incident kernel-upgrade"
VERIFY = "aegisbpf lsm status --verify-boot"
BY_HAND = (
    "the boot loader here is none that this knows: boot another kernel, or add bpf to lsm= by "
    "hand, every module of: aegisbpf lsm status; then reboot"
)


@dataclass(frozen=True)
class Situation:
    """This boot and the next.

    Attributes:
        features: Of this boot.
        facts: The boot configuration.
        choices: Boot entries by name.
        kernels: Of those that are not for recovery, by the same name.
        glass: Files of a break-glass that are there, below root.
    """

    features: Features
    facts: Facts
    choices: dict[str, Entry]
    kernels: dict[str, Kernel]
    glass: tuple[str, ...] = ()

    @property
    def is_off_now(self) -> bool:
        """Whether this boot may load nothing."""
        return self.features.disabled

    @property
    def is_off_next(self) -> bool:
        """Whether the boot loader, or a file that stays, keeps the next boot from loading."""
        return DISABLE_FILES[-1] in self.glass or self.passes_disable

    @property
    def passes_disable(self) -> bool:
        """Whether the entry that boots by default has ``aegisbpf.disable=1``."""
        entry = self.facts.default
        return entry is not None and DISABLE_PARAMETER in entry.line.split()

    @property
    def default(self) -> Kernel | None:
        """The kernel of the entry that boots where nobody chooses."""
        entry = self.facts.default
        found = {self.choices[name]: kernel for name, kernel in self.kernels.items()}
        if entry is None:
            return None
        return found.get(entry) or Kernel(entry.release, kernels.judge("", entry.lsm))

    @property
    def next_lacks(self) -> list[str]:
        """What the next boot's kernel is known not to have, the list aside."""
        return [one.message for one in self.default.lacks] if self.default else []

    @property
    def next_has_bpf(self) -> bool:
        """Whether the next boot can refuse something, as far as files tell."""
        return self.facts.pending and not self.next_lacks

    @property
    def reboot_needed(self) -> bool:
        """Whether the next boot is better than this one."""
        now = self.facts.is_active and self.features.btf and not self.is_off_now
        return self.next_has_bpf and not self.is_off_next and not now

    def to_dict(self) -> dict[str, Any]:
        """Return it as the record has it."""
        entry = self.facts.default
        return {
            "release": self.features.release,
            "active": list(self.facts.active),
            "btf": self.features.btf,
            "disabled_by": self.features.disabled_by,
            "command_line": " ".join(
                one.text for one in cmdline.arguments(self.facts.running) if one.key in _SHOWN
            ),
            "loader": self.facts.loader or "",
            "default_entry": entry.title if entry else "",
            "next_has_bpf": self.next_has_bpf,
            "kernels": [one.to_dict() for one in self.kernels.values()],
        }


_SHOWN = ("BOOT_IMAGE", "lsm", "security", "single", "recovery", "aegisbpf.disable")


def look(case: Case) -> Situation:
    """Read everything.

    Raises:
        AegisError: The boot configuration cannot be read.
    """
    paths = case.paths
    features = read_features(paths.root)
    facts = read_facts(paths, features.lsms, case.seams.run)
    choices = default.choices(paths, facts)
    releases = {entry.release for entry in choices.values()}
    texts = {name: configuration(paths, name) for name in releases}
    running = facts.release or features.release
    found = kernels.of_entries(choices, texts, running=running, default=facts.default)
    glass = tuple(name for name in DISABLE_FILES if (paths.root / name).exists())
    return Situation(features, facts, choices, found, glass)


def configuration(paths: Paths, release: str) -> str:
    """Return what a kernel was configured with; empty where nothing tells."""
    if not release or "/" in release:
        return ""
    for name in (f"boot/config-{release}", f"lib/modules/{release}/config"):
        with contextlib.suppress(AegisError):
            if text := optional_text(paths.root / name):
                return text
    return ""


def causes(found: Situation) -> list[str]:
    """Return why this boot cannot refuse, or the next one will not; empty where both can."""
    facts, told = found.facts, []
    if found.is_off_now:
        told.append(f"loading is disabled {why_disabled(found.features)[0]}")
    if not facts.is_active:
        told.append(f"this boot ({facts.release or found.features.release}): {_why_now(found)}")
    elif not found.features.btf:
        told.append("this boot's kernel has no BTF")
    if found.next_lacks and found.default:
        told.append(f"the next boot's kernel {found.default.release}: {found.next_lacks[0]}")
    elif facts.default is not None and not facts.pending:
        told.append(f"the next boot ({facts.default.title}) starts no bpf")
    if found.is_off_next and not found.is_off_now:
        told.append(f"the next boot is given {DISABLE_PARAMETER}")
    return told


def _why_now(found: Situation) -> str:
    own = [one for one in found.kernels.values() if one.running]
    if own and own[0].lacks:
        return own[0].lacks[0].message
    if not found.facts.active:
        return "nothing tells which security modules it runs, as securityfs is not mounted"
    asked = cmdline.effective(found.facts.running)
    if asked is not None:
        return f"bpf is not in lsm={asked}, which it was given"
    return "bpf is not in the list that the kernel is built with, and no lsm= was given"


def run(case: Case, *, kernel: str = "", back: bool = False, undo_disable: bool = False) -> Outcome:
    """Repair the next boot.

    Args:
        case: The run.
        kernel: The release to boot by default, whatever its configuration says: one that is known
            to come up; empty for one that has all, where the default one has not.
        back: Give the default entry back instead.
        undo_disable: End what break-glass has left, too.

    Raises:
        BootError: No kernel here has what is needed, or the boot configuration cannot be changed;
            it is as it was.
    """
    found = look(case)
    told = causes(found)
    # After the reboot nothing is wrong any more: what was stays in the record.
    if told or not case.record.get("causes"):
        case.record.fact("situation", found.to_dict())
        case.record.fact("causes", told)
    if back:
        return _back(case)
    if undo_disable:
        _undo_disable(case, found)
        found = found if case.dry_run else look(case)
    _choose(case, found, kernel)
    if not case.dry_run:
        found = look(case)
    _list(case, found)
    if not case.dry_run:
        found = look(case)
    return _outcome(case, found, told)


def _undo_disable(case: Case, found: Situation) -> None:
    def away() -> None:
        for name in DISABLE_FILES:
            (case.paths.root / name).unlink(missing_ok=True)

    case.step(
        "glass", "let programs of ours be loaded again", away, needed=bool(found.glass), lock=True
    )
    with_grubby = found.facts.loader == "grubby" and found.passes_disable
    case.step(
        "undo-disable",
        f"take {DISABLE_PARAMETER} away from the boot loader",
        lambda: default.undo_disable(case.paths, found.facts, case.seams.run),
        needed=case.paths.grub_disable.exists() or with_grubby,
        lock=True,
    )


def _choose(case: Case, found: Situation, wanted: str) -> None:
    entry = found.facts.default
    fixed = entry is not None and not entry.generated and not found.facts.pending
    right = not found.next_lacks and not fixed
    if wanted:
        right = entry is not None and entry.release == wanted
    if right or (entry is None and not wanted):
        return
    name = kernels.best(found.choices, found.kernels, wanted)
    if not name:
        raise BootError(
            f"no boot entry is for the kernel {wanted}" if wanted
            else "no kernel that is installed here has BPF LSM and BTF",
            hint=f"see which there are: {COMMAND} --check; install one, then run it again",
            data={"kernels": [one.to_dict() for one in found.kernels.values()]},
        )  # fmt: skip
    chosen = found.choices[name]

    def choose() -> None:
        default.choose(case.paths, found.facts, name, case.seams.run)
        remember(case.paths, "incident kernel-upgrade", note=f"boots by default: {name}")

    if entry is not None and case.record.get("default_before") is None:
        case.record.fact("default_before", entry.kernel)
    case.step(
        "default-kernel", f"have {chosen.release} boot by default ({chosen.title})", choose,
        lock=True, entry=name,
    )  # fmt: skip


def _list(case: Case, found: Situation) -> None:
    """Put bpf back into the list, on what others have set there."""
    if found.facts.pending or found.facts.default is None or found.next_lacks:
        return
    plan = plan_enable(found.facts, merge=True)
    case.step(
        "lsm-list",
        f"have the next boots start lsm={plan.value}",
        lambda: carry_out(case.paths, plan, case.seams.run),
        needed=plan.changed,
        lock=True,
    )


def _outcome(case: Case, found: Situation, told: list[str]) -> Outcome:
    data = {"reboot_needed": found.reboot_needed or (case.dry_run and case.changed)}
    told_why = "; ".join(told)
    if not told and not case.changed:
        works = working(Pins(case.paths.pins))
        if works is False:
            error = BootError("BPF LSM is active, but our hook does not run",
                              hint="see why: aegisbpf health")  # fmt: skip
            return Outcome(True, "not-recovered", error.message, error=error, data=data)
        summary = "this boot and the next have BPF LSM"
        return Outcome(False, "nothing-to-do", summary, data=data)
    if found.is_off_next or (found.is_off_now and not found.reboot_needed):
        off = "loading is switched off, and stays so"
        again = (f"{COMMAND} --undo-disable",)
        return Outcome(True, _result(case), f"{off}: {told_why}", again, data=data)
    if not found.next_has_bpf and not (case.dry_run and case.changed):
        hint = f"see: {COMMAND} --check" if found.facts.default else BY_HAND
        error = BootError("the next boot will still have no BPF LSM", hint=hint)
        return Outcome(True, "not-recovered", told_why, error=error, data=data)
    if data["reboot_needed"]:
        summary = f"{told_why}; the next boot has BPF LSM"
        return Outcome(True, _result(case), summary, ("systemctl reboot", VERIFY),
                       keep_open=True, data=data)  # fmt: skip
    return Outcome(True, _result(case), f"{told_why}; the next boot has it again", data=data)


def _result(case: Case) -> str:
    return "recovered" if case.changed else "nothing-to-do"


def _back(case: Case) -> Outcome:
    """Give the default entry back, where the kernel that boots then has all."""
    data = {"reboot_needed": False}
    # One that was killed may have removed the file, and not made the menu.
    begun = bool(case.record.get("giving_back"))
    chosen = default.is_chosen(case.paths) or begun
    kernel = str(case.record.get("default_before") or "")
    if not chosen and look(case).facts.loader == "grubby" and not kernel:
        raise BootError(
            "nothing here tells which kernel booted by default before",
            hint="choose it yourself: grubby --set-default KERNEL",
        )
    if chosen:
        case.record.fact("giving_back", True)
    case.step(
        "default-back",
        "let the entry boot by default that did before",
        lambda: _give_back(case, chosen, kernel),
        needed=chosen or bool(kernel),
        lock=True,
    )
    if not case.changed:
        return Outcome(False, "nothing-to-do", "the default entry is not ours", data=data)
    now = look(case)
    entry = now.facts.default
    summary = f"the default entry is given back: {entry.title if entry else 'none'}"
    return Outcome(True, "recovered", summary, ("systemctl reboot", VERIFY), data=data)


def _give_back(case: Case, chosen: bool, kernel: str) -> None:
    paths, run = case.paths, case.seams.run
    if chosen:
        default.take_back(paths, run, _must_work(paths))
    else:
        run(["grubby", f"--set-default={kernel}"], timeout=default.SECONDS)
    remember(paths, "incident kernel-upgrade --back", note="the default entry is given back")


def _must_work(paths: Paths) -> Callable[[Entry | None], None]:
    def check(entry: Entry | None) -> None:
        if entry is None:
            raise BootError("GRUB would have no entry to boot", hint="see: update-grub")
        lacking = [
            one for one in kernels.judge(configuration(paths, entry.release), entry.lsm)
            if one.ok is False
        ]  # fmt: skip
        if lacking:
            raise BootError(
                f"{entry.release} would boot again, and {lacking[0].message}",
                hint="install one that has it; until then the chosen entry stays",
            )

    return check


def check(case: Case, release: str = "") -> Outcome:
    """Say whether a kernel that is installed here will do, before it is booted. Changes nothing.

    Args:
        case: The run.
        release: The kernel; empty for the one that boots next.

    Raises:
        BootError: It will not do, or is not here.
    """
    found = look(case)
    known = {one.release: one for one in found.kernels.values()}
    known.update({one.release: one for one in found.kernels.values() if one.default})
    now = found.facts.release or found.features.release
    wanted = release or (found.default.release if found.default else now)
    text = configuration(case.paths, wanted)
    if found.default is None:  # the next boot is taken to be like this one
        known[now] = _running(found, now, configuration(case.paths, now))
    if wanted not in known and not text:
        raise BootError(
            f"the kernel {wanted or 'of the next boot'} is not here",
            hint=f"installed are: {', '.join(sorted(known, key=kernels.version_key)) or 'none'}",
        )
    kernel = known.get(wanted) or Kernel(wanted, kernels.judge(text, None))
    data = {"checked": kernel.to_dict(), "kernels": [one.to_dict() for one in known.values()],
            "reboot_needed": False}  # fmt: skip
    lines = [one.message for one in kernel.verdicts if one.ok is not True]
    if kernel.works:
        summary = f"{kernel.release} has all that is needed"
        if lines:
            summary = f"{kernel.release}: nothing speaks against it, but {'; '.join(lines)}"
        return Outcome(False, "nothing-to-do", summary, data=data)
    summary = f"{kernel.release} will not do: {'; '.join(lines)}"
    hint = f"do not boot it; another one as the default: {COMMAND}"
    if not kernel.lacks:
        hint = "it comes right with: aegisbpf lsm enable" if found.default else BY_HAND
    raise BootError(summary, hint=hint, data=data)


def _running(found: Situation, release: str, text: str) -> Kernel:
    """Return this boot's kernel, with the list that it runs with where nothing else tells."""
    verdicts = kernels.judge(text, cmdline.effective(found.facts.running))
    if found.facts.active and verdicts[-1].ok is None:
        has = found.facts.is_active
        told = "bpf is active" if has else "bpf is not among its active modules"
        verdicts = (*verdicts[:-1], Verdict(kernels.LIST, has, told))
    return Kernel(release, verdicts, running=True)
