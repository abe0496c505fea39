"""A map is full, so that rules are refused or a policy does not fit: make room, and apply again.

First what matches nothing any more goes, with an undo file. If that is not enough, programs with
larger maps take the place of those that run, side by side (ADR 0017): nothing is let through. Then
the policy that did not fit is applied, as ``policy apply`` does it.
"""

from __future__ import annotations

import contextlib
import time
from collections.abc import Mapping
from dataclasses import replace as changed
from pathlib import Path
from typing import Any, NamedTuple

from aegis_tools.control import bootstate, capacity, confirm, replace, stale, undo
from aegis_tools.control.apply import Prepared, carry_out, prepare, resolve_all
from aegis_tools.control.history import History
from aegis_tools.control.hostmode import settle_first
from aegis_tools.control.keystore import KeyStore
from aegis_tools.control.live import Live
from aegis_tools.control.lockout import check as proof
from aegis_tools.control.lockout import probe as login
from aegis_tools.control.names import Names
from aegis_tools.control.pending import read_pending
from aegis_tools.control.posture import read_posture
from aegis_tools.control.remember import remember
from aegis_tools.control.resolve import Identify
from aegis_tools.control.room import check_entries
from aegis_tools.control.sizes import HITS, enough, full
from aegis_tools.control.source import Source, read_source
from aegis_tools.control.staging import stage
from aegis_tools.control.store import Store
from aegis_tools.errors import AegisError, KernelError, PolicyError, ProbeError
from aegis_tools.incident import byhand, filling, unit
from aegis_tools.incident.case import Case, Outcome
from aegis_tools.incident.provenance import who
from aegis_tools.kernel.features import mount_securityfs, read_host_features
from aegis_tools.kernel.inode_keys import Identifier
from aegis_tools.kernel.layout import SPECS
from aegis_tools.kernel.loader import LoadOptions
from aegis_tools.kernel.pins import Pins

ACTION = "incident map-full"
CLEARED = ("inode-gone", "inode-reused", "path-moved", "duplicate", "not-hit")
"""Classes of what is stale that go. Not ``unmounted``: its file system may come back."""
_WEEK = 7 * 86400
_HISTORY = 2000


class Asked(NamedTuple):
    """What a person asked for.

    Attributes:
        at: From this share on a map is too full; full is 1.
        older_than: Rules that were not hit for so many seconds are stale, too; 0 = they are not.
        clear: Take out what is stale.
        sizes: Sizes that are wanted, by map; else what is enough is computed.
        policy: The policy that did not fit; None for none.
        allow_unsigned: Take an unsigned one though this host asks for signatures.
        within: Seconds to confirm the policy; 0 = it is applied for good.
        log_in: Also try a login before and after it.
    """

    at: float = 0.85
    older_than: float = 0
    clear: bool = True
    sizes: Mapping[str, int] = {}
    policy: Path | None = None
    allow_unsigned: bool = False
    within: int = 0
    log_in: bool = True


def run(case: Case, asked: Asked) -> Outcome:
    """Carry the procedure out.

    Raises:
        AegisError: A step failed; what was done is in the record.
    """
    pins = Pins(case.paths.pins)
    if not pins.is_loaded():
        return Outcome(False, "nothing-to-do", "nothing to do: nothing of Aegis is loaded")
    procedure = _MapFull(case, asked, pins)
    if not procedure.found:
        worst = max(procedure.uses, key=lambda use: use.share)
        return Outcome(False, "nothing-to-do", f"nothing to do: the fullest is {worst.line()}")
    procedure.look()
    if asked.clear:
        procedure.clear()
    procedure.enlarge()
    procedure.apply()
    return procedure.end()


class _MapFull:
    def __init__(self, case: Case, asked: Asked, pins: Pins) -> None:
        self.case, self.asked, self.pins = case, asked, pins
        self.source = self._read_policy(asked.policy) if asked.policy else None
        self.problem = ""
        with Live(pins) as live:
            self.uses = capacity.read_use(live)
            self.wanted = self._wanted(live)
            digest = live.info().bundle.hex()
        self.to_apply = self.source is not None and self.source.record.digest != digest
        self.found = self._is_tight() or self.to_apply or self._left() or self._unkept()

    def _left(self) -> bool:
        """Return whether an earlier run was killed before the agent could read the new maps."""
        record = self.case.record
        return record.continued and record.done("enlarge") and not record.done("restart-agent")

    def _unkept(self) -> bool:
        """Return whether an earlier run was killed before the next boot knew of the sizes."""
        if not self.case.record.continued:
            return False
        with contextlib.suppress(AegisError):
            known = bootstate.read_boot_state(self.case.paths).capacities
            sizes = {use.name: use.capacity for use in self.uses if use.name in SPECS}
            return any(known.get(n, SPECS[n].capacity) != size for n, size in sizes.items())
        return True

    def _read_policy(self, path: Path) -> Source:
        paths = self.case.paths
        return read_source(
            path,
            KeyStore(paths),
            Store(paths),
            now=int(time.time()),
            allow_unsigned=self.asked.allow_unsigned,
        )

    def _wanted(self, live: Live) -> dict[str, int]:
        """Return the entries that the policy needs, by map."""
        if self.source is None:
            return {}
        rules = resolve_all(live, self.source.policy, live.manual_rules(), now=time.time())
        try:
            check_entries(live, rules)
        except PolicyError as error:
            self.problem = error.message
        return {name: len(entries) for name, entries in rules.maps.items()}

    def _sizes(self) -> dict[str, int]:
        """Return the sizes that maps must have and have not."""
        found = enough(self.uses, self.wanted, self.asked.at)
        given = {use.name: self.asked.sizes[use.name] for use in self.uses
                 if self.asked.sizes.get(use.name, use.capacity) != use.capacity}  # fmt: skip
        return {**found, **given}

    def look(self) -> None:
        """Find out who fills the maps."""
        self.case.look("fillers", "find out who fills the maps", self._fillers)

    def _fillers(self) -> None:
        record, paths = self.case.record, self.case.paths
        with Live(self.pins) as live:
            names = Names(live, paths)
            named, by_hand = names.all(), set(live.manual_rules())
            tight = full(self.uses, self.asked.at)
            maps = {use.name: live.entries(use.name) for use in tight if use.name != HITS}
        found = filling.fillers(tight, maps, by_hand, named)
        record.fact("maps", [use._asdict() for use in self.uses])
        record.fact("fillers", [one.to_dict() for one in found])
        record.fact("policy_problem", self.problem)
        history = History(paths.history).read(_HISTORY).entries
        record.fact("added_by_hand", filling.adders(history, time.time() - _WEEK, who))

    def clear(self) -> None:
        """Take out what matches nothing any more."""
        step = self.case.step(
            "clear-stale",
            "remove what matches nothing any more",
            self._clear,
            needed=lambda: self._is_tight() and bool(self._stale()),
            lock=True,
        )
        if step.did and not self.case.dry_run:
            self.case.record.fact("cleared", step.value)
            self.case.record.follow_up(
                f"undo what was cleared: aegisbpf block restore {step.value['undo']}"
            )
            self._measure()

    def _is_tight(self) -> bool:
        return bool(full(self.uses, self.asked.at) or self._sizes())

    def _stale(self) -> list[stale.Finding]:
        with Live(self.pins) as live, Identifier(live.pins) as identify:
            return self._survey(live, Names(live, self.case.paths), identify)

    def _survey(self, live: Live, names: Names, identify: Identify) -> list[stale.Finding]:
        found = stale.survey(
            live,
            names,
            identify,
            mounted=stale.read_mounts(),
            now=time.time(),
            older_than=self.asked.older_than,
        )
        return [one for one in found.findings if one.why in CLEARED]

    def _clear(self) -> dict[str, Any]:
        paths = self.case.paths
        with Live(self.pins) as live, byhand.editing(paths, live) as editor:
            found = self._survey(live, editor.names, editor.identify)
            content = undo.undo_of(live.all_entries(), found)
            saved = str(undo.save(paths, content, now=time.time()))
            editor.replace(
                lambda rules: stale.take_out(rules.maps, found),
                removed=[one.uid for one in found if not one.map],
                refill=True,
            )
        counts = stale.counts(found)
        remember(paths, "block clear-stale", counts=counts, note=f"undo file: {saved}; {ACTION}")
        capacity.note(paths, now=time.time())
        return {"counts": counts, "undo": saved}

    def _measure(self) -> None:
        with Live(self.pins) as live:
            self.uses = capacity.read_use(live)
            self.wanted = self._wanted(live)

    def enlarge(self) -> None:
        """Let larger maps take the place of those that are too small, at no instant with none."""
        step = self.case.step(
            "enlarge",
            f"give the maps more room, live: {self._sizes_text()}",
            self._enlarge,
            needed=lambda: bool(self._sizes()) or self._unkept(),
            lock=True,
            sizes=self._sizes(),
        )
        self.case.step(
            "restart-agent",
            "let the agent read the new maps",
            lambda: self.case.seams.run(["systemctl", "restart", unit.NAME], timeout=320),
            needed=lambda: (step.did or self._left()) and self._agent_runs(),
            optional=True,
        )

    def _agent_runs(self) -> bool:
        """Return whether systemd runs the agent: one that a person has stopped stays so."""
        run = self.case.seams.run
        there = unit.is_there(self.case.paths, run)
        return there and unit.read(run).active not in ("inactive", "failed")

    def _sizes_text(self) -> str:
        return ", ".join(f"{name}={size}" for name, size in self._sizes().items()) or "enough"

    def _enlarge(self) -> None:
        paths = self.case.paths
        mount_securityfs()
        if sizes := self._sizes():
            asked = LoadOptions(capacities=sizes)
            replace.carry_out(paths, read_host_features(paths.root), asked, seams=self.case.seams)
        with Live(self.pins) as live:
            bootstate.keep(paths, live)
        capacity.note(paths, now=time.time())
        self._measure()

    def apply(self) -> None:
        """Apply the policy that did not fit."""
        path = self.asked.policy
        if path is None:
            return
        self.case.step(
            "apply",
            f"apply the policy {path.name}",
            lambda: self._apply(path),
            needed=lambda: self.to_apply,
            lock=True,
        )

    def _apply(self, path: Path) -> None:
        paths, seams, within = self.case.paths, self.case.seams, self.asked.within
        with Live(self.pins) as live:
            if within:
                settle_first(paths, live, seams=seams)
                left = None
            else:
                left = confirm.require_settled(paths, live, seams=seams)
            source = self._read_policy(path)  # under the lock: no other serial comes in between
            prepared = prepare(live, source, Store(paths), now=time.time(), paths=paths)
            proof.refuse(prepared.plan.refusals)
            noted = changed(source, note="; ".join(filter(None, (source.note, ACTION))))
            prepared = changed(prepared, source=noted)
            if not within or not prepared.plan.changed:
                carry_out(paths, live, prepared, action="policy apply")
            else:
                self._stage(live, prepared)
            if left is not None:
                confirm.forget(paths, live, f"replaced by {ACTION}", seams=seams)

    def _stage(self, live: Live, prepared: Prepared) -> None:
        paths, seams = self.case.paths, self.case.seams
        tries = self.asked.log_in and read_posture(live).enforcing
        worked = login.attempt(login.checks(paths.run)) if tries else []
        stage(paths, live, prepared, within=self.asked.within, action="policy apply", seams=seams)
        after = login.attempt(login.checks(paths.run)) if worked else []
        broken = login.broken(worked, after)
        if broken:
            names = ", ".join(one.name for one in broken)
            confirm.revert(paths, live, why=f"the probe failed: {names}", seams=seams)
            raise ProbeError(
                f"undone at once, because after it this failed: {names}",
                hint="see which rule denies what: aegisbpf why PATH",
                data={"probe": login.to_dict(after)},
            )

    def end(self) -> Outcome:
        """Return how it ended, as the host is now."""
        paths, now = self.case.paths, self.case.seams.boot_ns()
        with Live(self.pins) as live:
            uses = capacity.read_use(live)
        tight = [] if self.case.dry_run else full(uses, self.asked.at)
        if tight:
            raise KernelError(
                f"still full: {tight[0].line()}",
                hint="take rules out, or deny directories instead of single files",
                data={"still_full": [use.name for use in tight]},
            )
        pending = None
        with contextlib.suppress(AegisError):
            pending = read_pending(paths)
        digest = self.source.record.digest if self.source else ""
        waits = pending is not None and pending.now.digest == digest
        worst = max(uses, key=lambda use: use.share)
        summary = f"the fullest is {worst.line()}"
        if self.case.dry_run:
            summary = f"dry run, nothing was changed; {summary}"
        following = ("aegisbpf policy confirm", f"aegisbpf incident close {self.case.record.id}")
        return Outcome(
            True,
            "recovered",
            summary,
            next=following if waits else (),
            keep_open=waits,
            data={
                "maps": [use._asdict() for use in uses],
                "pending": confirm.describe(pending, now) if pending else None,
            },
        )
