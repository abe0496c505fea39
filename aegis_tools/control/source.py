"""A policy file or bundle, read, verified and parsed: everything an apply needs to know of it."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

from aegis_tools.control import files
from aegis_tools.control.keystore import KeyStore
from aegis_tools.control.pending import known_records
from aegis_tools.control.store import Record, Store, Stored
from aegis_tools.errors import StateError, TrustError
from aegis_tools.policy.load import require_policy
from aegis_tools.policy.model import Policy, Problem

if TYPE_CHECKING:
    from aegis_tools.policy.bundle import Bundle
    from aegis_tools.policy.trust import TrustState


class UnsignedError(TrustError):
    """This host takes signed policies only."""

    code = "trust_unsigned"


@dataclass(frozen=True)
class Source:
    """A policy that may be applied here.

    Attributes:
        policy: Parsed.
        problems: Warnings of the parser and of verification.
        data: The file's bytes: an envelope if signed, else the text.
        record: How the store knows it; ``applied`` is not set yet.
        accept: The serials to remember once it is accepted; None for an unsigned policy.
        text: The policy's text.
        note: What the history must say of how it came to be accepted.
    """

    policy: Policy
    problems: tuple[Problem, ...]
    data: bytes
    record: Record
    accept: TrustState | None
    text: str
    note: str = ""


def is_bundle(data: bytes) -> bool:
    """Return whether bytes are meant as a signed bundle rather than as a policy."""
    return data[:4096].lstrip().startswith(b"{") and b'"payloadType"' in data


def read_source(
    path: Path, keystore: KeyStore, store: Store, *, now: int, allow_unsigned: bool = False
) -> Source:
    """Read, verify and parse the file at ``path``.

    Raises:
        PolicyError: The file or its policy cannot be used.
        TrustError: It is not acceptable on this host, each reason its own class.
    """
    data = files.read_policy_file(path)
    if is_bundle(data):
        return _signed(data, keystore, store, now)
    return _unsigned(data, path.name, keystore, store, allowed=allow_unsigned)


def why_signed_only(keystore: KeyStore, store: Store) -> str:
    """Return why this host takes signed policies only; nothing if it takes any.

    Raises:
        StateError: Keys, settings or accepted serials cannot be read.
    """
    from aegis_tools.policy import trust

    keys = len(keystore.trusted())
    return trust.why_signed_only(keystore.config(), keys=keys, state=store.serials())


def _unsigned(data: bytes, name: str, keystore: KeyStore, store: Store, *, allowed: bool) -> Source:
    if allowed:
        return replace(_plain(data, name), note="--allow-unsigned")
    if not (reason := why_signed_only(keystore, store)):
        return _plain(data, name)
    if keystore.trusted():
        raise UnsignedError(
            f"{reason}, so it takes signed policies only",
            hint="sign it (aegisbpf policy sign), or use --allow-unsigned, which is recorded",
        )
    raise UnsignedError(
        f"{reason}, and trusts no key now",
        hint="trust one: aegisbpf keys add KEY.pub; or use --allow-unsigned, which is recorded",
    )


def _signed(data: bytes, keystore: KeyStore, store: Store, now: int) -> Source:
    from aegis_tools.policy import bundle as bundles
    from aegis_tools.policy import trust

    config = keystore.config()
    bundle, signers = bundles.open_bundle(data, keystore.trusted(), config.threshold)
    state = store.serials()
    accept = trust.check(bundle, now=now, group=config.group, state=state)
    policy, problems = require_policy(bundle.policy.encode(), bundle.policy_name)
    notes = [Problem(0, text, False) for text in trust.warnings(bundle, now=now, state=state)]
    record = _record(bundle, signers)
    return Source(policy, (*notes, *problems), data, record, accept, bundle.policy)


def _record(bundle: Bundle, signers: tuple[str, ...]) -> Record:
    return Record(bundle.digest, bundle.policy_name, True, 0, bundle.serial, bundle.group, signers)


def _plain(data: bytes, name: str) -> Source:
    from aegis_tools.policy.bundle import digest_of

    policy, problems = require_policy(data, name)
    record = Record(digest_of(data), name, False, 0)
    return Source(policy, tuple(problems), data, record, None, data.decode())


def read_stored(
    stored: Stored,
    record: Record,
    keystore: KeyStore,
    store: Store,
    *,
    now: int,
    allow_unsigned: bool = False,
) -> Source:
    """Read a policy of this host's own store again, to roll back to it or to judge it.

    It must be acceptable by the keys and settings of now, and a signed one must have been accepted
    here before. That its time is over is only a warning: whoever goes back at night goes back to
    what worked.

    Raises:
        TrustError: It is unsigned, signed by keys that are not trusted any more, for another
            group, or was never accepted here.
        StateError: Keys, settings or accepted serials cannot be read.
        PolicyError: It cannot be parsed (by this version).
    """
    if not stored.signed:
        return _unsigned(stored.data, record.name, keystore, store, allowed=allow_unsigned)
    from aegis_tools.policy import bundle as bundles
    from aegis_tools.policy import trust

    config = keystore.config()
    bundle, signers = bundles.open_bundle(stored.data, keystore.trusted(), config.threshold)
    trust.recheck(bundle, group=config.group, state=store.serials())
    policy, problems = require_policy(bundle.policy.encode(), bundle.policy_name)
    late = trust.outside_validity(bundle, now=now)
    notes = [Problem(0, late, False)] if late else []
    found = _record(bundle, signers)
    return Source(policy, (*notes, *problems), stored.data, found, None, bundle.policy, late)


def current_signers(keystore: KeyStore, store: Store) -> tuple[str, ...] | None:
    """Return the ids of the trusted keys that signed what the next boot applies.

    Read from the stored bundle and not from its record, which knows who was trusted when it came.

    Returns:
        The ids; none where it is stored no more or damaged. None without a signed policy.

    Raises:
        StateError: Keys or the record of policies cannot be read.
    """
    current, _ = store.records()
    if current is None or not current.signed:
        return None
    from aegis_tools.policy import bundle as bundles

    try:
        return bundles.open_bundle(store.load(current.digest).data, keystore.trusted(), 1)[1]
    except (StateError, TrustError):
        return ()


def check_removal(keystore: KeyStore, store: Store, keyid: str) -> None:
    """Refuse to stop trusting a key without which the current policy would not be accepted.

    Where it is not accepted as it is, that is no reason to keep a key.

    Raises:
        StateError: It is so; or keys or records cannot be read.
    """
    signers, threshold = current_signers(keystore, store) or (), keystore.config().threshold
    left = set(signers) - {keyid}
    if len(signers) >= threshold > len(left):
        raise StateError(
            f"{len(left)} of the keys that remain have signed the current policy, and {threshold} "
            "must: the next boot would refuse it",
            hint="apply a bundle that the remaining keys have signed first, or use --force",
            data={"signers": sorted(signers), "threshold": threshold},
        )


def stored_policy(store: Store, digest: bytes) -> Policy:
    """Return the parsed policy that is stored under a digest.

    Raises:
        StateError, PolicyError, TrustError: It is not there, damaged, or not to be read.
    """
    from aegis_tools.policy import bundle as bundles
    from aegis_tools.policy import dsse
    from aegis_tools.policy.load import require_policy

    stored = store.load(digest.hex())
    if not stored.signed:
        record = next((r for r in known_records(store) if r.digest == stored.digest), None)
        return require_policy(stored.data, record.name if record else "")[0]
    bundle = bundles.read_bundle(dsse.Envelope.from_bytes(stored.data))
    return require_policy(bundle.policy.encode(), bundle.policy_name)[0]
