"""Our program as it lies on a host: ``/opt/aegis``, a virtual environment, from this checkout."""

from __future__ import annotations

import hashlib
import shutil
import subprocess
import sys
import tarfile
import tempfile
from collections.abc import Mapping
from pathlib import Path

from vmharness.kernels import HarnessError
from vmharness.system import image, recipe

REPOSITORY = Path(__file__).resolve().parent.parent.parent.parent
SOURCES = ("aegis_tools", "bpf", "pyproject.toml", "setup.py", "README.md")
PREFIX = "/opt/aegis"
PYTHON = "/usr/bin/python3"
"""Debian 12's, here and in the machine: packages with compiled parts must fit both."""
GUEST_PYTHON = (3, 11)
BUILD_SECONDS = 300


def files() -> list[Path]:
    """Return the files that make the package, as git knows them, below the repository."""
    listing = subprocess.run(
        ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard", "--", *SOURCES],
        cwd=REPOSITORY,
        check=True,
        capture_output=True,
        text=True,
    ).stdout
    names = sorted(set(filter(None, listing.split("\0"))))
    return [Path(name) for name in names if (REPOSITORY / name).is_file()]


def content_key() -> str:
    """Return a name for what the package is made of."""
    digests = [
        (str(path), hashlib.sha256((REPOSITORY / path).read_bytes()).hexdigest())
        for path in files()
    ]
    return recipe.key([PREFIX, digests])


def archive(target: Path, environment: Mapping[str, str]) -> None:
    """Write a tar.gz with ``opt/aegis``: the program, what it depends on, nothing of this host.

    Raises:
        HarnessError: It does not build, or a dependency cannot be fetched.
    """
    if sys.version_info[:2] != GUEST_PYTHON:
        raise HarnessError(
            "the machine's Python is 3.11, this one is not", hint=f"run it with {PYTHON} or .venv"
        )
    with tempfile.TemporaryDirectory(prefix="aegis-package-") as name:
        folder = Path(name)
        wheel = _wheel(folder)
        house = _wheelhouse(wheel, environment)
        prefix = folder / PREFIX.lstrip("/")
        run = [PYTHON, "-m", "venv", "--without-pip", str(prefix)]
        image.run(run)
        _pip("--python", str(prefix / "bin/python3"), "install", "--no-index", "--no-compile",
             "--find-links", str(house), str(wheel))  # fmt: skip
        _move(prefix)
        image.run([PYTHON, "-m", "compileall", "-q", "-s", str(folder), str(prefix / "lib")])
        with tarfile.open(target, "w:gz", compresslevel=1) as tar:
            tar.add(prefix, PREFIX.lstrip("/"))


def _wheel(folder: Path) -> Path:
    """Build the wheel from a copy: a build leaves folders behind."""
    copy = folder / "source"
    for path in files():
        (copy / path).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy2(REPOSITORY / path, copy / path)
    _pip("wheel", "--no-deps", "--no-build-isolation", "--wheel-dir", str(folder), str(copy))
    [wheel] = folder.glob("*.whl")
    return wheel


def _wheelhouse(wheel: Path, environment: Mapping[str, str]) -> Path:
    """Return a folder with every dependency, fetched once for each version of pyproject.toml."""
    cache = recipe.folder(environment)
    digest = hashlib.sha256((REPOSITORY / "pyproject.toml").read_bytes()).hexdigest()[:16]
    house = cache / f"wheels-{digest}"
    with image.locked(cache / ".wheels.lock"):
        if not house.is_dir():
            with tempfile.TemporaryDirectory(prefix=".wheels-", dir=cache) as name:
                fresh = Path(name) / "wheels"
                _pip("wheel", "--wheel-dir", str(fresh), str(wheel))
                fresh.rename(house)
    return house


def _pip(*arguments: str) -> None:
    options = ["--quiet", "--no-input", "--disable-pip-version-check"]
    image.run([sys.executable, "-m", "pip", *options, *arguments], seconds=BUILD_SECONDS)


def _move(prefix: Path) -> None:
    """Let nothing in the environment name the folder that it was made in."""
    (prefix / "pyvenv.cfg").write_text(
        f"home = {Path(PYTHON).parent}\ninclude-system-site-packages = false\n", encoding="utf-8"
    )
    for path in (prefix / "bin").iterdir():
        if path.is_symlink() or not path.is_file():
            continue
        text = path.read_text(encoding="utf-8")
        path.write_text(text.replace(str(prefix), PREFIX), encoding="utf-8")
