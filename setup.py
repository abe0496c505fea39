"""Build the BPF objects into the package; everything else is in pyproject.toml."""

from __future__ import annotations

import subprocess
from pathlib import Path

from setuptools import setup
from setuptools.command.build_py import build_py
from setuptools.command.sdist import sdist

HERE = Path(__file__).resolve().parent
OBJECTS = HERE / "aegis_tools" / "objects"


class BuildObjects(build_py):
    """``make -C bpf`` before the package's files are collected.

    The objects land in the source tree, where an editable installation reads them, and are copied
    from there as package data.
    """

    def run(self) -> None:
        """Build the objects, then do what setuptools does."""
        make()
        # setuptools looked for data files before there were any.
        self.__dict__.pop("data_files", None)
        super().run()


class SourceOnly(sdist):
    """A source distribution holds bpf/, and no object that was built from it."""

    def make_release_tree(self, base_dir: str, files: list[str]) -> None:
        """Leave out what ``make -C bpf`` makes."""
        kept = [name for name in files if "aegis_tools/objects/" not in name]
        super().make_release_tree(base_dir, kept)


def make() -> None:
    """Run ``make -C bpf``.

    Raises:
        SystemExit: With what to install, where make or the compiler is missing or fails.
    """
    command = ["make", "--no-print-directory", "-C", str(HERE / "bpf"), f"OUT={OBJECTS}"]
    try:
        status = subprocess.run(command, check=False, stdin=subprocess.DEVNULL).returncode
    except FileNotFoundError:
        status = 127
    if status:
        raise SystemExit(
            "error: the BPF objects do not build; they need make, clang, llvm-strip and the libbpf "
            "headers\n  next: apt-get install make clang-14 llvm-14 libbpf-dev linux-libc-dev"
        )


setup(cmdclass={"build_py": BuildObjects, "sdist": SourceOnly})
