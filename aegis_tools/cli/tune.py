"""``aegisbpf tune``."""

from __future__ import annotations

import argparse
from typing import TYPE_CHECKING

from aegis_tools.cli import types
from aegis_tools.cli.output import App
from aegis_tools.control import sizes
from aegis_tools.control.live import Live
from aegis_tools.control.quantities import human
from aegis_tools.kernel.pins import Pins

if TYPE_CHECKING:
    from aegis_tools.control.tune.model import Advice, Item
    from aegis_tools.control.tune.observe import Observed

SECONDS = 10


def build(parser: argparse.ArgumentParser) -> None:
    """Add the options of the command."""
    parser.add_argument(
        "--seconds", type=types.number(1, 86400), default=SECONDS, metavar="N",
        help="observe for so long (default: %(default)s)",
    )  # fmt: skip
    parser.add_argument(
        "--buffer-seconds", type=types.number(1, 60), default=sizes.PAUSE, metavar="S",
        help="the ring is to hold what comes in so long, with nobody reading it "
        "(default: %(default)s)",
    )  # fmt: skip
    parser.add_argument("--apply", action="store_true", help="set what is recommended, live")
    parser.add_argument("--dry-run", action="store_true", help="with --apply: change nothing")
    parser.epilog = (
        "Recommends nothing smaller than it is. Sizes change as by load --replace: what is\n"
        "refused stays refused meanwhile, and the next boot has them. A reboot forgets the\n"
        "sample rate.\n\n"
        "examples:\n"
        "  aegisbpf tune --seconds 60\n"
        "  aegisbpf tune --apply --dry-run\n"
        "  aegisbpf tune --apply"
    )
    parser.set_defaults(run=run)


def run(app: App, arguments: argparse.Namespace) -> int:
    """Observe, recommend, and do it where that was asked for."""
    from aegis_tools.control.tune.advise import advise
    from aegis_tools.control.tune.model import Aims
    from aegis_tools.control.tune.observe import observe

    seconds, pause = arguments.seconds, arguments.buffer_seconds
    with Live(Pins(app.paths.pins)) as live:
        if app.err.isatty():
            app.note(f"observing for {seconds} s")
        seen = observe(app.paths, live, seconds=seconds, stretch=pause)
    advice = advise(seen, Aims(pause=pause))
    doing = arguments.apply and not arguments.dry_run
    done = _apply(app, advice) if doing and advice.changed else []
    app.show(
        {
            "observed": seen.to_dict(),
            **advice.to_dict(),
            "would_change": advice.changed,
            "changed": bool(done),
            "applied": done,
            "dry_run": arguments.dry_run,
        },
        lambda: as_text(seen, advice, outcome(arguments, advice, done)),
    )
    return 0


def _apply(app: App, advice: Advice) -> list[str]:
    from aegis_tools.control.lock import locked
    from aegis_tools.control.tune.adjust import carry_out
    from aegis_tools.kernel.features import mount_securityfs, read_host_features

    mount_securityfs()
    with locked(app.paths.lock, command="tune --apply"):
        done = carry_out(app.paths, read_host_features(app.paths.root), advice)
    return [name for name, was in done._asdict().items() if was]


def outcome(arguments: argparse.Namespace, advice: Advice, done: list[str]) -> list[str]:
    """Return what is said last: what was done, or what would do it."""
    if not advice.changed:
        return ["nothing to do"]
    if done:
        return [
            "done; the agent goes over to the new maps by itself",
            *_listed("undo", advice.before.commands()),
        ]
    if arguments.apply and not arguments.dry_run:
        return ["nothing was done: somebody else has changed it meanwhile"]
    first = "dry run, would do" if arguments.apply else f"to do it: {_again(arguments)}; by hand"
    return _listed(first, advice.wanted.commands())


def _again(arguments: argparse.Namespace) -> str:
    """Return the command that observes in the same way, and sets what follows from it."""
    words = ["aegisbpf tune --apply"]
    if arguments.seconds != SECONDS:
        words.append(f"--seconds {arguments.seconds}")
    if arguments.buffer_seconds != sizes.PAUSE:
        words.append(f"--buffer-seconds {arguments.buffer_seconds}")
    return " ".join(words)


def _listed(title: str, commands: tuple[str, ...]) -> list[str]:
    return [f"{title}:", *(f"  {command}" for command in commands)]


def as_text(seen: Observed, advice: Advice, outcome: list[str]) -> str:
    """Return what was seen, what follows from it, and what to do next."""
    lines = [*_seen(seen), ""]
    for item in advice.items:
        lines += [_headline(item), f"  seen: {item.observed}", f"  why: {item.why}"]
    lines += [f"note: {note}" for note in advice.notes]
    memory = advice.memory
    if advice.wanted.ring or advice.wanted.capacities:
        lines.append(
            f"kernel memory: {human(memory.now)} now, {human(memory.after)} then, both meanwhile; "
            f"there is room for {human(memory.room)}"
        )
        if not memory.fits:
            lines.append("warning: that does not fit into memory")
    return "\n".join([*lines, "", *outcome])


def _seen(seen: Observed) -> list[str]:
    mean, files = seen.mean, seen.mean.files
    of = f", {files:.0%} of them of files" if mean.sent else ""
    return [
        f"{mean.seconds:.1f} s observed: {mean.sent:,.0f} events a second sent{of}, "
        f"{mean.dropped:,.0f} dropped, {mean.sampled_out:,.0f} sampled out",
        f"busiest {seen.busiest.seconds:.1f} s: {seen.busiest.matched:,.0f} a second; "
        f"for a moment {seen.peak:,.0f}",
        f"since it was loaded: {seen.sent:,} sent, {seen.dropped:,} dropped; "
        f"{seen.sent / max(seen.uptime, 1.0):,.2f} a second or more on average",
    ]


def _headline(item: Item) -> str:
    if not item.changed:
        return f"{item.name}: {_value(item, item.now)}, keep"
    text = f"{item.name}: {_value(item, item.now)} -> {_value(item, item.wanted)}"
    if item.memory or item.memory_full:
        text += f" (+{human(item.memory)} of kernel memory"
        more = item.memory_full - item.memory
        text += f", +{human(item.memory_full)} when it is full)" if more else ")"
    return text


def _value(item: Item, value: float) -> str:
    if item.name == "ring":
        return human(int(value))
    return f"{value:g}" if isinstance(value, float) else f"{value:,} entries"
