#!/usr/bin/python
# SPDX-License-Identifier: Apache-2.0
"""Install the program from a wheelhouse, beside the one that is there, and switch over."""

from __future__ import annotations

DOCUMENTATION = r"""
module: aegisbpf_install
short_description: Install the program from a wheelhouse
description:
  - Makes a virtual environment below C(PREFIX/versions), installs from the archive of C(scripts/build-wheelhouse)
    without a network and with every hash checked, runs the program once, and only then lets C(PREFIX/current) lead to it.
  - Killed at any instant, the host has the old program or the new one. What the kernel enforces is not touched.
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
    description: The Python of the environment, 3.10 or newer. By default the one that runs this module.
    type: path
  state:
    description: V(absent) removes all versions; V(known) only says which is installed.
    type: str
    choices: [present, absent, known]
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

import hashlib  # noqa: E402
import os  # noqa: E402
import shutil  # noqa: E402
import sys  # noqa: E402
import tarfile  # noqa: E402
import tempfile  # noqa: E402

from ansible.module_utils.basic import AnsibleModule  # noqa: E402

KEPT = 2
"""Versions that are kept: the one in use and the one before."""
COMPLETE = ".complete"
"""Written last: holds the version, the SHA-256 of its archive."""


class Place:
    """Where versions are, and which is in use."""

    def __init__(self, module):
        self.module = module
        self.prefix = module.params["prefix"]
        self.versions = os.path.join(self.prefix, "versions")
        self.current = os.path.join(self.prefix, "current")

    def folder(self, version):
        """Return where a version lies: a short name, for the kernel cuts long #! lines."""
        return os.path.join(self.versions, version[:16])

    def is_complete(self, version):
        """Return whether a version is there as a whole."""
        return read(os.path.join(self.folder(version), COMPLETE)) == version

    def installed(self):
        """Return the version in use; an empty string without one."""
        return read(os.path.join(self.current, COMPLETE))

    def switch(self, version):
        """Let ``current`` lead to a version, in one step."""
        fresh = os.path.join(self.prefix, ".current.new")
        if os.path.lexists(fresh):
            os.unlink(fresh)
        os.symlink(os.path.join("versions", version[:16]), fresh)
        os.replace(fresh, self.current)
        sync(self.prefix)

    def forget(self, keep):
        """Remove all versions but the newest, and whatever a killed run left."""
        found = [os.path.join(self.versions, name) for name in os.listdir(self.versions)]
        found = [path for path in found if path != self.folder(keep)]
        for path in sorted(found, key=os.path.getmtime, reverse=True)[KEPT - 1 :]:
            shutil.rmtree(path)


def read(path):
    """Return a small file's text; an empty string where there is none."""
    try:
        with open(path, encoding="ascii") as file:
            return file.read(64)
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
    with open(module.params["archive"], "rb") as file:
        for block in iter(lambda: file.read(1 << 20), b""):
            digest.update(block)
    if digest.hexdigest() != module.params["sha256"]:
        module.fail_json(msg="the archive is not the one that was meant: " + digest.hexdigest())


def unpack(archive, target):
    """Unpack plain files with plain names; nothing else belongs into the archive."""
    with tarfile.open(archive) as tar:
        for member in tar:
            if not member.isfile() or os.path.basename(member.name) != member.name:
                raise ValueError("no plain file: " + member.name)
            with open(os.path.join(target, member.name), "xb") as file:
                shutil.copyfileobj(tar.extractfile(member), file)


def install(place, version):
    """Make the environment, in its own place, and see the program run."""
    module = place.module
    python = module.params["python"] or sys.executable
    target = place.folder(version)
    if os.path.lexists(target):
        shutil.rmtree(target)  # a run that was killed
    ask = "import sys; print('%d.%d' % sys.version_info[:2])"
    number = module.run_command([python, "-c", ask], check_rc=True)[1].strip()
    with tempfile.TemporaryDirectory(dir=module.tmpdir) as house:
        unpack(module.params["archive"], house)
        wanted = os.path.join(house, "requirements-" + number + ".txt")
        if not os.path.exists(wanted):
            module.fail_json(
                msg="the wheelhouse is not for Python " + number + " of this host",
                hint="build it with: scripts/build-wheelhouse … --python " + number,
            )
        [pip] = [name for name in os.listdir(house) if name.startswith("pip-")]
        module.run_command([python, "-m", "venv", "--without-pip", target], check_rc=True)
        argv = [os.path.join(target, "bin", "python"), os.path.join(house, pip, "pip")]
        argv += ["install", "--no-index", "--no-cache-dir", "--disable-pip-version-check"]
        argv += ["--root-user-action=ignore", "--find-links", house, "--require-hashes"]
        module.run_command([*argv, "-r", wanted], check_rc=True)
    answer = module.run_command([os.path.join(target, "bin", "aegisbpf"), "--json", "status"])
    if not answer[1].startswith('{"version":'):  # its exit code is the host's health
        module.fail_json(msg="the installed program does not run", detail=answer[1] + answer[2])
    os.sync()
    with open(os.path.join(target, COMPLETE), "w", encoding="ascii") as file:
        file.write(version)
        file.flush()
        os.fsync(file.fileno())


def work(module):
    """Do what the state asks for; return the result."""
    place, wanted = Place(module), module.params["sha256"] or ""
    before = place.installed()
    state = module.params["state"]
    if state == "known":
        return {"changed": False, "version": before}
    if state == "absent":
        wanted = ""
    result = {
        "changed": before != wanted or (state == "absent" and os.path.lexists(place.prefix)),
        "version": wanted,
        "diff": {"before": before + "\n", "after": wanted + "\n",
                 "before_header": "wheelhouse", "after_header": "wheelhouse"},
    }  # fmt: skip
    if not result["changed"] or module.check_mode:
        return result
    if state == "absent":
        shutil.rmtree(place.prefix)
        return result
    os.makedirs(place.versions, mode=0o755, exist_ok=True)
    if not place.is_complete(wanted):
        check_digest(module)
        install(place, wanted)
    place.switch(wanted)
    place.forget(wanted)
    return result


def main():
    """Run."""
    spec = {
        "archive": {"type": "path"},
        "sha256": {"type": "str"},
        "prefix": {"type": "path", "default": "/opt/aegisbpf"},
        "python": {"type": "path"},
        "state": {"type": "str", "choices": ["present", "absent", "known"], "default": "present"},
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
