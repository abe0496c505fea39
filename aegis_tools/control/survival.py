"""The survival allow-list: files that no rule keeps from being read or run, so that a person can
get back in.

It exempts the file, not the process: whatever a policy says of sshd, a shell or the loader,
they open and run; writing to them is refused as the policy says. A match is still logged, as an
audit with the reason ``survival``. The files are those that the lockout proof finds
(``control.lockout``) as far as they are run or loaded.
"""

from __future__ import annotations

from aegis_tools.control.live import Live
from aegis_tools.control.lockout import check
from aegis_tools.control.lockout.placed import Placed
from aegis_tools.errors import KernelError
from aegis_tools.kernel.inode_keys import Identifier, InodeId
from aegis_tools.kernel.layout import GENERATION
from aegis_tools.kernel.maps import Map
from aegis_tools.kernel.mounts import ambiguous_devices, read_mounts
from aegis_tools.paths import Paths


def refresh(live: Live, paths: Paths) -> dict[str, InodeId]:
    """Fill the allow-list from the host as it is now. The caller holds the lock.

    New files are added before old ones go, so that nothing is unprotected meanwhile.

    Returns:
        The files that are on it.

    Raises:
        CommandError: The host could not be searched; the list is as it was.
        KernelError: The list is full.
    """
    found = _identified(live, paths)
    wanted = {ident.key: GENERATION.pack(ident.generation) for ident in found.values()}
    allowed = live.map("survival_allowlist")
    present = dict(allowed.items())
    if len(wanted) > allowed.max_entries:
        raise KernelError(
            f"the survival list holds {allowed.max_entries} files, and {len(wanted)} are needed",
            hint="load again: aegisbpf reset && aegisbpf load",
        )
    if len(wanted | present) > allowed.max_entries:
        present = _without_stale(allowed, present, wanted)
    for key, generation in wanted.items():
        if present.get(key) != generation:
            allowed.set(key, generation)
    _without_stale(allowed, present, wanted)
    return found


def _without_stale(
    allowed: Map, present: dict[bytes, bytes], wanted: dict[bytes, bytes]
) -> dict[bytes, bytes]:
    for key in present.keys() - wanted.keys():
        allowed.delete(key)
    return {key: value for key, value in present.items() if key in wanted}


def listed(live: Live, paths: Paths) -> dict[str, bool]:
    """Return the essential files of this host and whether each is on the list."""
    found = _identified(live, paths)
    allowed = dict(live.map("survival_allowlist").items())
    return {
        path: allowed.get(ident.key) == GENERATION.pack(ident.generation)
        for path, ident in found.items()
    }


def _identified(live: Live, paths: Paths) -> dict[str, InodeId]:
    with Identifier(live.pins) as identifier:
        placed = check.search(paths, identifier)
    shaky = ambiguous_devices(read_mounts())
    return {one.file.path: ident for one in placed if (ident := _code(one, shaky))}


def _code(placed: Placed, shaky: set[int]) -> InodeId | None:
    """Return the inode of what is run or loaded; folders, data and ambiguous inodes are not."""
    ident = placed.file.inode
    if ident is None or not placed.need.code or ident.is_dir or ident.dev in shaky:
        return None
    return ident
