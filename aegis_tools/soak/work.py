"""What a workload does: ``python -m aegis_tools.soak.work developer --seconds 600``.

Rounds of work, with pauses in between so that they take no more than their share of a core; in a
temporary folder that is gone afterwards. It ends after its time, at SIGTERM or Ctrl-C, and with
the process that has started it.
"""

from __future__ import annotations

import argparse
import ctypes
import os
import resource
import signal
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, suppress
from pathlib import Path

from aegis_tools.errors import AegisError, CommandError
from aegis_tools.kernel.run import run
from aegis_tools.paths import Paths

Round = Callable[[], None]
PAUSE_SECONDS = 0.2
"""At least so long between two rounds."""
MOST_FILES = 100
"""That the seed's loop reads in a round; a hundredth of a second after each, as there."""
_SOURCES = 6
_REQUESTS = 40
_ROWS = 200
_KEPT = 5000
_PATIENCE = 120.0
_PR_SET_PDEATHSIG = 1  # include/uapi/linux/prctl.h


@contextmanager
def idle(folder: Path, paths: Paths) -> Iterator[Round]:
    """Do nothing."""
    del folder, paths
    yield lambda: time.sleep(1)


@contextmanager
def developer(folder: Path, paths: Paths) -> Iterator[Round]:
    """Compile, and keep what was compiled in a repository."""
    with git(folder, paths) as commit:

        def round_() -> None:
            compile_sources(folder / "src")
            commit()

        yield round_


@contextmanager
def git(folder: Path, paths: Paths) -> Iterator[Round]:
    """Write files, commit them, look at the log; begin anew after some commits."""
    del paths
    source = folder / "src"
    count = 0

    def round_() -> None:
        nonlocal count
        source.mkdir(exist_ok=True)
        for number in range(_SOURCES):
            (source / f"unit{number}.c").write_text(source_text(number, count))
        if count % 50 == 0:
            _git(source, "init", "--quiet")
        _git(source, "add", "--all")
        _git(source, "commit", "--quiet", "--allow-empty", "-m", f"change {count}")
        _git(source, "log", "--oneline", "-n", "20")
        count += 1
        if count % 50 == 0:
            import shutil

            shutil.rmtree(source / ".git", ignore_errors=True)

    yield round_


def _git(folder: Path, *words: str) -> None:
    """Run git; where there is none, its part of the work is left out."""
    who = ("-c", "user.name=soak", "-c", "user.email=soak@localhost", "-c", "gc.auto=0")
    with suppress(CommandError):
        run(["git", "-C", str(folder), *who, *words], timeout=_PATIENCE)


def source_text(number: int, count: int) -> str:
    """Return a unit of C that takes a moment to compile."""
    functions = "".join(
        f"int f{number}_{n}(int x) {{ return x * {n + count} + f(x % {n + 7}); }}\n"
        for n in range(100)
    )
    return f"#include <stdio.h>\n#include <stdlib.h>\nint f(int);\n{functions}"


def compile_sources(folder: Path) -> None:
    """Compile what is there with the host's compiler; without one, Python's own sources."""
    for path in sorted(folder.glob("*.c")):
        try:
            run(["cc", "-O1", "-c", "-o", f"{path}.o", str(path)], timeout=_PATIENCE)
        except CommandError:
            _compile_python(folder)
            return


def _compile_python(folder: Path) -> None:
    import compileall
    import shutil

    copies = folder / "python"
    shutil.rmtree(copies, ignore_errors=True)
    copies.mkdir(parents=True)
    for path in sorted(Path(os.__file__).parent.glob("[a-h]*.py"))[:40]:
        shutil.copyfile(path, copies / path.name)
    compileall.compile_dir(str(copies), quiet=2, force=True)


@contextmanager
def web(folder: Path, paths: Paths) -> Iterator[Round]:
    """Serve pages on loopback, and ask for them."""
    del paths
    import functools
    import http.server
    import urllib.request

    class Quiet(http.server.SimpleHTTPRequestHandler):
        def log_message(self, *_: object) -> None:
            """Say nothing."""

    for number in range(10):
        (folder / f"page{number}.html").write_text("x" * (1000 << (number % 8)))
    serve = functools.partial(Quiet, directory=str(folder))
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), serve) as server:
        thread = threading.Thread(target=server.serve_forever, daemon=True)
        thread.start()

        def round_() -> None:
            for number in range(_REQUESTS):
                address = f"http://127.0.0.1:{server.server_port}/page{number % 10}.html"
                with urllib.request.urlopen(address, timeout=30) as answer:
                    answer.read()

        try:
            yield round_
        finally:
            server.shutdown()
            thread.join()


@contextmanager
def database(folder: Path, paths: Paths) -> Iterator[Round]:
    """Insert, change, look up and remove rows of a database, each round a transaction."""
    del paths
    import sqlite3

    connection = sqlite3.connect(folder / "work.db")
    connection.execute("PRAGMA journal_mode=WAL")
    connection.execute("CREATE TABLE orders (id INTEGER PRIMARY KEY, customer TEXT, amount REAL)")
    connection.execute("CREATE INDEX by_customer ON orders (customer)")

    def round_() -> None:
        with connection:
            rows = ((f"customer {n % 37}", n * 1.5) for n in range(_ROWS))
            connection.executemany("INSERT INTO orders (customer, amount) VALUES (?, ?)", rows)
            connection.execute("UPDATE orders SET amount = amount + 1 WHERE id % 97 = 0")
            newest = connection.execute("SELECT max(id) FROM orders").fetchone()[0]
            connection.execute("DELETE FROM orders WHERE id < ?", (newest - _KEPT,))
        connection.execute("SELECT customer, sum(amount) FROM orders GROUP BY customer").fetchall()

    try:
        yield round_
    finally:
        connection.close()


@contextmanager
def stress(folder: Path, paths: Paths) -> Iterator[Round]:
    """Read files that live rules deny, a hundred times a second at most."""
    del folder
    targets = denied_files(paths)

    def round_() -> None:
        for number in range(MOST_FILES if targets else 0):
            read_start(targets[number % len(targets)])
            time.sleep(0.01)

    yield round_


def denied_files(paths: Paths) -> list[str]:
    """Return regular files that live rules deny the reading of, the canary not among them."""
    from aegis_tools.control.live import Live
    from aegis_tools.control.names import rules_by_uid
    from aegis_tools.kernel.pins import Pins
    from aegis_tools.policy.model import Kind, Op

    with Live(Pins(paths.pins)) as live:
        rules = rules_by_uid(live, paths).values()
    own = str(paths.soaks) + "/"
    names = (rule.target for rule in rules if rule.kind is Kind.PATH and rule.operations & Op.READ)
    found = (name for name in names if not name.startswith(own) and is_regular(name))
    return sorted(found)[:MOST_FILES]


def is_regular(name: str) -> bool:
    """Return whether it is a regular file: opening anything else may wait, or do something."""
    import stat

    with suppress(OSError, ValueError):
        return stat.S_ISREG(os.lstat(name).st_mode)
    return False


def read_start(name: str) -> None:
    """Read the beginning of a file; that it is refused is what is wanted."""
    with suppress(OSError):
        fd = os.open(name, os.O_RDONLY | os.O_NONBLOCK | os.O_NOFOLLOW | os.O_CLOEXEC)
        try:
            os.read(fd, 4096)
        finally:
            os.close(fd)


WORK: dict[str, Callable[[Path, Paths], AbstractContextManager[Round]]] = {
    "idle": idle,
    "developer": developer,
    "git": git,
    "web": web,
    "database": database,
    "stress": stress,
}


def cpu_seconds() -> float:
    """Return the processor seconds of this process, and of its children that have ended."""
    kinds = (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)
    used = [resource.getrusage(kind) for kind in kinds]
    return sum(one.ru_utime + one.ru_stime for one in used)


def pause_after(took: float, cpu: float, share: float) -> float:
    """Return how long to wait after a round.

    Args:
        took: Seconds of the round.
        cpu: Processor seconds of it.
        share: Of a core, that may be taken.
    """
    return max(PAUSE_SECONDS, cpu / share - took)


def work(name: str, paths: Paths, seconds: float, share: float, stop: threading.Event) -> int:
    """Do rounds until the time is over, or told to stop; return how many."""
    end = time.monotonic() + seconds
    rounds = 0
    with (
        tempfile.TemporaryDirectory(prefix="aegis-soak-", ignore_cleanup_errors=True) as folder,
        WORK[name](Path(folder), paths) as round_,
    ):
        while not stop.is_set() and (now := time.monotonic()) < end:
            begun = cpu_seconds()
            with suppress(AegisError, OSError):  # a full disk, say: the work goes on
                round_()
            rounds += 1
            pause = pause_after(time.monotonic() - now, cpu_seconds() - begun, share)
            stop.wait(min(pause, max(end - time.monotonic(), 0.0)))
    return rounds


def main(argv: list[str] | None = None) -> int:
    """Work as the command line says."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("name", choices=sorted(WORK))
    parser.add_argument("--seconds", type=float, required=True)
    parser.add_argument("--cpu-percent", type=int, default=50)
    parser.add_argument("--root", type=Path, default=Path("/"))
    given = parser.parse_args(argv)
    stop = threading.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: stop.set())
    # When a soak in the foreground is killed, nobody else would end this.
    ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGTERM, 0, 0, 0)
    os.nice(10)
    work(given.name, Paths(given.root), given.seconds, given.cpu_percent / 100, stop)
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
