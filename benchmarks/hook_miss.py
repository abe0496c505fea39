"""What the hooks cost where no rule matches, against the same kernel without them.

    scripts/vm run --kernel 6.1 -- python3 -m benchmarks.hook_miss [--json] [--rounds N]

For enforcement it needs a kernel that takes LSM programs; nothing that it opens, connects to or
runs is ruled. Every round measures with the links removed, then attached in audit, then in
enforce; a figure is the ratio to the same round's figure without the links. Of each sample the
best of many short batches counts: what else the machine does can only add.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import socket
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path

from aegis_tools.control.commit import commit
from aegis_tools.control.live import Live
from aegis_tools.control.resolve import Rules, resolve
from aegis_tools.kernel import loader
from aegis_tools.kernel.inode_keys import Identifier
from aegis_tools.kernel.layout import Config
from aegis_tools.policy.text import parse_text
from benchmarks.apply import inode_lines
from benchmarks.measure import Row, arguments, ratio_row, ratios, report, spread
from benchmarks.sandbox import Sandbox, sandbox

_SAMPLES = {"open+close": (60, 40), "connect": (60, 10), "exec": (10, 1)}
_SETTLE = 0.3  # seconds in which the kernel ends what attaching and detaching left to do
_COLUMNS = ("rules", "operation", "none µs", "audit / none", "enforce / none")
Operation = Callable[[], None]


def operations(folder: Path) -> dict[str, Operation]:
    """Return what is measured: on files of a tmpfs, and a port of loopback that is closed."""
    plain, true = folder / "miss" / "plain", folder / "miss" / "true"
    plain.parent.mkdir()
    plain.write_text("x")
    shutil.copy("/bin/true", true)
    path, program, flags = str(plain), str(true), os.O_RDONLY | os.O_CLOEXEC
    address = _closed_port()

    def open_close() -> None:
        os.close(os.open(path, flags))

    def connect() -> None:
        with socket.socket() as one, contextlib.suppress(ConnectionRefusedError):
            one.connect(address)

    def execute() -> None:
        os.waitpid(os.posix_spawn(program, [program], {}), 0)

    return {"open+close": open_close, "connect": connect, "exec": execute}


def _closed_port() -> tuple[str, int]:
    with socket.socket() as one:
        one.bind(("127.0.0.1", 0))
        address: tuple[str, int] = one.getsockname()
        return address


def best(operation: Operation, batches: int, calls: int) -> float:
    """Return the seconds of one call, in the best of the batches."""
    times = []
    for _ in range(batches):
        start = time.perf_counter()
        for _ in range(calls):
            operation()
        times.append((time.perf_counter() - start) / calls)
    return min(times)


def rules_of(box: Sandbox, text: str) -> Rules:
    """Compile a policy that matches none of what is measured."""
    policy, problems = parse_text(text.encode())
    if policy is None:
        raise SystemExit(f"the policy has errors: {problems[0].message}")
    with Identifier(box.pins) as identifier:
        return resolve(policy, identifier, {}, now=time.time())


def policies(folder: Path, sizes: Sequence[str]) -> dict[str, str]:
    """Return policies by name: so many inode rules and as many path rules; or one directory."""
    other, ruled = folder / "other", folder / "ruled"
    for made in (other, ruled):
        made.mkdir()
    found = {}
    for word in sizes:
        if word == "directory":
            found["1 directory"] = f"[deny_path]\n{ruled}/"
            continue
        size = int(word)
        lines = ["[deny_inode]", *inode_lines(size), "[deny_path]"]
        lines += [f"{other}/file-{number:05}" for number in range(size)]
        found[f"{size} inodes, {size} paths" if size else "none"] = "\n".join(lines)
    return {name: f"version=1\n{text}\n" for name, text in found.items()}


def one_round(
    box: Sandbox, live: Live, wanted: dict[str, Operation]
) -> dict[str, dict[str, float]]:
    """Return seconds by state and operation."""
    found = {}
    for state in ("none", "audit", "enforce"):
        if state == "none":
            loader.detach(box.pins)
        else:
            loader.attach(box.pins)
            live.set_config(Config.MODE, int(state == "enforce"))
        time.sleep(_SETTLE)
        found[state] = {name: best(call, *_SAMPLES[name]) for name, call in wanted.items()}
    live.set_config(Config.MODE, 0)
    return found


def measure(
    box: Sandbox, live: Live, name: str, wanted: dict[str, Operation], rounds: int
) -> list[Row]:
    """Measure with the rules that are live."""
    found = [one_round(box, live, wanted) for _ in range(rounds)]
    rows = []
    for operation in wanted:
        none, audit, enforce = (
            [each[state][operation] for each in found] for state in ("none", "audit", "enforce")
        )
        row: Row = {"rules": name, "operation": operation, "none_s": spread(none).to_dict()}
        row["text"] = {"none µs": spread(none).text(1e6, 1)}
        for state, times in (("audit", audit), ("enforce", enforce)):
            row[f"{state}_to_none"] = ratio_row(times, none)
            row["text"][f"{state} / none"] = ratios(times, none).text()
        rows.append(row)
    return rows


def run(sizes: Sequence[str], rounds: int) -> list[Row]:
    """Measure everything."""
    with contextlib.suppress(OSError):  # a commit waits for grace periods; no hook is the faster
        Path("/sys/kernel/rcu_expedited").write_text("1")
    rows: list[Row] = []
    with sandbox() as box, Live(box.pins) as live:
        if box.pins.is_fallback():
            raise SystemExit("this kernel takes no LSM programs: run it in a machine (scripts/vm)")
        wanted = operations(box.folder)
        one_round(box, live, wanted)  # warm up
        for name, text in policies(box.folder, sizes).items():
            start = time.monotonic()
            commit(live, rules_of(box, text))
            live_at = time.monotonic()
            rows += measure(box, live, name, wanted, rounds)
            took = live_at - start, time.monotonic() - live_at
            print(f"{name}: live in {took[0]:.0f} s, measured in {took[1]:.0f} s", file=sys.stderr)
    return rows


def main() -> None:
    """Run from the command line."""
    parser = arguments(__doc__, rounds=5)
    parser.add_argument("--rules", default="0,1,1000,65536,directory", help="%(default)s")
    options = parser.parse_args()
    if os.geteuid():
        sys.exit("benchmarks need root")
    rows = run(options.rules.split(","), options.rounds)
    notes = ["ratios are of the same round; absolute times on an emulated processor mean nothing"]
    report(rows, _COLUMNS, notes, as_json=options.json)


if __name__ == "__main__":
    main()
