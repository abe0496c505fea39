from __future__ import annotations

import errno
import hashlib
import os
from pathlib import Path
from typing import Any

import pytest

from aegis_tools.control.files import Calls
from aegis_tools.control.store import Record, Store
from aegis_tools.errors import StateError, TrustError
from aegis_tools.paths import Paths
from aegis_tools.policy.bundle import make_bundle, open_bundle, read_bundle
from aegis_tools.policy.dsse import Envelope, cosign
from aegis_tools.policy.keys import PrivateKey
from aegis_tools.policy.trust import Seen, SerialTooLowError, TrustState, check, recheck

NOW = 1_700_000_000
KEY = PrivateKey(b"k" * 32)
ROOT = pytest.mark.skipif(os.geteuid() != 0, reason="needs root")


@pytest.fixture
def paths(tmp_path: Path) -> Paths:
    return Paths(tmp_path)


@pytest.fixture
def store(paths: Paths) -> Store:
    made = Store(paths)
    made.prepare()
    return made


def envelope(serial: int = 1) -> Envelope:
    return make_bundle(
        "version=1\n", policy_name="p.conf", serial=serial, created=NOW, expires=None, keys=[KEY]
    )


def plain(store: Store, text: str) -> Record:
    digest = store.add(text.encode(), signed=False)
    return Record(digest, "my policy.conf", signed=False, applied=NOW)


def signed(store: Store, serial: int, group: str = "default") -> Record:
    digest = store.add(envelope(serial).to_bytes(), signed=True)
    return Record(digest, "p.conf", True, NOW, serial, group, (KEY.public.keyid,))


def test_an_unsigned_policy_is_known_by_what_sha256sum_says(store: Store) -> None:
    record = plain(store, "version=1\n")
    assert record.digest == hashlib.sha256(b"version=1\n").hexdigest()
    stored = store.load(record.digest)
    assert (stored.data, stored.signed) == (b"version=1\n", False)


def test_a_bundle_is_stored_as_it_came_under_the_digest_of_its_payload(store: Store) -> None:
    data = envelope().to_bytes()
    digest = store.add(data, signed=True)
    assert digest == read_bundle(envelope()).digest
    assert store.load(digest).data == data
    assert store.load(digest).signed


def test_more_signatures_replace_the_bundle_they_belong_to(store: Store) -> None:
    digest = store.add(envelope().to_bytes(), signed=True)
    more = cosign(envelope(), [PrivateKey(b"z" * 32)]).to_bytes()
    assert store.add(more, signed=True) == digest
    assert store.load(digest).data == more


def test_what_is_no_envelope_is_not_stored_as_one(store: Store, paths: Paths) -> None:
    with pytest.raises(TrustError):
        store.add(b"version=1\n", signed=True)
    assert list(paths.bundles.iterdir()) == []


def test_the_store_is_closed_to_other_users(store: Store, paths: Paths) -> None:
    plain(store, "a")
    assert paths.state.stat().st_mode & 0o777 == 0o700
    assert [p.stat().st_mode & 0o777 for p in paths.bundles.iterdir()] == [0o600]


@pytest.mark.parametrize("content", [b"", b"version=2\n", b"\xff" * 100])
def test_a_changed_policy_is_refused(store: Store, paths: Paths, content: bytes) -> None:
    for record in (plain(store, "version=1\n"), signed(store, 1)):
        file = next(paths.bundles.glob(f"{record.digest}.*"))
        file.write_bytes(content)
        with pytest.raises(StateError, match="damaged") as caught:
            store.load(record.digest)
        assert "apply" in caught.value.hint
        assert str(paths.root) not in caught.value.message


def test_a_bundle_put_in_the_place_of_another_is_refused(store: Store, paths: Paths) -> None:
    old, new = signed(store, 1), signed(store, 2)
    (paths.bundles / f"{old.digest}.json").replace(paths.bundles / f"{new.digest}.json")
    with pytest.raises(StateError, match="damaged"):
        store.load(new.digest)


def test_a_missing_policy_is_told(store: Store) -> None:
    with pytest.raises(StateError, match="not stored"):
        store.load("0" * 64)


@pytest.mark.parametrize("digest", ["", "../../etc/passwd", "A" * 64, "a" * 63, "a" * 64 + "\n"])
def test_what_is_no_digest_names_no_file(store: Store, digest: str) -> None:
    with pytest.raises(StateError, match="not a policy digest"):
        store.load(digest)


def test_links_and_files_others_can_change_are_refused(store: Store, paths: Paths) -> None:
    record = plain(store, "version=1\n")
    file = paths.bundles / f"{record.digest}.policy"
    file.chmod(0o666)
    with pytest.raises(StateError, match="changed by others"):
        store.load(record.digest)
    elsewhere = paths.root / "elsewhere"
    elsewhere.write_bytes(b"version=1\n")
    file.unlink()
    file.symlink_to(elsewhere)
    with pytest.raises(StateError):
        store.load(record.digest)


@ROOT
def test_files_of_another_user_are_refused(store: Store, paths: Paths) -> None:
    record = plain(store, "version=1\n")
    store.set_current(record)
    store.save_serials(TrustState())
    for path in (paths.bundles / f"{record.digest}.policy", paths.current, paths.serials):
        os.chown(path, 65534, 65534)
    for read in (lambda: store.load(record.digest), store.records, store.serials):
        with pytest.raises(StateError, match="another user"):
            read()


def test_a_state_folder_others_can_change_is_refused(store: Store, paths: Paths) -> None:
    paths.bundles.chmod(0o777)
    with pytest.raises(StateError):
        store.prepare()


def test_a_new_host_has_no_current_policy_and_no_serials(paths: Paths) -> None:
    store = Store(paths)
    assert store.records() == (None, None)
    assert store.serials() == TrustState()
    assert store.digests() == []


def test_what_was_current_becomes_the_previous(store: Store) -> None:
    first, second = plain(store, "a"), signed(store, 1)
    store.set_current(first)
    assert store.records() == (first, None)
    store.set_current(second)
    assert store.records() == (second, first)
    store.set_current(first)
    assert store.records() == (first, second)


def test_the_same_policy_again_keeps_the_previous(store: Store) -> None:
    first, second = plain(store, "a"), plain(store, "b")
    store.set_current(first)
    store.set_current(second)
    again = Record(second.digest, second.name, False, NOW + 5)
    store.set_current(again)
    assert store.records() == (again, first)


def test_only_a_stored_policy_can_become_current(store: Store) -> None:
    with pytest.raises(StateError, match="not stored"):
        store.set_current(Record("0" * 64, "p.conf", False, NOW))
    assert store.records() == (None, None)


RECORD = '{"applied":1,"digest":"%s","group":"","name":"","serial":0,"signed":false,"signers":[]}'
DAMAGED = [
    "",
    "{",
    "null",
    "[]",
    '{"format":1}',
    '{"format":9,"current":null,"previous":null}',
    '{"format":1,"current":{},"previous":null}',
    '{"format":1,"current":5,"previous":null}',
    '{"format":1,"current":' + RECORD % "../../../x" + ',"previous":null}',
    '{"format":1,"current":' + (RECORD % ("a" * 64))[:-1] + ',"x":1},"previous":null}',
    '{"format":1,"current":' + (RECORD % ("a" * 64)).replace("false", "true") + ',"previous":null}',
]


@pytest.mark.parametrize("content", DAMAGED)
def test_a_damaged_record_is_told_and_applying_again_is_the_way_out(
    store: Store, paths: Paths, content: str
) -> None:
    record = plain(store, "a")
    store.set_current(record)
    paths.current.write_text(content)
    with pytest.raises(StateError) as caught:
        store.records()
    assert "apply" in caught.value.hint
    store.set_current(record)
    assert store.records() == (record, None)


def accept(store: Store, data: bytes, now: int = NOW) -> None:
    """What applying a signed policy does, but for the kernel."""
    bundle, signers = open_bundle(data, [KEY.public], 1)
    state = check(bundle, now=now, group="default", state=store.serials())
    digest = store.add(data, signed=True)
    store.save_serials(state)
    store.set_current(
        Record(digest, bundle.policy_name, True, now, bundle.serial, bundle.group, signers)
    )


def test_a_signed_policy_survives_restarts_and_a_rollback_but_no_replay(paths: Paths) -> None:
    first, second = (envelope(serial).to_bytes() for serial in (1, 2))
    store = Store(paths)
    store.prepare()
    accept(store, first)
    accept(store, first)
    accept(store, second)
    restarted = Store(paths)
    restarted.prepare()
    accept(restarted, second)
    with pytest.raises(SerialTooLowError):
        accept(restarted, first)

    current, previous = restarted.records()
    assert current is not None
    assert previous is not None
    assert (current.serial, previous.serial) == (2, 1)
    restarted.set_current(previous)  # the rollback; the next boot finds serial 1 current
    booting, _ = Store(paths).records()
    assert booting == previous
    stored = Store(paths).load(booting.digest)
    bundle = read_bundle(Envelope.from_bytes(stored.data))
    recheck(bundle, group="default", state=Store(paths).serials())
    with pytest.raises(SerialTooLowError):
        accept(Store(paths), first)
    accept(Store(paths), second)


def test_serials_read_back(store: Store) -> None:
    state = TrustState({"default": Seen(5, "a" * 64)})
    store.save_serials(state)
    assert store.serials() == state


def test_damaged_serials_are_told_with_a_way_out(store: Store, paths: Paths) -> None:
    record = signed(store, 5)
    store.set_current(record)
    for content in (b"", b"{}", bytes(50)):
        paths.serials.write_bytes(content)
        with pytest.raises(StateError) as caught:
            store.serials()
        assert "reset-serials" in caught.value.hint
    expected = TrustState({"default": Seen(5, record.digest)})
    assert store.reset_serials() == expected == store.serials()


def test_lost_serials_do_not_let_old_bundles_back_in(store: Store, paths: Paths) -> None:
    store.save_serials(TrustState({"default": Seen(5, "a" * 64)}))
    store.set_current(signed(store, 5))
    store.set_current(plain(store, "unsigned"))
    paths.serials.unlink()
    with pytest.raises(StateError, match="old policy could come back"):
        store.serials()
    paths.current.write_bytes(b"damaged too")
    with pytest.raises(StateError, match="old policy could come back"):
        store.serials()
    assert store.reset_serials() == TrustState()
    assert store.serials() == TrustState()


def test_resetting_keeps_the_highest_known_serial_of_each_group(store: Store) -> None:
    high, low = signed(store, 9), signed(store, 3)
    store.set_current(high)
    store.set_current(low)
    assert store.reset_serials() == TrustState({"default": Seen(9, high.digest)})


def aged(store: Store, paths: Paths, count: int) -> list[Record]:
    """``count`` policies, each stored a second after the one before."""
    records = [plain(store, f"policy {i}") for i in range(count)]
    for age, record in enumerate(records):
        os.utime(paths.bundles / f"{record.digest}.policy", (NOW + age, NOW + age))
    return records


def test_the_newest_policies_are_kept_and_those_in_use(store: Store, paths: Paths) -> None:
    records = aged(store, paths, 15)
    digests = [record.digest for record in records]
    store.set_current(records[0])
    store.set_current(records[1])
    assert store.digests() == digests[::-1]
    removed = store.prune(live=[digests[2]])
    assert removed == [digests[4], digests[3]]
    assert store.digests() == [*digests[:4:-1], *digests[2::-1]]
    assert store.prune(live=[digests[2]]) == []


def test_pruning_with_a_damaged_record_removes_nothing(store: Store, paths: Paths) -> None:
    aged(store, paths, 15)
    paths.current.write_text("{")
    with pytest.raises(StateError):
        store.prune()
    assert len(store.digests()) == 15


def test_foreign_files_are_neither_listed_nor_removed(store: Store, paths: Paths) -> None:
    foreign = ["README", "x.json", "a" * 64, "b" * 64 + ".bak", "c" * 64 + ".json.old"]
    for name in foreign:
        (paths.bundles / name).touch()
    records = aged(store, paths, 3)
    assert store.digests() == [record.digest for record in records[::-1]]
    store.prune(keep=0)
    assert sorted(p.name for p in paths.bundles.iterdir()) == sorted(foreign)


def test_what_a_killed_writer_left_is_swept_at_the_next_start(store: Store, paths: Paths) -> None:
    (paths.state / ".current.json.00ff.tmp").touch()
    (paths.bundles / ".x.json.00ff.tmp").touch()
    store.prepare()
    assert [p.name for p in paths.state.iterdir()] == ["bundles"]
    assert list(paths.bundles.iterdir()) == []


@pytest.mark.parametrize("name", ["open", "write", "fsync", "replace"])
def test_a_full_disk_leaves_policies_record_and_serials_as_they_were(
    store: Store, paths: Paths, name: str
) -> None:
    first = signed(store, 1)
    store.set_current(first)
    store.save_serials(TrustState({"default": Seen(1, first.digest)}))
    second = signed(store, 2)
    before = {p: p.read_bytes() for p in paths.state.rglob("*") if p.is_file()}

    def fails(*_: Any, **__: Any) -> Any:
        raise OSError(errno.ENOSPC, "no space")

    broken = Store(paths, calls=Calls(**{name: fails}))
    for change in (
        lambda: broken.add(b"new", signed=False),
        lambda: broken.set_current(second),
        lambda: broken.save_serials(TrustState()),
    ):
        with pytest.raises(StateError, match="cannot write"):
            change()
    assert {p: p.read_bytes() for p in paths.state.rglob("*") if p.is_file()} == before
