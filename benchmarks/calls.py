"""The program that makes one system call over and over (calls.c): built, run, and understood."""

from __future__ import annotations

import contextlib
import errno
import socket
import struct
import subprocess
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import NamedTuple

from benchmarks.programs import LIMIT, ProgramError, last_cpu, on_cpu, output_of

COMPILER = "clang-14"
_SOURCE = Path(__file__).with_name("calls.c")
_FIGURE = struct.Struct("<q")
_MOST = 4096  # batches: BATCHES of calls.c
_BATCH = 0.003  # seconds that a batch of calls takes at least


class Kind(NamedTuple):
    """A kind of call.

    Attributes:
        letter: What the program calls it.
        calls: Of a batch, few enough that an interrupt disturbs few batches.
        batches: Of a run.
    """

    letter: str
    calls: int
    batches: int


KINDS = {
    "open": Kind("o", 20, 61),
    "stat+open": Kind("s", 20, 61),
    "exec": Kind("e", 2, 31),
    "connect": Kind("c", 10, 61),
    "bind": Kind("b", 20, 61),
    "send": Kind("u", 20, 61),
}
"""Calls that hooks look at; each with what belongs to it: socket, close, fork, wait, receive."""
FILES = ("open", "stat+open", "exec")
NETWORK = ("connect", "bind", "send")


class Told(NamedTuple):
    """What a run came to.

    Attributes:
        answer: Of the first call; negative is an error number.
        batches: Seconds of one call, in each batch.
    """

    answer: int
    batches: list[float]

    @property
    def denied(self) -> bool:
        """Whether the call was refused."""
        return self.answer == -errno.EPERM

    @property
    def median(self) -> float:
        """Seconds of one call: what interrupts a few batches does not count."""
        return median(self.batches)

    @property
    def mean(self) -> float:
        """Seconds of one call, with all that was done meanwhile."""
        return sum(self.batches) / len(self.batches)


@dataclass(frozen=True)
class Calls:
    """The program.

    Attributes:
        program: Where it is. Run without arguments it ends at once: something to execute.
        enter: What goes before it, to run it elsewhere.
    """

    program: Path
    enter: tuple[str, ...] = ()

    def run(
        self, letter: str, calls: int, batches: int, target: str, receiver: int | None = None
    ) -> Told:
        """Make so many calls in so many batches, on the last processor.

        Args:
            letter: Which.
            calls: Of a batch.
            batches: That count.
            target: A file, a program, or a :func:`place`.
            receiver: For ``send``: the socket, a descriptor, that is bound to the target.

        Raises:
            ProgramError: It could not.
        """
        done = subprocess.run(
            [*on_cpu(last_cpu()), *self.enter, str(self.program), letter, str(calls), str(batches),
             target],
            capture_output=True, check=False, timeout=LIMIT,
            stdin=subprocess.DEVNULL if receiver is None else receiver,
        )  # fmt: skip
        figures = [each for (each,) in _FIGURE.iter_unpack(done.stdout)]
        if len(figures) != 1 + batches:
            raise ProgramError(f"calls {letter} {target} could not work")
        return Told(figures[0], [each / calls / 1e9 for each in figures[1:]])

    def best(self, letter: str, target: str, seconds: float) -> float:
        """Return the seconds of a call in the best of many batches, of about so long a run.

        What else the machine does can only add.
        """
        calls, took = 1000, 0.0
        while took < _BATCH:
            calls *= 4
            took = calls * min(self.run(letter, calls, 1, target).batches)
        batches = min(_MOST, max(3, round(seconds / took)))
        return min(self.run(letter, calls, batches, target).batches)


def build(folder: Path, enter: Sequence[str] = ()) -> Calls:
    """Compile it into a folder."""
    program = folder / "calls"
    output_of([COMPILER, "-O2", "-static", "-nostdlib", "-o", str(program), str(_SOURCE)])
    return Calls(program, tuple(enter))


def place(port: int, host: int = 1) -> str:
    """Return how the program is told of a port of 127.0.0.``host``."""
    return str(host << 16 | port)


@contextlib.contextmanager
def receiver(host: int = 1, port: int = 0) -> Iterator[socket.socket]:
    """Yield a socket of 127.0.0.``host`` that receives what is sent to it."""
    with socket.socket(type=socket.SOCK_DGRAM) as one:
        one.bind((f"127.0.0.{host}", port))
        yield one


def free_port() -> int:
    """Return a port of loopback that nobody uses, for TCP or UDP."""
    with receiver() as one:
        port: int = one.getsockname()[1]
        return port
