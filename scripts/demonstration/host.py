"""The part of the demo that runs as root on the disposable machine."""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

from demonstration.show import Show

TOKEN = Path("/srv/demo/token.txt")
SECRET = Path("/srv/demo/secrets/db/password")
REFUSED = "Operation not permitted"
CONNECT = "timeout 5 bash -c 'echo hello > /dev/tcp/127.0.0.1/4444'"


def prepare() -> None:
    """Make the files and the cgroup that the example policy is about."""
    TOKEN.parent.mkdir(parents=True)
    subprocess.run(["mount", "-t", "tmpfs", "demo", TOKEN.parent], check=True)
    Path("/sys/fs/cgroup/system.slice/demo-backup.service").mkdir(parents=True, exist_ok=True)
    SECRET.parent.mkdir(parents=True)
    SECRET.write_text("hunter2\n", encoding="utf-8")
    TOKEN.write_text("token-1\n", encoding="utf-8")
    Path("/srv/demo/README").write_text("nothing secret here\n", encoding="utf-8")


@contextlib.contextmanager
def listening(port: int) -> Iterator[None]:
    """Accept connections on a port, as the place where the secrets must not go."""
    with socket.create_server(("127.0.0.1", port)):
        yield


@contextlib.contextmanager
def agent(show: Show, log: Path) -> Iterator[subprocess.Popen[bytes]]:
    """Run the agent in the background; its events go to ``log``."""
    print(show.paint(f"$ aegisbpf run > {log} 2> {log}.err &", "\033[1m"), flush=True)
    program = Path(sys.executable).with_name("aegisbpf")
    with log.open("wb") as out, Path(f"{log}.err").open("wb") as err:
        process = subprocess.Popen(
            [str(program), "run"], stdin=subprocess.DEVNULL, stdout=out, stderr=err
        )
    time.sleep(2)
    show.check(process.poll() is None, "the agent did not stay")
    try:
        yield process
    finally:
        process.kill()
        process.wait()


def wait_for(log: Path, text: str, seconds: float = 10) -> bool:
    """Return whether ``text`` appears in a file in time."""
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        if text in log.read_text(encoding="utf-8", errors="replace"):
            return True
        time.sleep(0.1)
    return False


def audit(show: Show, log: Path) -> None:
    show.run("aegisbpf keys add release.pub", says="trusted")
    show.title("Apply the signed policy in audit: everything is allowed, matches are reported")
    show.run("aegisbpf policy apply example.bundle", says="policy applied")
    show.run(f"cat {TOKEN} {SECRET}", says="hunter2")
    show.check(wait_for(log, "AUDIT"), "the access was not reported")
    show.run(f"grep AUDIT {log} | tail -n 1", says="AUDIT")


def enforce(show: Show) -> None:
    show.title("Plan, then the same policy in enforce: the same access is refused")
    show.run("aegisbpf policy plan example.bundle --mode enforce")
    show.run("aegisbpf policy apply example.bundle --mode enforce", says="policy applied")
    show.run(f"cat {TOKEN}", status=1, says=REFUSED)
    show.run(f"cat {SECRET}", status=1, says=REFUSED)
    show.run("cat /srv/demo/README", says="nothing secret")
    show.title("The file is replaced by another under its name, as passwd does: still refused")
    show.run(f"echo token-2 > /srv/demo/new && mv /srv/demo/new {TOKEN}; cat {TOKEN}", status=1,
             says=REFUSED)  # fmt: skip
    show.title("So is a connection to where the secrets must not go")
    show.run(CONNECT, status=1, says=REFUSED)


def look(show: Show, log: Path) -> None:
    show.title("What was refused")
    show.run("aegisbpf stats", says="Total blocks:")
    show.run("aegisbpf block list --last-accessed", says=str(TOKEN))
    show.check(wait_for(log, '"action":"BLOCK"'), "the refusals were not reported")
    show.run(f"""grep '"action":"BLOCK"' {log} | head -n 2""", says="BLOCK")
    show.run(f"aegisbpf why {TOKEN}")


def kill_agent(show: Show, process: subprocess.Popen[bytes]) -> None:
    show.title("The agent is killed: enforcement is in the kernel, not in a process")
    print(show.paint(f"$ kill -9 {process.pid}", "\033[1m"), flush=True)
    process.send_signal(signal.SIGKILL)
    show.check(process.wait() == -signal.SIGKILL, "it had ended before")
    show.run(f"cat {TOKEN}", status=1, says=REFUSED)


def undo(show: Show) -> None:
    show.title("Reset: everything of ours leaves the kernel, and that is proven")
    show.run("aegisbpf reset")
    show.run(f"cat {SECRET}", says="hunter2")
    show.run(CONNECT)


def main() -> int:
    show = Show(colour="AEGIS_DEMO_COLOUR" in os.environ, directory=Path(sys.argv[1]))
    log = Path("/run/aegis-events.ndjson")
    prepare()
    show.run("uname -r; cat /sys/kernel/security/lsm; echo", says="bpf")
    with listening(4444):
        show.title("Load: hooks attached and pinned. An agent streams events; it decides nothing")
        show.run("aegisbpf load", says="attached")
        with agent(show, log) as process:
            audit(show, log)
            enforce(show)
            look(show, log)
            kill_agent(show, process)
        undo(show)
    return 1 if show.failed else 0


if __name__ == "__main__":
    sys.exit(main())
