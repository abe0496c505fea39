"""Load, attach, pin, publish: from the object files to programs that run.

Everything is built in ``staging`` and renamed into place, links last. Killed at any
instant, the host has the old state or the new one, and the next load clears the rest.
"""

from __future__ import annotations

import contextlib
import hashlib
import hmac
import os
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from aegis_tools.errors import CommandError, KernelError
from aegis_tools.kernel import syscall
from aegis_tools.kernel.accounting import raise_memlock
from aegis_tools.kernel.features import Features, check_enabled, is_bpffs, mount_if_missing
from aegis_tools.kernel.layout import (
    CONFIG_VALUE,
    GLOBAL_MAPS,
    LAYOUT,
    POLICY_MAPS,
    SAMPLE_ALL,
    SPECS,
    Config,
)
from aegis_tools.kernel.pins import OBJECT, Pins
from aegis_tools.kernel.run import Runner, run

OBJECTS = Path(__file__).resolve().parent.parent / "objects"
LSM_OBJECT, FALLBACK_OBJECT, KEYS_OBJECT = "aegis.bpf.o", "audit.bpf.o", "inode_keys.bpf.o"
RINGBUF_BYTES = 256 * 1024
MAX_HITS = 65536


@dataclass(frozen=True)
class LoadOptions:
    """Sizes that are fixed while loaded.

    Attributes:
        capacities: max_entries of policy maps, by name; the rest keep their default.
        ringbuf_bytes: Size of the event ring, a power of two of at least one page; None for what
            is loaded, and RINGBUF_BYTES where nothing is.
        max_hits: Rules whose hits are counted one by one.
    """

    capacities: Mapping[str, int] = field(default_factory=dict)
    ringbuf_bytes: int | None = None
    max_hits: int = MAX_HITS

    def __post_init__(self) -> None:
        size = RINGBUF_BYTES if self.ringbuf_bytes is None else self.ringbuf_bytes
        if size < 4096 or size > 1 << 30 or size & (size - 1):
            raise KernelError(
                f"{size} is no ring buffer size",
                hint="use a power of two from 4096 to 1073741824, such as 1048576",
            )
        for name, entries in (*self.capacities.items(), ("rule_hits", self.max_hits)):
            if not 1 <= entries <= 1 << 24:
                raise KernelError(
                    f"{entries} is no capacity for {name}", hint="use a number from 1 to 16777216"
                )


@dataclass(frozen=True)
class Loaded:
    """What a load led to.

    Attributes:
        fresh: False where it was loaded already.
        fallback: Audit by system call paths only; nothing can be refused.
        reason: Why it is the fallback, for a person; empty otherwise.
    """

    fresh: bool
    fallback: bool
    reason: str = ""


def verify_object(name: str, objects: Path = OBJECTS) -> Path:
    """Return the path of an object file whose SHA-256 is the packaged one.

    Raises:
        KernelError: It is missing, or not what was built.
    """
    path = objects / name
    try:
        lines = (objects / "SHA256SUMS").read_text(encoding="ascii").splitlines()
        sums = {file: digest for digest, file in (line.split() for line in lines)}
        digest = hashlib.sha256(path.read_bytes()).hexdigest()
    except (OSError, ValueError) as error:
        raise KernelError(
            "the BPF object is missing", hint="reinstall aegis-tools", detail=f"{path}: {error}"
        ) from None
    if not hmac.compare_digest(digest, sums.get(name, "")):
        raise KernelError(
            "the BPF object is not the one this version was built with",
            hint="reinstall aegis-tools",
            detail=f"{path}: sha256 {digest}",
        )
    return path


def load(
    pins: Pins,
    features: Features,
    options: LoadOptions,
    *,
    require_lsm: bool = False,
    fallback: str = "",
    runner: Runner = run,
) -> Loaded:
    """Load and attach; harmless where it was done before. The caller holds the lock.

    Args:
        pins: Where.
        features: What the kernel offers.
        options: Sizes.
        require_lsm: Fail instead of the audit fallback.
        fallback: Why it is to be the audit fallback although the kernel has BPF LSM; empty for no.
        runner: Runs bpftool.

    Raises:
        BootError: Loading is disabled on the kernel command line.
        KernelError: The kernel refuses, or another version is loaded.
    """
    check_enabled(features)
    if not is_bpffs(pins.base.parent):
        mount_if_missing("bpf", pins.base.parent)
    if pins.is_loaded():
        finish(pins)
        pins.check_complete()
        check_layout(pins)
        check_sizes(pins, options)
        if require_lsm and pins.is_fallback():
            raise KernelError(
                "the audit fallback is loaded, which cannot enforce",
                hint="once BPF LSM is active: aegisbpf reset && aegisbpf load",
            )
        attach(pins, runner=runner)
        for dead in pins.stagings():
            dead.remove_all()
        return Loaded(False, pins.is_fallback())
    pins.remove_all()
    raise_memlock()
    try:
        if not features.lsm_active:
            fallback = "BPF LSM is not active on this boot"
        return _load_fresh(pins, options, fallback, require_lsm, runner)
    except BaseException:
        pins.remove_all()
        raise


def _load_fresh(
    pins: Pins, options: LoadOptions, reason: str, require_lsm: bool, runner: Runner
) -> Loaded:
    staging = pins.staging
    reason = build(pins, options, fallback=reason, require_lsm=require_lsm, runner=runner)
    attach(staging, runner=runner)
    staging.path(OBJECT).rename(pins.path(OBJECT))
    for part in ("maps", "progs", "links"):
        staging.path(part).rename(pins.path(part))
    staging.base.rmdir()
    return Loaded(True, bool(reason), reason)


def build(
    pins: Pins,
    options: LoadOptions,
    *,
    fallback: str = "",
    require_lsm: bool = False,
    objects: Path = OBJECTS,
    runner: Runner = run,
) -> str:
    """Load programs and maps of their own into the staging folder; attach nothing.

    Args:
        pins: Of which.
        options: Sizes.
        fallback: Why it is to be the audit fallback; empty for the LSM hooks.
        require_lsm: Fail instead of the fallback.
        objects: Where the object files are.
        runner: Runs bpftool.

    Returns:
        Why it is the fallback; empty where it is not.

    Raises:
        KernelError: The kernel refuses, or an object is not what was built.
    """
    staging = pins.staging
    for part in ("premade", "maps", "progs", "links"):
        staging.path(part).mkdir(parents=True, mode=0o700)
    pins.base.chmod(0o700)
    reason, words = (fallback, "") if fallback else _load_lsm(staging, options, objects, runner)
    if reason:
        if require_lsm:
            hint = "run: aegisbpf health"
            if words:
                hint = "its words: aegisbpf --verbose load --require-lsm; a container may not load"
            raise KernelError(f"cannot enforce: {reason}", hint=hint, detail=words)
        _load_object(staging, FALLBACK_OBJECT, options, objects, runner)
    load_keys(staging, objects, runner)
    _configure(staging, options)
    staging.path(OBJECT).symlink_to(object_name(fallback=bool(reason), objects=objects))
    staging.remove("premade")
    return reason


def load_keys(staging: Pins, objects: Path = OBJECTS, runner: Runner = run) -> None:
    """Load the program that says what the kernel calls a file."""
    keys = str(verify_object(KEYS_OBJECT, objects))
    runner(["bpftool", "prog", "load", keys, str(staging.path("progs", "inode_keys"))])


def object_name(*, fallback: bool, objects: Path = OBJECTS) -> str:
    """Return what a load of these object files is called: a digest of theirs.

    Raises:
        KernelError: One is missing, or not what was built.
    """
    names = (FALLBACK_OBJECT if fallback else LSM_OBJECT, KEYS_OBJECT)
    paths = (verify_object(name, objects) for name in names)
    return hashlib.sha256(b"".join(path.read_bytes() for path in paths)).hexdigest()


def _load_lsm(
    staging: Pins, options: LoadOptions, objects: Path, runner: Runner
) -> tuple[str, str]:
    """Load the LSM hooks; return why not, and its words, where a kernel refuses them as such."""
    try:
        _load_object(staging, LSM_OBJECT, options, objects, runner)
    except CommandError as error:
        output = error.detail
        if "Operation not permitted" in output and "processed" not in output:
            for part in ("premade", "maps", "progs"):
                for name in staging.names(part):
                    staging.remove(part, name)
            return "this kernel refuses BPF LSM programs", output
        raise refused(error) from None
    return "", ""


def refused(error: CommandError) -> KernelError:
    """Return the error for programs that the verifier does not take."""
    return KernelError(
        "the kernel did not accept the BPF programs",
        hint="run the command with --verbose and report its output",
        detail=error.detail,
    )


def _load_object(
    staging: Pins, name: str, options: LoadOptions, objects: Path, runner: Runner
) -> None:
    path = str(verify_object(name, objects))
    events, hits = (str(staging.path("premade", map_)) for map_ in ("events", "rule_hits"))
    create = ["bpftool", "map", "create"]
    size = str(options.ringbuf_bytes or RINGBUF_BYTES)
    runner([*create, events, "type", "ringbuf", "key", "0", "value", "0", "entries", size,
            "name", "events"])  # fmt: skip
    runner([*create, hits, "type", "hash", "key", "8", "value", "24", "entries",
            str(options.max_hits), "name", "rule_hits", "flags", "1"])  # fmt: skip
    with without_dots(staging.base) as base:
        runner(["bpftool", "prog", "loadall", path, str(staging.path("progs")),
                "map", "name", "events", "pinned", events,
                "map", "name", "rule_hits", "pinned", hits,
                "pinmaps", str(base / "maps")], timeout=300)  # fmt: skip


@contextlib.contextmanager
def without_dots(folder: Path) -> Iterator[Path]:
    """Yield another name of a folder where its own has a dot.

    libbpf makes a path of its own of the one that maps are to be pinned at: each dot becomes an
    underscore, also those of the folders (libbpf.c, sanitize_pin_path).
    """
    if "." not in str(folder):
        yield folder
        return
    fd = os.open(folder, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        yield Path(f"/proc/{os.getpid()}/fd/{fd}")
    finally:
        os.close(fd)


def _configure(pins: Pins, options: LoadOptions) -> None:
    with pins.open_map("config") as config:
        for which, value in ((Config.LAYOUT, LAYOUT), (Config.SAMPLE, SAMPLE_ALL)):
            config.set(which.to_bytes(4, "little"), CONFIG_VALUE.pack(value))
    with pins.open_map("capacities") as capacities:
        for index, spec in enumerate(POLICY_MAPS):
            entries = options.capacities.get(spec.name, spec.capacity)
            capacities.set(index.to_bytes(4, "little"), entries.to_bytes(4, "little"))


def check_layout(pins: Pins) -> None:
    """Raise KernelError where another version's maps are pinned."""
    with pins.open_map("config") as config:
        value = config.get(int(Config.LAYOUT).to_bytes(4, "little")) or b""
    found = CONFIG_VALUE.unpack(value)[0] if len(value) == CONFIG_VALUE.size else 0
    if found != LAYOUT:
        raise KernelError(
            "another version of Aegis is loaded",
            hint="run: aegisbpf load --replace; or, with enforcement off in between: "
            "aegisbpf reset && aegisbpf load",
            detail=f"layout {found}, this program has {LAYOUT}",
        )


def check_sizes(pins: Pins, options: LoadOptions) -> None:
    """Raise KernelError where sizes were asked for that are not the loaded ones."""
    loaded = {}
    with pins.open_map("capacities") as capacities:
        for index, spec in enumerate(POLICY_MAPS):
            value = capacities.get(index.to_bytes(4, "little")) or b""
            loaded[spec.name] = int.from_bytes(value, "little")
    with pins.open_map("events") as events:
        loaded["events"] = events.max_entries
    asked = dict(options.capacities)
    if options.ringbuf_bytes is not None:
        asked["events"] = options.ringbuf_bytes
    other = [f"{name} {loaded[name]}, not {n}" for name, n in asked.items() if loaded[name] != n]
    if other:
        raise KernelError(
            f"loaded with other sizes: {'; '.join(other)}",
            hint="load again with these options and --replace",
        )


def attach(pins: Pins, *, runner: Runner = run) -> list[str]:
    """Attach every hook that has no link, pin the links, and return their names.

    Only the pin holds a link: a descriptor left open would keep the program enforcing
    after the pin is gone.
    """
    pins.path("links").mkdir(exist_ok=True, mode=0o700)
    missing = [
        name
        for name in pins.names("progs")
        if name.startswith("aegis_") and not pins.path("links", name).exists()
    ]
    try:
        _attach_each(pins, missing)
    except FileNotFoundError:  # one was attached before, and this kernel is older than 5.13
        _renew_programs(pins, runner)
        missing_still = [name for name in missing if not pins.path("links", name).exists()]
        _attach_each(pins, missing_still)
    return missing


def _attach_each(pins: Pins, names: list[str]) -> None:
    for name in names:
        program = pins.open_program(name)
        try:
            link = syscall.attach(program)
            try:
                syscall.obj_pin(str(pins.path("links", name)), link)
            finally:
                os.close(link)
        except FileNotFoundError:
            raise
        except OSError as error:
            raise KernelError(
                "a hook could not be attached",
                hint="run: aegisbpf health",
                detail=f"{name}: {error}",
            ) from None
        finally:
            os.close(program)


def _renew_programs(pins: Pins, runner: Runner) -> None:
    """Load the programs anew over the maps that are pinned, and pin them in the old ones' place.

    Before Linux 5.13 (commit f3a95075549e) a program can be attached once in its life.
    """
    staging = pins.staging
    staging.remove_all()
    load_over(pins, runner=runner)
    for name in staging.names("progs"):
        staging.path("progs", name).replace(pins.path("progs", name))
    staging.remove_all()


def load_over(pins: Pins, *, objects: Path = OBJECTS, runner: Runner = run) -> None:
    """Load the programs into the staging folder, over the maps that are pinned."""
    name = FALLBACK_OBJECT if pins.is_fallback() else LSM_OBJECT
    path = str(verify_object(name, objects))
    progs = pins.staging.path("progs")
    progs.mkdir(parents=True, mode=0o700)
    reuse = [
        word
        for name in (*SPECS, *GLOBAL_MAPS)
        for word in ("map", "name", name, "pinned", str(pins.path("maps", name)))
    ]
    runner(["bpftool", "prog", "loadall", path, str(progs), *reuse], timeout=300)


def publish(pins: Pins, *, runner: Runner = run) -> None:
    """Attach what is in the staging folder beside the programs that run, and put it in their place.

    The rename of the folder is what counts: before it the old set is whole and the next load
    removes the staging folder, after it the new set is whole and the next load finishes the move.
    """
    staging = pins.staging
    attach(staging, runner=runner)
    staging.base.rename(pins.upgrade.base)
    finish(pins)


def finish(pins: Pins) -> bool:
    """Move what replaces the pins into their places; return whether there was any.

    Each move is a rename over the old pin, which lets go of the old object. What replaces them is
    attached, and counts, wherever it lies; so this can end anywhere, and be done again.
    """
    new = pins.upgrade
    if not new.base.is_dir():
        return False
    if new.object():  # nothing was moved yet, so what is not in there is not wanted any more
        for part in ("progs", "links", "maps"):
            wanted = set(new.names(part))
            gone = set(pins.names(part)) - wanted if new.path(part).is_dir() else set()
            for name in sorted(gone):
                pins.remove(part, name)
        new.path(OBJECT).replace(pins.path(OBJECT))
    for part in ("links", "progs", "maps"):
        for name in new.names(part):
            new.path(part, name).replace(pins.path(part, name))
    new.remove_all()
    return True


def detach(pins: Pins) -> list[str]:
    """Remove the links and return their names: nothing is watched any more, all is kept."""
    finish(pins)
    names = pins.names("links")
    for name in names:
        pins.remove("links", name)
    return names
