"""``aegisbpf policy sign``, ``cosign`` and ``verify``."""

from __future__ import annotations

import argparse
import time
from datetime import datetime, timezone
from pathlib import Path
from typing import TYPE_CHECKING

from aegis_tools.cli.duration import parse_duration
from aegis_tools.cli.output import App
from aegis_tools.control import files
from aegis_tools.control.keystore import KeyStore, load_private_key
from aegis_tools.control.outputs import write_output
from aegis_tools.control.source import is_bundle, read_source
from aegis_tools.control.store import Store
from aegis_tools.errors import PolicyError, TrustError, UsageError
from aegis_tools.policy.load import require_policy

if TYPE_CHECKING:
    from aegis_tools.policy.bundle import Bundle
    from aegis_tools.policy.dsse import Envelope


def sign(app: App, arguments: argparse.Namespace) -> int:
    """Sign a policy."""
    from aegis_tools.policy.bundle import make_bundle

    data = files.read_policy_file(arguments.file)
    if is_bundle(data):
        raise PolicyError(
            "this is a bundle already",
            hint="add a signature: aegisbpf policy cosign",
        )
    require_policy(data, arguments.file.name)
    moment = time.time_ns()
    now = moment // 10**9
    envelope = make_bundle(
        data.decode(),
        policy_name=arguments.file.name,
        serial=moment // 10**6 if arguments.serial is None else arguments.serial,
        created=now,
        expires=_expires(arguments.expires, now),
        group=arguments.group,
        keys=[load_private_key(path) for path in arguments.keys],
    )
    return _write(app, arguments, envelope)


def cosign(app: App, arguments: argparse.Namespace) -> int:
    """Add signatures."""
    from aegis_tools.policy import dsse

    envelope = dsse.Envelope.from_bytes(files.read_policy_file(arguments.file))
    keys = [load_private_key(path) for path in arguments.keys]
    return _write(app, arguments, dsse.cosign(envelope, keys))


def _write(app: App, arguments: argparse.Namespace, envelope: Envelope) -> int:
    from aegis_tools.policy.bundle import read_bundle

    output: Path = arguments.output
    _check_replaces_bundle(output)
    inputs = [arguments.file, *arguments.keys]
    write_output(output, envelope.to_bytes(), what="bundle", inputs=inputs)
    claims = _claims(read_bundle(envelope))
    signers = [signature.keyid for signature in envelope.signatures]
    app.show({"output": str(output), **claims, "signatures": signers}, _text(claims, signers))
    return 0


def _check_replaces_bundle(output: Path) -> None:
    """A slip of the shell's history must not cost a key or a policy: only bundles are replaced."""
    from aegis_tools.policy.dsse import MAX_ENVELOPE

    if not output.is_file():
        return
    with output.open("rb") as file:
        if not is_bundle(file.read(MAX_ENVELOPE)):
            raise UsageError(
                f"{output} exists and is no bundle: it is not overwritten",
                hint="choose another --output, or remove it first",
            )


def _expires(text: str, now: int) -> int | None:
    if text == "never":
        return None
    if text[:4].isdecimal() and "-" in text:
        from aegis_tools.policy.fields import expiry

        try:
            when = expiry(text)
        except ValueError as error:
            raise PolicyError(f"--expires: {error}", hint="such as 90d or 2027-01-31") from None
    else:
        when = now + parse_duration(text)
    if when <= now:
        raise PolicyError(
            f"--expires {text}: it would be expired at once", hint="such as 90d or 2027-01-31"
        )
    return when


def _claims(bundle: Bundle) -> dict[str, object]:
    return {
        "digest": bundle.digest,
        "policy_name": bundle.policy_name,
        "serial": bundle.serial,
        "group": bundle.group,
        "created": _moment(bundle.created),
        "not_before": _moment(bundle.not_before),
        "expires": "never" if bundle.expires is None else _moment(bundle.expires),
    }


def _moment(seconds: int) -> str:
    try:
        return datetime.fromtimestamp(seconds, timezone.utc).isoformat().replace("+00:00", "Z")
    except (ValueError, OverflowError, OSError):
        return str(seconds)


def _text(claims: dict[str, object], signers: list[str]) -> str:
    lines = [f"{name + ':':<13}{value}" for name, value in claims.items()]
    return "\n".join([*lines, *(f"signed by:   {keyid}" for keyid in signers)])


def verify(app: App, arguments: argparse.Namespace) -> int:
    """Say what a bundle claims and whether it would be accepted here and now."""
    from aegis_tools.policy import dsse
    from aegis_tools.policy.bundle import read_bundle

    data = files.read_policy_file(arguments.file)
    envelope = dsse.Envelope.from_bytes(data)
    claims = _claims(read_bundle(envelope))
    try:
        source = read_source(
            arguments.file, KeyStore(app.paths), Store(app.paths), now=int(time.time())
        )
    except TrustError as error:
        if not app.json:
            signers = [signature.keyid for signature in envelope.signatures]
            app.note(_text(claims, signers))
        error.data = {**error.data, **claims}
        raise
    signers = list(source.record.signers)
    app.show(
        {"accepted": True, **claims, "signers": signers},
        _text(claims, signers) + "\naccepted:    yes",
    )
    return 0
