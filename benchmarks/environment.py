"""What figures depend on: kernel, processor, how BPF runs, what mitigates, what else runs."""

from __future__ import annotations

import os
import platform
import time
from pathlib import Path
from typing import Any

COUNTED = "AEGIS_VM_CLOCK"
"""Set to ``instructions`` in a machine whose clock goes by them: ``scripts/vm run --icount``."""
_JIT = {"0": "off", "1": "on", "2": "on, for debugging"}


def environment(root: Path = Path("/")) -> dict[str, Any]:
    """Return it for JSON; what this kernel does not tell is None.

    ``bpf_jit`` is net.core.bpf_jit_enable (None: always on, or hidden), ``mitigations`` what
    /sys/devices/system/cpu/vulnerabilities says of each that there is one against, ``governor``
    how the first processor's frequency is chosen, ``clock`` what times are of.
    """
    model, flags = _processor((root / "proc/cpuinfo").read_text(encoding="utf-8"))
    jit = _line(root / "proc/sys/net/core/bpf_jit_enable")
    return {
        "kernel": platform.release(),
        "cpu": model,
        "cpus": os.cpu_count(),
        "virtualised": "hypervisor" in flags,
        "emulated": "TCG" in model or "QEMU" in model,
        "clock": os.environ.get(COUNTED, "time"),
        "bpf_jit": jit and _JIT.get(jit, jit),
        "mitigations": _mitigations(root / "sys/devices/system/cpu/vulnerabilities"),
        "governor": _line(root / "sys/devices/system/cpu/cpu0/cpufreq/scaling_governor"),
        "python": platform.python_version(),
        "load_average": [round(value, 2) for value in os.getloadavg()],
        "date": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
    }


def counts_instructions() -> bool:
    """Say whether a nanosecond of this machine's clock is an instruction."""
    return os.environ.get(COUNTED) == "instructions"


def head(where: dict[str, Any]) -> str:
    """Return an environment as the line above a table in a document."""
    emulated = ", emulated" if where["emulated"] else ""
    found = [
        f"Kernel {where['kernel']}",
        f"{where['cpus']} processor{'s' if where['cpus'] != 1 else ''} ({where['cpu']}{emulated})",
        where["date"][:10],
    ]
    if where.get("clock") == "instructions":
        found.append("instructions counted by the emulator")
    else:
        found.append(f"load average {where['load_average'][0]}")
    if where.get("bpf_jit"):
        found.append(f"BPF JIT {where['bpf_jit']}")
    return ", ".join(found)


def _line(path: Path) -> str | None:
    try:
        return path.read_text(encoding="utf-8").strip()
    except OSError:
        return None


def _mitigations(folder: Path) -> dict[str, str]:
    found = {path.name: _line(path) or "" for path in sorted(folder.glob("*"))}
    return {name: text for name, text in found.items() if text != "Not affected"}


def _processor(text: str) -> tuple[str, set[str]]:
    fields: dict[str, str] = {}
    for line in text.splitlines():
        name, colon, value = line.partition(":")
        if colon:
            fields.setdefault(name.strip(), value.strip())
    model = fields.get("model name") or fields.get("CPU implementer", "unknown")
    return model, set((fields.get("flags") or fields.get("Features") or "").split())
