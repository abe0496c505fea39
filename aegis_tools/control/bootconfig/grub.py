"""Debian's GRUB: the menu that grub-mkconfig makes, the settings it makes it of. Pure.

grub-mkconfig reads ``/etc/default/grub``, then ``/etc/default/grub.d/*.cfg`` in the order of their
names, as shell. Normal entries get GRUB_CMDLINE_LINUX, then GRUB_CMDLINE_LINUX_DEFAULT; recovery
entries the first alone. So a drop-in of ours that appends to the second comes last, where the
last ``lsm=`` counts, and leaves the recovery entries a way to boot without it.
"""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import PurePosixPath

from aegis_tools.control.bootconfig import cmdline
from aegis_tools.control.bootconfig.entries import Entry, Foreign, is_recovery

VARIABLE = "GRUB_CMDLINE_LINUX"
DEFAULT_VARIABLE = "GRUB_CMDLINE_LINUX_DEFAULT"
_HEADER = """\
# Made by aegisbpf lsm: enable writes it, disable removes it.
# Recovery entries do not use this variable: they boot without it.
"""
_LINUX = ("linux", "linux16", "linuxefi")
_MODULE = ("module", "module2")
_BEGIN, _END = "### BEGIN ", "### END "


@dataclass
class Item:
    """A line of the menu: an entry, or a submenu with items of its own."""

    title: str = ""
    id: str = ""
    section: str = ""
    kernel: str = ""
    line: str = ""
    items: list[Item] = field(default_factory=list)
    shown: bool = True

    def entry(self) -> Entry | None:
        """Return it as an entry that boots Linux; None for one that does not."""
        if not self.kernel:
            return None
        generated = not self.section or "linux" in self.section
        recovery = is_recovery(self.id, self.line)
        return Entry(self.title, self.id, self.kernel, self.line, recovery, generated)


class Menu:
    """A generated ``grub.cfg``.

    Args:
        text: The file.
    """

    def __init__(self, text: str) -> None:
        self.items: list[Item] = []
        self.default = "0"
        self._read(text)

    @property
    def entries(self) -> tuple[Entry, ...]:
        """Every entry that boots Linux, those of submenus included, in order."""
        return tuple(entry for item in _walk(self.items) if (entry := item.entry()))

    @property
    def places(self) -> tuple[tuple[str, Entry], ...]:
        """Every entry with what ``set default=`` calls it: ids, ``>`` between the levels."""
        return tuple(_places(self.items, ""))

    def default_entry(self, environment: Mapping[str, str]) -> Entry | None:
        """Return the entry that boots where nobody chooses; None where there is none.

        Args:
            environment: What ``grubenv`` holds.
        """
        name = self.default
        if name.startswith("$"):
            name = environment.get(name.strip("${}"), "") or "0"
        item = _find(self.items, name)
        found = item.entry() if item else None
        return found or next((one for one in self.entries if not one.recovery), None)

    def _read(self, text: str) -> None:
        open_, section = [Item(items=self.items)], ""
        for line in (raw.strip() for raw in text.splitlines()):
            if line.startswith((_BEGIN, _END)):
                script = line.removeprefix(_BEGIN).removesuffix("###").strip()
                section = PurePosixPath(script).name if line.startswith(_BEGIN) else ""
            elif line.startswith("#"):
                continue
            elif line.endswith("{"):
                open_.append(_opened(words(line), section))
            elif line == "}" and len(open_) > 1:
                done = open_.pop()
                if done.shown:
                    open_[-1].items.append(done)
                else:
                    open_[-1].items += done.items
            elif line:
                self._command(words(line), open_[-1])

    def _command(self, given: Sequence[str], inside: Item) -> None:
        head, *rest = given or [""]
        if head == "set" and rest and rest[0].startswith("default="):
            value = rest[0].partition("=")[2]
            if value.strip("${}") != "next_entry":  # for one boot only
                self.default = value
        elif not inside.kernel and rest and _loads_linux(head, rest[0]):
            inside.kernel, inside.line = rest[0], " ".join(map(_for_kernel, rest[1:]))


def _loads_linux(head: str, image: str) -> bool:
    return head in _LINUX or (head in _MODULE and PurePosixPath(image).name.startswith("vmlinu"))


def _opened(given: Sequence[str], section: str) -> Item:
    if given[:1] not in (["menuentry"], ["submenu"]) or len(given) < 3:
        return Item(section=section, shown=False)
    options = ("--id", "$menuentry_id_option")
    at = next((n for n, word in enumerate(given[:-1]) if word in options), None)
    return Item(title=given[1], id=given[at + 1] if at is not None else "", section=section)


def _walk(items: Sequence[Item]) -> Iterator[Item]:
    for item in items:
        yield item
        yield from _walk(item.items)


def _places(items: Sequence[Item], above: str) -> Iterator[tuple[str, Entry]]:
    for item in items:
        place = above + (item.id or item.title.replace(">", ">>"))
        entry = item.entry()
        if entry:
            yield place, entry
        yield from _places(item.items, f"{place}>")


def _find(items: Sequence[Item], name: str) -> Item | None:
    """Find what ``set default=`` names: a number, a title or an id, ``>`` between the levels."""
    head, more, rest = name.partition(">")
    found = items[int(head)] if head.isdecimal() and int(head) < len(items) else None
    found = found or next((one for one in items if head in (one.title, one.id)), None)
    if found is None or not (more or found.items):
        return found
    return _find(found.items, rest if more else "0")


def words(line: str, *, comments: bool = False) -> list[str]:
    """Return the words of a line of GRUB's or the shell's, quotes taken away."""
    try:
        return shlex.split(line, comments=comments)
    except ValueError:  # a quote that is not closed
        return line.split()


def _for_kernel(word: str) -> str:
    """Return a word as GRUB passes it on: with white space, it is quoted anew."""
    return f'"{word}"' if re.search(r"\s", word) else word


def parse_environment(text: str) -> dict[str, str]:
    """Return what a ``grubenv`` holds."""
    lines = [line for line in text.splitlines() if line and not line.startswith("#")]
    return dict(line.partition("=")[::2] for line in lines if "=" in line)


def settings(text: str) -> list[tuple[str, str]]:
    """Return the variables that a settings file sets, in order, the shell's quotes taken away."""
    found = []
    for line in text.replace("\\\n", "").splitlines():
        for word in words(line, comments=True):
            name, equals, value = word.partition("=")
            if equals and name.removesuffix("+").isidentifier():
                found.append((name.removesuffix("+"), value.removesuffix(";")))
    return found


def foreign(files: Mapping[str, str]) -> list[Foreign]:
    """Return who sets ``lsm=`` in settings files; the last of them is the one that counts.

    Args:
        files: Text by name, in the order in which grub-mkconfig reads them.
    """
    found: dict[str, list[Foreign]] = {VARIABLE: [], DEFAULT_VARIABLE: []}
    for name, text in files.items():
        for variable, value in settings(text):
            if variable in found:
                found[variable] += [Foreign(name, one) for one in cmdline.values(value)]
    return [*found[VARIABLE], *found[DEFAULT_VARIABLE]]


def drop_in(names: Sequence[str]) -> str:
    """Return our drop-in. The names are those of ``lsmlist.desired``: nothing a shell knows."""
    value = f"{cmdline.LSM}={','.join(names)}"
    return f'{_HEADER}{DEFAULT_VARIABLE}="${DEFAULT_VARIABLE} {value}"\n'


def drop_in_value(text: str | None) -> str | None:
    """Return the ``lsm=`` of our drop-in; None without one."""
    found = foreign({"": text or ""})
    return found[-1].value if found else None
