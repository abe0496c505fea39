"""The survival allow-list: files that no rule ever refuses, so that a person can get back in.

It exempts the file, not the process: whatever a policy says of sshd, a shell or the loader,
they open and run. A match is still logged, as an audit with the reason ``survival``.
"""

from __future__ import annotations

import shutil
import sys
from pathlib import Path

from aegis_tools.control.live import Live
from aegis_tools.kernel.inode_keys import Identifier, InodeId
from aegis_tools.kernel.layout import GENERATION
from aegis_tools.kernel.mounts import ambiguous_devices, read_mounts

_PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
_PROGRAMS = (
    "agetty", "bash", "bpftool", "busybox", "cat", "dash", "getty", "init", "journalctl", "login",
    "ls", "mount", "poweroff", "reboot", "rm", "rmdir", "sh", "shutdown", "sshd", "su", "sudo",
    "sulogin", "systemctl", "umount",
)  # fmt: skip
_PATTERNS = (
    "/lib/systemd/systemd*",
    "/usr/lib/openssh/sshd-*",
    "/lib64/ld-linux*.so*",
    "/lib/ld-linux*.so*",
    "/lib*/*/libc.so.6",
    "/lib64/libc.so.6",
    "/lib*/*/libpam*.so*",
    "/lib64/libpam*.so*",
)


def essential_files() -> list[str]:
    """Return the files of this host that recovery needs, as far as a list of names knows."""
    found = {path for name in _PROGRAMS if (path := shutil.which(name, path=_PATH))}
    for pattern in _PATTERNS:
        found.update(str(path) for path in Path("/").glob(pattern[1:]) if path.is_file())
    return sorted({*found, sys.executable})


def refresh(live: Live) -> dict[str, InodeId]:
    """Fill the allow-list from the host as it is now. The caller holds the lock.

    Returns:
        The files that are on it.
    """
    with Identifier(live.pins) as identifier:
        ids = identifier.identify(essential_files())
    shaky = ambiguous_devices(read_mounts())
    found = {path: ident for path, ident in ids.items() if ident and ident.dev not in shaky}
    wanted = {ident.key: GENERATION.pack(ident.generation) for ident in found.values()}
    allowed = live.map("survival_allowlist")
    for key, _ in list(allowed.items()):
        if key not in wanted:
            allowed.delete(key)
    for key, generation in wanted.items():
        allowed.set(key, generation)
    return found


def listed(live: Live) -> dict[str, bool]:
    """Return the essential files of this host and whether each is on the list."""
    with Identifier(live.pins) as identifier:
        ids = identifier.identify(essential_files())
    allowed = dict(live.map("survival_allowlist").items())
    return {path: bool(ident and ident.key in allowed) for path, ident in ids.items()}
