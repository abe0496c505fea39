"""Hosts for tests of the boot configuration: files below a folder, and the boot loader's tools.

The tools are stand-ins that do to the files what the real ones do; settings are read by a real
shell, and the menu is that of this project's system machine (Debian 12) with other command lines.
"""

from __future__ import annotations

import re
import subprocess
from collections.abc import Callable, Sequence
from pathlib import Path

from aegis_tools.control.bootconfig import grubby
from aegis_tools.control.bootconfig.change import carry_out
from aegis_tools.control.bootconfig.facts import Facts, read_facts
from aegis_tools.control.bootconfig.plan import plan_disable, plan_enable
from aegis_tools.errors import CommandError
from aegis_tools.paths import Paths

DATA = Path(__file__).parent / "data" / "boot"
MENU = (DATA / "debian12-grub.cfg").read_text()
ACTIVE = ("lockdown", "capability", "landlock", "yama", "apparmor", "tomoyo")
BUILTIN = "landlock,lockdown,yama,loadpin,safesetid,integrity,apparmor,selinux,smack,tomoyo,bpf"
WITHOUT = "landlock,lockdown,yama,apparmor,tomoyo"
RELEASE = "6.1.0-56-cloud-amd64"
LIST = "lockdown,landlock,yama,apparmor,tomoyo,bpf"
SELINUX = ("lockdown", "capability", "yama", "selinux")
WITHOUT_RHEL = "lockdown,yama,integrity,selinux"
"""Of a kernel that would need the change. What RHEL's own are built with is not claimed here."""
_SOURCE = """
. "$1/etc/default/grub"
for x in "$1"/etc/default/grub.d/*.cfg; do if [ -e "$x" ]; then . "$x"; fi; done
printf '%s\\n' "$GRUB_CMDLINE_LINUX" "$GRUB_CMDLINE_LINUX_DEFAULT"
"""


class Host:
    """A host's files.

    Args:
        root: An empty folder.
        active: Modules of this boot.
        builtin: The kernel's own list.
    """

    def __init__(self, root: Path, active: Sequence[str] = ACTIVE, builtin: str = WITHOUT) -> None:
        self.paths = Paths(root)
        self.active = tuple(active)
        self.asked: list[list[str]] = []
        self.meddle: Callable[[], None] = lambda: None
        self.put("proc/sys/kernel/osrelease", f"{RELEASE}\n")
        self.put("proc/cmdline", "BOOT_IMAGE=/boot/x ro quiet\n")
        self.put("sys/kernel/security/lsm", ",".join(active))
        self.put(f"boot/config-{RELEASE}", f'CONFIG_BPF_LSM=y\nCONFIG_LSM="{builtin}"\n')

    def put(self, name: str, text: str) -> Path:
        path = self.paths.root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
        return path

    def get(self, name: str) -> str:
        return (self.paths.root / name).read_text()

    def files(self) -> dict[str, tuple[bytes, int]]:
        """Return everything but run-time files and the history."""
        return {
            str(path.relative_to(self.paths.root)): (path.read_bytes(), path.stat().st_mode)
            for path in sorted(self.paths.root.rglob("*"))
            if path.is_file() and path not in (self.paths.history, self.paths.lock)
        }

    def facts(self) -> Facts:
        return read_facts(self.paths, self.active, self.run)

    def run(self, argv: Sequence[str], *, timeout: float = 60) -> str:
        raise NotImplementedError


class Grub(Host):
    """A Debian host."""

    def __init__(self, root: Path, active: Sequence[str] = ACTIVE, builtin: str = WITHOUT) -> None:
        super().__init__(root, active, builtin)
        self.shell: dict[tuple[str, ...], list[str]] = {}
        self.put("etc/default/grub", (DATA / "debian12-default-grub").read_text())
        self.put("etc/default/grub.d/10-serial.cfg", (DATA / "debian12-serial.cfg").read_text())
        self.put("usr/sbin/update-grub", "")
        self.put("boot/grub/grub.cfg", MENU).chmod(0o444)
        self.update()

    def update(self) -> None:
        """Do as update-grub does."""
        path = self.paths.grub_menu
        path.chmod(0o644)
        path.write_text(self.menu())
        path.chmod(0o444)

    def menu(self) -> str:
        folder = self.paths.root / "etc/default"
        texts = tuple(
            path.read_text() for path in (folder / "grub", *sorted(folder.glob("*/*.cfg")))
        )
        if texts not in self.shell:
            command = ["/bin/sh", "-c", _SOURCE, "sh", str(self.paths.root)]
            done = subprocess.run(command, capture_output=True, text=True, check=True)
            self.shell[texts] = done.stdout.split("\n")
        always, default, *_ = self.shell[texts]
        text = MENU.replace("ro console=ttyS0 quiet", f"ro {always} {default}")
        return text.replace("ro single console=ttyS0", f"ro single {always}")

    def run(self, argv: Sequence[str], *, timeout: float = 60) -> str:
        self.asked.append(list(argv))
        assert timeout > 60
        assert argv[:2] == ["grub-mkconfig", "-o"]
        self.meddle()
        Path(argv[2]).write_text(self.menu())
        return ""


class Bls(Host):
    """A RHEL host: one file an entry, changed by grubby."""

    def __init__(self, root: Path, active: Sequence[str] = ACTIVE, builtin: str = WITHOUT) -> None:
        super().__init__(root, active, builtin)
        self.put("usr/sbin/grubby", "")
        for name in (RELEASE, "0-rescue-c445"):
            self.entry(name, "ro  crashkernel=1G rhgb quiet $tuned_params")

    def entry(self, release: str, options: str) -> None:
        self.put(
            f"boot/loader/entries/c445-{release}.conf",
            f"title Linux {release}\nversion {release}\nlinux /vmlinuz-{release}\n"
            f"initrd /initramfs-{release}.img $tuned_initrd\n"
            f"options {options}\nid c445-{release}\n",
        )

    def entries(self) -> list[Path]:
        return sorted(self.paths.boot_entries.glob("*.conf"), reverse=True)

    def run(self, argv: Sequence[str], *, timeout: float = 60) -> str:
        self.asked.append(list(argv))
        assert timeout >= 60
        if tuple(argv) == grubby.DEFAULT:
            return "0\n"
        if tuple(argv) == grubby.INFO:
            return "".join(self._info(n, path) for n, path in enumerate(self.entries()))
        assert argv[0] == "grubby", argv
        assert argv[-1] == "--no-etc-grub-update"
        self.meddle()
        kernel = argv[1].removeprefix("--update-kernel=")
        for path in self.entries():
            text = path.read_text()
            image = re.findall(r"(?m)^linux (.*)$", text)[0]
            if kernel in ("ALL", f"/boot{image}"):
                path.write_text(re.sub(r"(?m)^options .*$", lambda m: _edit(m[0], argv[2]), text))
        return ""

    def _info(self, index: int, path: Path) -> str:
        found = dict(line.split(" ", 1) for line in path.read_text().splitlines())
        return (
            f'index={index}\nkernel="/boot{found["linux"]}"\nargs="{found["options"]}"\n'
            f'root="UUID=6"\ninitrd="{found["initrd"]}"\ntitle="{found["title"]}"\n'
            f'id="{found["id"]}"\n'
        )


class Rhel9(Bls):
    """A host of RHEL 9's kin with the entries of a real one; its file says where they are from.

    Args:
        root: An empty folder.
        info: What the real grubby printed of them.
        active: Modules of this boot.
    """

    def __init__(self, root: Path, info: str, active: Sequence[str] = SELINUX) -> None:
        Host.__init__(self, root, active)
        self.put("usr/sbin/grubby", "")
        self.index, self.default = {}, info.split("index=")[1].split("\n", maxsplit=1)[0]
        for block in info.split("index=")[1:]:
            index, *lines = block.splitlines()
            found = {k: v.strip('"') for k, _, v in (line.partition("=") for line in lines)}
            self.index[f"{found['id']}.conf"] = index
            self.put(
                f"boot/loader/entries/{found['id']}.conf",
                f"title {found['title']}\nversion {found['id']}\n"
                f"linux {found['kernel'].removeprefix('/boot')}\n"
                f"initrd {found['initrd'].removeprefix('/boot')}\n"
                f"options root={found['root']} {found['args']}\nid {found['id']}\n",
            )
        release = next(iter(self.index)).partition("-")[2].removesuffix(".conf")
        self.put("proc/sys/kernel/osrelease", f"{release}\n")
        self.put(f"boot/config-{release}", f'CONFIG_BPF_LSM=y\nCONFIG_LSM="{WITHOUT_RHEL}"\n')

    def entries(self) -> list[Path]:
        """Return them in grubby's order."""
        return sorted(super().entries(), key=lambda path: int(self.index[path.name]))

    def _info(self, index: int, path: Path) -> str:
        """Tell of an entry as grubby does: ``root=`` is no part of its arguments."""
        del index
        text = super()._info(int(self.index[path.name]), path)
        root = re.findall(r"root=(\S+) ", text)[0]
        text = text.replace(f"root={root} ", "", 1).replace('root="UUID=6"', f'root="{root}"')
        return text.replace('initrd="', 'initrd="/boot')

    def run(self, argv: Sequence[str], *, timeout: float = 60) -> str:
        if tuple(argv) == grubby.DEFAULT:
            return f"{self.default}\n"
        return super().run(argv, timeout=timeout)


def _edit(line: str, change: str) -> str:
    option, _, argument = change.partition("=")
    key = argument.partition("=")[0]
    words = [word for word in line.split() if word.partition("=")[0] != key]
    return " ".join([*words, argument] if option == "--args" else words)


def failing(*_: object, **__: object) -> str:
    raise CommandError("grub-mkconfig failed", hint="see what it said", detail="no space")


def enable(host: Host, *, merge: bool = False) -> Facts:
    return carry_out(host.paths, plan_enable(host.facts(), merge=merge), host.run)


def disable(host: Host) -> Facts:
    return carry_out(host.paths, plan_disable(host.facts()), host.run)
