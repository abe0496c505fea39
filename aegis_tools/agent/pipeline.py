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

import select
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from typing import Any

from aegis_tools.agent.decode import Decoder
from aegis_tools.agent.names import CgroupNames, RuleNames
from aegis_tools.agent.sinks import Sink
from aegis_tools.control.live import Live, boot_to_wall_ns
from aegis_tools.errors import AegisError
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
        sinks: Where the lines go.
        boot_ns: The boot clock.
        offset_ns: What to add to it to get Unix time.
    """

    def __init__(
        self,
        decoder: Decoder,
        sinks: Sequence[Sink],
        *,
        boot_ns: Callable[[], int] = lambda: time.clock_gettime_ns(time.CLOCK_BOOTTIME),
        offset_ns: Callable[[], int] = boot_to_wall_ns,
    ) -> None:
        self._decoder = decoder
        self._sinks = list(sinks)
        self._boot_ns = boot_ns
        self._offset_ns = offset_ns
        self.events = 0
        """Records taken."""
        self.written = 0
        """Lines written."""
        self.folded = 0
        """Events that have no line of their own: they are in the count of another."""
        self.undecodable = 0
        """Records that were not of this version's form; they have no line."""
        self.lag_seconds = 0.0
        """Age of the newest record of the last batch when it was taken."""

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
        self.events += len(records)
        lines: list[bytes] = []
        for record in records:
            try:
                lines += self._decoder.lines((record,))
            except AegisError:
                self.undecodable += 1
        newest = int.from_bytes(records[-1][:8], "little")
        self.lag_seconds = max(0.0, (self._boot_ns() - newest) / 1e9)
        self._write(lines)

    def tick(self) -> None:
        """Write what has waited long enough to be folded. Call it about once a second."""

    def flush(self) -> bool:
        """Let the sinks write what they have left; True when nothing is left, so take more.

        Raises:
            BrokenPipeError: The reader has left.
        """
        return all([sink.flush() for sink in self._sinks])

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
            "undecodable": self.undecodable,
            "lag_seconds": round(self.lag_seconds, 6),
            "sinks": {sink.name: sink.status() for sink in self._sinks},
        }

    def close(self) -> None:
        """Write what is folded; give readers a moment for what is left; close the sinks."""
        end = time.monotonic() + GRACE
        with suppress(BrokenPipeError):
            while (fds := self.blocked) and (left := end - time.monotonic()) > 0:
                poll = select.poll()
                for fd in fds:
                    poll.register(fd, select.POLLOUT)
                poll.poll(left * 1000)
        for sink in self._sinks:
            sink.close()

    def _write(self, lines: list[bytes]) -> None:
        self.written += len(lines)
        data = b"".join(lines)
        for sink in self._sinks:
            sink.write(data)


def open_pipeline(paths: Paths, live: Live, sinks: Sequence[Sink]) -> Pipeline:
    """Return a pipeline that knows this host's names.

    Args:
        paths: Where the host's state is.
        live: What is loaded; must stay open as long as the pipeline is used.
        sinks: Where the lines go; the pipeline closes them.
    """
    rules = RuleNames(lambda: rule_ids(paths, live), time.monotonic)
    mounts = MountPaths(read_mounts, time.monotonic)
    return Pipeline(Decoder(rules.get, CgroupNames(cgroup_path).get, mounts.locate), sinks)


def rule_ids(paths: Paths, live: Live) -> Mapping[int, str]:
    """Return the ids of the live rules by uid; of none where they cannot be read."""
    from aegis_tools.control.names import rules_by_uid

    with suppress(AegisError, OSError):  # removed meanwhile: numbers must do
        return {uid: rule.id for uid, rule in rules_by_uid(live, paths).items()}
    return {}
