"""Carry out a plan with grubby, and know how to go back byte for byte."""

from __future__ import annotations

import hashlib
import stat
from collections.abc import Mapping

from aegis_tools.control import files
from aegis_tools.control.bootconfig import facts as reading
from aegis_tools.control.bootconfig import grub, grubby, verify
from aegis_tools.control.bootconfig.plan import LATER, Plan
from aegis_tools.control.bootconfig.record import NotRestoredError
from aegis_tools.errors import AegisError, BootError
from aegis_tools.kernel.run import Runner
from aegis_tools.paths import Paths

SECONDS = 120
_WHAT = "boot entry"
_ENVIRONMENT = "boot/grub2/grubenv"
_OPTIONS = "kernelopts"


def texts(paths: Paths) -> dict[str, str]:
    """Return what grubby changes: by path below root, each byte a character."""
    found = [*sorted(paths.boot_entries.glob("*.conf")), paths.later_cmdline]
    return {
        str(path.relative_to(paths.root)): files.read_limited(
            path, reading.MAX_TEXT, what=_WHAT, follow=True
        ).decode("latin-1")
        for path in found
        if path.exists()
    }


def digests(found: Mapping[str, str]) -> dict[str, str]:
    """Return the SHA-256 of each text."""
    return {name: hashlib.sha256(t.encode("latin-1")).hexdigest() for name, t in found.items()}


def options(paths: Paths) -> str | None:
    """Return what entries of RHEL 8 mean by ``$kernelopts``; None where it is not used."""
    text = reading.optional_text(paths.root / _ENVIRONMENT)
    return grub.parse_environment(text or "").get(_OPTIONS)


def carry_out(paths: Paths, plan: Plan, runner: Runner) -> dict[str, str]:
    """Change every entry, and what later kernels get. The caller holds the lock.

    Returns:
        The digests of the files afterwards.

    Raises:
        AegisError: It failed, and everything is as it was.
    """
    before, kernelopts = texts(paths), options(paths)
    try:
        if plan.verb == "enable":
            runner(grubby.set_argv(plan.value), timeout=SECONDS)
        else:
            _take_away(paths, plan, before, runner)
        _put_later(paths, plan)
        _check(paths, plan, runner)
        return digests(texts(paths))
    except BaseException as error:
        _restore(paths, before, kernelopts, runner, error)
        raise


def _take_away(paths: Paths, plan: Plan, now: Mapping[str, str], runner: Runner) -> None:
    """Put the old files back where nobody has changed them since; else only our argument goes."""
    record = plan.before.record
    if record is not None and record.digests == digests(now):
        _put(paths, record.files)
        _put_options(paths, record.options, runner)
        return
    runner(grubby.set_argv(None), timeout=SECONDS)
    for kernel, value in {one.kernel: one.lsm for one in plan.after.entries}.items():
        if value is not None:
            runner(grubby.set_argv(value, kernel), timeout=SECONDS)


def _put_later(paths: Paths, plan: Plan) -> None:
    text = plan.after.later
    now = reading.optional_text(paths.later_cmdline)
    if now is not None and text is not None and now.split() != text.split():
        _put(paths, {LATER: text.encode("utf-8", "surrogateescape").decode("latin-1")})


def _check(paths: Paths, plan: Plan, runner: Runner) -> None:
    found = reading.read_grubby(paths, runner)
    verify.check(plan, found["entries"])
    wanted = {one.kernel: one.lsm for one in plan.after.entries}
    wrong = [one for one in found["entries"] if one.lsm != wanted.get(one.kernel, one.lsm)]
    if wrong:
        raise BootError(
            f"grubby did not change an entry as it was asked to: {wrong[0].title}",
            hint="look at: grubby --info=ALL",
        )


def _put(paths: Paths, wanted: Mapping[str, str]) -> None:
    for name, text in wanted.items():
        path = (paths.root / name).resolve()
        mode = stat.S_IMODE(path.stat().st_mode) if path.exists() else 0o644
        files.write_atomic(path, text.encode("latin-1"), what=_WHAT, mode=mode)


def _put_options(paths: Paths, value: str | None, runner: Runner) -> None:
    if value is not None and value != options(paths):
        environment = str(paths.root / _ENVIRONMENT)
        runner(["grub2-editenv", environment, "set", f"{_OPTIONS}={value}"], timeout=SECONDS)


def _restore(
    paths: Paths,
    before: Mapping[str, str],
    kernelopts: str | None,
    runner: Runner,
    cause: BaseException,
) -> None:
    try:
        now = texts(paths)
        _put(paths, {name: text for name, text in before.items() if now.get(name) != text})
        _put_options(paths, kernelopts, runner)
    except (AegisError, OSError) as error:
        raise NotRestoredError(
            "the change failed, and the boot entries could not be put back",
            hint="run: grubby --update-kernel=ALL --remove-args=lsm",
            detail=f"{cause!r}; {error!r}",
        ) from cause
