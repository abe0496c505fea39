"""Profiles on disk: one small JSON file each, which only root can change."""

from __future__ import annotations

import os
from dataclasses import dataclass

from aegis_tools.control import files
from aegis_tools.errors import AegisError, PolicyError, UsageError
from aegis_tools.monitors.profiles.model import MAX_BYTES, Profile, parse
from aegis_tools.paths import Paths
from aegis_tools.policy import strictjson

_WHAT = "profile"


@dataclass(frozen=True)
class Damaged:
    """A profile that cannot be read.

    Attributes:
        name: Its name.
        error: Why.
    """

    name: str
    error: AegisError


class ProfileStore:
    """The profiles of a host. Who changes them holds the lock.

    Args:
        paths: Where they are.
    """

    def __init__(self, paths: Paths) -> None:
        self._folder = paths.profiles

    def names(self) -> list[str]:
        """Return the names of all, sorted."""
        try:
            found = list(self._folder.iterdir())
        except FileNotFoundError:
            return []
        return sorted(p.stem for p in found if p.suffix == ".json" and p.name[0] != ".")

    def load(self, name: str) -> Profile:
        """Return a profile.

        Raises:
            PolicyError: There is none of this name.
            StateError: Its file is damaged, or could be changed by others.
        """
        path = self._folder / f"{name}.json"
        if "/" in name or name not in self.names():
            raise PolicyError(
                f"there is no profile {files.printable(name, 64)}",
                hint="see: aegisbpf profile list; or make it: aegisbpf profile create",
            )
        owners = {0, os.geteuid()}
        data = files.read_limited(
            path, MAX_BYTES, what=_WHAT, owners=owners, forbid=files.OTHERS_WRITE
        )
        return parse(data, name)

    def load_all(self) -> tuple[list[Profile], list[Damaged]]:
        """Return all that can be read, and those that cannot: one must not hide the others."""
        good, bad = [], []
        for name in self.names():
            try:
                good.append(self.load(name))
            except AegisError as error:
                bad.append(Damaged(name, error))
        return good, bad

    def create(self, profile: Profile) -> None:
        """Store a profile that is new.

        Raises:
            UsageError: There is one of this name.
            StateError: It cannot be written.
        """
        self.check_new(profile.name)
        self.save(profile)

    def check_new(self, name: str) -> None:
        """Raise UsageError where there is a profile of this name."""
        if name in self.names():
            raise UsageError(
                f"there is a profile {name} already", hint=f"see: aegisbpf profile show {name}"
            )

    def save(self, profile: Profile) -> None:
        """Store a profile in the place of what it was."""
        files.ensure_folder(self._folder, mode=0o755)
        data = strictjson.dumps(profile.to_dict()) + b"\n"
        files.write_atomic(self._folder / f"{profile.name}.json", data, what=_WHAT, mode=0o600)
        files.remove_leftovers(self._folder)

    def delete(self, name: str) -> None:
        """Remove a profile, damaged or not; none is no error."""
        if name in self.names():
            files.remove(self._folder / f"{name}.json", what=_WHAT)
