"""Which entry boots where nobody chooses: said by a drop-in of our own, or by grubby.

With GRUB it is ``GRUB_DEFAULT`` in a file that is read last; taking that file away brings back what
the administrator chose. An entry that is gone means the first one to GRUB, so an old choice of ours
cannot keep a host from booting.
"""

from __future__ import annotations

import re
from collections.abc import Callable

from aegis_tools.control.bootconfig import change, grub, regenerate
from aegis_tools.control.bootconfig.entries import Entry
from aegis_tools.control.bootconfig.facts import Facts, optional_text, text_of
from aegis_tools.errors import BootError
from aegis_tools.kernel.run import Runner
from aegis_tools.paths import Paths

SECONDS = 120
_HEADER = "# Made by aegisbpf incident kernel-upgrade, which takes it away again with --back.\n"
_NAME = re.compile(r"[\w.,:+>/()@ -]+", re.ASCII)


def choices(paths: Paths, facts: Facts) -> dict[str, Entry]:
    """Return the entries by what ``choose`` calls them, in the menu's order.

    Raises:
        StateError: The menu cannot be read.
    """
    if facts.loader == "grub":
        return dict(grub.Menu(text_of(paths.grub_menu)).places)
    return {one.kernel: one for one in facts.entries}


def is_chosen(paths: Paths) -> bool:
    """Return whether a choice of ours stands; only with GRUB does anything tell."""
    return optional_text(paths.grub_kernel) is not None


def choose(paths: Paths, facts: Facts, name: str, runner: Runner) -> None:
    """Have an entry boot by default. The caller holds the lock.

    Args:
        paths: Where things are.
        facts: Of now.
        name: As ``choices`` calls it.
        runner: Starts the boot loader's tools.

    Raises:
        BootError: The name could mean something to a shell, or the menu would not boot that entry;
            everything is as it was.
    """
    if facts.loader != "grub":
        runner(["grubby", f"--set-default={name}"], timeout=SECONDS)
        return
    if not _NAME.fullmatch(name):
        raise BootError(
            f"the boot entry's name cannot be written down: {name}",
            hint="choose it by hand: grub-set-default",
        )

    def check(menu: grub.Menu) -> None:
        found = menu.default_entry({})
        if found is None or found != dict(menu.places).get(name):
            raise BootError(
                f"GRUB would still not boot the entry that was chosen: {name}",
                hint="see who sets GRUB_DEFAULT last: grep -r GRUB_DEFAULT /etc/default",
            )

    change.sweep(paths)
    text = f'{_HEADER}GRUB_DEFAULT="{name}"\n'
    regenerate.change(paths, paths.grub_kernel, text, check, runner)


def take_back(paths: Paths, runner: Runner, check: Callable[[Entry | None], None]) -> None:
    """Let the administrator's default entry boot again. The caller holds the lock.

    Args:
        paths: Where things are.
        runner: Starts grub-mkconfig.
        check: Raises where the entry that would boot then is not to; everything stays as it is.
    """
    environment = optional_text(paths.grub_menu.parent / "grubenv") or ""

    def judge(menu: grub.Menu) -> None:
        check(menu.default_entry(grub.parse_environment(environment)))

    change.sweep(paths)
    regenerate.change(paths, paths.grub_kernel, None, judge, runner)


def undo_disable(paths: Paths, facts: Facts, runner: Runner) -> None:
    """Take away the ``aegisbpf.disable=1`` that playbooks/break_glass.yml gave the boot
    loader.

    Raises:
        AegisError: It failed, and everything is as it was.
    """
    if facts.loader == "grub":
        change.sweep(paths)
        regenerate.change(paths, paths.grub_disable, None, _accept, runner)
        return
    words = ["grubby", "--update-kernel=ALL", "--remove-args=aegisbpf.disable=1"]
    runner([*words, "--no-etc-grub-update"], timeout=SECONDS)


def _accept(menu: grub.Menu) -> None:
    if not menu.entries:
        raise BootError("the new menu has no entry", hint="see: update-grub")
