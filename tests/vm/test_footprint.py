"""Predicted kernel memory against what each kernel counts, and against what it really takes."""

from __future__ import annotations

import resource
import subprocess
import sys
import time
from pathlib import Path

import pytest
from battery import Host

from aegis_tools.control import footprint
from aegis_tools.control.accounted import verify
from aegis_tools.kernel import syscall
from aegis_tools.kernel.accounting import read_kernel
from aegis_tools.kernel.layout import SPECS
from aegis_tools.kernel.maps import Map

COUNT, CAPACITY = 30000, 65536
MEANING = {"5.10": "full", "6.1": "estimate", "6.12": "use", "7.2": "use"}


def taken() -> int:
    """Return what slabs, vmalloc and per-CPU memory take: all that maps are made of but rings."""
    time.sleep(0.3)
    lines = Path("/proc/meminfo").read_text().splitlines()
    values = {line.split(":")[0]: int(line.split()[1]) << 10 for line in lines}
    return sum(values[name] for name in ("SUnreclaim", "VmallocUsed", "Percpu"))


@pytest.mark.parametrize("name", ["manual_rules", "deny_path_map", "deny_cidr_v6_map"])
def test_memory_that_a_map_takes_is_what_was_predicted(name: str) -> None:
    """The three kinds: large objects, middle ones, and a trie; each from slabs of its own."""
    spec, kernel = SPECS[name], read_kernel()
    size = spec.key_size - 4 if spec.lpm else spec.key_size
    prefix = (size * 8).to_bytes(4, "little") if spec.lpm else b""
    spread_out = [(i * 2654435761 & 0xFFFFFFFF).to_bytes(4, "big") for i in range(COUNT)]
    entries = {prefix + key + bytes(size - 4): bytes(spec.value_size) for key in spread_out}
    before = taken()
    with Map(syscall.map_create(spec.type, spec.key_size, spec.value_size, CAPACITY, name)) as made:
        made.fill(entries)
        found = taken() - before
    memory = footprint.policy_memory(spec, COUNT, CAPACITY, kernel._replace(charged=False))
    print(f"{name}: predicted {memory.bytes}, taken {found}, {memory.bytes / found - 1:+.2%}")
    assert memory.bytes == pytest.approx(found, rel=0.05)


def test_what_is_loaded_is_counted_as_predicted(host: Host, kernel_name: str) -> None:
    subprocess.run(
        [sys.executable, "-m", "aegis_tools", "network", "deny", "add", "--ip", "203.0.113.7"],
        check=True,
    )
    found = verify(host.live, read_kernel())
    print(f"{found.total}: {found.total.error:+.3%}; programs: {found.to_dict()['programs']}")
    assert found.meaning == MEANING[kernel_name]
    assert found.close
    for each in found.maps:
        assert abs(each.error) < 0.05 or abs(each.predicted - each.accounted) <= 4096, each


def test_a_small_limit_of_locked_memory_does_not_stop_a_change(tmp_path: Path, host: Host) -> None:
    """5.10 counts maps against it; as root we raise it, whoever starts us."""
    del host
    policy = tmp_path / "policy.conf"
    policy.write_text("version=1\n[deny_port]\n7777:tcp\n")

    def limit() -> None:
        resource.setrlimit(resource.RLIMIT_MEMLOCK, (65536, 65536))

    command = [sys.executable, "-m", "aegis_tools", "policy", "apply", str(policy)]
    subprocess.run(command, check=True, preexec_fn=limit)
