"""Keys and versions of light hosts are exchanged; whatever ends the controller in between."""

from __future__ import annotations

import base64
import hashlib
import json
import os
import re
import signal
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from fleet_support import BIN, REPOSITORY, Controller
from fleetsim.fleet import Fleet

HOSTS = 3
NUMBERS = range(1, HOSTS + 1)
REAL = BIN / "aegisbpf"
BROKEN = """#!/bin/sh
case "$*" in *--replace*)
    echo '{"error": "kernel", "message": "the kernel did not accept the BPF programs"}'; exit 6
esac
exec %s "$@"
"""


class Changes(Controller):
    """A controller whose keys and versions change."""

    def keyids(self) -> list[set[str]]:
        return [set(self.on(n, "status")["trust"]["keyids"]) for n in NUMBERS]

    def digests_live(self) -> set[str]:
        return {self.on(n, "status")["policy"]["digest"] for n in NUMBERS}

    def keys(self, *names: str) -> dict[str, Any]:
        """Return the variables of a fleet whose keys are these, two of which must sign."""
        return {
            "aegisbpf_trusted_keys": [str(self.folder / f"{name}.pub") for name in names],
            "aegisbpf_sign_key_files": [str(self.folder / f"{name}.key") for name in names],
            "aegisbpf_threshold": 2,
            "aegisbpf_policy_source": str(self.folder / "live.yaml"),
            "aegisbpf_policy": str(self.folder / "live.bundle"),
            "aegisbpf_waves": [1, "100%"],
        }

    def keyid(self, name: str) -> str:
        text = (self.folder / f"{name}.pub").read_text()
        return hashlib.sha256(base64.b64decode(text.split()[1])).hexdigest()

    def trusted_besides_bob(self) -> tuple[str, str]:
        """Return the name of the key that hosts trust besides bob's, and of the one they do not."""
        names = sorted(("ann", "eve"), key=lambda name: self.keyid(name) not in self.keyids()[0])
        return names[0], names[1]

    def play_until(self, playbook: str, line: str, variables: dict[str, Any]) -> None:
        """Run a playbook and kill all of it where it announces something."""
        path = self.folder / "killed.json"
        path.write_text(json.dumps(variables | {"aegisbpf_service_managed": False}))
        process = subprocess.Popen(
            [BIN / "ansible-playbook", "-i", self.inventory, f"playbooks/{playbook}.yml",
             "-e", f"@{path}"],
            cwd=REPOSITORY,
            env={**os.environ, "ANSIBLE_CONFIG": "ansible.cfg", "ANSIBLE_HOME": str(self.folder),
                 "PATH": f"{BIN}:{os.environ['PATH']}", "PYTHONUNBUFFERED": "1"},
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            text=True,
            start_new_session=True,
        )  # fmt: skip
        assert process.stdout
        told = ""
        with process.stdout as output:
            for text in output:
                told += text
                if line in text:
                    os.killpg(process.pid, signal.SIGKILL)
                    break
            else:
                pytest.fail(told)
        process.wait()


@pytest.fixture(scope="module")
def controller(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Changes]:
    with Fleet(HOSTS) as fleet:
        found = Changes(fleet, tmp_path_factory.mktemp("changes"))
        for name in ("ann", "bob", "eve"):
            found._aegisbpf("keys", "generate", str(found.folder / name))
        source = found.folder / "live.yaml"
        source.write_text("version: 1\nrules:\n  - {id: one, path: /srv/one}\n")
        sign = [f"--key={found.folder / name}.key" for name in ("ann", "bob")]
        found._aegisbpf("policy", "sign", str(source), *sign,
                        f"--output={found.folder / 'live.bundle'}")  # fmt: skip
        for number in NUMBERS:
            found.on(number, "load")
        found.play("site", **found.keys("ann", "bob"))
        yield found


def accepts(found: dict[str, Any]) -> bool:
    """Return whether a host would take its current policy again, and any new one."""
    keys = {key["keyid"] for key in found["keys"]}
    enough = len(set(found["signers"]) & keys) >= found["threshold"]
    return enough and len(keys) >= found["threshold"] == 2


def test_a_key_is_exchanged_whatever_ends_the_controller_in_between(controller: Changes) -> None:
    ann, bob, eve = map(controller.keyid, ("ann", "bob", "eve"))
    new = controller.keys("bob", "eve")
    told = controller.play("rotate_keys", **controller.keys("ann", "bob"))
    assert told.count("changed=0") == HOSTS
    for line in (
        "Sign | Make the bundle",
        "PLAY [Prove the new]",
        "Confirm | Over a new one",
        "PLAY [Trust only the new]",
    ):
        controller.play_until("rotate_keys", line, new)
        for number in NUMBERS:
            controller.on(number, "policy", "revert")  # what the host does when the time is over
            found = controller.on(number, "keys", "list")
            assert accepts(found), (line, number, found)
            assert ann in {key["keyid"] for key in found["keys"]}, (line, number)
    controller.play("rotate_keys", **new)
    assert controller.keyids() == [{bob, eve}] * HOSTS
    assert len(controller.digests_live()) == 1
    for number in NUMBERS:
        assert accepts(controller.on(number, "keys", "list"))
    assert controller.play("rotate_keys", **new).count("changed=0") == HOSTS


def test_no_host_loses_the_old_key_while_one_is_away(
    controller: Changes, monkeypatch: pytest.MonkeyPatch
) -> None:
    # A kept connection would be given up after a minute only.
    monkeypatch.setenv("ANSIBLE_SSH_ARGS", "-o ControlMaster=no")
    old, other = controller.trusted_besides_bob()
    new = controller.keys("bob", other)
    controller.play_until("rotate_keys", "PLAY [Prove the new]", new)
    subprocess.run(["ip", "link", "set", controller.fleet.link(HOSTS), "down"], check=True)
    try:
        controller.play("rotate_keys", status=4, **new)
    finally:
        subprocess.run(["ip", "link", "set", controller.fleet.link(HOSTS), "up"], check=True)
    assert all(controller.keyid(old) in found for found in controller.keyids())
    controller.play("rotate_keys", **new)
    assert controller.keyids() == [{controller.keyid("bob"), controller.keyid(other)}] * HOSTS


def test_a_source_with_other_rules_is_no_rotation(controller: Changes) -> None:
    live, ids = controller.digests_live(), controller.keyids()
    source = controller.folder / "live.yaml"
    text = source.read_text()
    source.write_text(text.replace("one", "two"))
    keys = controller.keys("bob", controller.trusted_besides_bob()[0])
    told = controller.play("rotate_keys", status=2, **keys)
    source.write_text(text)
    assert "other rules than the bundle" in told
    assert (controller.digests_live(), controller.keyids()) == (live, ids)


def test_a_file_is_blocked_everywhere_and_again_let_go(controller: Changes) -> None:
    block = {"aegisbpf_block_paths": ["/srv/miner"], "aegisbpf_policy": ""}
    for state, expected in (("present", True), ("absent", False)):
        told = controller.play("block", **block, aegisbpf_block_state=state)
        assert told.count("changed=2") == HOSTS, "denied, confirmed"
        for number in NUMBERS:
            listed = {row["target"] for row in controller.on(number, "block", "list")["rules"]}
            assert ("/srv/miner" in listed) is expected
            assert controller.on(number, "status")["pending"] is None
        again = controller.play("block", **block, aegisbpf_block_state=state)
        assert again.count("changed=0") == HOSTS


def archive(controller: Changes, name: str, programs: dict[int, str]) -> dict[str, Any]:
    """Lay another version beside the one there is; return the variables of its upgrade."""
    digest = name * 64
    path = controller.folder / f"{name}.tar"
    path.write_bytes(b"")
    Path(f"{path}.sha256").write_text(f"{digest}  {path.name}\n")
    for number, program in programs.items():
        folder = f"/opt/aegisbpf/versions/{digest[:16]}"
        controller.shell(number, f"mkdir -p {folder}/bin; printf %s {digest} > {folder}/.complete\n"
                         f"cat > {folder}/bin/aegisbpf <<'END'\n{program}\nEND\n"
                         f"chmod 755 {folder}/bin/aegisbpf\n"
                         f"ln -sfn {'0' * 64} /sys/fs/bpf/aegis/object")  # fmt: skip
    return {"aegisbpf_wheelhouse": str(path), "aegisbpf_waves": [1, "100%"]}


def versions(controller: Changes) -> list[str]:
    """Return which version each host uses, and whether its object is still the old one."""
    ask = "readlink /opt/aegisbpf/current /sys/fs/bpf/aegis/object"
    found = (controller.shell(n, ask).split() for n in NUMBERS)
    return [current[-1] + ("" if set(name) - {"0"} else "!") for current, name in found]


def fates(told: str) -> set[str]:
    """Return what a playbook says became of the hosts of its last wave."""
    return set(re.findall(r"\(([^()]*\b(?:version|changed)\b[^()]*)\)", told))


def test_an_upgrade_ends_at_a_host_that_fails_and_goes_on_where_it_stopped(
    controller: Changes,
) -> None:
    good, bad = f'#!/bin/sh\nexec {REAL} "$@"', BROKEN % REAL
    live = controller.digests_live()
    new = archive(controller, "a", {1: good, 2: bad, 3: good})
    assert versions(controller) == ["0!"] * HOSTS
    told = controller.play("upgrade", status=2, **new)
    assert "did not accept the BPF programs" in told
    assert versions(controller) == ["a", "0", "0"], "back, and its own object again"
    assert fates(told) == {"back to the version before"}
    controller.on(2, "block", "add", "/srv/waits", "--confirm-within", "10m")
    told = controller.play("upgrade", status=2, **new)
    assert "h002 is in no state to be upgraded: a change waits" in told
    assert fates(told) == {"nothing was changed"}
    controller.on(2, "policy", "revert")
    archive(controller, "a", {2: good})
    controller.play("upgrade", **new)
    assert versions(controller) == ["a"] * HOSTS
    assert controller.digests_live() == live
    assert controller.play("upgrade", **new).count("changed=0") == HOSTS
