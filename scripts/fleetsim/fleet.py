"""Start light hosts, connect them to this machine by a bridge of their own, and end them."""

from __future__ import annotations

import errno
import socket
import subprocess
import sys
import tempfile
import time
from contextlib import ExitStack
from ipaddress import IPv4Network
from pathlib import Path
from types import TracebackType
from typing import Any

from pyroute2 import IPRoute
from pyroute2.netlink.exceptions import NetlinkError

REPOSITORY = Path(__file__).resolve().parent.parent.parent
INSIDE = Path(__file__).with_name("inside.py")
NETWORKS = [IPv4Network(f"10.{number}.0.0/16") for number in range(213, 221)]
"""One for each fleet that there may be at a time."""
READY_SECONDS = 60.0
CONFIG = """\
HostKey {folder}/host_key
AuthorizedKeysFile {folder}/user_key.pub
PidFile none
UsePAM no
StrictModes no
PasswordAuthentication no
MaxStartups 100
MaxSessions 100
Subsystem sftp internal-sftp
"""


class Fleet:
    """A number of hosts, there while the ``with`` block is.

    Args:
        count: How many, up to 200.
    """

    def __init__(self, count: int) -> None:
        # Outside /run, which every host has its own of.
        self.stack = ExitStack()
        self.folder = Path(
            self.stack.enter_context(
                tempfile.TemporaryDirectory(prefix="aegis-fleet-", dir="/var/tmp")
            )
        )
        self.count = count
        self.processes: list[subprocess.Popen[str]] = []
        self.bridge, self.network = "", NETWORKS[0]

    def __enter__(self) -> Fleet:
        try:
            self._start()
        except BaseException:
            self.close()
            raise
        return self

    def __exit__(
        self,
        _type: type[BaseException] | None,
        _error: BaseException | None,
        _traceback: TracebackType | None,
    ) -> None:
        self.close()

    @property
    def key(self) -> Path:
        """What to log in with, as root."""
        return self.folder / "user_key"

    def address(self, number: int) -> str:
        """Return the address of a host, counted from 1."""
        return str(self.network[number + 1])

    def link(self, number: int) -> str:
        """Return this machine's end of a host's network."""
        return f"{self.bridge}-{number}"

    def inventory(self) -> dict[str, Any]:
        """Return an inventory of all hosts, in the group ``fleet``."""
        options = "-o StrictHostKeyChecking=no -o UserKnownHostsFile=/dev/null -o LogLevel=ERROR"
        return {
            "all": {
                "children": {
                    "fleet": {
                        "hosts": {
                            f"h{number:03}": {"ansible_host": self.address(number)}
                            for number in range(1, self.count + 1)
                        }
                    }
                },
                "vars": {
                    "ansible_user": "root",
                    "ansible_ssh_private_key_file": str(self.key),
                    "ansible_ssh_common_args": options,
                    "ansible_python_interpreter": "/usr/bin/python3",
                },
            }
        }

    def close(self) -> None:
        """End every host by the process that we started, and remove the bridge."""
        for process in self.processes:
            process.kill()
            process.communicate()
        self.processes.clear()
        self.stack.close()

    def _start(self) -> None:
        self._claim()
        for name in ("host_key", "user_key"):
            argv = ["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", str(self.folder / name)]
            subprocess.run(argv, check=True)
        config = self.folder / "sshd_config"
        config.write_text(CONFIG.format(folder=self.folder), encoding="utf-8")
        self.folder.chmod(0o755)
        for number in range(1, self.count + 1):
            self.processes.append(self._host(number, config))
        self._connect()
        for number in range(1, self.count + 1):
            self._wait(number)

    def _host(self, number: int, config: Path) -> subprocess.Popen[str]:
        mounted = self.folder / f"h{number:03}"
        mounted.mkdir()
        argv = ["unshare", "--mount", "--net", "--pid", "--uts", "--fork", "--kill-child=KILL"]
        argv += ["--propagation", "private", sys.executable, str(INSIDE), str(mounted)]
        program = Path(sys.executable).with_name("aegisbpf")
        argv += [f"h{number:03}", f"{self.address(number)}/{self.network.prefixlen}", str(program)]
        argv += [str(config)]
        with (self.folder / f"h{number:03}.log").open("w", encoding="utf-8") as log:
            return subprocess.Popen(
                ["setpriv", "--pdeathsig", "KILL", *argv],
                stdin=subprocess.PIPE,
                stdout=log,
                stderr=log,
                text=True,
            )

    def _claim(self) -> None:
        """Take a bridge, and with it a network, that no other fleet has."""
        with IPRoute() as ip:
            for number, network in enumerate(NETWORKS):
                name = f"aegisfleet{number}"
                try:
                    ip.link("add", ifname=name, kind="bridge")
                except NetlinkError as error:
                    if error.code != errno.EEXIST:
                        raise
                    continue
                self.stack.callback(_remove, name)
                self.bridge, self.network = name, network
                return
        raise RuntimeError(f"{len(NETWORKS)} fleets are here already")

    def _connect(self) -> None:
        with IPRoute() as ip:
            bridge = ip.link_lookup(ifname=self.bridge)[0]
            prefix = self.network.prefixlen
            ip.addr("add", index=bridge, address=str(self.network[1]), prefixlen=prefix)
            ip.link("set", index=bridge, state="up")
            for number, process in enumerate(self.processes, 1):
                child = _child(process)
                outside = self.link(number)
                ip.link("add", ifname=outside, kind="veth",
                        peer={"ifname": "eth0", "net_ns_pid": child})  # fmt: skip
                # With its namespace it would go, too, but later.
                self.stack.callback(_remove, outside)
                ip.link("set", index=ip.link_lookup(ifname=outside)[0], master=bridge, state="up")
                assert process.stdin
                process.stdin.write("go\n")
                process.stdin.close()

    def _wait(self, number: int) -> None:
        end = time.monotonic() + READY_SECONDS
        while True:
            try:
                socket.create_connection((self.address(number), 22), timeout=5).close()
                return
            except OSError:
                log = (self.folder / f"h{number:03}.log").read_text(encoding="utf-8")
                if self.processes[number - 1].poll() is not None or time.monotonic() > end:
                    raise RuntimeError(f"host {number} does not come up:\n{log}") from None
            time.sleep(0.05)


def _child(process: subprocess.Popen[str]) -> int:
    """Return the first process inside: the only child of unshare."""
    end = time.monotonic() + READY_SECONDS
    while time.monotonic() < end:
        path = Path(f"/proc/{process.pid}/task/{process.pid}/children")
        if (text := path.read_text(encoding="ascii").split()) and (
            Path(f"/proc/{text[0]}/ns/net").readlink() != Path("/proc/self/ns/net").readlink()
        ):
            return int(text[0])
        time.sleep(0.01)
    raise RuntimeError("unshare started nothing")


def _remove(name: str) -> None:
    with IPRoute() as ip:
        for index in ip.link_lookup(ifname=name):
            try:
                ip.link("del", index=index)
            except NetlinkError as error:
                if error.code != errno.ENODEV:  # its host's namespace took it along
                    raise
