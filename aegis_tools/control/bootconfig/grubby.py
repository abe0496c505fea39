"""Fedora and RHEL: boot entries as ``grubby --info=ALL`` shows them, and how to change them. Pure.

``--args`` takes away every argument of the same key from each entry and appends the new one.
Kernels that are installed later take their command line from ``/etc/kernel/cmdline`` where there
is one, so that has to agree. ``--no-etc-grub-update`` keeps grubby from rewriting
``/etc/default/grub``, which is the administrator's.
"""

from __future__ import annotations

from collections.abc import Iterable

from aegis_tools.control.bootconfig import cmdline
from aegis_tools.control.bootconfig.entries import Entry, Foreign

INFO = ("grubby", "--info=ALL")
DEFAULT = ("grubby", "--default-index")
_KEEP_SETTINGS = "--no-etc-grub-update"


def parse_info(text: str) -> dict[str, Entry]:
    """Return the entries of ``grubby --info=ALL`` by index: blocks that start with ``index=``."""
    blocks: list[dict[str, str]] = []
    for line in text.splitlines():
        key, _, value = line.strip().partition("=")
        if key == "index":
            blocks.append({})
        if blocks:
            blocks[-1].setdefault(key, _unquoted(value))
    return {
        block["index"]: Entry(
            title=block.get("title", ""),
            id=block.get("id", ""),
            kernel=block["kernel"],
            line=block.get("args", ""),
        )
        for block in blocks
        if block.get("kernel")
    }


def _unquoted(value: str) -> str:
    return value[1:-1] if len(value) > 1 and value[0] == value[-1] == '"' else value


def foreign(entries: Iterable[Entry], later: str | None, ours: str | None) -> list[Foreign]:
    """Return who else sets ``lsm=``; the last of them is what the entries ask for.

    Args:
        entries: Of the boot loader.
        later: ``/etc/kernel/cmdline``; None without it.
        ours: The list that we have set.
    """
    found = {"/etc/kernel/cmdline": cmdline.effective(later) if later is not None else None}
    found.update({f"entry {one.title or one.kernel}": one.lsm for one in entries})
    return [Foreign(where, v) for where, v in found.items() if v is not None and v != ours]


def set_argv(value: str | None, kernel: str = "ALL") -> list[str]:
    """Return the command that gives a kernel's entries this ``lsm=``, or takes it from them."""
    change = f"--remove-args={cmdline.LSM}" if value is None else f"--args={cmdline.LSM}={value}"
    return ["grubby", f"--update-kernel={kernel}", change, _KEEP_SETTINGS]


def listing(entries: Iterable[Entry], later: str | None) -> str:
    """Return the command lines as one text, to show what changes."""
    lines = [f"{one.kernel}: {one.line}\n" for one in entries]
    if later is not None:
        lines.append(f"later kernels: {later.strip()}\n")
    return "".join(lines)
