"""What keeps a host able to be worked on: init, Python, tools, our own files, places, devices."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from pathlib import Path

from aegis_tools.control.lockout.collect import Collector
from aegis_tools.control.lockout.login import people
from aegis_tools.control.lockout.model import READ, RUN, WRITE
from aegis_tools.control.lockout.tree import Tree
from aegis_tools.paths import Paths

SYSTEMD = ("systemd", "systemd-executor", "systemd-journald", "systemd-logind", "systemd-networkd",
           "systemd-resolved", "systemd-shutdown", "systemd-sulogin-shell", "systemd-udevd",
           "systemd-user-runtime-dir")  # fmt: skip
INIT = ("init", "systemctl", "journalctl", "loginctl", "dbus-daemon", "dbus-broker",
        "dbus-broker-launch", "agetty", "getty", "login", "sulogin", "busybox")  # fmt: skip
TOOLS = ("basename", "cat", "chmod", "chown", "cp", "dirname", "echo", "env", "false", "id",
         "ln", "ls", "mkdir", "mktemp", "mount", "mv", "poweroff", "reboot", "rm", "rmdir",
         "shutdown", "sleep", "stat", "test", "true", "umount", "uname", "whoami")  # fmt: skip
UNITS = ("ssh.service", "ssh.socket", "sshd.service", "sshd.socket", "ssh@.service")
DEVICES = ("console", "full", "null", "ptmx", "random", "tty", "urandom", "zero")
TEMPORARY = ("/tmp", "/var/tmp", "/dev/shm")  # noqa: S108
STDLIB_SKIPS = frozenset(["__pycache__", "site-packages", "dist-packages", "test", "tests",
                          "idlelib", "tkinter", "turtledemo", "lib2to3", "ensurepip",
                          "pydoc_data"])  # fmt: skip
OURS = ("yaml", "_yaml", "nacl", "sh", "prometheus_client", "pyroute2", "shtab", "jeepney", "cffi",
        "_cffi_backend", "pycparser")  # fmt: skip


def init(collector: Collector) -> None:
    """Add systemd, its journal and logins, and the tools of an Ansible task."""
    tree = collector.tree
    for name in SYSTEMD:
        for path in tree.glob(f"/usr/lib/systemd/{name}") or tree.glob(f"/lib/systemd/{name}"):
            collector.program(path, "the system runs on it", 10)
    for path in tree.glob("/usr/lib/systemd/libsystemd-*.so"):
        chain = ("systemd", path.rpartition("/")[2])
        collector.add(path, RUN, "systemd loads it", chain, 10, code=True)
    for path in tree.which(INIT):
        collector.program(path, "the system, or a login at the console, runs on it", 11)
    for path in tree.which(TOOLS):
        collector.program(path, "repairing a host and Ansible's tasks need it", 13)
    for path in tree.which(["bpftool"]):
        collector.program(path, "it loads and unloads what enforces", 12)
    for path in ("/etc/ld.so.cache", "/etc/ld.so.preload"):
        if tree.exists(path):
            collector.add(path, READ, "the loader finds libraries by it", ("ld.so",), 2, code=True)
    tree.text("/etc/ld.so.cache")
    for folder in ("/usr/lib/systemd/system", "/lib/systemd/system", "/etc/systemd/system"):
        for name in UNITS:
            collector.read(f"{folder}/{name}", "systemd starts sshd by it", 12, ("systemd",))


def python(collector: Collector) -> None:
    """Add the Python that Ansible uses, and its standard library."""
    tree = collector.tree
    for path in tree.which(["python3"]):
        why = "Ansible works through it"
        collector.program(path, why, 9, ("Ansible",))
        real = tree.real(path)
        base, _, version = real.rpartition("/bin/")
        for lib in ("lib", "lib64"):
            folder = f"{base}/{lib}/{version}"
            chain = ("Ansible", "python3")
            _modules(collector, folder, "Ansible's Python imports from there", chain, 11)


def ourselves(collector: Collector, paths: Paths) -> None:
    """Add what undoes a change: this program, its Python, and its files."""
    tree, why = collector.tree, "what undoes a change, this program, runs on it"
    for path in dict.fromkeys((sys.executable, os.path.realpath(sys.executable))):
        collector.program(tree.inner(path), why, 8, ("aegisbpf",))
    for path in tree.which(["aegisbpf", "aegis-tools"]):
        collector.program(path, why, 8, ("aegisbpf",))
    own = Path(__file__).parents[2]
    for folder in (_stdlib(), str(own), *_dependencies()):
        _modules(collector, tree.inner(folder), why, ("aegisbpf",), 12)
    collector.read(str(Path(sys.prefix) / "pyvenv.cfg"), why, 12, ("aegisbpf",))
    why = "this program keeps its state there"
    for place in (paths.etc, paths.keys, paths.pins):
        collector.read(str(place), why, 15, ("aegisbpf",))
    for place in (paths.state, paths.bundles, paths.run):
        collector.make_in(str(place), ".lockout-proof", why, 15)
    # By name, whether they are there yet or not: each change puts another file in their place.
    for own_file in (paths.current, paths.history, paths.serials, paths.lock):
        collector.add(str(own_file), WRITE, "this program keeps its state in it", (), 15)
    for key in (paths.trust_config, *paths.keys.glob("*.pub")):
        collector.read(str(key), "this program checks signatures with it", 15, ("aegisbpf",))


def _stdlib() -> str:
    return str(Path(os.__file__).parent)


def _dependencies() -> Iterator[str]:
    from importlib.machinery import PathFinder

    for name in OURS:
        spec = PathFinder.find_spec(name)
        if spec is not None and spec.submodule_search_locations:
            yield next(iter(spec.submodule_search_locations))
        elif spec is not None and spec.origin:
            yield spec.origin


def _modules(
    collector: Collector, folder: str, why: str, chain: tuple[str, ...], rank: int
) -> None:
    """Add the modules below a folder, or the one that it is."""
    tree = collector.tree
    for path in modules_below(tree, folder):
        name = path.rpartition("/")[2]
        ops = RUN if ".so" in name else READ
        collector.add(path, ops, why, (*chain, name), rank, code=True)


def modules_below(tree: Tree, folder: str) -> Iterator[str]:
    """Yield Python's modules below a folder, but for tests and what draws windows."""
    if tree.is_file(folder):
        yield folder
        return
    for place, folders, files in os.walk(tree.path(folder)):
        tree.watched.add(place)
        folders[:] = [name for name in folders if name not in STDLIB_SKIPS]
        for name in files:
            if name.endswith((".py", ".so", ".o")):
                yield tree.inner(f"{place}/{name}")


def places(collector: Collector) -> None:
    """Add devices, kernel file systems, and the folders where files are made."""
    tree = collector.tree
    for name in DEVICES:
        collector.write(f"/dev/{name}", "shells and services open it", 10)
    for path in ("/dev/pts", "/proc", "/sys", "/sys/fs/bpf", "/sys/fs/cgroup", "/dev", "/run"):
        collector.read(path, "the system is looked at through it", 16)
    for path in ("/proc/stat", "/proc/cmdline", "/proc/meminfo"):
        collector.read(path, "the system is looked at through it", 17)
    collector.make_in("/dev/pts", "0", "a terminal session needs one", 9)
    for folder in TEMPORARY:
        why = "Ansible, sudo and shells make temporary files there"
        collector.make_in(folder, ".lockout-proof", why, 18)
    for user in people(tree):
        _ansible(collector, user.home, user.name)
    why = "systemd keeps sessions and services there"
    for folder in ("/run", "/run/systemd", "/run/systemd/sessions", "/run/user", "/run/user/0"):
        collector.make_in(folder, ".lockout-proof", why, 18)
    for folder in ("/var/log/journal", "/run/log/journal"):
        collector.make_in(folder, ".lockout-proof", "the journal is kept there", 19)
    for path in ("/run/utmp", "/var/log/wtmp", "/var/log/lastlog", "/var/log/btmp"):
        collector.write(path, "a login is recorded in it", 19)
    collector.make_in("/run/sudo", "ts", "sudo keeps its time stamps there", 19)


def _ansible(collector: Collector, home: str, name: str) -> None:
    """Ansible makes its folder where there is none, so names that do not exist count."""
    if not collector.tree.exists(home) or home == "/":
        return
    why = f"Ansible's files go there when it logs in as {name}"
    place, missing = f"{home}/.ansible/tmp", "ansible-tmp-0"
    if not collector.tree.exists(place):
        place, missing = home, ".ansible"
        if collector.tree.exists(f"{home}/.ansible"):
            place, missing = f"{home}/.ansible", "tmp"
    collector.make_in(place, missing, why, 9)
    if missing == "ansible-tmp-0":
        collector.read(place, why, 9, ("Ansible",))
