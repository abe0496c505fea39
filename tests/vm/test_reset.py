"""A reset that says it is done has ended the enforcement; else it says who is in the way."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from battery import load_at

from aegis_tools.control.reset import reset
from aegis_tools.errors import KernelError
from aegis_tools.kernel import syscall
from aegis_tools.kernel.pins import Pins

# Of every LSM program in this kernel: none of another test may be loaded any more.
pytestmark = pytest.mark.once("6.1")


def test_a_reset_names_the_process_that_holds_hooks_and_works_once_it_lets_go() -> None:
    pins = Pins(Path("/sys/fs/bpf/aegis"))
    pins.remove_all()
    load_at(pins.base)
    held = syscall.obj_get(str(pins.path("links", "aegis_file_open")))
    try:
        with pytest.raises(
            KernelError, match=rf"\(1\): held open by .* \({os.getpid()}\)"
        ) as caught:
            reset(pins, [])
    finally:
        os.close(held)
    assert caught.value.data == {"programs": ["aegis_file_open"], "processes": [os.getpid()]}
    assert reset(pins, []).programs == 0
