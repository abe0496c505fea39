#!/usr/bin/python
# SPDX-License-Identifier: Apache-2.0
"""Install the program from a wheelhouse, beside the one that is there, and switch over."""

from __future__ import annotations

DOCUMENTATION = r"""
module: aegisbpf_install
short_description: Install the program from a wheelhouse
description:
  - Makes a virtual environment below C(PREFIX/versions), installs from the archive of
    C(scripts/build-wheelhouse) without a network and with every hash checked, runs the program
    once, and only then lets C(PREFIX/current) lead to it.
  - Killed at any instant, the host has the old program or the new one. What the kernel enforces is
    not touched.
  - The version before is kept; naming its O(sha256) again leads back to it, without the archive.
version_added: "0.1.0"
author: Aegis Tools
options:
  archive:
    description: The archive, on the host. Not needed where its version is installed.
    type: path
  sha256:
    description: Of the archive; names the version.
    type: str
  prefix:
    description: Where versions are kept.
    type: path
    default: /opt/aegisbpf
  python:
    description: >-
      The Python of the environment, 3.10 or newer. By default the one that runs this module.
    type: path
  state:
    description: V(absent) removes all versions.
    type: str
    choices: [present, absent]
    default: present
attributes:
  check_mode:
    description: Says whether it would install, and installs nothing.
    support: full
  diff_mode:
    description: The version before and after.
    support: full
"""

EXAMPLES = r"""
- name: Install
  aegisbpf_install:
    archive: /var/cache/aegisbpf/wheelhouse.tar
    sha256: 15eb1cde25f33f5ed43e4c72803d4be380fbc6544e971f2d3371dc79815941d7
"""

RETURN = r"""
version:
  description: The SHA-256 of the installed wheelhouse's archive; empty without one.
  type: str
  returned: always
"""

import hashlib
import os
import shutil
import sys
import tarfile
import tempfile
from pathlib import Path

from ansible.module_utils.basic import AnsibleModule

COMPLETE = ".complete"
"""Written last: holds the version, the SHA-256 of its archive."""


class Place:
    """Where versions are, and which is in use."""

    def __init__(self, prefix):
        self.prefix = Path(prefix)
        self.versions = self.prefix / "versions"
        self.current = self.prefix / "current"

    def folder(self, version):
        """Return where a version lies: a short name, for the kernel cuts long #! lines."""
        return self.versions / version[:16]

    def is_complete(self, version):
        """Return whether a version is there as a whole."""
        return read(self.folder(version) / COMPLETE) == version

    def installed(self):
        """Return the version in use; an empty string without one."""
        return read(self.current / COMPLETE)

    def switch(self, version):
        """Let ``current`` lead to a version, in one step."""
        fresh = self.prefix / ".current.new"
        if fresh.is_symlink():
            fresh.unlink()
        fresh.symlink_to(Path("versions", version[:16]))
        fresh.replace(self.current)
        sync(self.prefix)

    def forget(self, keep):
        """Remove all versions but these, and whatever a killed run left."""
        kept = {self.folder(version) for version in keep if version}
        for path in set(self.versions.iterdir()) - kept:
            shutil.rmtree(path)


def read(path):
    """Return a small file's text; an empty string where there is none."""
    try:
        return path.read_text(encoding="ascii")[:64]
    except (OSError, ValueError):
        return ""


def sync(folder):
    """Write a folder's names to the disk."""
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def check_digest(module):
    """Refuse an archive that is not the one that was meant."""
    digest = hashlib.sha256()
    with Path(module.params["archive"]).open("rb") as file:
        for block in iter(lambda: file.read(1 << 20), b""):
            digest.update(block)
    if digest.hexdigest() != module.params["sha256"]:
        module.fail_json(
            msg="the archive is not the one that its .sha256 names: cut short, or of another build;"
            " next: make both anew with scripts/build-wheelhouse",
            wanted=module.params["sha256"],
            found=digest.hexdigest(),
        )


def unpack(archive, target):
    """Unpack plain files with plain names; nothing else belongs into the archive."""
    with tarfile.open(archive) as tar:
        for member in tar:
            if not member.isfile() or Path(member.name).name != member.name:
                raise ValueError("no plain file: " + member.name)
            with (target / member.name).open("xb") as file:
                shutil.copyfileobj(tar.extractfile(member), file)


def install(place, module, version):
    """Make the environment, in its own place, and see the program run."""
    python = module.params["python"] or sys.executable
    target = place.folder(version)
    if target.exists():
        shutil.rmtree(target)  # a run that was killed
    ask = "import sys; print('%d.%d' % sys.version_info[:2])"
    number = module.run_command([python, "-c", ask], check_rc=True)[1].strip()
    with tempfile.TemporaryDirectory(dir=module.tmpdir) as folder:
        house = Path(folder)
        unpack(module.params["archive"], house)
        wanted = house / ("requirements-" + number + ".txt")
        if not wanted.exists():
            module.fail_json(
                msg="the wheelhouse is not for Python " + number + " of this host",
                hint="build it with: scripts/build-wheelhouse ARCHIVE.tar --python " + number,
            )
        [pip] = house.glob("pip-*.whl")
        module.run_command([python, "-m", "venv", "--without-pip", str(target)], check_rc=True)
        argv = [str(target / "bin/python"), str(pip / "pip"), "install", "--no-index"]
        argv += ["--no-cache-dir", "--disable-pip-version-check", "--root-user-action=ignore"]
        argv += ["--find-links", str(house), "--require-hashes", "-r", str(wanted)]
        module.run_command(argv, check_rc=True)
    _, out, err = module.run_command([str(target / "bin/aegisbpf"), "--json", "status"])
    if not out.startswith('{"version":'):  # its exit code is the host's health
        module.fail_json(msg="the installed program does not run", detail=out + err)
    os.sync()
    with (target / COMPLETE).open("w", encoding="ascii") as file:
        file.write(version)
        file.flush()
        os.fsync(file.fileno())


def work(module):
    """Do what the state asks for; return the result."""
    place, wanted = Place(module.params["prefix"]), module.params["sha256"] or ""
    before, state = place.installed(), module.params["state"]
    if state == "absent":
        wanted = ""
    result = {
        "changed": before != wanted or (state == "absent" and place.prefix.exists()),
        "version": wanted,
        "diff": {"before": before + "\n", "after": wanted + "\n",
                 "before_header": "wheelhouse", "after_header": "wheelhouse"},
    }  # fmt: skip
    if not result["changed"] or module.check_mode:
        return result
    if state == "absent":
        shutil.rmtree(place.prefix)
        return result
    place.versions.mkdir(mode=0o755, parents=True, exist_ok=True)
    if not place.is_complete(wanted):
        check_digest(module)
        install(place, module, wanted)
    place.switch(wanted)
    place.forget((wanted, before))
    return result


def main():
    """Run."""
    spec = {
        "archive": {"type": "path"},
        "sha256": {"type": "str"},
        "prefix": {"type": "path", "default": "/opt/aegisbpf"},
        "python": {"type": "path"},
        "state": {"type": "str", "choices": ["present", "absent"], "default": "present"},
    }
    required = [("state", "present", ["sha256"])]
    module = AnsibleModule(spec, required_if=required, supports_check_mode=True)
    os.umask(0o022)
    try:
        result = work(module)
    except (OSError, ValueError, tarfile.TarError) as error:
        module.fail_json(msg="the program cannot be installed: " + str(error))
    module.exit_json(**result)


if __name__ == "__main__":
    main()
