"""Does it work? Three different facts about BPF LSM, and whether what we loaded is whole.

pending   the boot configuration asks for it
active    this boot has it in its list of security modules
working   our hook really runs when a file is opened

A list of checks, each with the exit code it would lead to; the first that failed decides.
"""

from __future__ import annotations

import os
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

from aegis_tools.control.bootconfig.facts import Facts, read_facts
from aegis_tools.control.fallback import why_held
from aegis_tools.control.heartbeat import life, read_heartbeat
from aegis_tools.control.live import Live
from aegis_tools.control.pending import read_pending
from aegis_tools.control.posture import read_posture
from aegis_tools.errors import (
    AegisError,
    BootError,
    KernelError,
    StateError,
    TrustError,
)
from aegis_tools.kernel import loader, syscall
from aegis_tools.kernel.features import Features, is_bpffs, why_disabled
from aegis_tools.kernel.layout import Config
from aegis_tools.kernel.pins import FALLBACK_PROGRAM, LSM_PROGRAM, Pins
from aegis_tools.kernel.run import run
from aegis_tools.paths import Paths

OBJECTS = ("aegis.bpf.o", "audit.bpf.o", "inode_keys.bpf.o")
_OPENS = 3


class Check(NamedTuple):
    """One fact.

    Attributes:
        name: Short and stable.
        ok: None where it only informs.
        message: What was found.
        hint: What to do when it is not ok.
        code: Exit code when it is not ok.
    """

    name: str
    ok: bool | None
    message: str
    hint: str = ""
    code: int = KernelError.exit_code


class Report(NamedTuple):
    """All checks."""

    checks: tuple[Check, ...]

    @property
    def failed(self) -> list[Check]:
        """Those that are not ok."""
        return [check for check in self.checks if check.ok is False]

    @property
    def exit_code(self) -> int:
        """0, or the code of the first that failed."""
        return self.failed[0].code if self.failed else 0

    def to_dict(self) -> dict[str, Any]:
        """Return it as ``--json`` prints it."""
        return {
            "healthy": not self.failed,
            "exit_code": self.exit_code,
            "checks": [check._asdict() for check in self.checks],
        }


def next_boot(paths: Paths, active: tuple[str, ...]) -> Facts | None:
    """Return what the boot configuration says; None where it cannot be read."""
    try:
        return read_facts(paths, active, run if paths.root == Path("/") else None)
    except (AegisError, OSError):
        return None


def pending_text(facts: Facts | None) -> str:
    """Return what a person is told of the next boot."""
    if facts is None:
        return "the boot configuration cannot be read: aegisbpf lsm status"
    if facts.loader is None:
        return "no boot loader is known here, so the next boot is taken to be like this one"
    named = facts.default is not None and facts.default.lsm is not None
    if facts.pending:
        return f"the next boot has bpf, by {'lsm=' if named else 'its kernel'}"
    why = "lsm= leaves it out" if named else "its kernel's list is without it"
    return f"the next boot is without bpf: {why}: aegisbpf lsm enable"


def boot_checks(features: Features, pending: str) -> list[Check]:
    """Return what the kernel offers, before anything of ours; ``pending`` is of the next boot."""
    active = "bpf" in features.lsms
    where, hint = why_disabled(features)
    return [
        Check("kernel", None, features.release),
        Check("btf", features.btf, "the kernel describes its types" if features.btf
              else "the kernel has no BTF", "use a kernel with CONFIG_DEBUG_INFO_BTF=y"),
        Check("enabled", not features.disabled, f"loading is disabled {where}"
              if features.disabled else "loading is not disabled", hint, BootError.exit_code),
        Check("lsm-pending", None, pending),
        Check("lsm-active", active, "BPF LSM is active" if active
              else "BPF LSM is not active on this boot: nothing can be refused",
              "run: aegisbpf lsm enable; then reboot", BootError.exit_code),
    ]  # fmt: skip


def load_checks(pins: Pins, *, lsm_active: bool) -> list[Check]:
    """Return whether what is pinned is whole and ours."""
    mounted = is_bpffs(pins.base.parent)
    checks = [
        Check("bpffs", mounted, "mounted" if mounted else "the BPF file system is not mounted",
              "run: mount -t bpf bpf /sys/fs/bpf"),
        *_objects(),
    ]  # fmt: skip
    if not pins.is_loaded():
        return [*checks, Check("loaded", False, "nothing is loaded", "run: aegisbpf load")]
    lacking = pins.missing()
    if lacking:
        text = f"{len(lacking)} pins were removed, such as {lacking[0]}; hooks may be attached"
        fix = "run: aegisbpf reset && aegisbpf load, then apply the policy again"
        return [*checks, Check("loaded", False, text, fix)]
    checks.append(Check("loaded", True, "programs and maps are pinned"))
    hooks = [name for name in pins.names("progs") if name.startswith("aegis_")]
    missing = sorted(set(hooks) - set(pins.names("links")))
    checks.append(
        Check("attached", bool(hooks) and not missing, f"{len(hooks) - len(missing)} of "
              f"{len(hooks)} hooks attached" + (f"; not: {', '.join(missing)}" if missing else ""),
              "run: aegisbpf attach")
    )  # fmt: skip
    if pins.stagings():
        checks.append(Check("staging", False, "a load died half-way and left pins behind",
                            "run: aegisbpf load"))  # fmt: skip
    try:
        loader.check_layout(pins)
    except AegisError as error:
        return [*checks, Check("layout", False, error.message, error.hint)]
    return [
        *checks,
        Check("layout", True, "the maps are of this version"),
        *_live(pins, lsm_active),
    ]


def _objects() -> Iterator[Check]:
    for name in OBJECTS:
        try:
            loader.verify_object(name)
        except AegisError as error:
            yield Check("objects", False, f"{name}: {error.message}", error.hint)
            return
    yield Check("objects", True, "the BPF objects are those of this version")


def _live(pins: Pins, lsm_active: bool) -> list[Check]:
    try:
        # Detaching is not instant: a program without its link may still run once or twice.
        works = pins.is_attached() and hook_runs(pins)
    except OSError as error:
        checks = [Check("working", None, f"cannot be measured here ({error.strerror})")]
    else:
        text = "the hook runs on every open" if works else "the hook does not run"
        checks = [Check("working", works, text, "run: aegisbpf attach; aegisbpf health")]
    if pins.is_fallback():
        checks.append(fallback_check(lsm_active=lsm_active))
    with Live(pins) as live:
        posture = read_posture(live)
        disabled = bool(live.config(Config.DISABLED))
    checks.append(Check("mode", None, f"{posture.mode}: {posture.meaning}"))
    if disabled:
        checks.append(Check("switched-on", False, "disabled is on: no hook does anything",
                            "run: aegisbpf config set disabled off"))  # fmt: skip
    if posture.deadline is not None:
        late = posture.deadline < 0
        text = "a change was not confirmed in time" if late else "a change is not confirmed yet"
        checks.append(Check("confirmed", False if late else None, text,
                            "run: aegisbpf policy revert"))  # fmt: skip
    return checks


def fallback_check(*, lsm_active: bool) -> Check:
    """Return the check that fails with the audit fallback, and says why it is what is loaded."""
    reason = "bpf is not in this boot's list of security modules"
    hint = "run: aegisbpf lsm enable; reboot; then: aegisbpf reset && aegisbpf load"
    if lsm_active:
        reason = (
            "bpf is in the list of security modules, but the kernel refused LSM programs, or "
            "the list could not be read, when it was loaded"
        )
        load = "aegisbpf --verbose load --require-lsm"
        hint = f"see what the kernel says to it: aegisbpf reset && {load}"
    return Check(
        "enforceable",
        False,
        f"cannot enforce: the audit fallback is loaded ({reason}); it watches only system calls "
        "with absolute paths",
        hint,
        BootError.exit_code,
    )


def working(pins: Pins) -> bool | None:
    """Return whether an LSM hook of ours really runs; None where none is loaded or can be counted.

    The audit fallback is none.
    """
    try:
        if not pins.is_loaded():
            return None
        return not pins.is_fallback() and pins.is_attached() and hook_runs(pins)
    except OSError:
        return None


def hook_runs(pins: Pins) -> bool:
    """Open a file while the kernel counts runs, and see whether our hook ran.

    Raises:
        OSError: The kernel cannot count (before 5.8) or does not let us.
    """
    counting = syscall.enable_run_stats()
    try:
        program = pins.open_program(FALLBACK_PROGRAM if pins.is_fallback() else LSM_PROGRAM)
        try:
            before = syscall.program_info(program)["run_cnt"]
            for _ in range(_OPENS):
                os.close(os.open(os.devnull, os.O_RDONLY))
            return syscall.program_info(program)["run_cnt"] - before >= _OPENS
        finally:
            os.close(program)
    finally:
        os.close(counting)


def config_checks(paths: Paths, *, now: int) -> list[Check]:
    """Return whether stored policy, keys and settings can be used, without the kernel.

    The current policy is judged by the keys and settings of now; ``now`` is Unix seconds.
    """
    from aegis_tools.control.keystore import KeyStore
    from aegis_tools.control.source import read_stored
    from aegis_tools.control.store import Store

    keystore, store = KeyStore(paths), Store(paths)
    late: list[str] = []

    def keys() -> str:
        return f"{len(keystore.trusted())} trusted keys"

    def settings() -> str:
        config, keys = keystore.config(), len(keystore.trusted())
        if config.threshold > keys > 0:
            raise TrustError(
                f"{config.threshold} keys must sign, but only {keys} can: no policy is accepted",
                hint="trust more: aegisbpf keys add KEY.pub; or: aegisbpf keys trust --threshold N",
            )
        return f"{config.threshold} signatures needed, group {config.group or 'any'}"

    def serials() -> str:
        return f"{len(store.serials().groups)} groups known"

    def policy() -> str:
        current, _ = store.records()
        if current is None:
            return "no policy is stored for the next boot"
        source = read_stored(store.load(current.digest), current, keystore, store, now=now)
        late.extend([source.note] if source.note else [])
        return f"{current.name}: {len(source.policy.rules)} rules"

    named = {"keys": keys, "trust": settings, "serials": serials, "policy": policy}
    checks = [_config_check(name, look) for name, look in named.items()]
    return [*checks, *(Check("policy-validity", None, f"warning: {text}") for text in late)]


def _config_check(name: str, look: Any) -> Check:
    try:
        return Check(name, True, look())
    except AegisError as error:
        return Check(name, False, error.message, error.hint, error.exit_code)


def state_checks(paths: Paths) -> list[Check]:
    """Return whether the state folder is there and ours."""
    if not paths.state.exists():
        return [Check("state", None, "no state folder yet: nothing was ever applied")]
    found = paths.state.stat()
    safe = found.st_uid in (0, os.geteuid()) and not found.st_mode & 0o022
    text = "the state folder is ours alone" if safe else "others can change the state folder"
    hint = "run: chown root: and chmod 0700 on it"
    return [Check("state", safe, text, hint, StateError.exit_code)]


def held_checks(paths: Paths) -> list[Check]:
    """Return a check that fails while the host is held in audit, or a revert does."""
    checks = []
    if why := why_held(paths):
        checks.append(Check("held", False, f"held in audit: {why}",
                            "when the cause is gone: aegisbpf resume"))  # fmt: skip
    try:
        pending = read_pending(paths)
        failed = pending.failed if pending else ""
    except StateError as error:
        failed = error.message
    if failed:
        checks.append(Check("reverted", False, f"the old policy cannot be brought back: {failed}",
                            "apply a good one: aegisbpf policy apply FILE"))  # fmt: skip
    return checks


def agent_check(paths: Paths, boot_ns: int) -> Check:
    """Return whether the agent lives; none at all is no fault, for enforcement needs none."""
    found = read_heartbeat(paths)
    if found is None:
        return Check("agent", None, "the agent does not run: events are not written down")
    alive, pid = life(paths, found, boot_ns), found.get("pid")
    if not alive.runs:
        what = "died" if alive.died else "hangs"
        text = f"the agent (process {pid}) {what}: its last sign of life is {alive.age:.0f} s old"
        return Check("agent", False, text, "run: systemctl restart aegisbpf", StateError.exit_code)
    starts = found.get("starts_in_window")
    again = f", started {starts} times lately" if isinstance(starts, int) and starts > 1 else ""
    return Check("agent", None if again else True, f"the agent runs (process {pid}){again}")


def read_report(
    paths: Paths,
    features: Features,
    *,
    now: int,
    config: bool = False,
    fallback_ok: bool = False,
) -> Report:
    """Run the checks.

    Args:
        paths: Where things are.
        features: What the kernel offers.
        now: Unix seconds.
        config: Only what ``--check-config`` asks for.
        fallback_ok: Take the audit fallback for healthy.
    """
    if config:
        return Report((*state_checks(paths), *config_checks(paths, now=now)))
    checks = [
        *boot_checks(features, pending_text(next_boot(paths, features.lsms))),
        *load_checks(Pins(paths.pins), lsm_active=features.lsm_active),
        *state_checks(paths),
        *held_checks(paths),
        agent_check(paths, time.clock_gettime_ns(time.CLOCK_BOOTTIME)),
    ]
    if fallback_ok:
        known = ("lsm-active", "enforceable")
        checks = [c._replace(ok=None) if c.name in known and c.ok is False else c for c in checks]
    return Report(tuple(checks))
