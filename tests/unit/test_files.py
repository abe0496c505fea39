from __future__ import annotations

import errno
import os
import random
import resource
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any
from unicodedata import category

import pytest
from files_support import failing
from hypothesis import given
from hypothesis import strategies as st

from aegis_tools.control import files
from aegis_tools.errors import PolicyError, StateError

ROOT = pytest.mark.skipif(os.geteuid() != 0, reason="needs root")
OTHER_USER = 65534
ENVIRONMENT = {**os.environ, "PYTHONPATH": str(Path(files.__file__).parents[2])}
pytestmark = pytest.mark.filterwarnings("ignore:.*multi-threaded:DeprecationWarning")


@pytest.fixture(autouse=True)
def _no_descriptor_stays_open() -> Iterator[None]:
    before = len(list(Path("/proc/self/fd").iterdir()))
    yield
    assert len(list(Path("/proc/self/fd").iterdir())) == before


@pytest.fixture
def target(tmp_path: Path) -> Path:
    path = tmp_path / "state.json"
    path.write_bytes(b"old")
    return path


def write(path: Path, data: bytes, calls: files.Calls = files.SYSTEM) -> None:
    files.write_atomic(path, data, what="state file", calls=calls)


def names(folder: Path) -> list[str]:
    return sorted(p.name for p in folder.iterdir())


def test_a_write_replaces_the_content_and_leaves_nothing_else(target: Path) -> None:
    write(target, b"new")
    assert target.read_bytes() == b"new"
    assert names(target.parent) == ["state.json"]


def recorded(log: list[str]) -> files.Calls:
    """System calls that note their names, in order."""

    def noting(name: str, call: Callable[..., Any]) -> Callable[..., Any]:
        def note(*args: Any, **kwargs: Any) -> Any:
            log.append(name)
            return call(*args, **kwargs)

        return note

    return files.Calls(**{name: noting(name, call) for name, call in vars(files.SYSTEM).items()})


def test_content_is_synced_before_its_name_and_the_name_before_success(target: Path) -> None:
    log: list[str] = []
    write(target, b"new", recorded(log))
    assert log == ["open", "open", "write", "fsync", "replace", "fsync"]
    log.clear()
    key = target.parent / "key"
    files.write_new(key, b"new", what="key", mode=0o600, calls=recorded(log))
    assert log == ["open", "open", "write", "fsync", "fsync"]


def test_the_mode_is_as_asked_whatever_the_umask(target: Path) -> None:
    for mask, mode in ((0o000, 0o600), (0o777, 0o644)):
        before = os.umask(mask)
        try:
            files.write_atomic(target, b"new", what="file", mode=mode)
        finally:
            os.umask(before)
        assert target.stat().st_mode & 0o777 == mode


def test_a_link_in_the_place_of_the_file_is_replaced_not_followed(tmp_path: Path) -> None:
    victim = tmp_path / "victim"
    victim.write_bytes(b"untouched")
    link = tmp_path / "state.json"
    link.symlink_to(victim)
    write(link, b"new")
    assert victim.read_bytes() == b"untouched"
    assert not link.is_symlink()


@pytest.mark.parametrize(
    ("name", "after"),
    [("open", 0), ("open", 1), ("write", 0), ("write", 1), ("fsync", 0), ("replace", 0)],
)
@pytest.mark.parametrize("code", [errno.ENOSPC, errno.EROFS, errno.EIO, errno.EACCES])
def test_a_failure_at_any_step_leaves_the_old_content(
    target: Path, name: str, after: int, code: int
) -> None:
    calls = failing(name, code, after)
    if name == "write":  # the kernel takes it in pieces
        whole = calls.write
        calls = files.Calls(**{**vars(calls), "write": lambda fd, data: whole(fd, data[:3])})
    with pytest.raises(StateError) as caught:
        write(target, b"new content", calls)
    assert target.read_bytes() == b"old"
    assert names(target.parent) == ["state.json"]
    assert caught.value.hint
    assert str(target.parent) not in caught.value.message + caught.value.hint


def test_a_failure_to_sync_the_folder_is_told_though_the_file_is_new(target: Path) -> None:
    with pytest.raises(StateError):
        write(target, b"new", failing("fsync", errno.EIO, after=1))
    assert target.read_bytes() == b"new"
    assert names(target.parent) == ["state.json"]


def test_ctrl_c_while_writing_leaves_the_old_content(target: Path) -> None:
    def interrupted(fd: int, data: Any) -> int:
        os.write(fd, data[:1])
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        write(target, b"new", files.Calls(write=interrupted))
    assert target.read_bytes() == b"old"
    assert names(target.parent) == ["state.json"]


def test_full_and_read_only_disks_have_a_hint_of_their_own(target: Path) -> None:
    hints = []
    for code in (errno.ENOSPC, errno.EROFS):
        with pytest.raises(StateError) as caught:
            write(target, b"new", failing("write", code))
        hints.append(caught.value.hint)
    assert "full" in hints[0]
    assert "read-only" in hints[1]


WRITER = """
import sys
from pathlib import Path
from aegis_tools.control import files
from aegis_tools.errors import StateError
try:
    files.write_atomic(Path(sys.argv[1]), b"x" * 1_000_000, what="state file")
except StateError as error:
    print(error.message, "|", error.hint)
else:
    print("written")
"""


def test_a_real_file_size_limit_leaves_the_old_content(target: Path) -> None:
    result = subprocess.run(
        [sys.executable, "-c", WRITER, str(target)],
        capture_output=True,
        text=True,
        check=True,
        env=ENVIRONMENT,
        preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (65536, 65536)),
    )
    assert "ulimit" in result.stdout, result.stderr
    assert target.read_bytes() == b"old"
    assert names(target.parent) == ["state.json"]


@ROOT
@pytest.mark.skipif(shutil.which("unshare") is None, reason="needs unshare")
@pytest.mark.parametrize(
    ("remount", "says"), [("true", "disk is full"), ("mount -o remount,ro .", "read-only")]
)
def test_a_disk_that_is_really_full_or_read_only_keeps_the_old_content(
    tmp_path: Path, remount: str, says: str
) -> None:
    script = (
        'mount -t tmpfs -o size=128k none "$1" && cd "$1" && printf old > f && '
        + remount
        + ' && "$2" -c "$3" f; cat f; ls -A | tr "\\n" " "'
    )
    argv = ["unshare", "-m", "sh", "-c", script, "sh", str(tmp_path), sys.executable, WRITER]
    result = subprocess.run(argv, capture_output=True, text=True, check=False, env=ENVIRONMENT)
    assert says in result.stdout, result.stderr
    assert result.stdout.endswith("\noldf "), result.stdout


def test_a_writer_killed_at_any_instant_leaves_old_or_new(tmp_path: Path) -> None:
    target = tmp_path / "state.json"
    contents = [letter * 200_000 for letter in (b"a", b"b")]
    target.write_bytes(contents[0])
    chance = random.Random(1)
    leftovers = 0
    for _ in range(40):
        child = os.fork()
        if child == 0:
            try:
                while True:
                    for content in contents:
                        write(target, content)
            finally:
                os._exit(1)
        time.sleep(chance.uniform(0.001, 0.02))
        os.kill(child, signal.SIGKILL)
        os.waitpid(child, 0)
        assert target.read_bytes() in contents
        leftovers += files.remove_leftovers(tmp_path)
    assert names(tmp_path) == ["state.json"]
    assert leftovers > 0, "no kill ever hit a write: the test shows nothing"


def test_a_new_file_never_replaces_one(target: Path) -> None:
    with pytest.raises(StateError, match="exists already"):
        files.write_new(target, b"new", what="private key", mode=0o600)
    assert target.read_bytes() == b"old"


def test_a_new_file_that_cannot_be_written_whole_is_not_there(tmp_path: Path) -> None:
    calls = failing("fsync", errno.ENOSPC)
    with pytest.raises(StateError):
        files.write_new(tmp_path / "key", b"new", what="key", mode=0o600, calls=calls)
    assert names(tmp_path) == []


def read(path: Path, **kwargs: Any) -> bytes:
    return files.read_limited(path, 10, what="state file", **kwargs)


def test_reading_stops_at_the_limit(tmp_path: Path) -> None:
    path = tmp_path / "f"
    path.write_bytes(b"0123456789")
    assert read(path) == b"0123456789"
    path.write_bytes(b"0123456789a")
    with pytest.raises(StateError, match="larger than 10"):
        read(path)


def test_a_file_without_size_is_read_no_further_than_the_limit() -> None:
    with pytest.raises(StateError, match="grew"):
        read(Path("/proc/self/status"))


@pytest.mark.timeout(5)
def test_only_regular_files_are_read_and_nothing_blocks(tmp_path: Path) -> None:
    fifo, link, folder = tmp_path / "fifo", tmp_path / "link", tmp_path / "folder"
    os.mkfifo(fifo)
    link.symlink_to("/etc/hostname")
    folder.mkdir()
    for path in (fifo, link, folder, Path("/dev/zero"), tmp_path / "missing", Path("a\0b")):
        with pytest.raises((StateError, ValueError)) as caught:
            read(path)
        if isinstance(caught.value, StateError):
            assert caught.value.hint


def test_a_lookup_that_fails_is_not_taken_for_a_missing_file(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    assert files.exists(tmp_path / "file")
    assert not files.exists(tmp_path / "missing")
    with pytest.raises(StateError):
        files.exists(tmp_path / "file" / "below")
    with pytest.raises(StateError):
        files.read_if_present(tmp_path / "file" / "below", 10, what="file", owners={0})


def test_mode_and_owner_are_checked(tmp_path: Path) -> None:
    path = tmp_path / "f"
    path.write_bytes(b"x")
    path.chmod(0o620)
    with pytest.raises(StateError, match="changed by others") as caught:
        read(path, forbid=files.OTHERS_WRITE)
    assert caught.value.hint == f"make it safe with: chmod 0600 {path}"
    with pytest.raises(StateError, match="used by others"):
        read(path, forbid=files.OTHERS_ANY)
    with pytest.raises(StateError, match="another user") as caught:
        read(path, owners={0, os.geteuid() + 1} - {os.geteuid()})
    assert caught.value.hint.endswith(f" {path}")
    assert ": chown " in caught.value.hint
    path.chmod(0o600)
    assert read(path, owners={os.geteuid()}, forbid=files.OTHERS_ANY) == b"x"


def test_a_policy_file_may_be_a_link_but_not_writable_by_everybody(tmp_path: Path) -> None:
    path, link = tmp_path / "my policy.conf", tmp_path / "link.conf"
    path.write_bytes(b"version=1\n")
    link.symlink_to(path)
    assert files.read_policy_file(link) == b"version=1\n"
    path.chmod(0o666)
    with pytest.raises(PolicyError, match="changed by others") as caught:
        files.read_policy_file(link)
    assert caught.value.exit_code == 3


def test_a_missing_policy_file_is_named_and_its_name_cannot_command_the_terminal(
    tmp_path: Path,
) -> None:
    with pytest.raises(PolicyError) as caught:
        files.read_policy_file(tmp_path / "no\x1b[2Jsuch.conf")
    assert "no\\x1b[2Jsuch.conf" in caught.value.message
    assert "does not exist" in caught.value.message


def test_a_policy_file_of_more_than_64_mib_is_refused_unread(tmp_path: Path) -> None:
    path = tmp_path / "huge.conf"
    with path.open("wb") as file:
        file.truncate(files.MAX_POLICY + 1)
    with pytest.raises(PolicyError, match="larger"):
        files.read_policy_file(path)


def test_folders_of_ours_are_made_and_unsafe_ones_refused(tmp_path: Path) -> None:
    folder = tmp_path / "var/lib/aegisbpf"
    files.ensure_folder(folder)
    files.ensure_folder(folder)
    assert folder.stat().st_mode & 0o777 == 0o700
    folder.chmod(0o770)
    with pytest.raises(StateError, match="changed by others"):
        files.ensure_folder(folder)
    folder.chmod(0o700)
    link = tmp_path / "link"
    link.symlink_to(folder)
    file = tmp_path / "file"
    file.touch()
    for path in (link, file):
        with pytest.raises(StateError):
            files.ensure_folder(path)


def open_keys(root: Path) -> None:
    with files.trusted_folder(root, root / "etc/keys", owner=os.geteuid()) as fd:
        assert os.path.samestat(os.fstat(fd), (root / "etc/keys").stat())


@pytest.mark.parametrize("unsafe", [".", "etc", "etc/keys"])
def test_a_folder_is_only_as_safe_as_those_above_it(tmp_path: Path, unsafe: str) -> None:
    (tmp_path / "etc/keys").mkdir(parents=True)
    open_keys(tmp_path)
    (tmp_path / unsafe).chmod(0o777)
    with pytest.raises(StateError, match="changed by others"):
        open_keys(tmp_path)
    (tmp_path / unsafe).chmod(0o755)
    open_keys(tmp_path)


@ROOT
@pytest.mark.parametrize("foreign", [".", "etc", "etc/keys"])
def test_a_folder_of_another_user_is_refused(tmp_path: Path, foreign: str) -> None:
    (tmp_path / "etc/keys").mkdir(parents=True)
    os.chown(tmp_path / foreign, OTHER_USER, OTHER_USER)
    with pytest.raises(StateError, match="another user"):
        open_keys(tmp_path)


def test_a_link_on_the_way_to_a_folder_is_refused(tmp_path: Path) -> None:
    (tmp_path / "real/keys").mkdir(parents=True)
    (tmp_path / "etc").symlink_to("real")
    with pytest.raises(StateError):
        open_keys(tmp_path)


def test_only_leftovers_are_swept(tmp_path: Path) -> None:
    for name in ("state.json", ".state.json.0011aabb.tmp", "notes.tmp", ".hidden"):
        (tmp_path / name).touch()
    assert files.remove_leftovers(tmp_path) == 1
    assert names(tmp_path) == [".hidden", "notes.tmp", "state.json"]


def test_long_text_is_cut_and_says_so() -> None:
    assert files.printable("12345", 5) == "12345"
    assert files.printable("123456", 5) == "12345…"


@given(st.text(max_size=400))
def test_printable_text_cannot_command_a_terminal(text: str) -> None:
    shown = files.printable(text, 50)
    assert all(c.isprintable() or category(c) == "Zs" for c in shown)
    shown.encode()
    assert files.printable(shown, 10_000) == shown


@pytest.mark.parametrize("name", ["open", "write", "fsync", "replace"])
def test_every_error_knows_the_file_whatever_the_system_says_of_it(target: Path, name: str) -> None:
    with pytest.raises(StateError) as caught:
        write(target, b"new", failing(name, errno.ENOSPC))
    assert str(target) in caught.value.detail
    with pytest.raises(StateError) as caught:
        files.ensure_folder(target / "below")
    assert str(target / "below") in caught.value.detail
