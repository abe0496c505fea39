"""Which libraries programs are linked with, by the loader that would load them.

``ld.so --list`` resolves as it would for a start (cache, RUNPATH, hwcaps, preload) and runs
nothing of the program; see docs/adr/0014-lockout-proof.md for what else was considered.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from aegis_tools.control.lockout.tree import Tree
from aegis_tools.errors import CommandError
from aegis_tools.kernel.run import Runner

LOADERS = ("/lib64/ld-linux*.so*", "/lib/ld-linux*.so*", "/lib/*/ld-linux*.so*",
           "/lib64/ld64.so*", "/lib/ld64.so*", "/lib/ld-musl-*.so*")  # fmt: skip
_SECONDS = 240.0
"""A tenth of a second on a host; one that has just booted, and is emulated, takes minutes."""
_SCRIPT = """
loaders=$1; shift
for file; do
    echo "= $file"
    for loader in $loaders; do
        "$loader" --list "$file" 2>/dev/null && break
    done
done
true
"""


def loaders(tree: Tree) -> list[str]:
    """Return the dynamic loaders of the host, each once."""
    found = [path for pattern in LOADERS for path in tree.glob(pattern) if tree.is_file(path)]
    return list({tree.real(path): path for path in reversed(found)}.values())[::-1]


def linked(tree: Tree, runner: Runner, files: Iterable[str]) -> Mapping[str, list[str]]:
    """Return the libraries of programs and libraries, by file; one that has none is left out.

    Args:
        tree: The host's files.
        runner: Starts the loader.
        files: Absolute paths; what is no ELF file is no error.

    Raises:
        CommandError: The loader could not be run at all.
    """
    wanted, known = list(dict.fromkeys(files)), loaders(tree)
    if not wanted or not known:
        return {}
    paths = [tree.path(path) for path in wanted]
    names = " ".join(tree.path(path) for path in known)
    text = runner(["sh", "-c", _SCRIPT, "sh", names, *paths], timeout=_SECONDS)
    found = parse_listing(text)
    if not found:
        raise CommandError(
            "the dynamic loader does not say which libraries programs need",
            hint="try: ldd /bin/sh",
        )
    return {tree.inner(f): [tree.inner(lib) for lib in libs] for f, libs in found.items()}


def parse_listing(text: str) -> dict[str, list[str]]:
    """Parse what the loader lists: ``name => path (address)`` or ``path (address)``."""
    found: dict[str, list[str]] = {}
    current: list[str] = []
    for line in text.splitlines():
        if line.startswith("= "):
            current = found.setdefault(line[2:], [])
            continue
        path = line.partition(" => ")[2] or line.strip()
        path = path.rpartition(" (")[0] or path
        if path.startswith("/") and path not in current:
            current.append(path)
    return {file: libraries for file, libraries in found.items() if libraries}
