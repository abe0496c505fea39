"""A tree of folders that behaves as cgroup v2 does, as far as limits use it."""

from __future__ import annotations

import errno
from pathlib import Path

from aegis_tools.monitors.profiles.hierarchy import Hierarchy

FILES = {
    "memory": {"memory.high": "max", "memory.max": "max", "memory.current": "0",
               "memory.events": "low 0\nhigh 0\nmax 0\noom 0\noom_kill 0"},
    "pids": {"pids.max": "max", "pids.current": "0", "pids.events": "max 0"},
    "io": {"io.max": "", "io.stat": ""},
}  # fmt: skip


class Tree:
    """The tree: give ``write`` to what writes into it.

    Args:
        root: An empty folder.
        controllers: What its root has.
    """

    def __init__(self, root: Path, controllers: str = "io memory pids") -> None:
        self.hierarchy = Hierarchy(root, block=root.with_name("block"))
        self.root = root
        self._fill(root, controllers)

    def make(self, cgroup: str) -> Path:
        """Make a cgroup, and those above it."""
        folder = self.hierarchy.path(cgroup)
        if folder != self.root and not folder.is_dir():
            above = self.make("/" + str(folder.parent.relative_to(self.root)).strip("."))
            folder.mkdir()
            self._fill(folder, (above / "cgroup.subtree_control").read_text())
        return folder

    def _fill(self, folder: Path, controllers: str) -> None:
        (folder / "cgroup.controllers").write_text(controllers)
        for name in ("cgroup.subtree_control", "cgroup.procs", "cgroup.threads"):
            (folder / name).write_text("")
        for controller in controllers.split() if folder != self.root else ():
            for file, text in FILES[controller].items():
                (folder / file).write_text(text)

    def disk(self, name: str, number: str, size: int = 2048) -> Path:
        """Make a disk."""
        folder = self.hierarchy.block / name
        folder.mkdir(parents=True, exist_ok=True)
        (folder / "dev").write_text(f"{number}\n")
        (folder / "size").write_text(f"{size}\n")
        return folder

    def _limited(self, before: str, text: str) -> str:
        """Return an io.max after a write; a disk without any limit has no line."""
        lines = {line.split()[0]: dict(w.split("=") for w in line.split()[1:])
                 for line in before.splitlines()}  # fmt: skip
        disk, *words = text.split()
        if disk not in [read.read_text().strip() for read in self.hierarchy.block.glob("*/dev")]:
            raise OSError(errno.ENODEV, "no such disk")
        none = dict.fromkeys(("rbps", "wbps", "riops", "wiops"), "max")
        lines[disk] = lines.get(disk, none) | dict(word.split("=") for word in words)
        return "\n".join(
            " ".join((disk, *(f"{key}={value}" for key, value in found.items())))
            for disk, found in lines.items() if found != none
        )  # fmt: skip

    def write(self, path: Path, text: str) -> None:
        """Write a file as the kernel takes it."""
        if not path.exists():
            raise FileNotFoundError(errno.ENOENT, "gone", str(path))
        if path.name == "io.max":
            text = self._limited(path.read_text(), text)
        if path.name != "cgroup.subtree_control":
            path.write_text(text)
            return
        sign, controller = text[0], text[1:]
        able = (path.parent / "cgroup.controllers").read_text().split()
        if controller not in able:
            raise OSError(errno.ENOENT, "no such controller")
        now = set(path.read_text().split())
        below = [one for one in path.parent.iterdir() if one.is_dir()]
        if sign == "-" and any(
            controller in (one / "cgroup.subtree_control").read_text() for one in below
        ):
            raise OSError(errno.EBUSY, "in use below")
        now = now | {controller} if sign == "+" else now - {controller}
        path.write_text(" ".join(sorted(now)))
        for one in below:
            (one / "cgroup.controllers").write_text(" ".join(sorted(now)))
            for file, content in FILES[controller].items():
                if sign == "+":
                    (one / file).write_text(content)
                else:
                    (one / file).unlink()

    def snapshot(self) -> dict[str, str]:
        """Return the content of all files."""
        return {
            str(path.relative_to(self.root)): path.read_text()
            for path in sorted(self.root.rglob("*"))
            if path.is_file()
        }
