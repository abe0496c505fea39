"""Gathers needs: each added once for what it is, with the chain that led to it."""

from __future__ import annotations

from collections.abc import Iterable

from aegis_tools.control.lockout import config
from aegis_tools.control.lockout.linked import linked, loaders
from aegis_tools.control.lockout.model import MAKE, READ, RUN, WRITE, Need
from aegis_tools.control.lockout.tree import Tree
from aegis_tools.kernel.run import Runner
from aegis_tools.policy.model import Op


class Collector:
    """Gathers needs.

    Args:
        tree: The host's files.
    """

    def __init__(self, tree: Tree) -> None:
        self.tree = tree
        self._needs: dict[tuple[str, Op], Need] = {}

    def add(
        self,
        path: str,
        ops: Op,
        why: str,
        chain: Iterable[str],
        rank: int,
        *,
        code: bool = False,
    ) -> None:
        """Add a need; of two for the same file and operations the worse to lose stays."""
        path = path.rstrip("/") or "/"
        known = self._needs.get((path, ops))
        if known is None or rank < known.rank:
            code = code or (known is not None and known.code)
            self._needs[path, ops] = Need(path, ops, why, tuple(chain), code, rank)

    def program(self, path: str, why: str, rank: int, chain: tuple[str, ...] = ()) -> None:
        """Add a program, and the interpreter of a script."""
        name = path.rpartition("/")[2]
        self.add(path, RUN, why, (*chain, name), rank, code=True)
        interpreter = self._interpreter(path)
        if interpreter and self.tree.is_file(interpreter):
            chain = (*chain, name, interpreter)
            self.add(interpreter, RUN, f"{name} is a script for it", chain, rank, code=True)

    def _interpreter(self, path: str) -> str:
        try:
            with open(self.tree.path(path), "rb") as file:
                return config.shebang(file.read(256).decode("latin-1"))
        except OSError:
            return ""

    def read(self, path: str, why: str, rank: int, chain: tuple[str, ...] = ()) -> None:
        """Add a file or folder that is read, where it exists."""
        if self.tree.exists(path):
            self.add(path, READ, why, (*chain, path.rpartition("/")[2] or path), rank)

    def write(self, path: str, why: str, rank: int) -> None:
        """Add a file or folder that is read and written, where it exists."""
        if self.tree.exists(path):
            self.add(path, WRITE, why, (), rank)

    def make_in(self, folder: str, name: str, why: str, rank: int) -> None:
        """Add a name that will be made in a folder, where that exists."""
        if self.tree.exists(folder):
            self.add(f"{folder.rstrip('/')}/{name}", MAKE, why, (), rank)

    def link(self, runner: Runner) -> None:
        """Add the libraries of everything that is run, and the loaders."""
        for loader in loaders(self.tree):
            self.add(loader, RUN, "no program starts without it", ("ld.so",), 0, code=True)
        starts = [need for need in self._needs.values() if need.ops & Op.EXEC]
        found = linked(self.tree, runner, [need.path for need in starts])
        for need in starts:
            for library in found.get(need.path, ()):
                chain = (*need.chain, library.rpartition("/")[2])
                self.add(library, RUN, need.why, chain, need.rank, code=True)

    def finish(self) -> list[Need]:
        """Return the needs, with the folders that lead to them, worst to lose first."""
        for need in list(self._needs.values()):
            folder = need.path.rpartition("/")[0]
            while folder:
                why = "recovery needs what is in it"
                self.add(folder, READ, why, (need.path,), 80)
                folder = folder.rpartition("/")[0]
        self.add("/", READ, "everything is in it", (), 80)
        return sorted(self._needs.values(), key=lambda need: (need.rank, need.path))
