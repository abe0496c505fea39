"""While policies are swapped under load, what both deny stays denied, what both allow allowed."""

from __future__ import annotations

import errno
import os
import select
import signal
import socket
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from battery import Host, Kind, Mode, can_read, file_rule, net_rule, touch

from aegis_tools.control.commit import commit

SWAPS = {"6.1": 300}
SWAPS_ELSEWHERE = 60
DENIED_PEER, ALLOWED_PEER = ("127.0.0.7", 4444), ("127.0.0.8", 4444)


def load_process(act: Callable[[], None]) -> tuple[int, int]:
    """Start ``act`` again and again in a process of its own, until it is told to stop.

    Returns:
        Its pid, and the pipe on which it reports its number of rounds, or its failure.
    """
    reader, writer = os.pipe()
    child = os.fork()
    if child:
        os.close(writer)
        return child, reader
    stopped: list[int] = []
    signal.signal(signal.SIGTERM, lambda *_: stopped.append(1))
    os.nice(5)  # the swaps are what has to happen often
    rounds, failure = 0, ""
    while not stopped:
        try:
            act()
        except BaseException as error:
            failure = f"round {rounds}: {error!r}"
            break
        rounds += 1
    os.write(writer, (failure or str(rounds)).encode())
    os._exit(0)


def finish(child: int, reader: int) -> str:
    os.kill(child, signal.SIGTERM)
    os.waitpid(child, 0)
    with os.fdopen(reader) as pipe:
        return pipe.read()


class Targets:
    """What both policies know: D denied, A allowed."""

    def __init__(self, folder: Path) -> None:
        self.denied, self.allowed = folder / "D", folder / "A"
        for path in (self.denied, self.allowed):
            path.write_text(path.name)

    def open_files(self) -> None:
        assert not can_read(self.denied), "opened what is denied"
        touch(self.allowed)

    def send(self) -> None:
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as peer:
            try:
                peer.sendto(b"x", DENIED_PEER)
            except PermissionError as error:
                if error.errno != errno.EPERM:
                    raise
            else:
                raise AssertionError("sent to what is denied")
            peer.sendto(b"x", ALLOWED_PEER)

    def open_by_descriptor(self) -> None:
        anchor = os.open(self.denied, os.O_PATH)
        try:
            assert not can_read(f"/proc/self/fd/{anchor}"), "opened what is denied"
        finally:
            os.close(anchor)
        touch(self.allowed, os.O_RDWR)

    def replace(self) -> None:
        new = self.denied.with_name("D.new")
        new.write_text("new D")
        new.rename(self.denied)


@pytest.mark.timeout(1500)
def test_no_swap_lets_anything_through_or_stops_anything_else(
    host: Host, tmp_path: Path, kernel_name: str
) -> None:
    (tmp_path / "extra").mkdir()
    targets = Targets(tmp_path)
    common = (file_rule(targets.denied), net_rule(Kind.IP, DENIED_PEER[0]))
    policies = (
        host.compile(*common),
        host.compile(
            *common,
            file_rule(tmp_path / "extra", depth=3),
            net_rule(Kind.CIDR, "203.0.113.0/24"),
            net_rule(Kind.PORT, "7:any", mode=Mode.AUDIT),
        ),
    )
    host.set(SAMPLE=0)
    commit(host.live, policies[0])
    acts = (targets.open_files, targets.open_by_descriptor, targets.send, targets.replace)
    processes = [load_process(act) for act in acts]
    swaps = SWAPS.get(kernel_name, SWAPS_ELSEWHERE)
    started = time.monotonic()
    try:
        for number in range(swaps):
            commit(host.live, policies[(number + 1) % 2])
            failed, _, _ = select.select([reader for _, reader in processes], [], [], 0)
            if failed:
                break
    finally:
        results = [finish(*process) for process in processes]
    seconds = time.monotonic() - started
    print(f"{swaps} swaps in {seconds:.0f} s; rounds: {', '.join(results)}")
    assert all(result.isdecimal() for result in results), results
    assert all(int(result) > swaps for result in results[:3]), results
