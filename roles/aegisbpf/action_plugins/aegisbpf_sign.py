# SPDX-License-Identifier: Apache-2.0
"""Sign a policy on the controller. No host is asked, and no key leaves this process."""

from __future__ import annotations

import hmac
import subprocess
import time
from pathlib import Path

from ansible.errors import AnsibleError
from ansible.parsing.vault import is_encrypted_file
from ansible.plugins.action import ActionBase

ARGUMENTS = {
    "src": {"type": "path", "required": True},
    "dest": {"type": "path", "required": True},
    "key_files": {"type": "list", "elements": "path", "default": []},
    "keys": {"type": "list", "elements": "str", "default": [], "no_log": True},
    "commands": {"type": "list", "elements": "dict", "default": []},
    "serial": {"type": "int"},
    "expires": {"type": "str", "default": "90d"},
    "renew_within": {"type": "str", "default": "30d"},
    "group": {"type": "str", "default": "default"},
}


class ActionModule(ActionBase):
    """Runs on the controller, once, whatever host the task is for."""

    _requires_connection = False

    def run(self, tmp=None, task_vars=None):
        """Sign, unless ``dest`` is a bundle of the same policy by the same keys already."""
        result = super().run(tmp, task_vars)
        try:
            from aegis_tools.errors import AegisError
        except ImportError:
            return {**result, "failed": True, "msg": "aegis_tools is not installed for the "
                    "controller's Python: start Ansible from its environment"}  # fmt: skip
        try:
            _, arguments = self.validate_argument_spec(ARGUMENTS)
            return {**result, **self._sign(arguments)}
        except (AegisError, AnsibleError, OSError, UnicodeDecodeError) as error:
            hint = getattr(error, "hint", "")
            return {**result, "failed": True, "msg": f"{error}{hint and '; next: ' + hint}"}

    def _sign(self, arguments):
        from aegis_tools.cli.duration import parse_duration
        from aegis_tools.policy.bundle import make_bundle, read_bundle
        from aegis_tools.policy.load import require_policy

        source = Path(self._find_needle("files", arguments["src"]))
        text = source.read_text(encoding="utf-8")
        require_policy(text.encode(), source.name)
        signers, dest, now = self._signers(arguments), Path(arguments["dest"]), time.time_ns()
        known = existing(dest, signers)
        renew = now // 10**9 + parse_duration(arguments["renew_within"])
        if known and (known.policy, known.policy_name, known.group) == (
            text, source.name, arguments["group"]
        ) and (known.expires is None or known.expires > renew):  # fmt: skip
            return {"changed": False, **claims(known, dest)}
        expires = arguments["expires"]
        envelope = make_bundle(
            text,
            policy_name=source.name,
            serial=arguments["serial"] or now // 10**6,
            created=now // 10**9,
            expires=None if expires == "never" else now // 10**9 + parse_duration(expires),
            group=arguments["group"],
            keys=signers,
        )
        if not self._task.check_mode:
            from aegis_tools.control.files import write_atomic

            write_atomic(dest, envelope.to_bytes(), what="bundle", mode=0o644)
        return {"changed": True, **claims(read_bundle(envelope), dest)}

    def _signers(self, arguments):
        """Return who signs: key files (vault-encrypted ones, too), key texts, and commands."""
        from aegis_tools.control.keystore import load_private_key
        from aegis_tools.policy.keys import PrivateKey, PublicKey
        from aegis_tools.policy.signers import CommandSigner

        found = []
        for path in arguments["key_files"]:
            name = self._find_needle("files", path)
            with Path(name).open("rb") as file:
                encrypted = is_encrypted_file(file)
            if encrypted:
                found.append(
                    PrivateKey.from_text(self._loader.get_text_file_contents(name).encode())
                )
            else:
                found.append(load_private_key(Path(name)))
        found += [PrivateKey.from_text(text.encode()) for text in arguments["keys"]]
        for command in arguments["commands"]:
            public = PublicKey.from_text(command["public_key"].strip().encode() + b"\n")
            found.append(CommandSigner(public, tuple(command["argv"]), ask))
        if not found:
            raise AnsibleError("nobody signs: give key_files, keys or commands")
        return found


def ask(argv, message):
    """Run a signing command; what it writes to standard error is a person's to read."""
    done = subprocess.run(argv, input=message, stdout=subprocess.PIPE, timeout=120, check=False)
    if done.returncode:
        raise AnsibleError(f"{argv[0]} ended with status {done.returncode}")
    return done.stdout


def existing(dest, signers):
    """Return the bundle that ``dest`` holds, if exactly these keys signed it."""
    from aegis_tools.errors import TrustError
    from aegis_tools.policy.bundle import open_bundle

    try:
        data = dest.read_bytes()
        bundle, ids = open_bundle(data, [signer.public for signer in signers], len(signers))
    except (OSError, TrustError):
        return None
    wanted = sorted(signer.public.keyid for signer in signers)
    return bundle if hmac.compare_digest("".join(wanted), "".join(ids)) else None


def claims(bundle, dest):
    """Return what the task says of a bundle."""
    return {"bundle": str(dest), "digest": bundle.digest, "serial": bundle.serial,
            "expires": bundle.expires, "group": bundle.group}  # fmt: skip
