"""Find the Debian mirror in the machine's own apt sources. No effects here."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from vmharness.kernels import HarnessError, Kernel

_SUITE = re.compile(
    r"(?:bullseye|bookworm|trixie|forky|duke|sid|stable|oldstable|testing|unstable)"
    r"(-updates|-security|-backports|/updates)?/?"
)
_ONE_LINE = re.compile(r"deb\s+(?:\[([^\]]*)\]\s+)?([^\s\[]\S*)\s+(\S+)\s*(.*)")


@dataclass(frozen=True)
class Entry:
    """One archive of an apt sources file."""

    uri: str
    suites: tuple[str, ...]
    components: tuple[str, ...]
    official: bool
    """Whether the Debian archive's own keyring is named for it."""


@dataclass(frozen=True)
class Mirrors:
    """Base addresses of the main and the security archive; security may be unknown."""

    main: str
    security: str | None


def parse_one_line(text: str) -> list[Entry]:
    """Read the ``deb [options] uri suite components`` format."""
    entries = []
    for line in text.splitlines():
        match = _ONE_LINE.match(line.split("#", 1)[0].strip())
        if match:
            options, uri, suite, components = match.groups()
            official = "debian-archive" in (options or "")
            entries.append(Entry(uri, (suite,), tuple(components.split()), official))
    return entries


def parse_deb822(text: str) -> list[Entry]:
    """Read the stanza format of ``*.sources``; disabled and source-only stanzas are left out."""
    entries = []
    plain = "\n".join(line for line in text.splitlines() if not line.startswith("#"))
    for stanza in re.split(r"\n\s*\n", plain):
        found = re.findall(r"^([A-Za-z-]+):[ \t]*((?:.*)(?:\n[ \t].*)*)", stanza, re.MULTILINE)
        fields = {name.lower(): value.strip() for name, value in found}
        if "deb" not in fields.get("types", "").split() or fields.get("enabled", "yes") == "no":
            continue
        for uri in fields.get("uris", "").split():
            entries.append(
                Entry(
                    uri,
                    tuple(fields.get("suites", "").split()),
                    tuple(fields.get("components", "").split()),
                    "debian-archive" in fields.get("signed-by", ""),
                )
            )
    return entries


def choose(entries: Iterable[Entry], environment: Mapping[str, str]) -> Mirrors:
    """Pick the main and the security archive.

    Args:
        entries: The machine's own sources, in apt's order.
        environment: ``AEGIS_DEBIAN_MIRROR`` and ``AEGIS_DEBIAN_SECURITY_MIRROR`` go first.

    Raises:
        HarnessError: No entry is a Debian archive.
    """
    main: list[Entry] = []
    security: list[Entry] = []
    for entry in entries:
        matches = [match for match in map(_SUITE.fullmatch, entry.suites) if match]
        if not matches or "main" not in entry.components:
            continue
        secure = any(match[1] in ("-security", "/updates") for match in matches)
        (security if secure else main).append(entry)
    for found in (main, security):
        found.sort(key=lambda entry: not entry.official)
    main_uri = environment.get("AEGIS_DEBIAN_MIRROR") or (main[0].uri if main else None)
    security_uri = environment.get("AEGIS_DEBIAN_SECURITY_MIRROR") or (
        security[0].uri if security else None
    )
    if main_uri is None:
        raise HarnessError(
            "this machine's apt sources name no Debian archive",
            hint="set AEGIS_DEBIAN_MIRROR (and AEGIS_DEBIAN_SECURITY_MIRROR) to one",
        )
    return Mirrors(main_uri, security_uri)


def render(kernels: Iterable[Kernel], mirrors: Mirrors, keyring: str) -> str:
    """Write the private ``sources.list`` for these kernels' suites."""
    return render_suites((suite for kernel in kernels for suite in kernel.suites), mirrors, keyring)


def render_suites(suites: Iterable[str], mirrors: Mirrors, keyring: str) -> str:
    """Write a ``sources.list`` for suites; those of an unknown archive are left out."""
    lines = []
    for suite in dict.fromkeys(suites):
        uri = mirrors.security if suite.endswith("-security") else mirrors.main
        if uri is not None:
            lines.append(f"deb [arch=amd64 signed-by={keyring}] {uri} {suite} main\n")
    return "".join(lines)
