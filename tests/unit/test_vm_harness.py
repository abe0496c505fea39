"""The machine harness: which packages make a kernel, where they come from, what is rendered."""

from __future__ import annotations

import json
from dataclasses import FrozenInstanceError
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from vmharness import sources
from vmharness.accel import accelerated
from vmharness.fetch import arrange, fetch, require
from vmharness.kernels import (
    MATRIX,
    HarnessError,
    Installed,
    Kernel,
    Package,
    cache_folder,
    downloads,
    find,
    newest_image,
    parse_packages,
    version_key,
)
from vmharness.machine import (
    Job,
    NotBootedError,
    Outcome,
    hidden,
    job_file,
    twice,
    vng_arguments,
)

META = "linux-image-amd64"
ARCHIVE = "http://mirror.invalid/debian"
SECURITY = "http://mirror.invalid/debian-security"


def meta(version: str, image: str) -> Package:
    return Package(META, version, f"linux-base-amd64 (= {version}), {image} (= {version})")


def cached(tmp_path: Path, name: str = "6.1") -> Installed:
    root = tmp_path / name
    (root / "lib" / "modules" / f"{name}.0-1-amd64").mkdir(parents=True)
    return Installed(MATRIX[name], root)


def job_of(text: str) -> dict[str, object]:
    loaded: dict[str, object] = json.loads(text)
    return loaded


def test_the_newest_meta_package_of_the_series_names_the_image() -> None:
    metas = [
        meta("6.1.99-1", "linux-image-6.1.0-9-amd64"),
        meta("6.1.176-1", "linux-image-6.1.0-50-amd64"),
        meta("6.12.107-1", "linux-image-6.12.107+deb13-amd64"),
    ]
    assert newest_image(MATRIX["6.1"], metas) == Package("linux-image-6.1.0-50-amd64", "6.1.176-1")


def test_a_series_is_not_taken_for_one_that_begins_alike() -> None:
    metas = [meta("6.12.107-1", "linux-image-6.12.107+deb13-amd64")]
    with pytest.raises(HarnessError, match=r"no 6\.1 kernel"):
        newest_image(MATRIX["6.1"], metas)


def test_a_meta_package_without_an_image_is_an_error() -> None:
    with pytest.raises(HarnessError, match="no kernel image"):
        newest_image(MATRIX["6.1"], [Package(META, "6.1.1-1", "linux-base")])


def test_a_whole_image_is_downloaded_alone() -> None:
    image = Package("linux-image-6.1.0-50-amd64", "6.1.176-1", "kmod, linux-base (>= 4.3~)")
    assert downloads(image) == ["linux-image-6.1.0-50-amd64=6.1.176-1"]


def test_a_split_image_is_downloaded_as_its_parts() -> None:
    release = "7.2.13+deb14-amd64"
    depends = ", ".join(f"linux-{part}-{release} (= 7.2.13-1)" for part in ("base", "binary"))
    image = Package(f"linux-image-{release}", "7.2.13-1", f"dracut | initramfs-tools, {depends}")
    assert downloads(image) == [
        f"linux-base-{release}=7.2.13-1",
        f"linux-binary-{release}=7.2.13-1",
    ]


def test_package_stanzas_are_read_whatever_else_they_hold() -> None:
    text = (
        "Package: a\nVersion: 1\nDescription: one\n more: text\nDepends: b (= 1)\n\n"
        "Package: broken\n\nPackage: c\nVersion: 2\n"
    )
    assert parse_packages(text) == [Package("a", "1", "b (= 1)"), Package("c", "2")]


@given(st.text())
def test_any_text_can_be_read_as_package_stanzas(text: str) -> None:
    assert all(package.name for package in parse_packages(text))


@given(st.lists(st.integers(0, 9999), min_size=1, max_size=4), st.integers(1, 99))
def test_a_higher_number_is_a_newer_version(numbers: list[int], more: int) -> None:
    older = ".".join(map(str, numbers))
    newer = ".".join(map(str, [*numbers[:-1], numbers[-1] + more]))
    assert version_key(newer) > version_key(older)


def test_an_unknown_kernel_names_the_known_ones() -> None:
    with pytest.raises(HarnessError) as caught:
        find("4.19")
    assert "5.10, 6.1, 6.12, 7.2" in caught.value.hint


def test_a_kernel_is_data_that_nobody_changes() -> None:
    with pytest.raises(FrozenInstanceError):
        MATRIX["6.1"].name = "6.2"  # type: ignore[misc]


@pytest.mark.parametrize(
    ("environment", "folder"),
    [
        ({"AEGIS_CACHE": "/c", "XDG_CACHE_HOME": "/x", "HOME": "/h"}, "/c/kernels"),
        ({"XDG_CACHE_HOME": "/x", "HOME": "/h"}, "/x/aegis-tools/kernels"),
        ({"HOME": "/h"}, "/h/.cache/aegis-tools/kernels"),
    ],
)
def test_the_cache_folder_follows_the_environment(environment: dict[str, str], folder: str) -> None:
    assert cache_folder(environment) == Path(folder)


def test_the_mirror_is_found_in_stanza_sources() -> None:
    text = (
        f"Types: deb\n# a comment\nURIs: {ARCHIVE}\nSuites: bookworm bookworm-updates\n"
        f"Components: main\n\nTypes: deb\nURIs: {SECURITY}\nSuites: bookworm-security\n"
        "Components: main\n"
    )
    assert sources.choose(sources.parse_deb822(text), {}) == sources.Mirrors(ARCHIVE, SECURITY)


def test_the_mirror_is_found_in_one_line_sources() -> None:
    text = (
        "# deb http://old.invalid/debian bookworm main\n"
        "deb-src http://src.invalid/debian bookworm main\n"
        f"deb [arch=amd64 signed-by=/k.gpg] {ARCHIVE} bookworm main contrib # ours\n"
    )
    assert sources.choose(sources.parse_one_line(text), {}) == sources.Mirrors(ARCHIVE, None)


def test_an_archive_that_only_looks_like_debian_is_passed_over() -> None:
    text = (
        "deb http://vendor.invalid/linux/debian bookworm stable\n"
        "deb http://vendor.invalid/apt cloud-sdk-bookworm main\n"
        "deb http://vendor.invalid/mirror bookworm main\n"
        f"deb [signed-by=/usr/share/keyrings/debian-archive-keyring.gpg] {ARCHIVE} bookworm main\n"
    )
    assert sources.choose(sources.parse_one_line(text), {}).main == ARCHIVE


def test_a_disabled_stanza_is_passed_over() -> None:
    text = f"Enabled: no\nTypes: deb\nURIs: {ARCHIVE}\nSuites: sid\nComponents: main\n"
    assert sources.parse_deb822(text) == []


def test_without_a_debian_archive_the_variable_is_named() -> None:
    with pytest.raises(HarnessError) as caught:
        sources.choose([], {})
    assert "AEGIS_DEBIAN_MIRROR" in caught.value.hint


def test_the_variable_goes_before_the_machines_own_sources() -> None:
    entry = sources.Entry("http://other.invalid", ("bookworm",), ("main",), official=True)
    chosen = sources.choose([entry], {"AEGIS_DEBIAN_MIRROR": ARCHIVE})
    assert chosen.main == ARCHIVE


def test_every_private_source_is_signed_and_security_has_its_own_archive() -> None:
    kernel = Kernel("6.1", ("bookworm", "bookworm-security"))
    text = sources.render([kernel, kernel], sources.Mirrors(ARCHIVE, SECURITY), "/k.gpg")
    assert text.splitlines() == [
        f"deb [arch=amd64 signed-by=/k.gpg] {ARCHIVE} bookworm main",
        f"deb [arch=amd64 signed-by=/k.gpg] {SECURITY} bookworm-security main",
    ]


def test_without_a_security_archive_its_suites_are_left_out() -> None:
    kernel = Kernel("6.1", ("bookworm", "bookworm-security"))
    text = sources.render([kernel], sources.Mirrors(ARCHIVE, None), "/k.gpg")
    assert "security" not in text


@pytest.mark.parametrize("text", ["Types", "URIs: x\n\n\n", ":\n:", "Types: deb\n \n", "deb [ x"])
def test_broken_sources_hold_no_entry(text: str) -> None:
    assert sources.parse_deb822(text) == []
    assert sources.parse_one_line(text) == []


def test_the_oldest_kernel_boots_with_bpf_in_its_list(tmp_path: Path) -> None:
    kernel = cached(tmp_path, "5.10")
    arguments = vng_arguments("vng", kernel, Job(("true",), cmdline=("quiet",)), tmp_path)
    appended = [argument for argument in arguments if argument.startswith("--append=")]
    assert appended[0].endswith(",bpf")
    assert appended[1] == "--append=quiet"


@pytest.mark.parametrize(("accelerate", "disabled"), [(False, True), (True, False)])
def test_kvm_is_used_only_when_it_was_found_to_work(
    tmp_path: Path, accelerate: bool, disabled: bool
) -> None:
    job = Job(("true",), accelerate=accelerate)
    assert ("--disable-kvm" in vng_arguments("vng", cached(tmp_path), job, tmp_path)) is disabled


def test_the_roots_share_is_numbered_after_the_callers(tmp_path: Path) -> None:
    job = Job(("true",), shared=(Path("/a"), Path("/b")))
    arguments = vng_arguments("vng", cached(tmp_path), job, tmp_path)
    shares = [argument for argument in arguments if argument.startswith(("--rwdir", "--rodir"))]
    number = int(str(job_of(job_file(cached(tmp_path / "x"), job))["host_share"])[-1])
    assert shares[number].endswith("=/")


def test_the_command_is_carried_word_for_word(tmp_path: Path) -> None:
    command = ("sh", "-c", "echo \"a  b\" $HOME 'ä'\n`id`")
    assert job_of(job_file(cached(tmp_path), Job(command)))["command"] == list(command)


def test_the_command_learns_which_kernel_it_runs_on(tmp_path: Path) -> None:
    job = Job(("true",), environment={"A": "1", "HOME": "/h"})
    environment = job_of(job_file(cached(tmp_path), job))["environment"]
    assert isinstance(environment, dict)
    assert environment["AEGIS_VM_KERNEL"] == "6.1"
    assert (environment["A"], environment["HOME"]) == ("1", "/h")


def test_only_what_a_tmpfs_would_hide_is_kept_and_only_once() -> None:
    paths = [Path(p) for p in ("/tmp/a/b", "/tmp/a", "/usr", "/tmp", "/run/x", "/tmp/ab", "/tmp/a")]
    assert hidden(paths) == [Path("/run/x"), Path("/tmp/a"), Path("/tmp/ab")]


@pytest.mark.parametrize(
    ("image", "modules"),
    [
        ("boot/vmlinuz-6.1.0-1-amd64", "lib/modules/6.1.0-1-amd64"),
        ("boot/vmlinuz-6.12.1-amd64", "usr/lib/modules/6.12.1-amd64"),
        ("usr/lib/modules/7.2.1-amd64/vmlinuz", "usr/lib/modules/7.2.1-amd64"),
    ],
)
def test_every_package_layout_ends_as_the_same_folder(
    tmp_path: Path, image: str, modules: str
) -> None:
    unpacked = tmp_path / "unpacked"
    (unpacked / modules).mkdir(parents=True)
    (unpacked / image).parent.mkdir(parents=True, exist_ok=True)
    (unpacked / image).write_bytes(b"image")
    arrange(unpacked, tmp_path / "staged")
    kernel = Installed(MATRIX["6.1"], tmp_path / "staged")
    assert kernel.image.read_bytes() == b"image"
    assert [folder.name for folder in kernel.modules.iterdir()] == [Path(modules).name]


def test_packages_without_an_image_leave_nothing_behind(tmp_path: Path) -> None:
    (tmp_path / "unpacked" / "lib" / "modules" / "6.1.0").mkdir(parents=True)
    with pytest.raises(HarnessError, match="no image"):
        arrange(tmp_path / "unpacked", tmp_path / "staged")
    assert not (tmp_path / "staged").exists()


def test_a_kernel_in_the_cache_is_not_fetched_again(tmp_path: Path) -> None:
    environment = {"AEGIS_CACHE": str(tmp_path), "PATH": str(tmp_path / "no-programs")}
    image = tmp_path / "kernels" / "6.1" / "vmlinuz"
    image.parent.mkdir(parents=True)
    image.touch()
    fetch([MATRIX["6.1"]], environment, refresh=False)
    assert require(MATRIX["6.1"], environment).image == image


def test_a_missing_kernel_says_how_to_get_it(tmp_path: Path) -> None:
    with pytest.raises(HarnessError) as caught:
        require(MATRIX["6.1"], {"AEGIS_CACHE": str(tmp_path)})
    assert caught.value.hint == "scripts/fetch-kernels 6.1"


def test_instructions_are_counted_by_the_emulator_where_they_are_asked_for(tmp_path: Path) -> None:
    kernel, job = cached(tmp_path), Job(("true",), count=True)
    assert "--qemu-opts=-icount shift=0" in vng_arguments("vng", kernel, job, tmp_path)
    plain = vng_arguments("vng", kernel, Job(("true",)), tmp_path)
    assert not any("icount" in word for word in plain)
    assert not accelerated(job, kernel, {"AEGIS_VM_ACCEL": "kvm"}).accelerate


def test_emulation_is_the_default_and_an_unknown_accelerator_an_error(tmp_path: Path) -> None:
    kernel, job = cached(tmp_path), Job(("true",))
    assert accelerated(job, kernel, {}) == job
    with pytest.raises(HarnessError, match="xen"):
        accelerated(job, kernel, {"AEGIS_VM_ACCEL": "xen"})


@pytest.mark.parametrize("works", [True, False])
def test_kvm_is_probed_once_a_boot(tmp_path: Path, works: bool) -> None:
    boot = Path("/proc/sys/kernel/random/boot_id").read_text().strip()
    note = tmp_path / "kernels" / ".kvm-probe.json"
    note.parent.mkdir()
    note.write_text(json.dumps({"boot": boot, "works": works}))
    environment = {"AEGIS_VM_ACCEL": "kvm", "AEGIS_CACHE": str(tmp_path)}
    assert accelerated(Job(("true",)), cached(tmp_path), environment).accelerate is works


@pytest.mark.parametrize("failures", [0, 1, 2])
def test_a_machine_that_never_came_up_is_started_once_more_and_that_is_said(failures: int) -> None:
    errors = [NotBootedError("it ended", hint="", detail="Oops: int3")] * failures
    said: list[str] = []

    def start() -> Outcome:
        if errors:
            raise errors.pop()
        return Outcome(0, 1.0, 2.0)

    if failures == 2:
        with pytest.raises(NotBootedError, match="it ended"):
            twice(start, said.append)
    else:
        assert twice(start, said.append).status == 0
    assert ["Oops" in line for line in said] == [True] * min(failures, 1)


def test_one_that_ends_in_the_middle_of_a_command_is_not_started_again() -> None:
    def start() -> Outcome:
        raise HarnessError("it ended", hint="")

    with pytest.raises(HarnessError, match="it ended"):
        twice(start, pytest.fail)
