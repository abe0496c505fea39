"""The role's filters name keys and policies as hosts do."""

from __future__ import annotations

import hashlib
from importlib.util import module_from_spec, spec_from_file_location
from pathlib import Path
from typing import Any

import pytest
from ansible.errors import AnsibleFilterError

from aegis_tools.policy.bundle import make_bundle
from aegis_tools.policy.keys import PrivateKey

FILE = Path(__file__).resolve().parents[2] / "roles/aegisbpf/filter_plugins/aegisbpf.py"
POLICY = b"version: 1\nrules: []\n\n"


@pytest.fixture(scope="module")
def filters() -> dict[str, Any]:
    spec = spec_from_file_location("aegisbpf_filters", FILE)
    assert spec
    assert spec.loader
    module = module_from_spec(spec)
    spec.loader.exec_module(module)
    return dict(module.FilterModule().filters())


def test_a_key_is_named_by_its_id_whoever_it_belongs_to(filters: dict[str, Any]) -> None:
    key = PrivateKey.generate("ops").public
    assert filters["aegisbpf_keyid"](key.to_text()) == key.keyid


def test_a_private_key_among_those_to_trust_is_refused(filters: dict[str, Any]) -> None:
    key = PrivateKey.generate("ops")
    with pytest.raises(AnsibleFilterError, match="private key") as caught:
        filters["aegisbpf_keyid"](key.to_text())
    assert key.to_text().split()[-1] not in str(caught.value)


def test_only_public_keys_go_to_hosts(filters: dict[str, Any]) -> None:
    key = PrivateKey.generate("ops")
    assert filters["aegisbpf_public"]([key.public.to_text()]) == [key.public.to_text()]
    with pytest.raises(AnsibleFilterError, match="private key"):
        filters["aegisbpf_public"]([key.public.to_text(), key.to_text()])


def test_one_file_or_several_may_be_named_on_the_command_line(filters: dict[str, Any]) -> None:
    assert filters["aegisbpf_names"]("keys/ann.pub, b.pub") == ["keys/ann.pub", "b.pub"]
    assert filters["aegisbpf_names"](["a,b.pub"]) == ["a,b.pub"]


@pytest.mark.parametrize("text", ["", "\n", "not-there  aegisbpf.tar", f"{'A' * 64}  x", "0" * 63])
def test_what_names_no_archive_is_refused(filters: dict[str, Any], text: str) -> None:
    assert filters["aegisbpf_archive"](f"{'0a' * 32}  aegisbpf.tar\n") == "0a" * 32
    with pytest.raises(AnsibleFilterError, match="scripts/build-wheelhouse"):
        filters["aegisbpf_archive"](text)


@pytest.mark.parametrize("value", [0, "0", "abc", "-1", "1,,2", "0%", "1.5", [], "", None, [1, 0]])
def test_waves_of_nobody_knows_how_many_are_refused(filters: dict[str, Any], value: Any) -> None:
    """Ansible takes 0 for all hosts at once, and others for a bug of its own."""
    with pytest.raises(AnsibleFilterError, match="aegisbpf_waves: "):
        filters["aegisbpf_serial"](value)


def test_waves_may_be_a_list_a_number_or_text(filters: dict[str, Any]) -> None:
    assert filters["aegisbpf_serial"]([1, "10%"]) == [1, "10%"]
    assert filters["aegisbpf_serial"](3) == [3]
    assert filters["aegisbpf_serial"]("1, 50%,100%") == [1, "50%", "100%"]


def test_an_unsigned_policy_is_named_by_its_bytes(filters: dict[str, Any]) -> None:
    assert filters["aegisbpf_digest"](POLICY.decode()) == hashlib.sha256(POLICY).hexdigest()


def test_a_bundle_is_named_by_what_is_signed_in_it(filters: dict[str, Any]) -> None:
    envelope = make_bundle(
        POLICY.decode(),
        policy_name="policy.yaml",
        serial=1,
        created=1,
        expires=None,
        keys=[PrivateKey.generate("ops")],
    )
    text = envelope.to_bytes().decode()
    assert filters["aegisbpf_digest"](text) == hashlib.sha256(envelope.payload).hexdigest()


def test_a_bundle_cut_short_is_refused(filters: dict[str, Any]) -> None:
    with pytest.raises(AnsibleFilterError):
        filters["aegisbpf_digest"]('{"payloadType": "x", ')


def test_a_file_is_looked_for_where_the_operator_stands_and_then_where_ansible_looks(
    filters: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    here, playbooks = tmp_path / "here", tmp_path / "playbooks"
    for folder in (here, playbooks):
        folder.mkdir()
    monkeypatch.chdir(here)

    def find(text: str) -> str:
        return str(filters["aegisbpf_here"](text, "aegisbpf_policy", [str(playbooks)]))

    (here / "a").write_text("here")
    (playbooks / "b").write_text("there")
    assert find("a") == str(here / "a")
    assert find("b") == str(playbooks / "b")
    assert find(str(playbooks / "b")) == str(playbooks / "b")
    assert find("") == ""
    with pytest.raises(AnsibleFilterError, match="aegisbpf_policy=c: there is no ") as caught:
        find("c")
    assert f"{here}/c, " in str(caught.value)
    assert f" {playbooks}/c; next: write the whole path" in str(caught.value)


def test_a_path_that_names_two_files_is_refused_and_two_names_of_one_file_are_not(
    filters: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    here, playbooks = tmp_path / "here", tmp_path / "playbooks"
    for folder in (here, playbooks):
        folder.mkdir()
        (folder / "a").write_text("")
    (here / "b").write_text("")
    (playbooks / "b").symlink_to(here / "b")
    monkeypatch.chdir(here)
    assert filters["aegisbpf_here"]("b", "aegisbpf_policy", [str(playbooks)]) == str(here / "b")
    with pytest.raises(AnsibleFilterError, match="aegisbpf_policy=a: names two files") as caught:
        filters["aegisbpf_here"]("a", "aegisbpf_policy", [str(playbooks)])
    assert f"{here}/a, {playbooks}/a" in str(caught.value)
