"""network-monitor on each kernel: every variant that it has the functions or tracepoints for."""

from __future__ import annotations

import socket
import threading
from pathlib import Path

import pytest
from monitor_facts import fitting
from monitor_support import Attached
from network_support import NETWORK, check_drops, check_everything

# All ways to look are on the oldest and the newest kernel; on those in between, test_monitor_load.
pytestmark = [pytest.mark.once("5.10", "7.2"), pytest.mark.seed("T2.3")]

VARIANTS = {
    "5.10": ["with-sendpage"],
    "6.1": ["with-sendpage"],
    "6.12": ["portable", "tracepoints"],
    "7.2": ["portable", "tracepoints"],
}
OBJECTS = {variant.name: variant.object for variant in NETWORK.variants}


@pytest.fixture
def folder(folder: Path) -> Path:
    folder.mkdir()
    return folder


def test_the_kernel_has_what_these_variants_need(kernel_name: str) -> None:
    assert [variant.name for variant in fitting(NETWORK)] == VARIANTS[kernel_name]


def test_what_was_really_moved_is_told_of_between_whom(kernel_name: str, folder: Path) -> None:
    for name in VARIANTS[kernel_name]:
        with Attached(NETWORK, OBJECTS[name], folder / name) as attached:
            check_everything(attached, name)


def test_what_the_ring_has_no_room_for_is_counted(kernel_name: str, folder: Path) -> None:
    name = VARIANTS[kernel_name][0]
    check_drops(OBJECTS[name], folder / "monitor", name)


def test_a_call_that_sleeps_while_the_monitor_goes_away_ends_well(
    kernel_name: str, folder: Path
) -> None:
    heard: list[bytes] = []
    with socket.create_server(("127.0.0.1", 0)) as server:
        client = socket.create_connection(server.getsockname())
        peer = server.accept()[0]
    with client, peer:
        with Attached(NETWORK, OBJECTS[VARIANTS[kernel_name][0]], folder / "monitor"):
            sleeper = threading.Thread(target=lambda: heard.append(client.recv(10)))
            sleeper.start()
            threading.Event().wait(1)
        threading.Event().wait(2)
        peer.send(b"awake")
        sleeper.join(timeout=30)
    assert heard == [b"awake"]
