"""Quantities as people write them: ``500MB``, ``512MiB``, ``10Mbps``, ``100ms``.

Decimal prefixes (k, M, G, T) are powers of 1000, binary ones (Ki, Mi, Gi, Ti) of 1024. Amounts are
whole numbers of the smallest unit: bytes, bits a second, nanoseconds. A number alone means nothing
but a count, so it is refused elsewhere.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from fractions import Fraction

from aegis_tools.errors import UsageError

MOST = (1 << 63) - 1
_NUMBER = re.compile(r"([0-9]{1,20}(?:\.[0-9]{1,9})?) ?([A-Za-z/]*)")
_PREFIXES = {"": 1} | {
    prefix + i: base ** (power + 1)
    for i, base in (("", 1000), ("i", 1024))
    for power, prefix in enumerate("kMGT")
}


@dataclass(frozen=True, eq=False)
class Dimension:
    """What is measured.

    Attributes:
        name: For messages.
        base: The smallest unit; JSON is in it.
        units: How many of the smallest unit each unit is.
        shown: Units that amounts are shown in.
        example: How to write one.
    """

    name: str
    base: str
    units: dict[str, int]
    shown: tuple[str, ...]
    example: str


def _prefixed(*suffixes: str, times: int = 1) -> dict[str, int]:
    return {p + s: n * times for s in suffixes for p, n in _PREFIXES.items()}


_BIT_UNITS = _prefixed("bps", "bit", "bit/s") | _prefixed("Bps", "B/s", times=8)
SIZE = Dimension(
    "size",
    "bytes",
    {name.upper(): n for name, n in _prefixed("B").items()},
    ("TiB", "TB", "GiB", "GB", "MiB", "MB", "KiB", "kB", "B"),
    "500MB or 512MiB",
)
RATE = Dimension(
    "bandwidth",
    "bits/s",
    _BIT_UNITS | {"K" + u[1:]: n for u, n in _BIT_UNITS.items() if u[0] == "k"},
    ("Tbps", "Gbps", "Mbps", "kbps", "bps"),
    "10Mbps or 1.5Gbit",
)
DISK_RATE = Dimension(
    "bandwidth",
    RATE.base,
    RATE.units,
    ("TBps", "GBps", "MBps", "kBps", "Bps", "bps"),
    "10MBps or 80Mbps",
)
TIME = Dimension(
    "time",
    "ns",
    {"ns": 1, "us": 10**3, "ms": 10**6, "s": 10**9},
    ("s", "ms", "us", "ns"),
    "100ms or 2s",
)
COUNT = Dimension("number", "count", {"": 1}, ("",), "100")
HELP = (
    "sizes: kB, MB, GB, TB are powers of 1000; KiB, MiB, GiB, TiB of 1024\n"
    "rates: kbps, Mbps, Gbps (or bit, bit/s) are bits, Bps and B/s with the same prefixes bytes a\n"
    "second; times: ns, us, ms, s"
)


def parse(text: str, dimension: Dimension) -> int:
    """Return an amount in the smallest unit; a part of one is cut off.

    Raises:
        UsageError: It is none, less than 1, or more than 2**63 - 1.
    """
    found = _NUMBER.fullmatch(text)
    unit = found[2] if found else ""
    times = dimension.units.get(unit.upper() if dimension is SIZE else unit)
    if found is None or times is None:
        raise _refused(text, dimension)
    amount = int(Fraction(found[1]) * times)
    if not 1 <= amount <= MOST:
        raise UsageError(
            f"{text[:40]!r} is too {'small' if amount < 1 else 'large'}",
            hint=f"write it like {dimension.example}",
        )
    return amount


def show(amount: int, dimension: Dimension) -> str:
    """Return an amount as ``parse`` reads it, without loss, in the largest unit that fits."""
    for unit in dimension.shown:
        times = dimension.units[unit.upper() if dimension is SIZE else unit]
        if amount % times == 0 and (amount or times == 1):
            return f"{amount // times}{unit}"
    return str(amount)


def about(amount: float, dimension: Dimension) -> str:
    """Return a measured amount for people: three digits or so, in decimal units."""
    for unit in dimension.shown:
        times = dimension.units[unit.upper() if dimension is SIZE else unit]
        if "i" not in unit and amount >= times:
            return f"{amount / times:.3g}{unit}" if amount < 1000 * times else f"{amount:.0f}"
    return f"{amount:.0f}{dimension.shown[-1]}"


def _refused(text: str, dimension: Dimension) -> UsageError:
    if dimension is not COUNT and text.replace(".", "", 1).isdecimal():
        return UsageError(f"{text[:40]!r} has no unit", hint=f"write it like {dimension.example}")
    return UsageError(
        f"{text[:40]!r} is no {dimension.name}", hint=f"write it like {dimension.example}"
    )
