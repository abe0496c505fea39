"""What becomes of the ring's records: decoded, folded, written to the sinks.

The loop that feeds it::

    with open_pipeline(paths, live, sinks) as pipeline:
        while not stop:
            poll the ring (only while pipeline.flush()), pipeline.blocked, stop; at most a second
            if pipeline.flush():                     # nothing waits in a sink
                pipeline.take(ring.read(BATCH))
            pipeline.tick()                          # about once a second

Nothing here waits but ``close``.
"""

from __future__ import annotations

import os
import select
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from typing import Any

from aegis_tools.agent.decode import Decoder
from aegis_tools.agent.enrich import Bundles, Programs, find_bundle
from aegis_tools.agent.fold import INTERVAL, Fold, Told
from aegis_tools.agent.names import Places, RuleIds, RuleNames
from aegis_tools.agent.sinks import Sink
from aegis_tools.control.live import Live, boot_to_wall_ns
from aegis_tools.errors import KernelError
from aegis_tools.kernel.cgroups import cgroup_path
from aegis_tools.kernel.mountpaths import MountPaths
from aegis_tools.kernel.mounts import read_mounts
from aegis_tools.paths import Paths

GRACE = 0.5
"""Seconds that ``close`` gives a reader who does not read."""


class Pipeline:
    """Takes records and counts them. A context manager.

    Args:
        decoder: Makes them readable; its clock offset is renewed here.
        fold: Holds back repetitions.
        sinks: Where the lines go.
        programs: What the decoder asks for programs; renewed for each batch.
        boot_ns: The boot clock.
        offset_ns: What to add to it to get Unix time.

    Attributes:
        events: Records taken: the sum of ``count`` of all lines written, and ``held``, and
            ``undecodable``.
        written: Lines written.
        undecodable: Events that were not of this version's form; they have no line.
        lag_seconds: Age of the newest record of the last batch when it was taken.
    """

    def __init__(
        self,
        decoder: Decoder,
        fold: Fold,
        sinks: Sequence[Sink],
        *,
        programs: Programs | None = None,
        boot_ns: Callable[[], int] = lambda: time.clock_gettime_ns(time.CLOCK_BOOTTIME),
        offset_ns: Callable[[], int] = boot_to_wall_ns,
    ) -> None:
        self._decoder = decoder
        self._fold = fold
        self._sinks = list(sinks)
        self._programs = programs
        self._boot_ns = boot_ns
        self._offset_ns = offset_ns
        self.events = self.written = self.undecodable = 0
        self.lag_seconds = 0.0

    def __enter__(self) -> Pipeline:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def take(self, records: Sequence[bytes]) -> None:
        """Take records, oldest first.

        Raises:
            BrokenPipeError: The reader has left.
        """
        if not records:
            return
        self._decoder.offset_ns = self._offset_ns()
        newest = int.from_bytes(records[-1][:8], "little")
        self.lag_seconds = max(0.0, (self._boot_ns() - newest) / 1e9)
        self.events += len(records)
        self._tell(self._fold.take(records))

    def tick(self) -> None:
        """Write what was held back long enough. Call it about once a second.

        Raises:
            BrokenPipeError: The reader has left.
        """
        self._decoder.forget()
        self._decoder.offset_ns = self._offset_ns()
        self._tell(self._fold.tick())
        for sink in self._sinks:
            sink.tick()

    @property
    def folded(self) -> int:
        """Events that have no line of their own: they are in the count of another, or held."""
        return self.events - self.undecodable - self.written

    @property
    def held(self) -> int:
        """Events that are held back to be told of in one line."""
        return self._fold.held

    def flush(self) -> bool:
        """Let the sinks write what they have left; True when nothing is left, so take more.

        Raises:
            BrokenPipeError: The reader has left.
        """
        return min([sink.flush() for sink in self._sinks], default=True)

    @property
    def blocked(self) -> list[int]:
        """The descriptors (POLLOUT) that sinks wait for."""
        return [sink.fileno() for sink in self._sinks if not sink.flush()]

    def status(self) -> dict[str, Any]:
        """Return the counts, as run/agent.json has them."""
        return {
            "events": self.events,
            "written": self.written,
            "folded": self.folded,
            "held": self.held,
            "undecodable": self.undecodable,
            "lag_seconds": round(self.lag_seconds, 6),
            "sinks": {sink.name: sink.status() for sink in self._sinks},
        }

    def close(self) -> None:
        """Write what is folded; give readers a moment for what is left; close the sinks."""
        end = time.monotonic() + GRACE
        with suppress(BrokenPipeError):
            self._tell(self._fold.close())
        with suppress(BrokenPipeError):
            while (fds := self.blocked) and (left := end - time.monotonic()) > 0:
                poll = select.poll()
                for fd in fds:
                    poll.register(fd, select.POLLOUT)
                poll.poll(left * 1000)
        for sink in self._sinks:
            sink.close()

    def _tell(self, told: Sequence[Told]) -> None:
        if self._programs is not None:
            self._programs.renew()
        lines: list[bytes] = []
        line = self._decoder.line
        for record, count, first_ns in told:
            try:
                lines.append(line(record, count, first_ns))
            except KernelError:
                self.undecodable += count
        self.written += len(lines)
        if lines:
            data = b"".join(lines)
            for sink in self._sinks:
                sink.write(data)


def open_pipeline(
    paths: Paths, live: Live, sinks: Sequence[Sink], *, fold_seconds: float = INTERVAL
) -> Pipeline:
    """Return a pipeline that knows this host's names.

    Args:
        paths: Where the host's state is.
        live: What is loaded; must stay open as long as the pipeline is used.
        sinks: Where the lines go; the pipeline closes them.
        fold_seconds: From one line of repetitions to the next; 0 = every event has its own.
    """
    clock = time.monotonic
    programs = Programs()
    decoder = Decoder(
        rule=RuleNames(RuleIds(paths, live).read, clock).get,
        place=Places(cgroup_path).get,
        locate=MountPaths(read_mounts, clock).locate,
        bundle=Bundles(lambda start: find_bundle(paths, live, start), clock).get,
        program=programs.get,
        host=os.fsencode(os.uname().nodename).decode(errors="backslashreplace"),
    )
    return Pipeline(decoder, Fold(clock, interval=fold_seconds), sinks, programs=programs)
