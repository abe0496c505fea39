"""Where the demo is played: a controller's folder on this machine, and a machine to manage."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory

from vmharness.system.machine import Keys, Machine
from vmharness.system.qemu import Qemu
from vmharness.system.recipe import USER
from vmharness.system.snapshot import bare

REPOSITORY = Path(__file__).resolve().parent.parent.parent
COPIED = ("playbooks", "inventories", "policies", "ansible.cfg")
LINKED = ("roles", "scripts")
# As the inventory's comment asks: the machine's address. An emulated machine takes its time.
HOST = """\
ansible_host: example
ansible_ssh_common_args: -F ssh.conf
aegisbpf_confirm_within: 10m
aegisbpf_soak_seconds: 5
aegisbpf_baseline_seconds: 5
"""
SSH = """\
Host example
  HostName 127.0.0.1
  Port {port}
  User {user}
  IdentityFile {key}
  IdentitiesOnly yes
  StrictHostKeyChecking no
  UserKnownHostsFile /dev/null
  LogLevel ERROR
"""
# What the example policy is about, and somebody who listens where secrets must not go.
PREPARE = """\
set -e
mkdir -p /srv/demo/secrets/db
echo token-1 > /srv/demo/token.txt
echo hunter2 > /srv/demo/secrets/db/password
echo nothing secret here > /srv/demo/README
chown -R {user} /srv/demo
systemd-run --quiet --unit demo-listener python3 -m http.server 4444 --directory /srv/empty
for try in $(seq 100); do ss -ltn | grep -q :4444 && exit; sleep 0.2; done
exit 1
"""


def controller(folder: Path) -> None:
    """Make the folder that playbooks are started from; nothing of an earlier one is left.

    Args:
        folder: Replaced.
    """
    shutil.rmtree(folder, ignore_errors=True)
    for name in ("dist", "keys"):
        (folder / name).mkdir(parents=True)
    for name in COPIED:
        source = REPOSITORY / name
        copy = shutil.copytree if source.is_dir() else shutil.copy
        copy(source, folder / name)
    for name in LINKED:
        (folder / name).symlink_to(REPOSITORY / name)


@contextmanager
def machine(folder: Path) -> Iterator[Machine]:
    """Start a machine in which nothing of ours ever was, and say in the inventory where it is."""
    with ExitStack() as stack:
        keys = Keys(Path(stack.enter_context(TemporaryDirectory(prefix="aegis-key-"))))
        stored = bare(os.environ)
        qemu = stack.enter_context(Qemu(stored.disk, state=stored.state))
        found = Machine(qemu, keys)
        stack.callback(found.close)
        found.open()
        found.run("mkdir -p /srv/empty && bash -s", stdin=PREPARE.format(user=USER))
        where = SSH.format(port=found.port, user=USER, key=keys.private)
        (folder / "ssh.conf").write_text(where, encoding="utf-8")
        variables = folder / "inventories" / "example" / "host_vars"
        variables.mkdir()
        (variables / "example.yml").write_text(HOST, encoding="utf-8")
        yield found
