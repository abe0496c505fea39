from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from aegis_tools.errors import StateError, TrustError
from aegis_tools.policy import trust
from aegis_tools.policy.bundle import MAX_SERIAL, Bundle
from aegis_tools.policy.trust import Seen, TrustConfig, TrustState, check, recheck

NOW = 1_700_000_000
A, B = "a" * 64, "b" * 64
STATE = TrustState({"default": Seen(5, A), "web": Seen(90, B)})


def bundle(
    serial: int = 6,
    digest: str = B,
    *,
    created: int = NOW,
    not_before: int = NOW,
    expires: int | None = NOW + 10 * 86400,
    group: str = "default",
) -> Bundle:
    return Bundle(serial, created, not_before, expires, group, "p.conf", "", digest)


def decide(given: Bundle, state: TrustState = STATE, now: int = NOW) -> TrustState:
    return check(given, now=now, group="default", state=state)


def test_a_higher_serial_is_accepted_and_remembered_for_its_group_only() -> None:
    new = decide(bundle(6))
    assert new.groups == {"default": Seen(6, B), "web": Seen(90, B)}
    assert STATE.groups["default"] == Seen(5, A)


def test_the_first_bundle_of_a_host_is_accepted_whatever_its_serial() -> None:
    assert decide(bundle(1), TrustState()).groups == {"default": Seen(1, B)}


def test_the_same_bundle_is_accepted_again_because_hosts_restart() -> None:
    once = decide(bundle(6))
    assert decide(bundle(6), once) == once


def test_an_older_bundle_is_refused() -> None:
    with pytest.raises(trust.SerialTooLowError) as caught:
        decide(bundle(4))
    assert caught.value.data == {"serial": 4, "accepted_serial": 5}
    assert "6" in caught.value.hint


def test_another_bundle_with_the_same_serial_is_refused() -> None:
    with pytest.raises(trust.SerialReusedError):
        decide(bundle(5, B))


def test_a_bundle_for_another_group_is_refused() -> None:
    with pytest.raises(trust.WrongGroupError):
        decide(bundle(group="web"))


def test_validity_begins_at_not_before_and_ends_at_expires() -> None:
    limited = bundle(not_before=NOW, expires=NOW + 10)
    with pytest.raises(trust.NotYetValidError):
        decide(limited, now=NOW - 1)
    decide(limited, now=NOW)
    decide(limited, now=NOW + 9)
    with pytest.raises(trust.ExpiredError):
        decide(limited, now=NOW + 10)
    decide(bundle(expires=None), now=2**40)


def test_every_refusal_has_its_own_code_one_exit_code_and_a_next_step() -> None:
    classes = [
        trust.NotYetValidError,
        trust.ExpiredError,
        trust.WrongGroupError,
        trust.SerialTooLowError,
        trust.SerialReusedError,
    ]
    assert len({c.code for c in classes}) == len(classes)
    cases = [
        bundle(4),
        bundle(5, B),
        bundle(group="web"),
        bundle(not_before=NOW + 1),
        bundle(expires=NOW),
    ]
    for case in cases:
        with pytest.raises(TrustError) as caught:
            decide(case)
        assert caught.value.exit_code == 4
        assert caught.value.hint


@given(
    serials=st.lists(st.tuples(st.integers(1, 6), st.sampled_from([A, B])), min_size=1, max_size=30)
)
def test_whatever_arrives_the_serial_never_falls_and_never_has_two_digests(
    serials: list[tuple[int, str]],
) -> None:
    state = TrustState()
    seen: dict[int, str] = {}
    highest = 0
    for serial, digest in serials:
        try:
            state = decide(bundle(serial, digest), state)
        except TrustError:
            continue
        assert serial >= highest
        assert seen.setdefault(serial, digest) == digest
        highest = serial
        assert state.groups["default"] == Seen(serial, digest)


def test_a_leap_of_the_serial_is_legal_but_told() -> None:
    assert trust.warnings(bundle(6), now=NOW, state=STATE) == []
    for clock in (NOW, NOW + 86400):  # serials made of the time
        assert trust.warnings(bundle(clock * 1000), now=NOW, state=STATE) == []
    beyond = bundle((NOW + 86401) * 1000)
    assert "leaps" in trust.warnings(beyond, now=NOW, state=STATE)[0]
    assert trust.warnings(beyond, now=NOW + 1, state=STATE) == []
    for serial, told in ((2**32 + 4, False), (2**32 + 5, True)):
        found = trust.warnings(bundle(serial, created=0), now=5, state=STATE)
        assert any("leaps" in text for text in found) is told
    last = bundle(MAX_SERIAL)
    assert "no other bundle" in trust.warnings(last, now=NOW, state=STATE)[0]
    assert decide(last).groups["default"].serial == MAX_SERIAL
    assert decide(last, decide(last)) == decide(last)


def test_an_end_that_is_near_or_missing_and_a_future_birth_are_told() -> None:
    assert "never expires" in trust.warnings(bundle(expires=None), now=NOW, state=STATE)[0]
    assert trust.warnings(bundle(expires=NOW + 7 * 86400), now=NOW, state=STATE) == []
    assert "expires in 1 h" in trust.warnings(bundle(expires=NOW + 3600), now=NOW, state=STATE)[0]
    assert trust.warnings(bundle(created=NOW + 300), now=NOW, state=STATE) == []
    assert "future" in trust.warnings(bundle(created=NOW + 301), now=NOW, state=STATE)[0]


def test_a_boot_takes_the_accepted_bundle_whatever_the_clock_says() -> None:
    accepted = bundle(5, A, not_before=NOW, expires=NOW + 1)
    recheck(accepted, group="default", state=STATE)


def test_a_stored_bundle_outside_its_time_is_told_of() -> None:
    limited = bundle(5, A, not_before=NOW, expires=NOW + 100)
    assert trust.outside_validity(limited, now=NOW) == ""
    assert trust.outside_validity(limited, now=NOW + 99) == ""
    assert "expired 0 s ago" in trust.outside_validity(limited, now=NOW + 100)
    assert "expired 3 d ago" in trust.outside_validity(limited, now=NOW + 100 + 3 * 86400)
    assert "only in 2 h" in trust.outside_validity(limited, now=NOW - 7200)
    assert trust.outside_validity(bundle(5, A, expires=None), now=2**40) == ""


@pytest.mark.parametrize(
    ("config", "keys", "state", "reason"),
    [
        (TrustConfig(), 0, TrustState(), ""),
        (TrustConfig(group="web"), 0, TrustState(), ""),
        (TrustConfig(), 1, TrustState(), "trusts signing keys"),
        (TrustConfig(), 0, STATE, "accepted signed policies"),
        (TrustConfig(threshold=2), 0, TrustState(), "2 signatures"),
        (TrustConfig(require_signature=True), 0, TrustState(), "require signatures"),
    ],
)
def test_an_unsigned_policy_is_for_hosts_that_never_had_to_do_with_signatures(
    config: TrustConfig, keys: int, state: TrustState, reason: str
) -> None:
    found = trust.why_signed_only(config, keys=keys, state=state)
    assert reason in found
    assert bool(found) == bool(reason)


def test_a_rollback_takes_a_bundle_that_is_older_than_the_highest() -> None:
    recheck(bundle(4, B), group="default", state=STATE)


def test_a_stored_bundle_that_was_never_accepted_is_refused() -> None:
    with pytest.raises(trust.SerialTooLowError, match="never accepted"):
        recheck(bundle(6), group="default", state=STATE)
    with pytest.raises(trust.SerialTooLowError, match="never accepted"):
        recheck(bundle(1), group="default", state=TrustState())
    with pytest.raises(trust.SerialReusedError):
        recheck(bundle(5, B), group="default", state=STATE)
    with pytest.raises(trust.WrongGroupError):
        recheck(bundle(5, A, group="web"), group="default", state=STATE)


def test_the_state_survives_being_written_and_read() -> None:
    state = TrustState({"default": Seen(MAX_SERIAL, A), "web": Seen(1, B)})
    assert TrustState.from_bytes(state.to_bytes()) == state


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"{",
        b"[]",
        b"null",
        b"{}",
        b'{"format":2,"groups":{}}',
        b'{"format":1,"groups":[]}',
        b'{"format":1,"groups":{},"more":1}',
        b'{"format":1,"groups":{"default":5}}',
        b'{"format":1,"groups":{"default":{"serial":0,"digest":"' + b"a" * 64 + b'"}}}',
        b'{"format":1,"groups":{"default":{"serial":"5","digest":"' + b"a" * 64 + b'"}}}',
        b'{"format":1,"groups":{"default":{"serial":5,"digest":"A"}}}',
        b'{"format":1,"groups":{"default":{"serial":5}}}',
        STATE.to_bytes()[:-5],
        bytes(100),
    ],
)
def test_a_damaged_state_is_never_taken_for_an_empty_one(data: bytes) -> None:
    with pytest.raises(StateError) as caught:
        TrustState.from_bytes(data)
    assert "reset-serials" in caught.value.hint


@given(st.binary(max_size=80))
def test_random_bytes_are_no_state_and_no_settings(data: bytes) -> None:
    for parse in (TrustState.from_bytes, TrustConfig.from_bytes):
        with pytest.raises(StateError):
            parse(data)


def test_settings_have_defaults_and_read_back() -> None:
    assert TrustConfig.from_bytes(b"{}") == TrustConfig(1, "default", False)
    config = TrustConfig(2, "web", True)
    assert TrustConfig.from_bytes(config.to_bytes()) == config


@pytest.mark.parametrize(
    "data",
    [
        b'{"threshold":0}',
        b'{"threshold":33}',
        b'{"threshold":true}',
        b'{"threshold":"1"}',
        b'{"group":5}',
        b'{"group":"a b"}',
        b'{"group":"\\u001b[2J"}',
        b'{"require_signature":1}',
        b'{"require_signatures":true}',
        b'{"threshold":1,"threshold":2}',
        b"[1]",
        b"[]",
        b'"text"',
    ],
)
def test_settings_that_are_not_understood_are_refused(data: bytes) -> None:
    with pytest.raises(StateError) as caught:
        TrustConfig.from_bytes(data)
    assert "threshold" in caught.value.hint
