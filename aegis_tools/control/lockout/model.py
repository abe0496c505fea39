"""What recovery needs, and what a proof finds."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

from aegis_tools.policy.model import Op

Maps = Mapping[str, Mapping[bytes, bytes]]
"""What a slot holds, by map."""

READ = Op.READ
RUN = Op.READ | Op.EXEC
WRITE = Op.READ | Op.WRITE
MAKE = Op.READ | Op.WRITE | Op.MODIFY


class Need(NamedTuple):
    """A file that a way back into the host needs.

    Attributes:
        path: Absolute, as the one that needs it writes it.
        ops: What is done with it.
        why: Ends the sentence "rule R denies PATH: …".
        chain: From who needs it to the file, for a person.
        code: It is run or loaded, so it belongs on the survival allow-list as well. What is
            only read or written does not: that list exempts a file from every rule, and a
            rule for ``/etc/shadow`` is not to be void for everybody.
        rank: Smaller is worse to lose.
    """

    path: str
    ops: Op
    why: str
    chain: tuple[str, ...] = ()
    code: bool = False
    rank: int = 50


class Peer(NamedTuple):
    """An address that a way back into the host needs.

    Attributes:
        address: IPv4 or IPv6.
        port: None where any will do.
        op: EGRESS or BIND.
        protocol: ``tcp`` or ``udp``.
        why: As for :class:`Need`.
        chain: As for :class:`Need`.
        rank: Smaller is worse to lose.
    """

    address: str
    port: int | None
    op: Op
    protocol: str
    why: str
    chain: tuple[str, ...] = ()
    rank: int = 20

    @property
    def shown(self) -> str:
        """The address and port for a person."""
        if self.port is None:
            return self.address
        return (
            f"[{self.address}]:{self.port}"
            if ":" in self.address
            else (f"{self.address}:{self.port}")
        )


class Hit(NamedTuple):
    """One need that a rule denies."""

    what: str
    why: str
    chain: tuple[str, ...]
    rank: int

    def text(self) -> str:
        """Return it for a person, without the rule."""
        how = f" ({' → '.join(self.chain)})" if len(self.chain) > 1 else ""
        return f"{self.what}: {self.why}{how}"


class Refusal(NamedTuple):
    """A rule that denies what recovery needs.

    Attributes:
        rule: Its id.
        enforce: False for an audit rule, which is warned of and not refused.
        worst: The needs that it would be worst to lose, worst first.
        needs: How many needs it denies altogether.
    """

    rule: str
    enforce: bool
    worst: tuple[Hit, ...]
    needs: int

    def text(self) -> str:
        """Return the finding in one line."""
        verb = "denies" if self.enforce else "would deny, if it enforced,"
        more = f", and {self.needs - 1} more" if self.needs > 1 else ""
        return f"rule {self.rule} {verb} {self.worst[0].text()}{more}"

    def to_dict(self) -> dict[str, Any]:
        """Return it as ``--json`` prints it."""
        return {
            "rule": self.rule,
            "enforce": self.enforce,
            "count": self.needs,
            "message": self.text(),
            "worst": [hit._asdict() | {"chain": list(hit.chain)} for hit in self.worst],
        }
