"""``aegisbpf run``: load if need be, then stream events to stdout.

Leaving it ends the stream and nothing else: enforcement is in the kernel.
"""

from __future__ import annotations

import argparse
import contextlib
import os
import signal
import time
from collections.abc import Iterator

from aegis_tools.agent.denyrate import DenyRate
from aegis_tools.agent.eventfile import KEEP, SIZE, EventFile
from aegis_tools.agent.notify import Notifier
from aegis_tools.agent.pipeline import open_pipeline
from aegis_tools.agent.sinks import Output, Sink
from aegis_tools.agent.stream import Stop, Stream, stop_on_signals
from aegis_tools.agent.tell import ERROR, NOTICE, WARNING, Tell, is_journal, teller
from aegis_tools.agent.watch import Agent, Watch
from aegis_tools.cli import types
from aegis_tools.cli.load import add_size_options, size_options
from aegis_tools.cli.mode import change_or_stay
from aegis_tools.cli.output import App
from aegis_tools.control import fallback, starts
from aegis_tools.control.live import Live
from aegis_tools.control.lock import locked
from aegis_tools.control.posture import read_posture
from aegis_tools.control.settings import parse_rate, to_sample
from aegis_tools.errors import KernelError, StateError, UsageError
from aegis_tools.kernel import loader
from aegis_tools.kernel.features import mount_securityfs, read_host_features
from aegis_tools.kernel.layout import Config
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
    add_file_options(parser)
    add_guard_options(parser)
    add_size_options(parser)
    parser.add_argument("--enforce-signal", help=argparse.SUPPRESS)
    parser.epilog = (
        "stdout has one JSON object an event, stderr everything else; leaving it does not end\n"
        "enforcement. Ends with 0 on SIGTERM, 130 on Ctrl-C; SIGHUP opens files and looks up\n"
        "names anew. As a service: aegisbpf service install\n\n"
        'example: aegisbpf run | grep \'"action":"BLOCK"\''
    )
    parser.set_defaults(run=run)


def add_guard_options(parser: argparse.ArgumentParser) -> None:
    """Add the options of the deny-rate guard."""
    parser.add_argument(
        "--deny-rate-threshold", metavar="N", type=types.number(0, 10**9), default=0,
        help="go to audit when more than N are refused a second (default: 0, never)",
    )  # fmt: skip
    parser.add_argument(
        "--deny-rate-seconds", metavar="S", type=types.number(1, 3600), default=5,
        help="for so long without a pause (default: %(default)s)",
    )  # fmt: skip


def add_file_options(parser: argparse.ArgumentParser) -> None:
    """Add the options of the rotating file of events."""
    parser.add_argument(
        "--events-file", metavar="PATH", type=types.path, help="write events to a file as well"
    )
    parser.add_argument(
        "--events-file-size", metavar="BYTES", type=types.size, default=SIZE,
        help="begin a new file then: 64M, 1G (default: 64M)",
    )  # fmt: skip
    parser.add_argument(
        "--events-file-keep", metavar="N", type=types.number(0, 1000), default=KEEP,
        help="older files that are kept (default: %(default)s)",
    )  # fmt: skip


def check(arguments: argparse.Namespace) -> None:
    """Raise UsageError for what other tools of this kind have and this one does otherwise."""
    if arguments.enforce_signal is not None:
        raise UsageError(
            "--enforce-signal is no option: each rule has its own signal",
            hint="write signal: term to the rule in a YAML policy",
        )


def run(app: App, arguments: argparse.Namespace) -> int:
    """Load, set what was asked for, stream."""
    check(arguments)
    rate = None if arguments.event_sample_rate is None else parse_rate(arguments.event_sample_rate)
    pins = Pins(app.paths.pins)
    journal = is_journal(os.environ, app.err)
    tell = teller(app.note, journal=journal, verbose=app.verbose)
    with only_reader(app), stop_on_signals() as stop, counted(app, tell) as agent:
        if starts.is_loop(agent.starts) and pins.is_loaded():
            hold(app, pins, tell, agent)  # first: what follows may be what it dies of
        loaded = prepare(app, pins, arguments, rate)
        if starts.is_loop(agent.starts):
            hold(app, pins, tell, agent)
        more = True
        while more:
            with Live(pins) as live:
                more = stream_events(app, live, stop, loaded, arguments, tell=tell, agent=agent)
    return 128 + signal.SIGINT if stop.signal == signal.SIGINT else 0


@contextlib.contextmanager
def counted(app: App, tell: Tell) -> Iterator[Agent]:
    """Count this start as a crash, unless it ends as it should."""
    now, before = time.clock_gettime_ns(time.CLOCK_BOOTTIME), 1
    try:
        before = len(starts.began(app.paths, now))
    except StateError as error:  # a full disk must not keep the agent from telling what it sees
        tell(WARNING, f"warning: {error.message}; a crash loop would not be noticed")
    yield Agent(os.getpid(), time.time(), before)
    with contextlib.suppress(StateError):
        starts.ended(app.paths, now)


def hold(app: App, pins: Pins, tell: Tell, agent: Agent) -> None:
    """Fall back to audit: this agent crashes again and again, and nobody knows why yet."""
    detail = f"{agent.starts} starts within {starts.WINDOW_SECONDS} s"
    with locked(app.paths.lock, command="run"), Live(pins) as live:
        new = fallback.enter(app.paths, live, "crash-loop", detail)
    if new:
        tell(ERROR, f"aegisbpf: *** HELD IN AUDIT *** crash-loop: {detail}")
        tell(ERROR, "  next: find out why, then: aegisbpf resume")


@contextlib.contextmanager
def only_reader(app: App) -> Iterator[None]:
    """Hold the right to read events.

    Raises:
        StateError: Another process has it.
    """
    with contextlib.ExitStack() as stack:
        try:
            stack.enter_context(locked(app.paths.events_lock, "run", timeout=0.5))
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
    if options.ringbuf_bytes not in (None, size):
        wrong.append("events")
    if wrong:
        app.note(
            f"warning: already loaded, so the sizes of {', '.join(wrong)} stay as they are; "
            "new sizes need: aegisbpf load --replace"
        )


def announce(app: App, live: Live, loaded: loader.Loaded, tell: Tell) -> None:
    """Say on stderr what runs, loudly where nothing can be refused."""
    posture = read_posture(live, app.paths)
    tell(ERROR if posture.held else NOTICE, f"aegisbpf: mode {posture.mode}, {posture.meaning}")
    if loaded.fallback:
        reason = loaded.reason or "BPF LSM was not in use when it was loaded"
        tell(ERROR, f"aegisbpf: *** AUDIT FALLBACK *** {reason}")
    tell(NOTICE, "aegisbpf: events follow on stdout; ending this does not end enforcement")
    app.err.flush()


def stream_events(
    app: App,
    live: Live,
    stop: Stop,
    loaded: loader.Loaded,
    arguments: argparse.Namespace,
    *,
    tell: Tell,
    agent: Agent,
) -> bool:
    """Stream until stopped; a SIGHUP begins anew with names and files.

    Returns:
        Whether other maps have taken the place of these, and are to be read now.
    """
    notifier = Notifier(os.environ)
    guard = DenyRate(arguments.deny_rate_threshold, arguments.deny_rate_seconds)
    watch = Watch(
        app.paths, live, stop, tell=tell, notifier=notifier, agent=agent, guard=guard
    )  # fmt: skip
    try:
        ring = open_ring(live.pins.path("maps", "events"))
    except OSError as error:
        raise KernelError(
            "the event ring cannot be opened", hint="run: aegisbpf health", detail=str(error)
        ) from None
    written = 0
    with ring, contextlib.closing(watch):
        announce(app, live, loaded, tell)
        app.out.flush()
        while True:
            with open_pipeline(app.paths, live, sinks(app, arguments)) as pipeline:
                watch.status = pipeline.status
                watch.begin()
                Stream(ring, pipeline, app.out.fileno(), stop, watch.look).run()
            written += pipeline.events
            if not stop.reload:
                break
            notifier.reloading()
            stop.clear()
            if watch.replaced:
                return True
    tell(NOTICE, f"aegisbpf: {written} events written, {watch.dropped} dropped meanwhile")
    return False


def sinks(app: App, arguments: argparse.Namespace) -> list[Sink]:
    """Return where events go."""
    found: list[Sink] = [Output(app.out.fileno())]
    if arguments.events_file is not None:
        found.append(
            EventFile(
                arguments.events_file,
                app.note,
                size=arguments.events_file_size,
                keep=arguments.events_file_keep,
            )
        )
    return found
