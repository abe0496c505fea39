"""Another object in the place of the loaded one: what goes on, what is brought along, killed."""

from __future__ import annotations

import os
import signal
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
from apply_support import Host
from confirm_support import config, put
from kernel_support import NO_LSM, start_python

from aegis_tools.control import replace
from aegis_tools.control.history import History
from aegis_tools.control.live import Live
from aegis_tools.errors import CommandError, DriftError, KernelError
from aegis_tools.kernel import loader, syscall
from aegis_tools.kernel.layout import Config, Stat, uid_of
from aegis_tools.kernel.loader import LoadOptions
from aegis_tools.kernel.pins import Pins
from aegis_tools.kernel.run import run

KILLED_AT = """
import os, signal, sys
from aegis_tools.cli.main import run
wanted, part = sys.argv[1:3]
def end(event, arguments):
    if event == wanted and part in " ".join(map(str, arguments)):
        os.kill(os.getpid(), signal.SIGKILL)
sys.addaudithook(end)
run(["--root", sys.argv[3], "--json", *sys.argv[4:]])
"""
"""Ends before the first effect of a kind on a path."""
INSTANTS = [
    ("os.fork", ""),
    ("os.symlink", ""),
    ("os.rename", "staging-"),
    ("os.rename", "upgrade/object"),
    ("os.rename", "upgrade/links/"),
    ("os.rename", "upgrade/progs/inode_keys"),
    ("os.rmdir", "upgrade/progs"),
]
WITH_MAPS = [INSTANTS[1], INSTANTS[3], *(("os.rename", f"upgrade/maps/{name}")
             for name in ("config", "slot_info"))]  # fmt: skip


def other_object(pins: Pins) -> None:
    """Let the pins say that an object of another version is loaded."""
    pins.path("object").unlink()
    pins.path("object").symlink_to("0" * 64)


def attached(pins: Pins) -> dict[str, int]:
    """Return the ids of the programs that run, by hook."""
    found = {}
    for name in pins.names("links"):
        places = (pins.upgrade.path("links", name), pins.path("links", name))
        fd = syscall.obj_get(str(next(path for path in places if path.exists())))
        try:
            text = Path(f"/proc/self/fdinfo/{fd}").read_text()
            found[name] = int(text.split("prog_id:")[1].split()[0])
        finally:
            os.close(fd)
    return found


def map_ids(pins: Pins) -> dict[str, int]:
    found = {}
    for name in pins.names("maps"):
        with pins.open_map(name) as opened:
            found[name] = opened.id
    return found


@pytest.fixture
def busy(host: Host, files: dict[str, Path]) -> Host:
    """A host with a policy, a rule of it removed by hand, one added, settings and counts."""
    host("policy", "apply", files["policy"])
    host("block", "add", files["policy"])
    host("block", "del", files["b"])
    put(host, Config.MODE, 1)
    put(host, Config.SAMPLE, 77)
    files["a"].read_text()
    return host


def rules_of(host: Host) -> list[dict[str, Any]]:
    return [{**row, "last": 0} for row in host("rule", "list")["rules"]]


def test_the_same_object_is_not_replaced(busy: Host, loaded: Pins) -> None:
    before = attached(loaded)
    assert busy("load", "--replace")["changed"] is False
    assert busy("load", "--replace", "--dry-run")["would_change"] is False
    assert attached(loaded) == before


def test_another_object_takes_over_the_maps(busy: Host, loaded: Pins) -> None:
    other_object(loaded)
    programs, maps, rules = attached(loaded), map_ids(loaded), rules_of(busy)
    assert busy("load", "--replace", "--dry-run")["would_change"] is True
    assert attached(loaded) == programs
    told = busy("load", "--replace")
    assert (told["changed"], told["maps"]) == (True, "kept")
    assert told["object"] == {"before": "0" * 64, "after": loaded.object()}
    assert map_ids(loaded) == maps
    assert rules_of(busy) == rules
    assert attached(loaded).keys() == programs.keys()
    assert set(attached(loaded).values()).isdisjoint(programs.values())
    assert sorted(path.name for path in loaded.base.iterdir()) == [
        "links", "maps", "object", "progs",
    ]  # fmt: skip
    assert busy("load", "--replace")["changed"] is False
    [entry] = [e for e in History(busy.paths.history).read(9).entries if "replace" in e.action]
    assert "object 000000000000 -> " in entry.note


@pytest.mark.parametrize("why", ["layout", "sizes"])
def test_maps_that_are_not_as_wanted_are_replaced_with_what_they_hold(
    busy: Host, loaded: Pins, why: str
) -> None:
    rules, digest, maps = rules_of(busy), busy.digest(), map_ids(loaded)
    with Live(loaded) as live:
        hits, audits = live.hits(), live.stats()[Stat.AUDITS]
    assert audits
    more = ("--max-deny-inodes", "99")
    if why == "layout":
        more = ()
        put(busy, Config.LAYOUT, loader.LAYOUT + 1)
        assert "--replace" in busy("load", code=6)["hint"]
    told = busy("load", "--replace", *more)
    assert told["maps"] == "new"
    assert map_ids(loaded).keys() == maps.keys()
    assert set(map_ids(loaded).values()).isdisjoint(maps.values())
    assert (rules_of(busy), busy.digest()) == (rules, digest)
    assert (config(busy, Config.MODE), config(busy, Config.SAMPLE)) == (1, 77)
    with Live(loaded) as live:
        assert live.stats()[Stat.AUDITS] >= audits
        assert uid_of(rules[0]["rule"]) in {int.from_bytes(k, "little")
                                            for k in live.entries("rules")}  # fmt: skip
        assert {k: v for k, v in hits.items() if k in live.hits()} == live.hits() != {}
        assert live.capacity("deny_inode_map") == (512 if why == "layout" else 99)
    assert busy("load", "--replace", *more)["changed"] is False


def test_a_ring_of_the_default_size_comes_back_when_it_is_asked_for(
    busy: Host, loaded: Pins
) -> None:
    def ring() -> int:
        with loaded.open_map("events") as events:
            return events.max_entries

    for words, size in (
        (("--ringbuf-size", "1048576"), 1 << 20),
        (("--max-deny-inodes", "99"), 1 << 20),
        (("--ringbuf-size", str(loader.RINGBUF_BYTES)), loader.RINGBUF_BYTES),
    ):
        assert busy("load", "--replace", *words)["maps"] == "new"
        assert ring() == size


def test_where_the_kernel_refuses_the_new_programs_the_old_go_on(busy: Host, loaded: Pins) -> None:
    def failing(argv: Sequence[object], *, timeout: float = 60) -> str:
        if "loadall" in list(argv):
            raise CommandError("bpftool failed", detail="R1 invalid mem access; processed 7 insns")
        return run(argv, timeout=timeout)  # type: ignore[arg-type]

    other_object(loaded)
    before, asked = attached(loaded), LoadOptions()
    for options in (asked, LoadOptions({"deny_inode_map": 9})):
        with pytest.raises((KernelError, CommandError)):
            replace.carry_out(busy.paths, NO_LSM, options, runner=failing)
        assert attached(loaded) == before
        assert loaded.stagings() == []
        assert loaded.object() == "0" * 64
    assert [e.result for e in History(busy.paths.history).read(2).entries] != ["ok", "ok"]
    assert busy("load", "--replace")["changed"] is True


def test_maps_of_another_shape_are_refused_and_the_old_programs_go_on(
    busy: Host, loaded: Pins
) -> None:
    loaded.remove("maps", "manual_rules")
    sizes = ["type", "hash", "key", "8", "value", "8", "entries", "9", "name", "manual_rules"]
    run(["bpftool", "map", "create", str(loaded.path("maps", "manual_rules")), *sizes])
    before = attached(loaded)
    with pytest.raises(DriftError, match="another version"):
        replace.carry_out(busy.paths, NO_LSM, LoadOptions({"deny_inode_map": 9}))
    assert attached(loaded) == before
    assert loaded.stagings() == []


def test_nothing_is_replaced_while_a_change_waits(busy: Host, loaded: Pins, tmp_path: Path) -> None:
    other_object(loaded)
    busy("policy", "apply", tmp_path / "other.yaml", "--confirm-within", "10m")
    assert busy("load", "--replace", code=8)["error"] == "unconfirmed"
    busy("policy", "confirm")
    assert busy("load", "--replace")["changed"] is True


def test_where_nothing_is_loaded_it_is_a_load(host: Host, loaded: Pins) -> None:
    loaded.remove_all()
    assert host("load", "--replace")["fresh"] is True


@pytest.mark.parametrize(
    ("instants", "more"),
    [(INSTANTS, ()), (WITH_MAPS, ("--max-deny-inodes", "99"))],
    ids=["same maps", "new maps"],
)
def test_killed_at_any_instant_a_whole_set_goes_on_and_a_repetition_finishes(
    busy: Host, loaded: Pins, instants: list[tuple[str, str]], more: tuple[str, ...]
) -> None:
    rules, digest, hooks = rules_of(busy), busy.digest(), set(loaded.names("links"))
    for event, path in instants:
        other_object(loaded)
        command = ("load", "--replace", *more)
        process = start_python(KILLED_AT, event, path, busy.paths.root, *command)
        process.communicate(timeout=120)
        assert process.returncode == -signal.SIGKILL, (event, path)
        counts = "upgrade" in path
        assert (loaded.object() == "0" * 64) is not counts, path
        assert set(attached(loaded)) == hooks
        assert (rules_of(busy), busy.digest()) == (rules, digest), path
        busy("load")
        assert not loaded.upgrade.base.exists()
        assert loaded.stagings() == []
        assert busy(*command)["changed"] is not counts
        assert set(attached(loaded)) == hooks
        assert set(loaded.names("progs")) == hooks | {"inode_keys"}
        assert (rules_of(busy), busy.digest()) == (rules, digest), path
        if more:
            busy("load", "--replace", "--max-deny-inodes", "512")
