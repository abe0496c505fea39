"""Whether a machine may use KVM: asked for, and seen to boot."""

from __future__ import annotations

import json
import sys
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

from vmharness.kernels import HarnessError, Installed, cache_folder
from vmharness.machine import Job, run

PROBE_SECONDS = 60
_BOOT_ID = Path("/proc/sys/kernel/random/boot_id")


def accelerated(job: Job, kernel: Installed, environment: Mapping[str, str]) -> Job:
    """Return ``job``, with KVM if ``AEGIS_VM_ACCEL=kvm`` and a probe boots with it.

    /dev/kvm may open and a guest hang all the same, so it is believed only after a machine has
    run ``true`` within a minute. The answer holds until the host reboots.

    Raises:
        HarnessError: ``AEGIS_VM_ACCEL`` is neither ``tcg`` nor ``kvm``.
    """
    wanted = environment.get("AEGIS_VM_ACCEL", "tcg")
    if wanted not in ("tcg", "kvm"):
        raise HarnessError(f"AEGIS_VM_ACCEL={wanted} is unknown", hint="tcg or kvm")
    if wanted == "tcg" or job.count:  # only the emulator counts
        return job
    if _remembered(kernel, environment):
        return replace(job, accelerate=True)
    print("vm: no machine boots with KVM here, going on without", file=sys.stderr)
    return job


def _remembered(kernel: Installed, environment: Mapping[str, str]) -> bool:
    note = cache_folder(environment) / ".kvm-probe.json"
    boot = _BOOT_ID.read_text(encoding="ascii").strip()
    try:
        answer = json.loads(note.read_text(encoding="utf-8"))
        if answer["boot"] == boot:
            return bool(answer["works"])
    except (OSError, ValueError, KeyError, TypeError):
        pass
    works = _probe(kernel)
    note.write_text(json.dumps({"boot": boot, "works": works}), encoding="utf-8")
    return works


def _probe(kernel: Installed) -> bool:
    job = Job(("true",), memory="512M", cpus=1, seconds=PROBE_SECONDS, accelerate=True)
    try:
        return run(kernel, job).status == 0
    except HarnessError:
        return False
