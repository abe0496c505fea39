"""Maps that somebody else put in place of ours, or wrote nonsense into: clear errors only."""

from __future__ import annotations

import json
import os
import random

import pytest

from aegis_tools.cli.main import run
from aegis_tools.control.live import Live
from aegis_tools.kernel import layout, syscall
from aegis_tools.kernel.pins import Pins
from aegis_tools.paths import Paths

READERS = (("policy", "show"), ("policy", "verify-live"), ("policy", "export", "-"))


def _run(capsys: pytest.CaptureFixture[str], paths: Paths, *argv: str) -> tuple[int, str]:
    capsys.readouterr()
    code = run(["--json", "--root", str(paths.root), *argv])
    return code, capsys.readouterr().out


@pytest.mark.parametrize("name", [*layout.SPECS, *layout.GLOBAL_MAPS])
def test_a_foreign_map_under_our_pin_is_an_error_and_reset_removes_it(
    paths: Paths, loaded: Pins, capsys: pytest.CaptureFixture[str], name: str
) -> None:
    loaded.remove("maps", name)
    fd = syscall.map_create(syscall.MAP_TYPE_HASH, 300, 2, 7, "foreign")
    syscall.obj_pin(str(loaded.path("maps", name)), fd)
    os.close(fd)
    for reader in READERS:
        code, out = _run(capsys, paths, *reader)
        if code:
            error = json.loads(out)
            assert error["error"] in ("drift", "not_loaded"), error
            assert error["hint"]
    assert _run(capsys, paths, "reset")[0] == 0
    assert not loaded.base.exists()


def test_nonsense_in_the_maps_never_leads_to_more_than_an_error(
    paths: Paths, loaded: Pins, capsys: pytest.CaptureFixture[str]
) -> None:
    rng = random.Random(11)
    with Live(loaded) as live:
        for spec in layout.POLICY_MAPS:
            fd = syscall.map_create(spec.type, spec.key_size, spec.value_size, 64, "nonsense")
            for _ in range(40):
                key = rng.randbytes(spec.key_size)
                if spec.lpm:
                    key = rng.randrange(8 * (spec.key_size - 4)).to_bytes(4, "little") + key[4:]
                syscall.update(fd, key, rng.randbytes(spec.value_size))
            live.map(spec.name).set(live.slot.to_bytes(4, "little"), fd.to_bytes(4, "little"))
            os.close(fd)
        live.set_info(live.slot, layout.SlotInfo.unpack(rng.randbytes(layout.SLOT_INFO.size)))
    for reader in READERS:
        code, out = _run(capsys, paths, *reader)
        assert code in (0, 3, 8, 9), out
    assert _run(capsys, paths, "policy", "verify-live")[0] == 9
    assert _run(capsys, paths, "reset")[0] == 0
