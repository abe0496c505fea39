"""Hosts are brought to the desired state, and asked only where they are in it."""

from __future__ import annotations

import os
import re
import socket
from collections.abc import Iterator
from contextlib import suppress
from threading import Thread

import pytest
from fleet_support import REPOSITORY, Controller
from fleetsim.fleet import Fleet

HOSTS = 2
PROGRAM = "/opt/aegisbpf/current/bin/aegisbpf"
PATIENCE = 120


@pytest.fixture(scope="module")
def controller(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Controller]:
    with Fleet(HOSTS) as fleet:
        found = Controller(fleet, tmp_path_factory.mktemp("controller"))
        for number in range(1, HOSTS + 1):
            found.on(number, "load")
        found.sign("one")
        found.play("site", aegisbpf_policy=found.bundle("one"))
        yield found


def changes(told: str) -> list[int]:
    """Return how many changes each host had."""
    return [int(number) for number in re.findall(r"changed=(\d+)", told)]


def test_hosts_that_are_as_they_should_be_are_only_asked(controller: Controller) -> None:
    told = controller.play("site", aegisbpf_policy=controller.bundle("one"))
    assert changes(told) == [0, 0]
    assert "Preflight | Ask the host" in told
    assert not re.search(r"TASK \[aegisbpf : (Trust|Policy|Mode|Install|Boot) \|", told)


def test_a_relative_path_begins_where_the_operator_stands(controller: Controller) -> None:
    folder = os.path.relpath(controller.folder, REPOSITORY)
    told = controller.play(
        "site",
        aegisbpf_policy=f"{folder}/one.bundle",
        aegisbpf_trusted_keys=[f"{folder}/ops.pub"],
    )
    assert changes(told) == [0, 0]
    told = controller.play("site", status=2, aegisbpf_policy="policies/no-such.bundle")
    assert "aegisbpf_policy=policies/no-such.bundle: there is no" in told
    for place in (REPOSITORY, REPOSITORY / "playbooks"):
        assert f"{place}/policies/no-such.bundle" in told
    assert changes(told) == [0, 0]


def test_a_key_that_somebody_else_trusted_is_taken_away_there(controller: Controller) -> None:
    site = {"aegisbpf_policy": controller.bundle("one")}
    controller.shell(2, f"cd /root && {PROGRAM} keys generate eve && {PROGRAM} keys add eve.pub")
    assert changes(controller.play("site", "--check", **site)) == [0, 1]
    assert len(controller.on(2, "keys", "list")["keys"]) == 2
    assert changes(controller.play("site", **site)) == [0, 1]
    assert len(controller.on(2, "keys", "list")["keys"]) == 1


def test_another_policy_than_the_one_asked_for_is_replaced(controller: Controller) -> None:
    controller.sign("two")
    assert changes(controller.play("site", aegisbpf_policy=controller.bundle("two"))) == [2, 2]
    for number in range(1, HOSTS + 1):
        assert controller.on(number, "status")["policy"]["digest"] == controller.digests["two"]


def test_no_host_waits_for_a_slower_one(controller: Controller) -> None:
    """The first host does not answer before the second has got its key."""
    server = socket.create_server((str(controller.fleet.network[1]), 0))
    server.settimeout(PATIENCE)
    report = f"exec 3<>/dev/tcp/{controller.fleet.network[1]}/{server.getsockname()[1]}"
    slow = f"{report}; read -rt {PATIENCE} word <&3 && [ $word = go ] || exit 1"
    fast = f"[ $2 = keys ] && [ $3 = trust ] && {{ {report}; }}"
    for number, first in ((1, slow), (2, fast)):
        wrap = f'#!/bin/bash\\n{first}\\nexec {PROGRAM}.real "$@"\\n'.replace("%", "%%")
        controller.shell(number, f"cd /opt/aegisbpf/current/bin && mv aegisbpf aegisbpf.real && "
              f"printf '{wrap}' > aegisbpf && chmod 755 aegisbpf")  # fmt: skip

    def answer() -> None:
        held: list[socket.socket] = []
        done = False
        with suppress(OSError):  # closed
            while True:
                client, (address, _port) = server.accept()
                done = done or address == controller.fleet.address(2)
                held.append(client)
                while done and held:
                    with held.pop() as waiting:
                        waiting.sendall(b"go\n")

    Thread(target=answer, daemon=True).start()
    controller.play("site", aegisbpf_threshold=1, aegisbpf_group="web", aegisbpf_policy="")
    server.close()
