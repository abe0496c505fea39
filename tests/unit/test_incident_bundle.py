"""The evidence that leaves the house: whole, for its owner only, and without secrets."""

from __future__ import annotations

import io
import json
import tarfile
from pathlib import Path

import pytest
from files_support import failing
from incident_support import Clock, begin, host

from aegis_tools.control import files
from aegis_tools.control.history import Entry, History
from aegis_tools.errors import StateError, UsageError
from aegis_tools.incident.bundle import TOP, Collection, pack, write_bundle
from aegis_tools.incident.shelf import EVIDENCE
from aegis_tools.paths import Paths

SECRET = "hunter2-s3cr3t"
KEY = "c2VjcmV0LXNlY3JldC1zZWNyZXQtc2VjcmV0LXNlY3I="


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def paths(tmp_path: Path) -> Paths:
    return host(tmp_path / "host")


@pytest.fixture(autouse=True)
def _folder(tmp_path: Path) -> None:
    (tmp_path / "host").mkdir(exist_ok=True)


def plant(paths: Paths, clock: Clock) -> str:
    """Put secrets wherever a bundle might take them from; return an incident."""
    with begin(paths, clock) as held:
        held.fact("environ", {"DB_PASSWORD": SECRET})
        held.fact("said", f"login failed, password={SECRET}")
        held.did("audit", f"set the mode to audit; token={SECRET}")
        held.file("journal.txt", f"x\nAuthorization: Bearer {SECRET}\ny\n")
        identifier = held.id
    evidence = paths.incidents / identifier / EVIDENCE / "journal.txt"
    evidence.write_text(evidence.read_text() + f"edited by hand: api_key={SECRET}\n")
    for where, text in {
        "proc/cmdline": f"root=/dev/sda1 rd.luks.passphrase={SECRET}\n",
        "etc/aegisbpf/ops.key": f"aegis-ed25519-private ops\n{KEY}\n",
        "var/lib/aegisbpf/ops.key": f"aegis-ed25519-private ops\n{KEY}\n",
        "etc/default/grub": f'GRUB_PASSWORD="{SECRET}"\nGRUB_DEFAULT=0\n',
    }.items():
        path = paths.root / where
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    note = f"reason: password={SECRET}"
    History(paths.history).append(Entry(time=1, action="policy apply", note=note))
    return identifier


def unpacked(path: Path) -> dict[str, bytes]:
    with tarfile.open(path) as tar:
        assert all(one.mode == 0o600 and one.isfile() for one in tar)
        return {one.name: tar.extractfile(one).read() for one in tar}  # type: ignore[union-attr]


def test_no_secret_is_in_the_bundle(tmp_path: Path, paths: Paths, clock: Clock) -> None:
    identifier = plant(paths, clock)
    output = tmp_path / "out.tar.gz"
    made = write_bundle(paths, output, seams=clock.seams)
    found = unpacked(output)
    everything = b"\n".join(found.values())
    assert SECRET.encode() not in everything
    assert KEY.encode() not in everything
    assert b"[redacted]" in found[f"{TOP}/incidents/{identifier}/evidence/journal.txt"]
    assert b"GRUB_DEFAULT=0" in found[f"{TOP}/boot/grub-settings.txt"]
    assert made.bytes == output.stat().st_size
    assert output.stat().st_mode & 0o777 == 0o600


def test_it_holds_the_records_and_what_the_host_says(
    tmp_path: Path, paths: Paths, clock: Clock
) -> None:
    identifier = plant(paths, clock)
    output = tmp_path / "out.tar.gz"
    made = write_bundle(paths, output, seams=clock.seams)
    for name in (
        *("manifest.json", "diagnose.json", "status.json", "health.json", "history.json"),
        *("boot/cmdline.txt", f"incidents/{identifier}/record.json"),
        f"incidents/{identifier}/record.md",
    ):
        assert name in made.names
    found = unpacked(output)
    assert list(found) == sorted(found)
    manifest = json.loads(found[f"{TOP}/manifest.json"])
    assert set(manifest["files"]) == set(made.names) - {"manifest.json"}


def test_one_incident_can_be_chosen(tmp_path: Path, paths: Paths, clock: Clock) -> None:
    first = plant(paths, clock)
    with begin(paths, clock, "map-full") as other:
        other.did("a", "a")
    made = write_bundle(paths, tmp_path / "out.tar.gz", first, seams=clock.seams)
    assert not any(other.id in name for name in made.names)
    with pytest.raises(UsageError):
        write_bundle(paths, tmp_path / "no.tar.gz", "20200101T000000Z-blocking")


def test_a_damaged_record_is_a_problem_and_not_the_end(
    tmp_path: Path, paths: Paths, clock: Clock
) -> None:
    identifier = plant(paths, clock)
    (paths.incidents / identifier / "record.json").write_bytes(b"{")
    made = write_bundle(paths, tmp_path / "out.tar.gz", seams=clock.seams)
    assert any(identifier in problem for problem in made.problems)


def test_a_link_in_the_evidence_is_not_followed(tmp_path: Path, paths: Paths, clock: Clock) -> None:
    identifier = plant(paths, clock)
    secret = tmp_path / "shadow"
    secret.write_text("root:$6$abc\n")
    evidence = paths.incidents / identifier / EVIDENCE / "journal.txt"
    evidence.unlink()
    evidence.symlink_to(secret)
    output = tmp_path / "out.tar.gz"
    write_bundle(paths, output, seams=clock.seams)
    assert b"$6$abc" not in b"".join(unpacked(output).values())


def test_the_output_is_replaced_whole_and_its_mode_too(
    tmp_path: Path, paths: Paths, clock: Clock
) -> None:
    output = tmp_path / "out.tar.gz"
    output.write_text("old")
    output.chmod(0o644)
    write_bundle(paths, output, seams=clock.seams)
    assert output.stat().st_mode & 0o777 == 0o600
    assert unpacked(output)


@pytest.mark.parametrize("output", [".", "no/such/folder/x.tar.gz"])
def test_an_output_that_cannot_be_is_refused(
    tmp_path: Path, paths: Paths, clock: Clock, output: str
) -> None:
    with pytest.raises((UsageError, StateError)):
        write_bundle(paths, tmp_path / output, seams=clock.seams)


def test_a_device_is_not_replaced(paths: Paths, clock: Clock) -> None:
    with pytest.raises(UsageError):
        write_bundle(paths, Path("/dev/null"), seams=clock.seams)
    assert Path("/dev/null").is_char_device()


def test_a_full_disk_leaves_the_old_file(tmp_path: Path) -> None:
    output = tmp_path / "out.tar.gz"
    output.write_text("old")
    with pytest.raises(StateError, match="space"):
        files.write_atomic(output, b"x", what="bundle", calls=failing("write"))
    assert output.read_text() == "old"


def test_the_same_texts_are_the_same_archive() -> None:
    found = {"b": b"2", "a": b"1"}
    assert pack(found, 1) == pack(dict(reversed(found.items())), 1)
    with tarfile.open(fileobj=io.BytesIO(pack(found, 1))) as tar:
        assert tar.getnames() == [f"{TOP}/a", f"{TOP}/b"]


def test_a_bundle_is_bounded() -> None:
    found = Collection(limit=10)
    found.text("a", "12345678")
    found.text("b", "12345678")
    assert list(found.files) == ["a"]
    assert "too large" in found.problems[0]
