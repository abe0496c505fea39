"""The host's files as the proof looks at them; a test puts them in a folder of its own.

What was looked at is remembered: ``watched`` was read or listed, ``expected`` was asked for.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator
from pathlib import Path

SEARCH = ("/usr/local/sbin", "/usr/local/bin", "/usr/sbin", "/usr/bin", "/sbin", "/bin")
LIBRARIES = (
    "/lib/*-linux-*", "/usr/lib/*-linux-*", "/lib64", "/usr/lib64", "/lib", "/usr/lib",
    "/usr/local/lib",
)  # fmt: skip
LIMIT = 1 << 20


class Tree:
    """A host's files.

    Args:
        root: ``/`` on a host. Symbolic links below another root must be relative.
    """

    def __init__(self, root: str = "/") -> None:
        self.root = root.rstrip("/")
        self.watched: set[str] = set()
        self.expected: dict[str, bool] = {}

    def path(self, path: str) -> str:
        """Return where a path of the host is for us."""
        return self.root + path

    def inner(self, path: str) -> str:
        """Return what the host calls a path of ours."""
        return path.removeprefix(self.root) or "/"

    def text(self, path: str) -> str:
        """Return a configuration file's text; empty where there is none that can be read."""
        real = self.path(path)
        self.watched.add(real)
        try:
            with Path(real).open("rb") as file:
                return file.read(LIMIT).decode("utf-8", "replace")
        except OSError:
            return ""

    def names(self, folder: str) -> list[str]:
        """Return what is in a folder, sorted; nothing where there is none."""
        real = self.path(folder)
        self.watched.add(real)
        try:
            return sorted(found.name for found in Path(real).iterdir())
        except OSError:
            return []

    def exists(self, path: str) -> bool:
        """Return whether there is something."""
        real = self.path(path)
        return self.expected.setdefault(real, Path(real).exists())

    def is_file(self, path: str) -> bool:
        """Return whether there is a regular file, after symbolic links."""
        return Path(self.path(path)).is_file()

    def real(self, path: str) -> str:
        """Return a path without symbolic links."""
        return self.inner(os.path.realpath(self.path(path)))

    def glob(self, pattern: str) -> list[str]:
        """Return the paths that match a shell pattern, sorted."""
        found = Path(self.root or "/").glob(pattern.lstrip("/"))
        return sorted(self.inner(str(path)) for path in found)

    def which(self, names: Iterable[str]) -> Iterator[str]:
        """Yield the programs of these names, each as the usual search path finds it first."""
        for name in names:
            for folder in SEARCH:
                if self.is_file(f"{folder}/{name}"):
                    yield f"{folder}/{name}"
                    break

    def library_folders(self) -> list[str]:
        """Return the folders that the loader looks in."""
        return [f for pattern in LIBRARIES for f in self.glob(pattern) if self.exists(f)]

    def libraries(self, name: str) -> list[str]:
        """Return the libraries that a loader may find under a name (``security/pam_unix.so``)."""
        return [p for f in self.library_folders() if self.is_file(p := f"{f}/{name}")]
