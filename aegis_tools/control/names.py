"""What the rules in the kernel are called.

The kernel knows a rule by a number. A rule made by hand carries its text in the kernel; one
of a policy is named by the stored policy that the kernel says is live. Where that policy is
gone or damaged, its rules have no name, and ``problem`` says so; nothing here fails for it.
"""

from __future__ import annotations

from aegis_tools.control import manual
from aegis_tools.control.live import Live
from aegis_tools.errors import AegisError
from aegis_tools.kernel.layout import ManualRule, uid_of
from aegis_tools.paths import Paths
from aegis_tools.policy.model import Policy, Rule


class Names:
    """Rules by uid, the stored policy being read only when a rule made by hand does not do.

    Args:
        live: The loaded maps.
        paths: Where policies are kept.

    Attributes:
        problem: Why the live policy's rules cannot be named; empty where they can, or where
            nobody has asked yet.
    """

    def __init__(self, live: Live, paths: Paths) -> None:
        self._live = live
        self._paths = paths
        self._policy: Policy | None = None
        self._read = False
        self._by_uid: dict[int, Rule] = {}
        self.problem = ""

    def get(self, uid: int) -> Rule | None:
        """Return the rule of a uid; None where nobody can name it."""
        if uid in self._by_uid:
            return self._by_uid[uid]
        with_record = self._record(uid)
        if with_record is not None:
            return manual.to_rule(with_record)
        self.policy()
        return self._by_uid.get(uid)

    def name(self, uid: int) -> str:
        """Return a rule's id, or ``unknown:`` and its number in hex."""
        rule = self.get(uid)
        return rule.id if rule is not None else f"unknown:{uid:016x}"

    def policy(self) -> Policy | None:
        """Return the stored policy that is live; None for none, or with ``problem`` set."""
        if self._read:
            return self._policy
        self._read = True
        digest = self._live.info().bundle
        if not any(digest):
            return None
        # Here, because it brings both parsers, and often a record made by hand is enough.
        from aegis_tools.control.source import stored_policy
        from aegis_tools.control.store import Store

        try:
            self._policy = stored_policy(Store(self._paths), digest)
        except AegisError as error:
            self.problem = f"rules of the live policy cannot be named: {error.message}"
            return None
        self._by_uid = {uid_of(rule.id): rule for rule in self._policy.rules}
        return self._policy

    def _record(self, uid: int) -> ManualRule | None:
        inner = self._live.inner("manual_rules")
        if inner is None:
            return None
        with inner:
            value = inner.get(uid.to_bytes(8, "little"))
        return ManualRule.unpack(value) if value else None

    def all(self) -> dict[int, Rule]:
        """Return every rule that is live and has a name, by uid."""
        self.policy()
        by_hand = {uid: manual.to_rule(r) for uid, r in self._live.manual_rules().items()}
        alive = [int.from_bytes(uid, "little") for uid in self._live.entries("rules")]
        found = {uid: by_hand.get(uid) or self._by_uid.get(uid) for uid in alive}
        return {uid: rule for uid, rule in found.items() if rule is not None}


def rules_by_uid(live: Live, paths: Paths) -> dict[int, Rule]:
    """Return every live rule that has a name, by uid, in the mode that it has in the kernel."""
    from aegis_tools.control.edit_maps import as_they_are

    found = Names(live, paths).all()
    return dict(zip(found, as_they_are(found.values(), live.entries("rules")), strict=True))
