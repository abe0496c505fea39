"""A command that is killed at any instant: the host boots, and the next command works."""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from boot_support import Bls, Grub, Host, disable, enable

from aegis_tools.control.bootconfig.facts import Facts
from aegis_tools.control.store import Store

WRITES = ("open", "os.rename", "os.remove", "os.mkdir", "os.chmod")


def killed_at(step: int, deed: Callable[[], object]) -> bool:
    """Do it in a process that is killed before its ``step``th change; tell whether it was."""
    child = os.fork()
    if child == 0:
        left = [step]

        def hook(event: str, arguments: tuple[object, ...]) -> None:
            if event not in WRITES or (event == "open" and not _writes(arguments)):
                return
            left[0] -= 1
            if left[0] < 0:
                os.kill(os.getpid(), signal.SIGKILL)

        try:
            sys.addaudithook(hook)
            deed()
        finally:
            os._exit(0)
    return os.WIFSIGNALED(os.waitpid(child, 0)[1])


def _writes(arguments: tuple[object, ...]) -> bool:
    flags = arguments[2]
    return isinstance(flags, int) and bool(flags & (os.O_WRONLY | os.O_RDWR | os.O_CREAT))


@pytest.mark.parametrize("kind", [Grub, Bls])
@pytest.mark.parametrize("deed", [enable, disable])
@pytest.mark.parametrize("then", [enable, disable])
def test_after_a_kill_at_any_instant_the_next_command_works(
    tmp_path: Path,
    kind: type[Host],
    deed: Callable[[Host], Facts],
    then: Callable[[Host], Facts],
) -> None:
    host = kind(tmp_path)
    Store(host.paths).prepare()
    start = host.files()
    enable(host)
    enabled = {n: d for n, d in host.files().items() if n != "var/lib/aegisbpf/lsm.json"}
    disable(host)
    step = 0
    while True:
        if deed is disable:
            enable(host)
        if not killed_at(step, lambda: deed(host)):
            break
        if isinstance(host, Grub):
            assert host.get("boot/grub/grub.cfg").count("menuentry '") == 3
        facts = then(host)
        Store(host.paths).prepare()
        now = host.files()
        assert facts.pending == (then is enable)
        wanted = enabled if then is enable else start
        for name, data in wanted.items():
            assert now[name][0].split() == data[0].split(), (step, name)
        disable(host)
        assert host.files().keys() == start.keys(), step
        step += 1
    assert step > 5
