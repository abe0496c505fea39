"""What `pip install .` brings: both programs, and the BPF objects with their checksums."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest
from repository import REPOSITORY, files, name_of

MONITORS = {f"{path.stem}.o" for path in (REPOSITORY / "bpf/monitors").glob("*.bpf.c")}
OBJECTS = {"aegis.bpf.o", "audit.bpf.o", "inode_keys.bpf.o", "SHA256SUMS"} | MONITORS
PREBUILT = {name.removesuffix(".bpf.o") for name in MONITORS if name.count(".") == 2}
VERIFY = """
import sys
from aegis_tools.kernel import loader
for name in ("aegis.bpf.o", "audit.bpf.o", "inode_keys.bpf.o"):
    loader.verify_object(name)
print(loader.OBJECTS)
"""


def run(argv: list[str], **options: object) -> subprocess.CompletedProcess[str]:
    return subprocess.run(  # type: ignore[call-overload, no-any-return]
        argv, capture_output=True, text=True, stdin=subprocess.DEVNULL, check=False, **options
    )


def pip(*arguments: str, **options: object) -> subprocess.CompletedProcess[str]:
    quiet = ["--quiet", "--no-input", "--disable-pip-version-check"]
    return run([sys.executable, "-m", "pip", *quiet, *arguments], **options)


@pytest.fixture(scope="module")
def checkout(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a copy of what git knows, with nothing built."""
    folder = tmp_path_factory.mktemp("checkout")
    for path in files():
        target = folder / name_of(path)
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy2(path, target)
    return folder


@pytest.fixture(scope="module")
def wheel(checkout: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("wheel")
    done = pip("wheel", "--no-deps", "--no-build-isolation", "-w", str(folder), str(checkout))
    assert done.returncode == 0, done.stderr
    [wheel] = folder.glob("*.whl")
    return wheel


@pytest.fixture
def installed(wheel: Path, tmp_path: Path) -> Path:
    """Return a prefix that the wheel was installed into."""
    done = pip("install", "--no-deps", "--ignore-installed", "--prefix", str(tmp_path), str(wheel))
    assert done.returncode == 0, done.stderr
    return tmp_path


def environment(prefix: Path) -> dict[str, str]:
    [packages] = prefix.glob("**/site-packages")
    return {"PATH": os.environ["PATH"], "PYTHONPATH": str(packages)}


def test_a_wheel_holds_the_objects_and_their_sums(wheel: Path) -> None:
    names = zipfile.ZipFile(wheel).namelist()
    places = {"aegis_tools/objects": OBJECTS, "aegis_tools/objects/prebuilt-ebpf": PREBUILT}
    for folder, wanted in places.items():
        assert {Path(name).name for name in names if str(Path(name).parent) == folder} == wanted
    assert "aegis_tools/agent/event.schema.json" in names
    assert "aegis_tools/monitors/event.schema.json" in names
    page = {f"aegis_tools/rollout/page.{kind}" for kind in ("css", "html.j2", "js")}
    assert {"aegis_tools/rollout/report.schema.json", *page} <= set(names)
    soak = {f"aegis_tools/soak/{name}" for name in ("page.css", "report.schema.json")}
    assert soak <= set(names)


@pytest.mark.parametrize("name", ["aegisbpf", "aegis-tools", "dots-family-ctl"])
def test_an_installed_program_says_its_version(installed: Path, name: str) -> None:
    [program] = installed.glob(f"**/bin/{name}")
    done = run([str(program), "--version"], env=environment(installed))
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.startswith("aegisbpf ")


def test_installed_objects_are_the_ones_that_were_built(installed: Path) -> None:
    done = run([sys.executable, "-c", VERIFY], env=environment(installed), cwd=installed)
    assert done.returncode == 0, done.stderr
    assert Path(done.stdout.strip()).is_relative_to(installed)


def test_a_changed_byte_in_an_installed_object_is_noticed(installed: Path) -> None:
    [path] = installed.glob("**/objects/audit.bpf.o")
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)
    done = run([sys.executable, "-c", VERIFY], env=environment(installed), cwd=installed)
    assert done.returncode != 0
    assert "not the one this version was built with" in done.stderr


def test_without_a_compiler_the_build_says_what_to_install(checkout: Path, tmp_path: Path) -> None:
    for name in ("make", "sh", "uname", "mkdir", "sha256sum"):
        (tmp_path / name).symlink_to(shutil.which(name) or "")
    shutil.rmtree(checkout / "aegis_tools" / "objects", ignore_errors=True)
    environment = {"PATH": str(tmp_path), "HOME": str(tmp_path)}
    argv = [sys.executable, "setup.py", "--quiet", "build_py", "--build-lib", str(tmp_path / "o")]
    done = run(argv, env=environment, cwd=checkout)
    assert done.returncode != 0
    assert "apt-get install make clang-14" in done.stderr
    assert "Traceback" not in done.stderr


def test_a_source_distribution_holds_the_sources_and_no_objects(
    checkout: Path, tmp_path: Path
) -> None:
    done = run(
        [sys.executable, "setup.py", "--quiet", "sdist", "--dist-dir", str(tmp_path)], cwd=checkout
    )
    assert done.returncode == 0, done.stderr
    [archive] = tmp_path.glob("*.tar.gz")
    names = {name.split("/", 1)[-1] for name in shutil_names(archive)}
    wanted = {name_of(path) for path in files() if name_of(path).startswith("bpf/")}
    assert wanted <= names
    assert not {name for name in names if name.endswith(".o")}


def shutil_names(archive: Path) -> list[str]:
    return run(["tar", "-tzf", str(archive)]).stdout.splitlines()


def test_the_repository_is_where_we_think_it_is() -> None:
    assert (REPOSITORY / "setup.py").is_file()
