"""The verdict on a soak: criteria with their figures, and what follows from all of them."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

from aegis_tools.soak.reading import Soak

FORMAT = 1
PASS, FAIL, INCONCLUSIVE, INFO = "PASS", "FAIL", "INCONCLUSIVE", "INFO"
"""``INFO``: a figure that is told and not judged."""
CONFIDENCE = 0.99
"""Of every interval: what is true lies below it once in 200 times, and above it as often."""
MINIMUM_S = {"shadow": 7 * 86400, "enforce": 7 * 86400, "stress": 3 * 86400}
"""How long a soak has to be at least, by scenario, as the seed asks."""


@dataclass(frozen=True)
class Criterion:
    """One figure, held against its limit.

    Attributes:
        id: ``mem_growth``.
        title: For a person.
        limit: The limit as text: ``< 1 MB/day``; empty where there is none.
        unit: Of value, low and high: ``MB/day``, ``%``, empty for a plain number.
        value: The figure; None where it cannot be told.
        low: Where its confidence interval (CONFIDENCE) begins; None where there is none.
        high: Where that ends.
        samples: How many samples the figure is made of.
        status: PASS, FAIL, INCONCLUSIVE or INFO.
        why: What the status rests on, in one line.
    """

    id: str
    title: str
    limit: str
    unit: str
    value: float | None
    low: float | None
    high: float | None
    samples: int
    status: str
    why: str


@dataclass(frozen=True)
class Verdict:
    """What a soak has shown.

    Attributes:
        soak: Its id.
        scenario: Its scenario.
        status: FAIL if any criterion failed; else INCONCLUSIVE if any is; else PASS.
        criteria: All of them, in the order in which they are told.
        length_s: Seconds that were watched.
        minimum_s: Seconds that the scenario asks for at least.
        made: Unix seconds until which it was watched.
        running: Whether the soak still ran.
        override: Why the soak was begun although it should not have been; empty otherwise.
    """

    soak: str
    scenario: str
    status: str
    criteria: tuple[Criterion, ...]
    length_s: float
    minimum_s: int
    made: float
    running: bool = False
    override: str = ""

    @property
    def short(self) -> bool:
        """Whether it was shorter than its scenario asks for."""
        return self.length_s < self.minimum_s

    @property
    def text(self) -> str:
        """The verdict in one line: ``PASS, short: 10 min of 7 d``."""
        if not self.short:
            return self.status
        return f"{self.status}, short: {span(self.length_s)} of {span(self.minimum_s)}"

    def criterion(self, identifier: str) -> Criterion | None:
        """Return the criterion of that id; None where the scenario has none such."""
        return next((one for one in self.criteria if one.id == identifier), None)

    def to_dict(self) -> dict[str, Any]:
        """Return it as ``verdict.json`` has it."""
        values = asdict(self)
        values["criteria"] = [asdict(one) for one in self.criteria]
        return {
            "format": FORMAT,
            "confidence": CONFIDENCE,
            **values,
            "short": self.short,
            "text": self.text,
        }


def span(seconds: float) -> str:
    """Return a time as ``45 s``, ``10 min``, ``5 h`` or ``7 d``: in the largest unit of which it
    has two, or one whole; rounded down.
    """
    for unit, length in (("d", 86400), ("h", 3600), ("min", 60)):
        if seconds >= 2 * length or seconds == length:
            return f"{int(seconds // length)} {unit}"
    return f"{int(seconds)} s"


def judge(soak: Soak) -> Verdict:
    """Return the verdict on what is known of a soak so far."""
    return Verdict(
        soak=soak.settings.id,
        scenario=soak.settings.scenario,
        status=INCONCLUSIVE,
        criteria=(),
        length_s=max(0.0, soak.until - soak.settings.started),
        minimum_s=MINIMUM_S[soak.settings.scenario],
        made=soak.until,
        running=soak.running,
        override=soak.settings.override,
    )
