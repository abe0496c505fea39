"""The record of an unconfirmed change: nothing in it is believed that is not as it must be."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from aegis_tools.cli.types import within
from aegis_tools.control.bootclock import Seams
from aegis_tools.control.confirm import revert_if_overdue
from aegis_tools.control.files import printable
from aegis_tools.control.pending import (
    Pending,
    Side,
    overdue,
    parse,
    read_pending,
    remove_pending,
    write_pending,
)
from aegis_tools.control.store import Record, Store
from aegis_tools.errors import StateError, UsageError
from aegis_tools.kernel.layout import ManualRule
from aegis_tools.paths import Paths
from aegis_tools.policy.model import Mode

NUMBER = st.integers(0, 2**63 - 1)
UIDS = st.frozensets(st.integers(0, 2**64 - 1), max_size=4)
DIGEST = st.sampled_from(["", "0" * 64, "f" * 64])
MANUAL = st.builds(
    ManualRule,
    NUMBER,
    st.integers(0, 2**32 - 1),
    st.integers(0, 63),
    st.integers(0, 1),
    st.sampled_from([0, 2, 9, 15]),
    st.integers(0, 32),
    st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0"), max_size=80),
)
SIDE = st.builds(
    Side,
    DIGEST,
    st.sampled_from(Mode),
    NUMBER,
    st.lists(MANUAL, max_size=2).map(tuple),
    UIDS,
    UIDS,
)
PENDING = st.builds(
    Pending,
    st.just("policy apply"),
    NUMBER,
    st.just("boot"),
    NUMBER,
    SIDE,
    SIDE,
    st.none(),
    st.none() | st.sampled_from(Mode),
    st.booleans(),
    st.text("abc ", max_size=20),
    NUMBER,
    st.lists(st.text("ab:/", max_size=9), max_size=3).map(tuple),
)
RECORD = Record("0" * 64, "p.conf", signed=False, applied=1)
ONE = Pending("mode", 5, "boot", 10, Side("", Mode.AUDIT), Side("0" * 64, Mode.ENFORCE), RECORD)


@pytest.fixture
def paths(tmp_path: Path) -> Paths:
    found = Paths(tmp_path)
    Store(found).prepare()
    return found


@given(PENDING)
def test_it_is_read_as_it_was_written(pending: Pending) -> None:
    assert parse(pending.to_bytes()) == pending


@given(st.binary(max_size=300) | st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner),
).map(lambda value: json.dumps(value).encode()))  # fmt: skip
def test_anything_else_is_a_value_error(data: bytes) -> None:
    with pytest.raises(ValueError):  # noqa: PT011
        parse(data)


@given(st.sampled_from(sorted(json.loads(ONE.to_bytes()))), st.none() | st.integers(-9, 9)
       | st.text(max_size=4) | st.lists(st.integers(), max_size=2) | st.just({"a": 1}))  # fmt: skip
def test_a_field_of_another_kind_is_refused_or_means_the_same(field: str, value: Any) -> None:
    top = json.loads(ONE.to_bytes())
    top[field] = value
    try:
        found = parse(json.dumps(top).encode())
    except ValueError:
        return
    same = printable(value) if isinstance(value, str) else value
    assert json.loads(found.to_bytes())[field] == same


@pytest.mark.parametrize("side", ["was", "now"])
@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("digest", "../../etc"),
        ("mode", "off"),
        ("manual", ["zz"]),
        ("manual", ["00" * 2000]),
        ("removed", [5]),
        ("absent", ["00"]),
        ("serial", -1),
        ("more", 1),
    ],
)
def test_a_side_is_checked_field_by_field(side: str, field: str, value: Any) -> None:
    top = json.loads(ONE.to_bytes())
    top[side][field] = value
    with pytest.raises(ValueError):  # noqa: PT011
        parse(json.dumps(top).encode())


def test_a_record_of_another_policy_is_refused() -> None:
    other = replace(ONE, now=Side("f" * 64, Mode.AUDIT))
    with pytest.raises(ValueError, match="another policy"):
        parse(other.to_bytes())


def test_a_damaged_file_names_the_way_out_and_a_missing_one_is_none(paths: Paths) -> None:
    assert read_pending(paths) is None
    write_pending(paths, ONE)
    assert read_pending(paths) == ONE
    paths.pending.write_bytes(ONE.to_bytes()[:-10])
    with pytest.raises(StateError) as caught:
        read_pending(paths)
    assert "policy revert" in caught.value.hint
    remove_pending(paths)
    remove_pending(paths)
    assert read_pending(paths) is None


def test_a_file_that_others_can_change_is_not_read(paths: Paths) -> None:
    write_pending(paths, ONE)
    paths.pending.chmod(0o666)
    with pytest.raises(StateError, match="by others"):
        read_pending(paths)


def test_it_is_overdue_when_the_hooks_say_so() -> None:
    assert not overdue(ONE, ONE.deadline_ns)
    assert overdue(ONE, ONE.deadline_ns + 1)


@pytest.mark.parametrize(
    ("text", "seconds"), [("120s", 120), ("2m", 120), ("5", 5), ("24h", 86400)]
)
def test_a_time_to_confirm_is_a_duration(text: str, seconds: int) -> None:
    assert within(text) == seconds


@pytest.mark.parametrize("text", ["0", "4s", "25h", "-5", "soon", "", "1e3", "٣٠"])
def test_a_time_to_confirm_has_bounds(text: str) -> None:
    with pytest.raises(UsageError):
        within(text)


def test_without_a_record_and_a_kernel_there_is_nothing_to_do(tmp_path: Path) -> None:
    assert revert_if_overdue(Paths(tmp_path)) is None
    assert not list(tmp_path.iterdir()), "it is called once a second and leaves no trace"


def test_what_another_boot_left_is_dropped_with_a_line_in_the_history(paths: Paths) -> None:
    write_pending(paths, replace(ONE, record=None))
    done = revert_if_overdue(paths, seams=Seams(boot_ns=lambda: 0))
    assert done is not None
    assert done.why == "reverted by reboot"
    assert not paths.pending.exists()
    assert "reverted by reboot" in paths.history.read_text()


def test_a_confirmation_that_died_is_finished_after_a_reboot(paths: Paths) -> None:
    store = Store(paths)
    digest = store.add(b"version=1\n", signed=False)
    record = Record(digest, "p.conf", signed=False, applied=7)
    now = Side(digest, Mode.ENFORCE)
    write_pending(
        paths, replace(ONE, now=now, record=record, boot_mode=Mode.ENFORCE, confirmed=True)
    )
    done = revert_if_overdue(paths)
    assert done is not None
    assert done.finished
    assert store.records()[0] == record
    assert json.loads(paths.boot.read_bytes())["mode"] == "enforce"
    assert not paths.pending.exists()
