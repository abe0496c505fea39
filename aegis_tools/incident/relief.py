"""The first thing of all in ``incident blocking``: nothing is refused any more.

A look at the kernel's own counts and one store in its map: no lock, no file, no program. Whatever
cannot be read then is a reason to stop refusing, not to wait. What has to be written down for it to
last comes after it, with the lock (``control.hostmode.switch``).
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Mapping
from contextlib import suppress
from typing import NamedTuple

from aegis_tools.control.live import Live
from aegis_tools.control.mode import read_mode, set_mode
from aegis_tools.errors import AegisError, NotLoadedError
from aegis_tools.kernel.layout import RULE_ATTR, Stat, uid_of
from aegis_tools.kernel.pins import Pins
from aegis_tools.paths import Paths
from aegis_tools.policy.model import Mode


class Relief(NamedTuple):
    """What was found and done.

    Attributes:
        loaded: Anything of ours is in the kernel.
        was: The mode before; None where it could not be read.
        refusing: A rule that enforces has refused something lately, or nobody can tell.
        audited: The mode was set to audit.
        refusers: Which rules had refused something lately, by number: (how often since they were
            loaded, when last on the boot clock in ns).
        trouble: What could not be read or set; empty for nothing.
        at: When it was done, Unix seconds.
    """

    loaded: bool
    was: Mode | None = None
    refusing: bool = False
    audited: bool = False
    refusers: Mapping[int, tuple[int, int]] = {}
    trouble: str = ""
    at: float = 0.0


def relieve(
    paths: Paths,
    *,
    since: float,
    rule: str = "",
    settled_ns: Callable[[], int] = lambda: 0,
    dry_run: bool = False,
    boot_ns: Callable[[], int] = lambda: time.clock_gettime_ns(time.CLOCK_BOOTTIME),
    wall: Callable[[], float] = time.time,
) -> Relief:
    """Set audit where the host enforces and a rule has refused something lately.

    Args:
        paths: Where the pins are.
        since: Unix seconds; before that is not lately.
        rule: The only rule that counts; empty for any.
        settled_ns: Returns up to when refusals were looked into before (boot clock, ns). Asked
            only where there are any, and what it raises is taken for never.
        dry_run: Only look.
        boot_ns: The hooks' clock.
        wall: Unix seconds.
    """
    try:
        with Live(Pins(paths.pins)) as live:
            after = boot_ns() - int((wall() - since) * 1e9)
            found = _relieve(live, after, rule, settled_ns, dry_run=dry_run)
            return found._replace(at=wall())
    except NotLoadedError:
        return Relief(False)
    except (AegisError, OSError) as error:
        said = error.message if isinstance(error, AegisError) else str(error)
        return Relief(True, trouble=said, at=wall())


def _relieve(
    live: Live, after_ns: int, rule: str, settled_ns: Callable[[], int], *, dry_run: bool
) -> Relief:
    was, trouble, found, settled = read_mode(live), "", dict[int, tuple[int, int]](), 0
    try:
        found = refusers(live, after_ns, number_of(rule) if rule else 0)
        lost = not found and not rule and bool(live.stats()[Stat.HITS_LOST])
        settled = _settled(settled_ns) if found else 0
        found = {uid: hit for uid, hit in found.items() if hit[1] > settled}
        refusing = bool(found) or lost
    except (AegisError, OSError) as error:
        trouble, refusing = f"what was refused cannot be read: {error}", True
    if was is Mode.AUDIT or not refusing or dry_run:
        return Relief(True, was, refusing, refusers=found, trouble=trouble)
    set_mode(live, Mode.AUDIT)
    with suppress(AegisError, OSError):  # more were refused while the records were read
        found = refusers(live, max(after_ns, settled), number_of(rule) if rule else 0)
    return Relief(True, was, True, True, found, trouble)


def _settled(settled_ns: Callable[[], int]) -> int:
    try:
        return settled_ns()
    except Exception:
        return 0


def refusers(live: Live, after_ns: int, only: int = 0) -> dict[int, tuple[int, int]]:
    """Return the rules that enforce and have refused something: (how often, when last), by number.

    Args:
        live: The loaded maps.
        after_ns: On the boot clock; what refused nothing since then is left out.
        only: The rule that counts; 0 for any.
    """
    inner = live.inner("rules")
    if inner is None:
        return {}
    found = {}
    with inner:
        for uid, (blocks, _, last) in live.hits().items():
            if blocks and last > after_ns and (not only or uid == only):
                attribute = inner.get(uid.to_bytes(8, "little"))
                if attribute and RULE_ATTR.unpack(attribute)[0]:
                    found[uid] = (blocks, last)
    return found


def number_of(rule: str) -> int:
    """Return a rule's number from its id, or from what stands for one without a name."""
    head, _, number = rule.partition("unknown:")
    if not head and len(number) == 16 and all(c in "0123456789abcdef" for c in number):
        return int(number, 16)
    return uid_of(rule)


def settled_ns(records: Iterable[Mapping[str, object]], boot: str) -> int:
    """Return up to when refusals were looked into before, on the clock of this boot; 0 = never.

    Args:
        records: The facts of earlier incidents, newest first.
        boot: Which boot it is.
    """
    values = (facts.get("settled") for facts in records)
    newest = next((value for value in values if isinstance(value, dict)), {})
    return int(newest["ns"]) if newest.get("boot") == boot else 0
