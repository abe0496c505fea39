"""What a scrape takes from files: nothing that lies there makes it fail."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from aegis_tools.agent.hostfacts import Files, Hold, HostFacts, parse_agent, parse_hold
from aegis_tools.control.history import Entry, History
from aegis_tools.control.store import Record, Store
from aegis_tools.paths import Paths
from aegis_tools.policy.bundle import digest_of, make_bundle
from aegis_tools.policy.keys import PrivateKey

NONE = bytes(32)
JSON = st.recursive(
    st.none() | st.booleans() | st.floats() | st.integers() | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=8,
)


@pytest.fixture
def paths(tmp_path: Path) -> Paths:
    paths = Paths(tmp_path)
    Store(paths).prepare()
    paths.run.mkdir(parents=True)
    return paths


def put(path: Path, data: object) -> None:
    path.write_text(data if isinstance(data, str) else json.dumps(data), encoding="utf-8")
    path.chmod(0o600)


def test_a_host_without_files_has_nothing_to_tell(tmp_path: Path) -> None:
    assert Files(Paths(tmp_path / "none")).read(NONE) == HostFacts()


def test_the_age_of_the_heartbeat_is_told_by_the_boot_clock(paths: Paths) -> None:
    told = {"updated_boot_ns": 5 * 10**9, "updated": 1.5, "ready": True, "events": 7}
    put(paths.run / "agent.json", {**told, "sinks": {"stdout": {"failing": True}}})
    agent = Files(paths, lambda: 12 * 10**9).read(NONE).agent
    assert agent is not None
    assert (agent.age, agent.updated, agent.ready) == (7.0, 1.5, True)
    assert agent.numbers == {"events": 7}
    assert agent.sinks == {"stdout": {"failing": 1.0}}


@given(JSON)
def test_whatever_json_the_agent_file_holds_is_read_or_refused(value: object) -> None:
    for top in (value, {"updated_boot_ns": 1, "events": value, "sinks": value, "started": value}):
        try:
            agent = parse_agent(json.dumps(top).encode(), 10)
        except ValueError:
            continue
        assert all(isinstance(number, float) for number in agent.numbers.values())


@given(JSON)
def test_whatever_the_hold_file_holds_it_holds_the_host(value: object) -> None:
    for top in (value, {"reason": value, "since": value}):
        assert parse_hold(json.dumps(top).encode()).reason in ("crash-loop", "deny-rate", "damaged")


def test_a_hold_is_told_and_a_damaged_one_still_holds(paths: Paths) -> None:
    put(paths.state / "fallback.json", {"format": 1, "since": 9, "reason": "crash-loop"})
    assert Files(paths).read(NONE).hold == Hold("crash-loop", 9.0)
    put(paths.state / "fallback.json", "{")
    assert Files(paths).read(NONE).hold == Hold("damaged", 0.0)


def test_a_waiting_change_is_seen(paths: Paths) -> None:
    put(paths.state / "pending.json", "{}")
    assert Files(paths).read(NONE).pending


@pytest.mark.parametrize(
    ("name", "part"),
    [
        ("run/aegisbpf/agent.json", "agent"),
        ("var/lib/aegisbpf/fallback.json", "hold"),
        ("var/lib/aegisbpf/history.jsonl", "history"),
    ],
)
def test_what_cannot_be_read_is_named_and_spares_the_rest(
    paths: Paths, name: str, part: str
) -> None:
    (paths.root / name).mkdir()
    put(paths.state / "pending.json", "{}")
    facts = Files(paths).read(NONE)
    assert facts.unreadable == {part}
    assert facts.pending


def test_a_file_that_others_can_write_is_not_believed(paths: Paths) -> None:
    put(paths.run / "agent.json", {"updated_boot_ns": 1})
    (paths.run / "agent.json").chmod(0o666)
    assert Files(paths).read(NONE).unreadable == {"agent"}


def test_signers_and_expiry_are_those_of_the_live_policy_only(paths: Paths) -> None:
    key = PrivateKey.generate()
    envelope = make_bundle("version=1\n", policy_name="p.conf", serial=3, created=1_700_000_000,
                           expires=1_800_000_000, keys=[key])  # fmt: skip
    store = Store(paths)
    digest = store.add(envelope.to_bytes(), signed=True)
    store.set_current(Record(digest, "p.conf", True, 1, 3, "default", (key.public.keyid,)))
    reader = Files(paths)
    facts = reader.read(bytes.fromhex(digest))
    assert facts.expires == 1_800_000_000
    assert facts.record is not None
    assert facts.record.signers == (key.public.keyid,)
    assert reader.read(NONE) == HostFacts()
    plain = store.add(b"version=1\n", signed=False)
    assert plain == digest_of(b"version=1\n")
    other = reader.read(bytes.fromhex(plain))
    assert (other.record, other.expires) == (None, None)


def test_a_policy_that_is_gone_is_named_and_read_again_when_it_is_back(paths: Paths) -> None:
    reader = Files(paths)
    digest = bytes.fromhex(digest_of(b"version=1\n"))
    assert reader.read(digest).unreadable == {"policy"}
    Store(paths).add(b"version=1\n", signed=False)
    assert reader.read(digest).unreadable == frozenset()


def test_the_last_attempt_to_apply_is_told_with_its_result(paths: Paths) -> None:
    history, reader = History(paths.history), Files(paths)
    history.append(Entry(5, "policy apply"))
    history.append(Entry(6, "mode"))
    assert reader.read(NONE).last_apply == Entry(5, "policy apply")
    history.append(Entry(7, "policy apply", result="trust_expired"))
    found = reader.read(NONE).last_apply
    assert found is not None
    assert (found.time, found.result) == (7, "trust_expired")
