"""Fill the kernel cache from Debian packages, with an apt that knows nothing of the host's."""

from __future__ import annotations

import fcntl
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path

from vmharness import sources
from vmharness.kernels import (
    META_PACKAGE,
    HarnessError,
    Installed,
    Kernel,
    Package,
    cache_folder,
    downloads,
    newest_image,
    parse_packages,
)

KEYRING = "/usr/share/keyrings/debian-archive-keyring.gpg"
APT_SECONDS = 900


def installed(kernel: Kernel, environment: Mapping[str, str]) -> Installed:
    """Return where ``kernel`` is kept, whether or not it is there."""
    return Installed(kernel, cache_folder(environment) / kernel.name)


def present(kernel: Kernel, environment: Mapping[str, str]) -> bool:
    """Say whether the cache holds the kernel; folders appear whole, by rename."""
    return installed(kernel, environment).image.is_file()


def require(kernel: Kernel, environment: Mapping[str, str]) -> Installed:
    """Return the cached kernel.

    Raises:
        HarnessError: It has not been fetched.
    """
    if not present(kernel, environment):
        raise HarnessError(
            f"kernel {kernel.name} is not in the cache",
            hint=f"scripts/fetch-kernels {kernel.name}",
        )
    return installed(kernel, environment)


def fetch(kernels: Sequence[Kernel], environment: Mapping[str, str], *, refresh: bool) -> None:
    """Put ``kernels`` into the cache; those already there cost one stat(2).

    Args:
        kernels: The kernels wanted.
        environment: Says where the cache is, see :func:`vmharness.kernels.cache_folder`.
        refresh: Fetch again what is there, for a newer point release.

    Raises:
        HarnessError: apt, dpkg-deb or depmod failed, or no suite has the kernel.
    """
    cache = cache_folder(environment)
    if not refresh and all(present(kernel, environment) for kernel in kernels):
        return
    cache.mkdir(parents=True, exist_ok=True)
    with _locked(cache), tempfile.TemporaryDirectory(prefix=".fetch-", dir=cache) as temporary:
        wanted = [k for k in kernels if refresh or not present(k, environment)]
        if not wanted:
            return
        apt = Apt(Path(temporary) / "apt", environment)
        apt.update(wanted)
        for kernel in wanted:
            _install(kernel, apt, Path(temporary), cache)


class Apt:
    """apt-get and apt-cache on lists, caches and sources of their own.

    The host's ``apt.conf.d`` is left out, because its hooks clean the host's caches; only its
    ``Acquire`` settings (proxies, time-outs, date checks) are carried over.

    Args:
        folder: Where everything is kept; made here.
        environment: For the mirrors, and passed on to apt.
    """

    def __init__(self, folder: Path, environment: Mapping[str, str]) -> None:
        self.folder = folder
        self.environment = {**environment, "LC_ALL": "C", "APT_CONFIG": str(folder / "apt.conf")}
        for name in ("state/lists/partial", "cache/archives/partial"):
            (folder / name).mkdir(parents=True)
        settings = {
            "Dir::State": folder / "state",
            "Dir::State::status": "/dev/null",
            "Dir::Cache": folder / "cache",
            "Dir::Etc::Parts": "/dev/null",
            "Dir::Etc::main": "/dev/null",
            "Dir::Etc::SourceList": folder / "sources.list",
            "Dir::Etc::SourceParts": "/dev/null",
            "Acquire::Languages": "none",
        }
        if os.geteuid() == 0:
            # apt's own user cannot write below a cache that is root's.
            settings["APT::Sandbox::User"] = "root"
        host = [line for line in host_settings(environment) if "Languages" not in line]
        ours = [f'{name} "{value}";' for name, value in settings.items()]
        (folder / "apt.conf").write_text("\n".join([*host, *ours, ""]), encoding="utf-8")

    def update(self, kernels: Sequence[Kernel]) -> None:
        """Read the package lists of the kernels' suites; signatures are always checked."""
        mirrors = sources.choose(host_entries(), self.environment)
        text = sources.render(kernels, mirrors, KEYRING)
        (self.folder / "sources.list").write_text(text, encoding="utf-8")
        run = _run(["apt-get", "--quiet", "--error-on=any", "update"], self.environment)
        if "NO_PUBKEY" in run.stderr:
            raise HarnessError(
                "the installed keyring cannot verify a Debian suite",
                hint="install a newer debian-archive-keyring (apt-get install, or -security)",
                detail=run.stderr,
            )
        if run.returncode:
            # One suite may be gone (archived) while another still has the kernel.
            print(f"fetch-kernels: apt-get update:\n{run.stderr.strip()}", file=sys.stderr)

    def show(self, name: str) -> list[Package]:
        """Return every version of a package, empty when there is none."""
        run = _run(["apt-cache", "show", "--all-versions", name], self.environment)
        return parse_packages(run.stdout)

    def download(self, specifications: Sequence[str], folder: Path) -> list[Path]:
        """Fetch ``name=version`` packages into ``folder``."""
        folder.mkdir()
        command = ["apt-get", "--quiet", "download", *specifications]
        _checked(command, self.environment, cwd=folder)
        return sorted(folder.glob("*.deb"))


def _install(kernel: Kernel, apt: Apt, temporary: Path, cache: Path) -> None:
    image = newest_image(kernel, apt.show(META_PACKAGE))
    stanzas = [package for package in apt.show(image.name) if package.version == image.version]
    specifications = downloads(stanzas[0] if stanzas else image)
    print(f"fetch-kernels: {kernel.name}: {' '.join(specifications)}", file=sys.stderr)
    unpacked = temporary / f"{kernel.name}.unpacked"
    for package in apt.download(specifications, temporary / f"{kernel.name}.debs"):
        _checked(["dpkg-deb", "--extract", str(package), str(unpacked)], apt.environment)
    staged = temporary / kernel.name
    arrange(unpacked, staged)
    [release] = [folder.name for folder in (staged / "lib" / "modules").iterdir()]
    _checked([_sbin("depmod"), "--basedir", str(staged), release], apt.environment)
    (staged / "release").write_text(f"{release} {' '.join(specifications)}\n", encoding="utf-8")
    _swap(staged, cache / kernel.name, temporary)


def arrange(unpacked: Path, staged: Path) -> None:
    """Move image and modules to ``vmlinuz`` and ``lib/modules``, wherever the packages had them.

    Raises:
        HarnessError: There is no image, more than one, or no modules.
    """
    trees = [unpacked / "lib" / "modules", unpacked / "usr" / "lib" / "modules"]
    modules = next((tree for tree in trees if tree.is_dir()), None)
    images = [*unpacked.glob("boot/vmlinuz-*"), *unpacked.glob("usr/lib/modules/*/vmlinuz")]
    if modules is None or len(images) != 1:
        raise HarnessError("the kernel packages hold no image with modules")
    staged.mkdir()
    images[0].rename(staged / "vmlinuz")
    (staged / "lib").mkdir()
    modules.rename(staged / "lib" / "modules")


def _swap(staged: Path, target: Path, temporary: Path) -> None:
    if target.exists():
        target.rename(temporary / f"{target.name}.old")
    staged.rename(target)


@contextmanager
def _locked(cache: Path) -> Iterator[None]:
    with (cache / ".lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield


def host_entries() -> list[sources.Entry]:
    """Return the archives of the host's own apt."""
    etc = Path("/etc/apt")
    entries = []
    for path in [etc / "sources.list", *sorted((etc / "sources.list.d").glob("*"))]:
        if path.suffix in (".list", ".sources") and path.is_file():
            text = path.read_text(encoding="utf-8")
            parse = sources.parse_deb822 if path.suffix == ".sources" else sources.parse_one_line
            entries += parse(text)
    return entries


def host_settings(environment: Mapping[str, str]) -> list[str]:
    """Return the host's apt settings on how to reach an archive, as ``apt.conf`` lines."""
    run = _checked(["apt-config", "dump"], {**environment, "LC_ALL": "C"})
    wanted = ("Acquire::http", "Acquire::ftp", "Acquire::Check-", "Acquire::Retries")
    return [line for line in run.stdout.splitlines() if line.startswith(wanted)]


def _sbin(name: str) -> str:
    return shutil.which(name) or f"/usr/sbin/{name}"


def _run(
    command: Sequence[str], environment: Mapping[str, str], cwd: Path | None = None
) -> subprocess.CompletedProcess[str]:
    try:
        return subprocess.run(
            command,
            env=dict(environment),
            cwd=cwd,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=APT_SECONDS,
            check=False,
        )
    except FileNotFoundError:
        package = {"depmod": "kmod", "dpkg-deb": "dpkg"}.get(Path(command[0]).name, "apt")
        raise HarnessError(
            f"{command[0]} is not installed", hint=f"install the package {package}"
        ) from None
    except subprocess.TimeoutExpired:
        raise HarnessError(
            f"{command[0]} took more than {APT_SECONDS} s", hint="check the network, run again"
        ) from None


def _checked(
    command: Sequence[str], environment: Mapping[str, str], cwd: Path | None = None
) -> subprocess.CompletedProcess[str]:
    run = _run(command, environment, cwd)
    if run.returncode:
        raise HarnessError(f"{' '.join(command[:2])} failed", detail=run.stderr.strip())
    return run
