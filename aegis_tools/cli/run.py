"""``aegisbpf run``: load if need be, then stream events to stdout.

Leaving it ends the stream and nothing else: enforcement is in the kernel.
"""

from __future__ import annotations

import argparse
import contextlib
import signal
import time
from collections.abc import Iterator, Mapping

from aegis_tools.agent.decode import Decoder
from aegis_tools.agent.names import CgroupNames, RuleNames
from aegis_tools.agent.stream import Stop, Stream, Writer, stop_on_signals
from aegis_tools.cli.load import add_size_options, size_options
from aegis_tools.cli.mode import change_or_stay
from aegis_tools.cli.output import App
from aegis_tools.control.live import Live
from aegis_tools.control.lock import locked
from aegis_tools.control.posture import read_posture
from aegis_tools.control.settings import parse_rate, to_sample
from aegis_tools.errors import AegisError, KernelError, StateError, UsageError
from aegis_tools.kernel import loader
from aegis_tools.kernel.cgroups import cgroup_path
from aegis_tools.kernel.features import mount_securityfs, read_host_features
from aegis_tools.kernel.layout import Config, Stat
from aegis_tools.kernel.maps import Map
from aegis_tools.kernel.mountpaths import MountPaths
from aegis_tools.kernel.mounts import read_mounts
from aegis_tools.kernel.pins import Pins
from aegis_tools.kernel.ringbuf import open_ring


def build(parser: argparse.ArgumentParser) -> None:
    """Add the options of the command."""
    which = parser.add_mutually_exclusive_group()
    for mode in ("audit", "enforce"):
        which.add_argument(
            f"--{mode}", dest="mode", action="store_const", const=mode, help=f"set the mode: {mode}"
        )
    which.add_argument("--mode", choices=("audit", "enforce"), help="the same in one option")
    parser.add_argument(
        "--event-sample-rate", metavar="R", help="share of matches that send an event, 0 to 1"
    )
    add_size_options(parser)
    for absent in ("--enforce-signal", "--deny-rate-threshold"):
        parser.add_argument(absent, help=argparse.SUPPRESS)
    parser.epilog = (
        "stdout has one JSON object an event, stderr everything else; leaving it does not end\n"
        "enforcement. Ends with 0 on SIGTERM, 130 on Ctrl-C.\n\n"
        'example: aegisbpf run --audit | grep \'"action":"BLOCK"\''
    )
    parser.set_defaults(run=run)


def check(arguments: argparse.Namespace) -> None:
    """Raise UsageError for what other tools of this kind have and this one does otherwise."""
    if arguments.enforce_signal is not None:
        raise UsageError(
            "--enforce-signal is no option: each rule has its own signal",
            hint="write signal: term to the rule in a YAML policy",
        )
    if arguments.deny_rate_threshold is not None:
        raise UsageError(
            "--deny-rate-threshold is no option of this version",
            hint="alert on rate(aegisbpf_blocks_total[5m]) and run: aegisbpf mode audit",
        )


def run(app: App, arguments: argparse.Namespace) -> int:
    """Load, set what was asked for, stream."""
    check(arguments)
    rate = None if arguments.event_sample_rate is None else parse_rate(arguments.event_sample_rate)
    pins = Pins(app.paths.pins)
    with only_reader(app), stop_on_signals() as stop:
        loaded = prepare(app, pins, arguments, rate)
        with Live(pins) as live:
            stream_events(app, live, stop, loaded)
    return 128 + signal.SIGINT if stop.signal == signal.SIGINT else 0


@contextlib.contextmanager
def only_reader(app: App) -> Iterator[None]:
    """Hold the right to read events.

    Raises:
        StateError: Another process has it.
    """
    with contextlib.ExitStack() as stack:
        try:
            stack.enter_context(locked(app.paths.run / "events.lock", "run", timeout=0))
        except StateError as error:
            if "pid" not in error.data:
                raise
            pid = error.data["pid"]
            raise StateError(
                f"another aegisbpf run reads the events already (process {pid})",
                hint=f"end it first (systemctl stop aegisbpf, or kill {pid}), or read its output",
                data=error.data,
            ) from None
        yield


def prepare(
    app: App, pins: Pins, arguments: argparse.Namespace, rate: float | None
) -> loader.Loaded:
    """Load if need be, and set the mode and the rate if they were given."""
    asked = size_options(arguments)
    mount_securityfs()
    with locked(app.paths.lock, command="run"):
        # Where it is loaded with other sizes, a service that starts again must not fail for it.
        options = loader.LoadOptions() if pins.is_loaded() else asked
        features = read_host_features(app.paths.root)
        loaded = loader.load(pins, features, options, require_lsm=arguments.mode == "enforce")
        with Live(pins) as live:
            if not loaded.fresh:
                note_sizes(app, live, asked)
            if arguments.mode is not None:
                change_or_stay(app, live, arguments.mode)
            if rate is not None:
                live.set_config(Config.SAMPLE, to_sample(rate))
    return loaded


def note_sizes(app: App, live: Live, options: loader.LoadOptions) -> None:
    """Say which sizes cannot be changed while loaded."""
    wrong = [name for name, size in options.capacities.items() if live.capacity(name) != size]
    size = live.map("events").max_entries
    if options.ringbuf_bytes not in (loader.RINGBUF_BYTES, size):
        wrong.append("events")
    if wrong:
        app.note(
            f"warning: already loaded, so the sizes of {', '.join(wrong)} stay as they are; "
            "new sizes need: aegisbpf reset"
        )


def announce(app: App, live: Live, loaded: loader.Loaded) -> None:
    """Say on stderr what runs, loudly where nothing can be refused."""
    posture = read_posture(live, app.paths)
    app.note(f"aegisbpf: mode {posture.mode}, {posture.meaning}")
    if loaded.fallback:
        reason = loaded.reason or "BPF LSM was not in use when it was loaded"
        app.note(f"aegisbpf: *** AUDIT FALLBACK *** {reason}")
    app.note("aegisbpf: events follow on stdout; ending this does not end enforcement")
    app.err.flush()


def stream_events(app: App, live: Live, stop: Stop, loaded: loader.Loaded) -> None:
    """Stream until stopped."""
    watch = Watch(app, live, stop)
    try:
        ring = open_ring(live.pins.path("maps", "events"))
    except OSError as error:
        raise KernelError(
            "the event ring cannot be opened", hint="run: aegisbpf health", detail=str(error)
        ) from None
    with ring:
        announce(app, live, loaded)
        app.out.flush()
        writer = Writer(app.out.fileno(), stop)
        stream = Stream(ring, decoder_of(app, live), writer, stop, watch.look)
        stream.run()
    app.note(f"aegisbpf: {stream.count} events written, {watch.dropped} dropped meanwhile")


def decoder_of(app: App, live: Live) -> Decoder:
    """Return a decoder that knows this host's names."""
    rules = RuleNames(lambda: rule_ids(app, live), time.monotonic)
    mounts = MountPaths(read_mounts, time.monotonic)
    return Decoder(rules.get, CgroupNames(cgroup_path).get, mounts.locate)


def rule_ids(app: App, live: Live) -> Mapping[int, str]:
    """Return the ids of the live rules."""
    from aegis_tools.control.names import rules_by_uid

    with contextlib.suppress(AegisError, OSError):  # removed meanwhile: numbers must do
        return {uid: rule.id for uid, rule in rules_by_uid(live, app.paths).items()}
    return {}


class Watch:
    """Looks about once a second: drops, a changed state, and is this still what is loaded?"""

    def __init__(self, app: App, live: Live, stop: Stop) -> None:
        self._app = app
        self._live = live
        self._stop = stop
        self._first = self._last = self._drops()
        self._state = read_posture(live).state

    @property
    def dropped(self) -> int:
        """Events dropped since the start."""
        return self._last - self._first

    def look(self) -> None:
        """Look; tell a person of drops, and end when what is read from was removed."""
        now = self._drops()
        if now > self._last:
            self._app.note(
                f"warning: {now - self._last} events dropped, {now - self._first} since the start "
                "(the ring was full; what was denied was denied); "
                "larger: aegisbpf reset, then run --ringbuf-size=BYTES"
            )
            self._last = now
        if not self._stop and not self._is_loaded():
            # No failure: whoever removed it must not find it loaded again by a service manager.
            self._app.note("aegisbpf: the pins were removed, so there is nothing to tell; ending")
            self._stop.ask()
        posture = read_posture(self._live)
        if posture.state != self._state and not self._stop:
            self._state = posture.state
            self._app.note(f"aegisbpf: mode {posture.mode}, {posture.meaning}")

    def _drops(self) -> int:
        return self._live.stats()[Stat.RINGBUF_DROPS]

    def _is_loaded(self) -> bool:
        try:
            with Map.pinned(self._live.pins.path("maps", "events")) as pinned:
                return pinned.id == self._live.map("events").id
        except OSError:
            return False
