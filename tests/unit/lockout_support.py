"""A host made of empty files, and rules put to it as a policy's are."""

from __future__ import annotations

import os
from collections.abc import Iterable, Sequence
from functools import partial
from pathlib import Path

from aegis_tools.control.lockout.model import Need, Peer, Refusal
from aegis_tools.control.lockout.needs import find_needs
from aegis_tools.control.lockout.peers import find_peers
from aegis_tools.control.lockout.placed import place
from aegis_tools.control.lockout.prove import prove
from aegis_tools.control.lockout.sockets import ESTABLISHED, LISTEN, Socket
from aegis_tools.control.lockout.touch import Touched
from aegis_tools.control.lockout.tree import Tree
from aegis_tools.control.resolve import resolve
from aegis_tools.kernel.inode_keys import InodeId
from aegis_tools.kernel.mounts import Mount
from aegis_tools.paths import Paths
from aegis_tools.policy.model import OPEN_OPS, Kind, Mode, Op, Policy, Rule
from aegis_tools.policy.targets import canonical, default_operations

FILES = {
    "/usr/sbin/sshd": "",
    "/usr/bin/sudo": "",
    "/usr/bin/bash": "",
    "/usr/bin/dash": "",
    "/usr/bin/fish": "",
    "/usr/bin/python3.11": "",
    "/usr/bin/script": "#!/usr/bin/perl -w\n",
    "/usr/bin/perl": "",
    "/usr/bin/unrelated": "",
    "/usr/sbin/bpftool": "#!/usr/bin/perl\n",
    "/usr/sbin/unix_chkpwd": "",
    "/usr/lib/systemd/systemd": "",
    "/usr/lib/systemd/systemd-logind": "",
    "/usr/lib/x86_64-linux-gnu/libpam.so.0.85": "",
    "/usr/lib/x86_64-linux-gnu/libc.so.6": "",
    "/usr/lib/x86_64-linux-gnu/libgame.so.1": "",
    "/usr/lib/x86_64-linux-gnu/libnss_ldap.so.2": "",
    "/usr/lib/x86_64-linux-gnu/libnss_wins.so.2": "",
    "/usr/lib/x86_64-linux-gnu/security/pam_unix.so": "",
    "/usr/lib/x86_64-linux-gnu/security/pam_unused.so": "",
    "/usr/lib64/ld-linux-x86-64.so.2": "",
    "/usr/lib/python3.11/os.py": "",
    "/usr/lib/python3.11/json/__init__.py": "",
    "/usr/lib/python3.11/test/test_os.py": "",
    "/usr/libexec/sudo/sudoers.so": "",
    "/usr/share/doc/sshd/README": "",
    "/etc/ssh/sshd_config": "Include /etc/ssh/sshd_config.d/*.conf\nUsePAM yes\n",
    "/etc/ssh/sshd_config.d/site.conf": "Port 2222\n",
    "/etc/ssh/ssh_config": "",
    "/etc/ssh/ssh_host_ed25519_key": "",
    "/etc/pam.d/sshd": "@include common-auth\n",
    "/etc/pam.d/common-auth": "auth required pam_unix.so\n",
    "/etc/pam.d/game": "auth required pam_unused.so\n",
    "/etc/nsswitch.conf": "passwd: files ldap\nhosts: files dns\n",
    "/etc/passwd": (
        "root:x:0:0::/root:/bin/bash\nalice:x:1000:1000::/people/alice:/usr/bin/fish\n"
        "bob:x:1001:1001::/people/bob:/usr/bin/unrelated\n"
    ),
    "/etc/group": "sudo:x:27:alice\n",
    "/etc/shadow": "",
    "/etc/shadow-": "",
    "/etc/sudoers": "root ALL=(ALL) ALL\n@includedir /etc/sudoers.d\n",
    "/etc/sudoers.d/ops": "%ops ALL=(ALL) ALL\n",
    "/etc/hosts": "",
    "/etc/resolv.conf": "nameserver 10.0.0.53\n",
    "/etc/ld.so.cache": "",
    "/etc/motd": "",
    "/root/notes": "",
    "/root/.ssh/authorized_keys": "",
    "/root/.ssh/id_rsa": "",
    "/people/alice/.ssh/authorized_keys": "",
    "/people/alice/diary": "",
    "/people/bob/diary": "",
    "/srv/secrets/key": "",
    "/opt/app/bin/server": "",
    "/dev/null": "",
    "/dev/ptmx": "",
    "/dev/sda": "",
    "/dev/pts/3": "",
    "/var/log/wtmp": "",
    "/var/log/app.log": "",
}
FOLDERS = ("/tmp", "/var/tmp", "/dev/shm", "/proc", "/run/sshd", "/run/systemd", "/sys/fs/bpf",
           "/var/spool")  # fmt: skip
LINKS = {
    "/lib": "usr/lib",
    "/lib64": "usr/lib64",
    "/bin": "usr/bin",
    "/sbin": "usr/sbin",
    "/usr/bin/sh": "dash",
    "/usr/bin/python3": "python3.11",
    "/usr/lib/x86_64-linux-gnu/libpam.so.0": "libpam.so.0.85",
    "/srv/innocent": "../usr/lib/x86_64-linux-gnu/libpam.so.0",
    "/srv/usr": "../usr",
}
LIBRARIES = ("/lib/x86_64-linux-gnu/libpam.so.0", "/lib/x86_64-linux-gnu/libc.so.6")


class ByStat:
    """Says of a file what stat does, folders apart from their file system."""

    def identify(self, paths: Iterable[str]) -> dict[str, InodeId | None]:
        return {path: self._stat(path, follow=True) for path in paths}

    def identify_in(self, directory: str, names: Iterable[str]) -> dict[str, InodeId | None]:
        return {name: self._stat(f"{directory}/{name}", follow=False) for name in names}

    def _stat(self, path: str, *, follow: bool) -> InodeId | None:
        try:
            found = Path(path).stat(follow_symlinks=follow)
        except OSError:
            return None
        return InodeId(found.st_ino, 1, 0, found.st_mode)


class Wire:
    """The network of a host with one person logged in."""

    def sockets(self) -> list[Socket]:
        return [
            Socket(LISTEN, "0.0.0.0", 2222, "0.0.0.0", 0, 100),
            Socket(LISTEN, "0.0.0.0", 8080, "0.0.0.0", 0, 101),
            Socket(ESTABLISHED, "::ffff:10.0.0.5", 2222, "::ffff:192.0.2.77", 50000, 102),
            Socket(ESTABLISHED, "10.0.0.5", 8080, "198.51.100.9", 50001, 103),
        ]

    def addresses(self) -> list[str]:
        return ["127.0.0.1", "::1", "10.0.0.5"]

    def gateways(self) -> list[str]:
        return ["10.0.0.1"]

    def owners(self, inodes: Iterable[int], name: str) -> set[int]:
        return {100} & set(inodes) if name == "sshd" else set()


class FakeHost:
    """The files of a host below a folder.

    Args:
        root: The folder.
    """

    def __init__(self, root: Path) -> None:
        self.root = root
        for path, text in FILES.items():
            at = root / path[1:]
            at.parent.mkdir(parents=True, exist_ok=True)
            at.write_text(text)
        for path in FOLDERS:
            (root / path[1:]).mkdir(parents=True, exist_ok=True)
        for path, target in LINKS.items():
            (root / path[1:]).symlink_to(target)
        os.link(root / "usr/sbin/sshd", root / "srv/twin")
        self.tree = Tree(str(root))
        self.needs: list[Need] = [
            need
            for need in find_needs(self.tree, Paths(root), self._loader)
            if not need.path.startswith(str(root))
        ]
        self.peers: list[Peer] = find_peers(self.tree, Wire())

    def _loader(self, argv: Sequence[str], *, timeout: float = 60) -> str:
        del timeout
        lines = []
        for path in argv[5:]:
            lines.append(f"= {path}")
            lines += [f"\tx => {self.root}{library} (0x1)" for library in LIBRARIES]
        return "\n".join(lines)

    def need(self, path: str) -> Need:
        (found,) = [need for need in self.needs if need.path == path][:1]
        return found

    def prove(self, *rules: Rule) -> list[Refusal]:
        """Put rules, whose paths are the host's, to the host."""
        real = [
            rule._replace(target=f"{self.root}{rule.target}")
            if rule.kind in (Kind.PATH, Kind.DIRECTORY)
            else rule
            for rule in rules
        ]
        identify = ByStat()
        resolved = resolve(Policy(tuple(real)), identify, {}, now=0)
        inside = [need._replace(path=f"{self.root}{need.path}") for need in self.needs]
        mounts = [Mount(1, str(self.root), str(self.root), "ext4", ())]
        placed = [
            one._replace(need=need)
            for one, need in zip(place(inside, identify, mounts), self.needs, strict=True)
        ]
        put = partial(prove, walk=resolved.walk, name_of=resolved.ids.__getitem__)
        found = put(placed, self.peers, resolved.maps)
        touched = Touched(placed).by(resolved.maps)
        assert put(touched, self.peers, resolved.maps) == found, "a need was passed over"
        return found


def rule(
    text: str, kind: Kind | None = None, ops: Op | None = None, mode: Mode = Mode.ENFORCE
) -> Rule:
    """Return a rule called ``r``: a folder ends in a slash, a network target names its kind."""
    if kind is None:
        kind = Kind.DIRECTORY if text.endswith("/") else Kind.PATH
    wanted = ops or (OPEN_OPS if text.startswith("/") else default_operations(kind))
    return Rule("r", kind, canonical(kind, text), wanted, mode)
