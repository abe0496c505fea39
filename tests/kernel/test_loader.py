"""Loading: twice, over leftovers, over another version, with sizes, of tampered objects."""

from __future__ import annotations

import random
import shutil
import subprocess
import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import pytest
from kernel_support import NO_LSM, kill_after, start_python

from aegis_tools.control.health import load_checks
from aegis_tools.errors import BootError, CommandError, KernelError, NotLoadedError
from aegis_tools.kernel import loader
from aegis_tools.kernel.layout import CONFIG_VALUE, POLICY_MAPS, Config
from aegis_tools.kernel.loader import LoadOptions
from aegis_tools.kernel.pins import Pins
from aegis_tools.kernel.run import run

LOAD = """
import sys
from pathlib import Path
from kernel_support import NO_LSM
from aegis_tools.kernel import loader, run
from aegis_tools.kernel.pins import Pins
import sh
print("ready", flush=True)
loader.load(Pins(Path(sys.argv[1])), NO_LSM, loader.LoadOptions())
"""


def load(pins: Pins, options: LoadOptions | None = None) -> loader.Loaded:
    return loader.load(pins, NO_LSM, options or LoadOptions())


def capacity(pins: Pins, name: str) -> int:
    with pins.open_map(name) as opened:
        return opened.max_entries


def test_a_first_load_attaches_and_pins_everything(pins: Pins) -> None:
    result = load(pins)
    assert (result.fresh, result.fallback) == (True, True)
    assert "not active" in result.reason
    assert pins.is_loaded()
    assert pins.is_attached()
    assert {spec.name for spec in POLICY_MAPS} < set(pins.names("maps"))
    assert pins.stagings() == []


@pytest.mark.usefixtures("built")
def test_the_path_may_have_dots(tmp_path: Path) -> None:
    pins = Pins(tmp_path / "host.example.org" / "v1.2" / "bpf" / "aegis")
    try:
        load(pins)
        assert {spec.name for spec in POLICY_MAPS} < set(pins.names("maps"))
        assert pins.is_attached()
        loader.detach(pins)
        assert load(pins).fresh is False
    finally:
        pins.remove_all()
        subprocess.run(["umount", pins.base.parent], check=True)


def test_a_second_load_changes_nothing(pins: Pins) -> None:
    load(pins)
    with pins.open_map("config") as config:
        config.set(Config.MODE.to_bytes(4, "little"), CONFIG_VALUE.pack(1))
        before = config.id
    assert load(pins).fresh is False
    with pins.open_map("config") as config:
        assert config.id == before
        assert config.get(Config.MODE.to_bytes(4, "little")) == CONFIG_VALUE.pack(1)


def test_a_second_load_attaches_what_was_detached(pins: Pins) -> None:
    load(pins)
    detached = loader.detach(pins)
    assert detached
    assert not pins.is_attached()
    assert load(pins).fresh is False
    assert pins.names("links") == detached


def test_sizes_are_those_asked_for(pins: Pins) -> None:
    load(pins, LoadOptions({"deny_inode_map": 77}, ringbuf_bytes=8192, max_hits=99))
    assert capacity(pins, "events") == 8192
    assert capacity(pins, "rule_hits") == 99
    index = [spec.name for spec in POLICY_MAPS].index("deny_inode_map")
    with pins.open_map("capacities") as capacities:
        assert capacities.get(index.to_bytes(4, "little")) == (77).to_bytes(4, "little")
        other = capacities.get((index + 1).to_bytes(4, "little"))
        assert other == POLICY_MAPS[index + 1].capacity.to_bytes(4, "little")


@pytest.mark.parametrize("size", [0, -4096, 1, 4095, 5000, 3 * 4096, 1 << 31])
def test_a_ring_of_an_impossible_size_is_refused(size: int) -> None:
    with pytest.raises(KernelError, match="no ring buffer size") as caught:
        LoadOptions(ringbuf_bytes=size)
    assert "power of two" in caught.value.hint


@pytest.mark.parametrize("entries", [0, -1, (1 << 24) + 1])
def test_a_map_of_an_impossible_size_is_refused(entries: int) -> None:
    with pytest.raises(KernelError, match="deny_inode_map"):
        LoadOptions({"deny_inode_map": entries})
    with pytest.raises(KernelError, match="rule_hits"):
        LoadOptions(max_hits=entries)


def test_pins_of_another_version_are_left_alone_and_told_of(loaded: Pins) -> None:
    with loaded.open_map("config") as config:
        config.set(Config.LAYOUT.to_bytes(4, "little"), CONFIG_VALUE.pack(loader.LAYOUT + 1))
    with pytest.raises(KernelError, match="another version") as caught:
        load(loaded)
    assert "aegisbpf reset" in caught.value.hint
    assert loaded.is_attached()


def test_foreign_maps_under_our_names_are_told_of(pins: Pins) -> None:
    for part in ("links", "maps"):
        pins.path(part).mkdir(parents=True)
    sizes = ["type", "array", "key", "4", "value", "4", "entries", "9", "name", "config"]
    run(["bpftool", "map", "create", str(pins.path("maps", "config")), *sizes])
    with pytest.raises(KernelError, match="pins were removed") as caught:
        load(pins)
    assert "aegisbpf reset" in caught.value.hint


def test_maps_without_links_are_leftovers(loaded: Pins) -> None:
    loaded.remove("links")
    assert not loaded.is_loaded()
    assert load(loaded).fresh is True
    assert loaded.is_attached()


def test_links_without_any_map_are_no_host_where_nothing_is_loaded(loaded: Pins) -> None:
    loaded.remove("maps")
    assert loaded.is_loaded()
    with pytest.raises(KernelError, match="hooks may still be attached"):
        load(loaded)
    [check] = [one for one in load_checks(loaded, lsm_active=False) if one.name == "loaded"]
    assert "hooks may be attached" in check.message


def test_what_a_dead_load_left_beside_a_finished_one_is_removed(loaded: Pins) -> None:
    (loaded.base / "staging-1" / "progs").mkdir(parents=True)
    assert len(loaded.stagings()) == 1
    assert load(loaded).fresh is False
    assert loaded.stagings() == []


def test_half_of_the_pins_can_be_removed_and_loaded_again(loaded: Pins) -> None:
    for name in loaded.names("maps")[::2]:
        loaded.remove("maps", name)
    loaded.remove("progs")
    loaded.remove_all()
    assert not loaded.base.exists()
    assert load(loaded).fresh is True


def test_nothing_is_left_by_remove_all(loaded: Pins) -> None:
    (loaded.base / "staging-1" / "progs").mkdir(parents=True)
    loaded.remove_all()
    assert not loaded.base.exists()
    with pytest.raises(NotLoadedError):
        loaded.open_map("config")
    loaded.remove_all()


def test_a_disabled_boot_loads_nothing(pins: Pins) -> None:
    with pytest.raises(BootError, match="disabled on the kernel command line"):
        loader.load(pins, replace(NO_LSM, disabled=True), LoadOptions())
    assert not pins.base.exists()


def test_the_fallback_is_refused_where_enforcement_is_required(pins: Pins) -> None:
    with pytest.raises(KernelError, match="cannot enforce"):
        loader.load(pins, NO_LSM, LoadOptions(), require_lsm=True)
    assert not pins.base.exists()


def test_what_a_kernel_says_that_refuses_all_of_them_can_be_read(pins: Pins) -> None:
    def refusing(argv: Sequence[str], *, timeout: float = 60) -> str:
        if "loadall" in argv:
            raise CommandError("bpftool failed", detail="load failed: Operation not permitted")
        return run(argv, timeout=timeout)

    features = replace(NO_LSM, lsms=("capability", "bpf"))
    with pytest.raises(KernelError, match="refuses BPF LSM programs") as caught:
        loader.load(pins, features, LoadOptions(), require_lsm=True, runner=refusing)
    assert caught.value.detail == "load failed: Operation not permitted"
    assert "--verbose" in caught.value.hint


def test_a_load_that_fails_leaves_nothing(pins: Pins) -> None:
    def failing(argv: object, *, timeout: float = 60) -> str:
        if "loadall" in list(argv):  # type: ignore[call-overload]
            raise CommandError("bpftool failed", detail="Invalid argument")
        return run(argv, timeout=timeout)  # type: ignore[arg-type]

    with pytest.raises(CommandError):
        loader.load(pins, NO_LSM, LoadOptions(), runner=failing)
    assert not pins.base.exists()
    assert load(pins).fresh is True


@pytest.fixture
def objects(tmp_path: Path, built: None) -> Path:
    del built
    return Path(shutil.copytree(loader.OBJECTS, tmp_path / "objects"))


def test_an_object_as_built_is_accepted(objects: Path) -> None:
    for path in objects.glob("*.o"):
        assert loader.verify_object(path.name, objects) == path


@pytest.mark.parametrize("position", [0, 100, -1])
def test_an_object_with_one_changed_bit_is_refused(objects: Path, position: int) -> None:
    path = objects / "aegis.bpf.o"
    data = bytearray(path.read_bytes())
    data[position] ^= 1
    path.write_bytes(data)
    with pytest.raises(KernelError, match="not the one this version was built with") as caught:
        loader.verify_object("aegis.bpf.o", objects)
    assert "reinstall" in caught.value.hint
    assert str(objects) not in caught.value.message


def test_an_object_whose_sum_is_not_listed_is_refused(objects: Path) -> None:
    sums = objects / "SHA256SUMS"
    lines = sums.read_text().splitlines(keepends=True)
    sums.write_text("".join(line for line in lines if "audit" not in line))
    with pytest.raises(KernelError, match="not the one"):
        loader.verify_object("audit.bpf.o", objects)


@pytest.mark.parametrize("content", ["", "gibberish\n", "a b c\n", "\0\n"])
def test_an_unreadable_list_of_sums_is_refused(objects: Path, content: str) -> None:
    (objects / "SHA256SUMS").write_text(content)
    with pytest.raises(KernelError, match="BPF object"):
        loader.verify_object("aegis.bpf.o", objects)


def test_missing_objects_are_told_of(tmp_path: Path) -> None:
    with pytest.raises(KernelError, match="missing"):
        loader.verify_object("aegis.bpf.o", tmp_path)


def test_a_load_killed_at_any_instant_can_be_done_again(pins: Pins) -> None:
    started = time.monotonic()
    load(pins)
    whole = time.monotonic() - started
    pins.remove_all()
    chance = random.Random(20)  # the same instants on every run, as far as a clock can
    killed = 0
    for _ in range(20):
        child = start_python(LOAD, pins.base)
        killed += kill_after(child, chance.uniform(0, whole))
        before = pins.is_loaded()
        assert load(pins).fresh is not before
        assert pins.is_attached()
        assert pins.stagings() == []
        pins.remove_all()
        assert not pins.base.exists()
    assert killed >= 5, "the load was too quick to be interrupted"
