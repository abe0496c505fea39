"""The verdict on a soak: criteria with their figures, and what follows from all of them."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

from aegis_tools.soak.criteria import (
    CONFIDENCE,
    FAIL,
    INCONCLUSIVE,
    INFO,
    PASS,
    Criterion,
    criteria,
    span,
)
from aegis_tools.soak.figures import figures
from aegis_tools.soak.reading import Soak

__all__ = [
    "CONFIDENCE", "FAIL", "INCONCLUSIVE", "INFO", "MINIMUM_S", "PASS", "Criterion", "Verdict",
    "judge", "span",
]  # fmt: skip

FORMAT = 1
MINIMUM_S = {"shadow": 7 * 86400, "enforce": 7 * 86400, "stress": 3 * 86400}
"""How long a soak has to be at least, by scenario, as the seed asks."""
_NEARLY = 0.999
"""A soak of 7 days is not short because its last turn came a minute early."""


@dataclass(frozen=True)
class Verdict:
    """What a soak has shown.

    Attributes:
        soak: Its id.
        scenario: Its scenario.
        status: FAIL if any criterion failed; else INCONCLUSIVE if any is, or nothing tells how
            it ended; else PASS.
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
        return self.length_s < _NEARLY * self.minimum_s

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


def judge(soak: Soak) -> Verdict:
    """Return the verdict on what is known of a soak so far.

    One of which nothing tells how it ended has passed nothing.
    """
    found = figures(soak, CONFIDENCE)
    judged = criteria(soak, found)
    statuses = {one.status for one in judged} | ({INCONCLUSIVE} if soak.state == "left" else set())
    return Verdict(
        soak=soak.settings.id,
        scenario=soak.settings.scenario,
        status=next((one for one in (FAIL, INCONCLUSIVE) if one in statuses), PASS),
        criteria=judged,
        length_s=found.cover.length_s,
        minimum_s=MINIMUM_S[soak.settings.scenario],
        made=soak.until,
        running=soak.running,
        override=soak.settings.override,
    )
