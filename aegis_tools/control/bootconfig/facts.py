"""What this boot has and the next one will have, as far as files and the boot loader say."""

from __future__ import annotations

import contextlib
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from aegis_tools.control import files
from aegis_tools.control.bootconfig import cmdline, grub, grubby, lsmlist, record
from aegis_tools.control.bootconfig.entries import Entry, Foreign, normal
from aegis_tools.control.bootconfig.record import Record
from aegis_tools.errors import AegisError
from aegis_tools.kernel.run import Runner
from aegis_tools.paths import Paths

MAX_TEXT = 8 << 20
INFO_SECONDS = 60
_WHAT = "boot configuration"


@dataclass(frozen=True)
class Facts:
    """What is known of this boot and the next.

    Attributes:
        active: Modules of this boot, in order; empty where nothing tells.
        running: This boot's command line.
        release: This boot's kernel.
        loader: ``grub``, ``grubby``, or None where neither is used.
        entries: What the boot loader offers.
        default: The entry that boots where nobody chooses.
        foreign: Where others set ``lsm=``; the last one counts.
        own: Our drop-in's text.
        later: The command line of kernels that are installed later, where a file says it.
        builtin: By release, the kernel's own list; None where its configuration is not there.
        unable: Releases that are built without BPF LSM.
        record: What was there before us.
        warnings: For a person.
    """

    active: tuple[str, ...] = ()
    running: str = ""
    release: str = ""
    loader: str | None = None
    entries: tuple[Entry, ...] = ()
    default: Entry | None = None
    foreign: tuple[Foreign, ...] = ()
    own: str | None = None
    later: str | None = None
    builtin: Mapping[str, tuple[str, ...] | None] = field(default_factory=dict)
    unable: frozenset[str] = frozenset()
    record: Record | None = None
    warnings: tuple[str, ...] = ()

    @property
    def is_active(self) -> bool:
        """Whether this boot has BPF LSM."""
        return lsmlist.BPF in self.active

    @property
    def ours(self) -> str | None:
        """The ``lsm=`` that we have set; None where we have set none."""
        recorded = self.record.value if self.record else None
        return grub.drop_in_value(self.own) or recorded

    @property
    def pending_list(self) -> tuple[str, ...]:
        """The list that the default entry boots with; empty where nothing tells.

        Without a boot loader that we know, the next boot is taken to be like this one.
        """
        if self.loader is None:
            return self.active
        if self.default is None:
            return ()
        return self.list_of(self.default.lsm, self.default.release) or ()

    @property
    def pending(self) -> bool:
        """Whether the default entry boots with BPF LSM."""
        return lsmlist.BPF in self.pending_list and not self.is_unable

    @property
    def is_unable(self) -> bool:
        """Whether the default entry's kernel is built without BPF LSM."""
        return self.default is not None and self.default.release in self.unable

    @property
    def always(self) -> frozenset[str]:
        """The active modules that no list turns off."""
        value = cmdline.effective(self.running)
        asked = lsmlist.split(value) if value is not None else self.builtin.get(self.release)
        return lsmlist.always_on(self.active, asked)

    @property
    def lost(self) -> tuple[str, ...]:
        """The active modules that the default entry's boot would not have."""
        return lsmlist.lost(self.active, self.pending_list, self.always)

    @property
    def is_settled(self) -> bool:
        """Whether every normal entry asks for the same, and that is what the settings say."""
        asked = {one.lsm for one in normal(self.entries)}
        if self.later is not None:
            asked.add(cmdline.effective(self.later))
        if len(asked) > 1:
            return False
        if self.loader != "grub" or (self.own is None and not self.in_settings):
            return not self.is_left_over
        settings = self.ours if self.own is not None else self.in_settings[-1]
        return asked <= {settings}

    @property
    def in_settings(self) -> list[str]:
        """The lists that others' settings of GRUB have, the one that counts last."""
        return [one.value for one in self.foreign if one.where.startswith("/")]

    @property
    def is_left_over(self) -> bool:
        """Whether GRUB's menu still has our list, while our drop-in is gone."""
        if self.loader != "grub" or self.own is not None or self.ours in (None, *self.in_settings):
            return False
        return any(one.lsm == self.ours for one in normal(self.entries))

    @property
    def unmerged(self) -> tuple[str, ...]:
        """The modules that others' list has, and the next boot's list has not."""
        theirs = lsmlist.split(self.foreign[-1].value) if self.foreign else ()
        return lsmlist.lost(theirs, self.pending_list, (lsmlist.CAPABILITY,))

    def list_of(self, value: str | None, release: str) -> tuple[str, ...] | None:
        """Return the list that a kernel boots with; None where nothing tells.

        Args:
            value: The ``lsm=`` that counts; None for the kernel's own list.
            release: The kernel.
        """
        if value is not None:
            return lsmlist.split(value)
        if self.builtin.get(release):
            return self.builtin[release]
        same = release == self.release and cmdline.effective(self.running) is None
        return self.active if same and self.active else None

    def side(self) -> dict[str, Any]:
        """Return what ``before`` and ``after`` hold in JSON."""
        value = self.default.lsm if self.default else None
        return {"pending": self.pending, "pending_list": list(self.pending_list), "lsm": value}


LOADERS = ("grub", "grubby")


def loader_of(paths: Paths, wanted: str | None = None) -> str | None:
    """Return which boot loader's tools this host has: ``grub``, ``grubby`` or None.

    Args:
        paths: Where things are.
        wanted: The one that it must be; None for any, ``grub`` first.
    """
    with contextlib.suppress(OSError):
        if wanted in ("grub", None) and paths.grub_menu.exists() and _has_update_grub(paths):
            return "grub"
        if wanted in ("grubby", None) and _has_grubby(paths):
            return "grubby" if any(paths.boot_entries.glob("*.conf")) else None
    return None


def _has_update_grub(paths: Paths) -> bool:
    return (paths.root / "usr/sbin/update-grub").exists()


def _has_grubby(paths: Paths) -> bool:
    return any((paths.root / name).exists() for name in ("usr/sbin/grubby", "usr/bin/grubby"))


def read_facts(
    paths: Paths, active: tuple[str, ...], runner: Runner | None, *, loader: str | None = None
) -> Facts:
    """Read everything.

    Args:
        paths: Where things are.
        active: The modules of this boot.
        runner: Starts grubby; None where it would speak of another root.
        loader: The one to use; None for the one that is found.

    Raises:
        AegisError: A file or grubby cannot be read.
    """
    loader = loader_of(paths, loader)
    if loader == "grubby" and runner is None:
        loader = None
    found: dict[str, Any] = {
        "active": active,
        "running": optional_text(paths.root / "proc/cmdline") or "",
        "release": (optional_text(paths.root / "proc/sys/kernel/osrelease") or "").strip(),
        "record": record.read(paths),
    }
    if loader == "grub":
        found.update(_read_grub(paths))
    elif loader == "grubby" and runner is not None:
        found.update(read_grubby(paths, runner))
    releases = {found["release"], *(one.release for one in found.get("entries", ()))}
    builds = {name: lsmlist.parse_config(_build(paths, name)) for name in releases if name}
    facts = Facts(
        loader=loader,
        builtin={name: names for name, (names, _) in builds.items()},
        unable=frozenset(name for name, (_, built) in builds.items() if built is False),
        **found,
    )
    return with_foreign(facts, paths)


def with_foreign(facts: Facts, paths: Paths) -> Facts:
    """Return the facts with who else sets ``lsm=``, and with what to warn of."""
    if facts.loader == "grub":
        found = grub.foreign(read_settings(paths))
        known = {one.value for one in found} | {facts.ours, None}
        known.add(facts.record.value if facts.record else None)
        custom = [e for e in (*normal(facts.entries), facts.default) if e and e.lsm not in known]
        found = [*(Foreign(f"entry {e.title}", e.lsm or "") for e in dict.fromkeys(custom)), *found]
    else:
        found = grubby.foreign(facts.entries, facts.later, facts.ours)
    facts = replace(facts, foreign=tuple(found))
    return replace(facts, warnings=tuple(_warnings(facts)))


def _warnings(facts: Facts) -> list[str]:
    found = []
    lines = {facts.running, *(one.line for one in facts.entries)}
    if any(cmdline.values(line, cmdline.SECURITY) for line in lines):
        found.append("security= is on a kernel command line; the kernel ignores it beside lsm=")
    if facts.ours and facts.unmerged:
        found.append(f"set by others, and not in our lsm=: {', '.join(facts.unmerged)}")
    if facts.default is not None:
        if not facts.default.generated:
            found.append(f"the default entry keeps its own command line: {facts.default.title}")
        if not facts.pending_list:
            found.append("the list that the next boot's kernel is built with cannot be read")
        if facts.is_unable:
            found.append(f"the next boot's kernel has no BPF LSM: {facts.default.release}")
    if facts.loader is None:
        found.append(
            "no boot loader that is known here: the next boot is taken to be like this one"
        )
    if facts.loader == "grub" and not any(one.recovery for one in facts.entries):
        found.append("GRUB's menu has no recovery entry to boot without our lsm=")
    return found


def _read_grub(paths: Paths) -> dict[str, Any]:
    menu = grub.Menu(text_of(paths.grub_menu))
    environment = grub.parse_environment(optional_text(paths.grub_menu.parent / "grubenv") or "")
    return {
        "entries": menu.entries,
        "default": menu.default_entry(environment),
        "own": optional_text(paths.grub_drop_in),
    }


def read_settings(paths: Paths) -> dict[str, str]:
    """Return the settings of grub-mkconfig but ours, by name from ``/``, as they are read."""
    others = [one for one in sorted(paths.grub_drop_ins.glob("*.cfg")) if one != paths.grub_drop_in]
    texts = {path: optional_text(path) for path in (paths.grub_settings, *others)}
    return {f"/{p.relative_to(paths.root)}": text for p, text in texts.items() if text is not None}


def read_grubby(paths: Paths, runner: Runner) -> dict[str, Any]:
    """Return entries, the default one, and the later kernels' command line.

    Raises:
        CommandError: grubby failed.
    """
    found = grubby.parse_info(runner(list(grubby.INFO), timeout=INFO_SECONDS))
    index = runner(list(grubby.DEFAULT), timeout=INFO_SECONDS).strip()
    return {
        "entries": tuple(found.values()),
        "default": found.get(index) or next(iter(found.values()), None),
        "later": optional_text(paths.later_cmdline),
    }


def _build(paths: Paths, release: str) -> str:
    if "/" in release:
        return ""
    for name in (f"boot/config-{release}", f"lib/modules/{release}/config"):
        with contextlib.suppress(AegisError):
            if text := optional_text(paths.root / name):
                return text
    return ""


def text_of(path: Path) -> str:
    """Return a file's text; bytes that are none stay apart.

    Raises:
        StateError: It cannot be read.
    """
    data = files.read_limited(path, MAX_TEXT, what=_WHAT, follow=True)
    return data.decode("utf-8", "surrogateescape")


def optional_text(path: Path) -> str | None:
    """Return a file's text; None where there is none.

    Raises:
        StateError: It cannot be read.
    """
    return text_of(path) if path.exists() else None
