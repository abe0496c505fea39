"""The runbook where nothing is pretended: real units, a real systemd, a real kernel. One machine.

Every command that a procedure names as the next one is run as it stands.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import pytest
from vmharness.system.machine import Machine

SECRET, NEEDED = "/srv/secret", "/srv/app.conf"
POLICY, LARGE = "/etc/aegisbpf/policy.yaml", "/etc/aegisbpf/large.yaml"
MANY = 12
UNIT = """\
[Service]
ExecStart=/bin/sh -c 'cat {needed} && exec sleep infinity'
Restart=on-failure
{more}
[Install]
WantedBy=multi-user.target
"""
UNITS = {
    # One that systemd gives up, and one that it would start again when nobody waits any more.
    "app.service": "RestartSec=100ms\nStartLimitIntervalSec=1h\nStartLimitBurst=2",
    "slow.service": "RestartSec=1h",
}
DROP_IN = "/etc/systemd/system/aegisbpf.service.d"
PATIENCE_SECONDS = 120
"""A limit, not an expectation: everything is emulated."""
WATCH = f"""
import os, time
opened = tries = 0
while os.path.exists("/run/watch"):
    tries += 1
    try:
        open("{SECRET}").close()
        opened += 1
    except PermissionError:
        pass
    time.sleep(0.03)
open("/run/watched", "w").write(f"{{tries}} {{opened}}")
"""


def until(what: str, machine: Machine, found: Callable[[], Any]) -> Any:
    """Return what is found, once it is."""
    end = time.monotonic() + PATIENCE_SECONDS
    while not (value := found()):
        assert time.monotonic() < end, f"{what}\n{machine.journal('aegisbpf.service')}"
        time.sleep(0.5)
    return value


def show(machine: Machine, unit: str, *names: str) -> list[str]:
    """Return properties of a unit, in the order of their names."""
    ask = f"systemctl show {unit} " + " ".join(f"--property={name}" for name in names)
    facts = dict(line.split("=", 1) for line in machine.run(ask).stdout.splitlines())
    return [facts[name] for name in names]


def until_state(machine: Machine, unit: str, state: str) -> None:
    until(f"{unit} is {state}", machine, lambda: show(machine, unit, "SubState") == [state])


def agent(machine: Machine) -> str:
    """Return the main process of the agent, once it has said that it is ready."""

    def ready() -> str:
        state, pid = show(machine, "aegisbpf", "ActiveState", "MainPID")
        return pid if state == "active" else ""

    return str(until("the agent is ready", machine, ready))


def refused(machine: Machine, path: str = SECRET) -> bool:
    return machine.run(f"cat {path}", check=False).status != 0


def policy(machine: Machine, path: str, **rules: str) -> None:
    lines = "".join(f"  - {{id: {rule}, path: {target}}}\n" for rule, target in rules.items())
    machine.put(path, f"version: 1\nrules:\n{lines}")


def incident(machine: Machine, *words: str) -> dict[str, Any]:
    """Run a procedure as an operator does; return its answer."""
    begun = time.monotonic()
    done = machine.run(" ".join(["aegisbpf --json incident", *words]), check=False, seconds=500)
    assert done.status == 0, done
    answer = dict(done.json())
    steps = [f"{one['action']} {one['state']} {one['seconds']:.1f}" for one in answer["steps"]]
    took = time.monotonic() - begun
    print(f"{words} in {took:.1f} s: {answer['result']}: {answer['summary']}\n{steps}")
    print(f"next: {answer['next']}, follow-ups: {answer['record']['follow_ups']}")
    return answer


def done(answer: dict[str, Any]) -> set[str]:
    return {step["action"] for step in answer["steps"] if step["state"] == "done"}


@pytest.fixture(scope="module")
def prepared(shared_machine: Machine) -> Machine:
    """Return a machine with two services, and ours installed."""
    machine = shared_machine
    machine.put(SECRET, "secret\n")
    machine.put(NEEDED, "needed\n")
    for name, more in UNITS.items():
        head, _, limits = more.partition("\n")
        machine.put(f"/etc/systemd/system/{name}", UNIT.format(needed=NEEDED, more=head)
                    + (f"[Unit]\n{limits}\n" if limits else ""))  # fmt: skip
    machine.run(f"systemctl daemon-reload && systemctl enable --now {' '.join(UNITS)}")
    policy(machine, POLICY, **{"no-secret": SECRET})
    machine.aegis("policy", "apply", POLICY)
    machine.run("aegisbpf service install --now", seconds=300)
    return machine


@pytest.fixture
def host(prepared: Machine) -> Machine:
    """Return it enforcing one rule, its agent running."""
    prepared.aegis("policy", "apply", POLICY, "--reset", "--mode", "enforce")
    assert refused(prepared)
    agent(prepared)
    return prepared


def is_well(machine: Machine) -> bool:
    return refused(machine) and bool(machine.aegis("mode")["mode"] == "enforce")


def run_all(machine: Machine) -> list[str]:
    return [show(machine, name, "ActiveState")[0] for name in UNITS]


def test_services_that_a_rule_keeps_down_are_back_the_rest_is_enforced_a_reboot_included(
    host: Machine,
) -> None:
    machine = host
    policy(machine, LARGE, **{"no-secret": SECRET, "no-app": NEEDED})
    machine.aegis("policy", "apply", LARGE)
    machine.run(f"systemctl restart {' '.join(UNITS)}", check=False)
    for name, state in zip(UNITS, ("failed", "auto-restart"), strict=True):
        until_state(machine, name, state)

    found = incident(machine, "blocking", *(f"--probe-unit {name}" for name in UNITS))
    assert found["rule"] == "no-app", found
    assert {"audit", "start-unit", "probe", "demote-rule"} <= done(found)
    assert run_all(machine) == ["active", "active"]
    assert not refused(machine), "in audit until somebody asks for more"

    [command] = found["next"]
    assert all(f"--probe-unit {name}" in command for name in UNITS)
    command = command.removeprefix("aegisbpf incident ").replace("120s", "15m")
    found = incident(machine, command)
    assert found["pending"]["action"] == "incident blocking"
    assert refused(machine)
    for command in found["next"]:
        machine.run(command, new=True)
    assert machine.aegis("mode")["unconfirmed"] is False
    assert is_well(machine)
    assert not refused(machine, NEEDED)

    machine.reboot()

    assert is_well(machine)
    assert run_all(machine) == ["active", "active"]
    assert not refused(machine, NEEDED)
    assert "demoted by hand, so only audited: no-app" in machine.journal("aegisbpf-boot.service")


def test_everything_is_stopped_and_comes_back_in_audit(host: Machine) -> None:
    machine = host
    assert refused(machine)
    found = incident(machine, "blocking --stop")
    assert {"stop-agent", "reset"} <= done(found)
    assert show(machine, "aegisbpf", "ActiveState") == ["inactive"]
    assert machine.run("find /sys/fs/bpf -mindepth 1").stdout == ""
    assert not refused(machine)
    assert "aegisbpf boot" in " ".join([*found["next"], *found["record"]["follow_ups"]])

    machine.run("aegisbpf boot", seconds=300)
    assert not refused(machine)
    state = machine.aegis("mode")
    assert (state["mode"], state["held"]) == ("audit", "")
    assert machine.aegis("policy", "show")["digest"]
    machine.run("systemctl start aegisbpf", seconds=300)
    machine.aegis("mode", "enforce")
    assert is_well(machine)


@contextmanager
def watched(machine: Machine) -> Iterator[None]:
    """Try to open what is denied, again and again, while the block runs: it never opens."""
    machine.put("/root/watch.py", WATCH)
    machine.run("touch /run/watch; python3 /root/watch.py < /dev/null > /run/watch.log 2>&1 &")
    try:
        yield
    finally:
        machine.run("rm /run/watch")
    text = until("the watch ended", machine,
                 lambda: machine.run("cat /run/watched", check=False).stdout)  # fmt: skip
    tries, opened = map(int, text.split())
    print(f"{tries} tries, {opened} opened")
    assert opened == 0 < tries


def test_maps_that_are_full_get_room_and_the_agent_goes_on_reading(host: Machine) -> None:
    machine = host
    files = {f"many-{number}": f"/srv/many/f{number}" for number in range(MANY)}
    machine.run("mkdir -p /srv/many; cd /srv/many; touch " + " ".join(
        path.rpartition("/")[2] for path in files.values()))  # fmt: skip
    policy(machine, LARGE, **{"no-secret": SECRET}, **files)
    small = (f"--max-{name}=8" for name in ("deny-inodes", "deny-paths", "rules"))
    before = agent(machine)
    machine.run(" ".join(["aegisbpf load --replace", *small]), seconds=300)
    full = machine.run(f"aegisbpf policy apply {LARGE}", check=False)
    print(full.stdout, full.stderr)
    assert full.status == 3
    assert agent(machine) == before, "it goes over to other maps by itself"

    with watched(machine):
        found = incident(machine, f"map-full --policy {LARGE}")
        assert {"enlarge", "restart-agent", "apply"} <= done(found)
        assert agent(machine) != before
        assert refused(machine, files["many-7"])

    def told() -> bool:
        lines = machine.run("aegisbpf events --since 10m --json").stdout
        return files["many-7"] in lines

    until("the refusal is told of", machine, told)
    assert incident(machine, f"map-full --policy {LARGE}")["changed"] is False
    assert is_well(machine)


@pytest.mark.parametrize(
    ("setting", "cause", "line"),
    [
        ("MemoryMax=6M\nMemorySwapMax=0", "resources", "oom-kill"),
        ("ExecStart=\nExecStart=/etc/hostname run", "configuration", "203/EXEC"),
    ],
    ids=["memory", "not-executable"],
)
def test_what_the_agent_dies_of_is_named_and_it_is_started_as_shipped(
    host: Machine, setting: str, cause: str, line: str
) -> None:
    machine = host
    machine.put(f"{DROP_IN}/override.conf", f"[Service]\n{setting}\n")
    machine.run("systemctl daemon-reload; systemctl restart --no-block aegisbpf")
    until("a loop", machine, lambda: int(show(machine, "aegisbpf", "NRestarts")[0]) >= 2)

    found = incident(machine, "crash-loop --stable-for 5s")
    print(found["cause"])
    assert (found["cause"]["cause"], found["result"]) == (cause, "recovered")
    assert any(line in shown for shown in found["cause"]["lines"]), found["cause"]
    assert (found["held"], is_well(machine)) == (False, True)
    agent(machine)

    machine.run(f"rm -r {DROP_IN}")
    [command] = found["next"]
    incident(machine, command.removeprefix("aegisbpf incident ") + " --stable-for 5s")
    assert incident(machine, "crash-loop")["changed"] is False
