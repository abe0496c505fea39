from __future__ import annotations

import errno
import os
from pathlib import Path
from typing import Any

import pytest

from aegis_tools.control.files import Calls
from aegis_tools.control.keystore import KeyStore, load_private_key, write_key_pair
from aegis_tools.errors import StateError, UsageError
from aegis_tools.paths import Paths
from aegis_tools.policy.keys import KeyFormatError, PrivateKey
from aegis_tools.policy.trust import TrustConfig

ALICE = PrivateKey(b"a" * 32, "alice")
BOB = PrivateKey(b"b" * 32, "bob")
ROOT = pytest.mark.skipif(os.geteuid() != 0, reason="needs root")
OTHER_USER = 65534


@pytest.fixture
def paths(tmp_path: Path) -> Paths:
    return Paths(tmp_path)


@pytest.fixture
def store(paths: Paths) -> KeyStore:
    return KeyStore(paths)


def pub(key: PrivateKey) -> bytes:
    return key.public.to_text().encode()


def test_a_host_without_key_folder_trusts_nobody(store: KeyStore) -> None:
    assert store.entries() == []
    assert store.trusted() == []
    assert store.config() == TrustConfig()


def test_added_keys_are_trusted_and_removed_ones_no_longer(store: KeyStore) -> None:
    store.add(pub(ALICE))
    store.add(pub(BOB))
    assert {k.key.comment for k in store.entries()} == {"alice", "bob"}
    assert store.remove(ALICE.public.keyid).comment == "alice"
    assert store.trusted() == [BOB.public]


def test_adding_a_key_again_changes_nothing(store: KeyStore, paths: Paths) -> None:
    first = store.add(pub(ALICE))
    again = store.add(PrivateKey(ALICE.seed, "another comment").public.to_text().encode())
    assert again == first
    assert len(list(paths.keys.iterdir())) == 1


def test_a_private_key_is_never_taken_into_the_folder(store: KeyStore, paths: Paths) -> None:
    with pytest.raises(KeyFormatError, match="private key"):
        store.add(ALICE.to_text().encode())
    assert not paths.keys.exists() or list(paths.keys.iterdir()) == []


def test_keys_that_people_put_there_are_read_whatever_their_name(
    store: KeyStore, paths: Paths
) -> None:
    paths.keys.mkdir(parents=True)
    (paths.keys / "security team.pub").write_bytes(pub(ALICE))
    (paths.keys / "copy.pub").write_bytes(pub(ALICE))
    (paths.keys / "README").write_text("not a key")
    (paths.keys / ".half.pub.0011.tmp").write_text("not a key")
    assert [k.file for k in store.entries()] == ["copy.pub", "security team.pub"]
    assert store.trusted() == [ALICE.public]
    store.remove(ALICE.public.keyid, force=True)
    assert store.entries() == []


def test_a_key_can_be_named_by_the_beginning_of_its_id(store: KeyStore) -> None:
    store.add(pub(ALICE))
    store.add(pub(BOB))
    assert store.remove(BOB.public.keyid[:8]) == BOB.public
    for wrong in (BOB.public.keyid, "", "abc", ALICE.public.keyid[:7], "../../../x", "ALICE"):
        with pytest.raises(UsageError):
            store.remove(wrong)
    assert store.trusted() == [ALICE.public]


def test_the_last_keys_that_a_signature_needs_stay_unless_forced(store: KeyStore) -> None:
    store.add(pub(ALICE))
    store.add(pub(BOB))
    store.save_config(TrustConfig(threshold=2))
    with pytest.raises(StateError, match="1 keys would remain, but 2") as caught:
        store.remove(BOB.public.keyid)
    assert "--force" in caught.value.hint
    assert len(store.entries()) == 2
    store.remove(BOB.public.keyid, force=True)
    assert store.trusted() == [ALICE.public]


@pytest.mark.parametrize("content", [b"", b"garbage", ALICE.to_text().encode(), b"x" * 10_000])
def test_a_damaged_key_file_stops_every_verification(
    store: KeyStore, paths: Paths, content: bytes
) -> None:
    store.add(pub(ALICE))
    (paths.keys / "broken.pub").write_bytes(content)
    with pytest.raises(StateError, match=r"broken\.pub"):
        store.entries()


@pytest.mark.parametrize("unsafe", ["etc", "etc/aegisbpf", "etc/aegisbpf/keys", "file"])
def test_what_others_could_change_is_not_trusted(
    store: KeyStore, paths: Paths, unsafe: str
) -> None:
    name = store.add(pub(ALICE)).file
    path = paths.keys / name if unsafe == "file" else paths.root / unsafe
    for mode in (0o664, 0o646) if unsafe == "file" else (0o775, 0o757, 0o1777):
        path.chmod(mode)
        with pytest.raises(StateError, match="changed by others"):
            store.entries()


@ROOT
@pytest.mark.parametrize("foreign", ["etc", "etc/aegisbpf", "etc/aegisbpf/keys", "file"])
def test_what_belongs_to_another_user_is_not_trusted(
    store: KeyStore, paths: Paths, foreign: str
) -> None:
    name = store.add(pub(ALICE)).file
    path = paths.keys / name if foreign == "file" else paths.root / foreign
    os.chown(path, OTHER_USER, OTHER_USER)
    with pytest.raises(StateError, match="another user"):
        store.entries()
    assert KeyStore(paths, owner=OTHER_USER).trusted() == [ALICE.public]


@pytest.mark.timeout(5)
def test_links_and_pipes_are_refused_not_skipped(store: KeyStore, paths: Paths) -> None:
    store.add(pub(ALICE))
    elsewhere = paths.root / "elsewhere.pub"
    elsewhere.write_bytes(pub(BOB))
    link = paths.keys / "link.pub"
    link.symlink_to(elsewhere)
    with pytest.raises(StateError, match="symbolic link"):
        store.entries()
    link.unlink()
    os.mkfifo(link)
    with pytest.raises(StateError, match="is a pipe"):
        store.entries()


def test_a_linked_key_folder_is_refused(store: KeyStore, paths: Paths) -> None:
    real = paths.root / "real"
    real.mkdir()
    (real / "a.pub").write_bytes(pub(ALICE))
    paths.etc.mkdir(parents=True)
    paths.keys.symlink_to(real)
    with pytest.raises(StateError):
        store.entries()
    with pytest.raises(StateError):
        store.add(pub(BOB))
    assert len(list(real.iterdir())) == 1


def test_a_file_name_cannot_command_the_terminal(store: KeyStore, paths: Paths) -> None:
    store.add(pub(ALICE))
    (paths.keys / "\x1b[2J.pub").write_bytes(b"x")
    with pytest.raises(StateError) as caught:
        store.entries()
    assert caught.value.message.isprintable()


def test_256_keys_are_trusted_and_more_are_a_mistake(store: KeyStore, paths: Paths) -> None:
    store.add(pub(ALICE))
    for number in range(255):
        (paths.keys / f"{number}.pub").write_bytes(pub(ALICE))
    assert len(store.entries()) == 256
    (paths.keys / "one more.pub").write_bytes(pub(ALICE))
    with pytest.raises(StateError, match="more than 256"):
        store.entries()


def test_settings_are_checked_when_read(store: KeyStore, paths: Paths) -> None:
    store.save_config(TrustConfig(2, "web", True))
    assert store.config() == TrustConfig(2, "web", True)
    paths.trust_config.chmod(0o666)
    with pytest.raises(StateError, match="changed by others"):
        store.config()
    paths.trust_config.chmod(0o644)
    paths.trust_config.write_text("{")
    with pytest.raises(StateError, match="not usable"):
        store.config()


def test_settings_that_could_not_be_read_are_not_written(store: KeyStore) -> None:
    store.save_config(TrustConfig(2))
    with pytest.raises(StateError):
        store.save_config(TrustConfig(0))
    assert store.config().threshold == 2


def test_a_linked_settings_file_is_refused(store: KeyStore, paths: Paths) -> None:
    paths.etc.mkdir(parents=True)
    (paths.root / "other.json").write_text("{}")
    paths.trust_config.symlink_to(paths.root / "other.json")
    with pytest.raises(StateError):
        store.config()


def test_a_full_disk_when_adding_a_key_leaves_the_others(paths: Paths) -> None:
    KeyStore(paths).add(pub(ALICE))

    def fails(*_: Any, **__: Any) -> Any:
        raise OSError(errno.ENOSPC, "no space")

    with pytest.raises(StateError, match="cannot write"):
        KeyStore(paths, calls=Calls(write=fails)).add(pub(BOB))
    assert KeyStore(paths).trusted() == [ALICE.public]


def test_a_key_pair_reads_back_and_only_its_owner_may_use_it(tmp_path: Path) -> None:
    before = os.umask(0)
    try:
        private, public = write_key_pair(tmp_path / "release", ALICE)
    finally:
        os.umask(before)
    assert (private.name, public.name) == ("release.key", "release.pub")
    assert private.stat().st_mode & 0o777 == 0o600
    assert load_private_key(private) == ALICE
    assert public.read_bytes() == pub(ALICE)


@pytest.mark.parametrize("existing", ["release.key", "release.pub"])
def test_a_key_is_never_overwritten(tmp_path: Path, existing: str) -> None:
    (tmp_path / existing).write_bytes(b"precious")
    with pytest.raises(StateError, match="exists already"):
        write_key_pair(tmp_path / "release", ALICE)
    assert [(p.name, p.read_bytes()) for p in tmp_path.iterdir()] == [(existing, b"precious")]


def test_a_dangling_link_is_not_written_through(tmp_path: Path) -> None:
    (tmp_path / "release.key").symlink_to(tmp_path / "elsewhere")
    with pytest.raises(StateError):
        write_key_pair(tmp_path / "release", ALICE)
    assert not (tmp_path / "elsewhere").exists()


@pytest.mark.parametrize("mode", [0o640, 0o604, 0o660, 0o644])
def test_a_private_key_that_others_can_use_is_refused(tmp_path: Path, mode: int) -> None:
    private, _ = write_key_pair(tmp_path / "release", ALICE)
    private.chmod(mode)
    with pytest.raises(StateError, match="used by others") as caught:
        load_private_key(private)
    assert "chmod 0600" in caught.value.hint


@ROOT
def test_a_private_key_of_another_user_is_refused(tmp_path: Path) -> None:
    private, _ = write_key_pair(tmp_path / "release", ALICE)
    os.chown(private, OTHER_USER, OTHER_USER)
    with pytest.raises(StateError, match="another user"):
        load_private_key(private)


def test_a_linked_private_key_is_refused(tmp_path: Path) -> None:
    private, _ = write_key_pair(tmp_path / "release", ALICE)
    (tmp_path / "link.key").symlink_to(private)
    with pytest.raises(StateError, match="symbolic link"):
        load_private_key(tmp_path / "link.key")
