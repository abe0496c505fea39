"""Signing on the controller, by a real ansible-playbook: no host, no key in any output."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml

from aegis_tools.policy.bundle import open_bundle
from aegis_tools.policy.keys import PrivateKey, PublicKey

REPOSITORY = Path(__file__).resolve().parents[2]
BIN = Path(sys.executable).parent
POLICY = "version: 1\nrules:\n  - path: /srv/secret\n"
PLAY = [
    {
        "hosts": "localhost",
        "connection": "local",
        "gather_facts": False,
        "tasks": [
            {"ansible.builtin.import_role": {"name": "aegisbpf", "tasks_from": "sign"}},
            {
                "ansible.builtin.copy": {
                    "dest": "{{ result }}",
                    "content": "{{ __aegisbpf_signed | to_json }}",
                    "mode": "0600",
                }
            },
        ],
    }
]


class Controller:
    """A folder with a policy, keys and a playbook."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.keys = [PrivateKey.generate(name) for name in ("ann", "bob")]
        for key in self.keys:
            (folder / f"{key.comment}.key").touch(0o600)
            (folder / f"{key.comment}.key").write_text(key.to_text())
        self.policy, self.bundle = folder / "policy.yaml", folder / "policy.bundle"
        self.policy.write_text(POLICY)
        (folder / "play.yml").write_text(yaml.safe_dump(PLAY))

    def sign(self, *options: str, status: int = 0, **variables: Any) -> dict[str, Any]:
        """Run the playbook and return what the task registered."""
        given = {
            "aegisbpf_policy_source": str(self.policy),
            "aegisbpf_policy": str(self.bundle),
            "result": str(self.folder / "result"),
            **variables,
        }
        (self.folder / "vars.yml").write_text(json.dumps(given))
        (self.folder / "result").unlink(missing_ok=True)
        done = subprocess.run(
            [BIN / "ansible-playbook", "-vvv", "-i", "localhost,", self.folder / "play.yml",
             "-e", f"@{self.folder / 'vars.yml'}",
             "-e", f"ansible_python_interpreter={sys.executable}",
             *options],
            cwd=REPOSITORY,
            env={**os.environ, "ANSIBLE_CONFIG": "ansible.cfg", "ANSIBLE_HOME": str(self.folder),
                 "PATH": f"{BIN}:{os.environ['PATH']}"},
            capture_output=True,
            text=True,
            check=False,
        )  # fmt: skip
        told = done.stdout + done.stderr
        assert done.returncode == status, told
        for key in self.keys:
            assert key.to_text().split("\n")[1] not in told, "a key in the output"
        if status:
            return {"told": told}
        result = self.folder / "result"
        return dict(json.loads(result.read_text())) if result.exists() else {"told": told}

    def signers(self) -> tuple[str, ...]:
        """Return who signed the bundle; both must be acceptable."""
        trusted = [key.public for key in self.keys]
        return open_bundle(self.bundle.read_bytes(), trusted, 1)[1]


@pytest.fixture
def controller(tmp_path: Path) -> Controller:
    return Controller(tmp_path)


def test_two_key_files_sign_and_a_second_run_changes_nothing(controller: Controller) -> None:
    files = [str(controller.folder / f"{key.comment}.key") for key in controller.keys]
    made = controller.sign(aegisbpf_sign_key_files=files)
    assert made["changed"] is True
    assert controller.signers() == tuple(sorted(key.public.keyid for key in controller.keys))
    before = controller.bundle.read_bytes()
    assert controller.sign(aegisbpf_sign_key_files=files)["changed"] is False
    assert controller.bundle.read_bytes() == before


def test_another_policy_key_or_group_is_signed_anew(controller: Controller) -> None:
    ann, bob = (str(controller.folder / f"{key.comment}.key") for key in controller.keys)
    serial = controller.sign(aegisbpf_sign_key_files=[ann])["serial"]
    controller.policy.write_text(POLICY.replace("secret", "other"))
    for variables in (
        {"aegisbpf_sign_key_files": [ann]},
        {"aegisbpf_sign_key_files": [bob]},
        {"aegisbpf_sign_key_files": [bob], "aegisbpf_group": "web"},
        {"aegisbpf_sign_key_files": [bob], "aegisbpf_group": "web",
         "aegisbpf_sign_renew_within": "91d"},
    ):  # fmt: skip
        made = controller.sign(**variables)
        assert made["changed"] is True
        assert made["serial"] > serial
        serial = made["serial"]


def test_check_mode_signs_nothing(controller: Controller) -> None:
    controller.sign("--check", aegisbpf_sign_keys=[controller.keys[0].to_text()])
    assert not controller.bundle.exists()


def test_a_key_in_a_variable_signs_and_is_never_printed(controller: Controller) -> None:
    controller.sign(aegisbpf_sign_keys=[controller.keys[0].to_text()])
    assert controller.signers() == (controller.keys[0].public.keyid,)


def test_a_key_file_that_ansible_vault_encrypted_signs(controller: Controller) -> None:
    file, password = controller.folder / "ann.key", controller.folder / "password"
    password.write_text("correct horse\n")
    encrypt = [BIN / "ansible-vault", "encrypt", "--vault-password-file", password, file]
    subprocess.run(encrypt, check=True, capture_output=True)
    assert file.read_text().startswith("$ANSIBLE_VAULT")
    controller.sign(f"--vault-password-file={password}", aegisbpf_sign_key_files=[str(file)])
    assert controller.signers() == (controller.keys[0].public.keyid,)


def test_a_command_signs_as_a_kms_does(controller: Controller) -> None:
    program = controller.folder / "kms"
    program.write_text(
        f"#!{sys.executable}\nimport sys, base64\n"
        "from aegis_tools.policy.keys import PrivateKey\n"
        f"key = PrivateKey.from_text(open('{controller.folder}/ann.key', 'rb').read())\n"
        "print(base64.b64encode(key.sign(sys.stdin.buffer.read())).decode())\n"
    )
    program.chmod(0o700)
    public = controller.keys[0].public.to_text()
    command = {"argv": [str(program)], "public_key": public}
    controller.sign(aegisbpf_sign_commands=[command])
    assert controller.signers() == (controller.keys[0].public.keyid,)
    other = PublicKey.from_text(controller.keys[1].public.to_text().encode()).to_text()
    command["public_key"] = other
    controller.bundle.unlink()
    refused = controller.sign(aegisbpf_sign_commands=[command], status=2)
    assert "no valid signature" in refused["told"]
    assert not controller.bundle.exists()


def test_nobody_to_sign_and_a_broken_policy_are_clear_errors(controller: Controller) -> None:
    assert "nobody signs" in controller.sign(status=2)["told"]
    controller.policy.write_text("version: 1\nrules: 7\n")
    broken = controller.sign(aegisbpf_sign_keys=[controller.keys[0].to_text()], status=2)
    assert "rules" in broken["told"]
    assert not controller.bundle.exists()
