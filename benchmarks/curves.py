"""What `benchmarks.overhead` measured, as pictures and tables for docs/performance.md.

    scripts/vm run --icount --kernel 6.12 -- python3 -m benchmarks.overhead --json > 6.12.json
    scripts/vm run --icount --kernel 6.12 -- python3 -m benchmarks.mixes --json > mixes.json
    python -m benchmarks.curves 6.12.json --mixes mixes.json --update docs/performance.md

A picture has a plot for each call: how much longer it is than without any program, by the number of
rules, a line for each kind of rule. The tables say the same in figures.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Iterator, Sequence
from pathlib import Path

from aegis_tools.control.files import read_limited, write_atomic
from aegis_tools.soak.markup import xml
from benchmarks.calls import KINDS as CALLS
from benchmarks.documents import put
from benchmarks.measure import run_main
from benchmarks.overhead import NOTHING
from benchmarks.pictures import Row, What, picture
from benchmarks.rulesets import ALL
from benchmarks.rulesets import KINDS as RULES

MARK, MIXES_MARK = "overhead", "mixes"
"""Of the places of the tables in the document."""
LIMIT = 1 << 26
PICTURES = {
    "overhead-miss.svg": What("miss", "audit"),
    "overhead-audit.svg": What("hit", "audit"),
    "overhead-enforce.svg": What("hit", "enforce"),
}


def tables(rows: Sequence[Row]) -> str:
    """Return the tables as Markdown."""
    return "\n\n".join("\n".join(lines(rows)) for lines in (_misses, _hits, _programs))


def _misses(rows: Sequence[Row]) -> Iterator[str]:
    """Yield a line a call and kind of rule: what a miss adds, by number of rules."""
    counts = sorted({row["count"] for row in rows if row["count"]})
    yield "| call | rules | without | no rule | " + " | ".join(f"{n:,}" for n in counts) + " |"
    yield "|" + "---|" * (4 + len(counts))
    for call in CALLS:
        none = next((row for row in rows if row["call"] == call and not row["count"]), None)
        for subject in ("miss", "beside"):
            for kind in (*RULES, ALL):
                found = {row["count"]: row for row in rows if row["count"]
                         and (row["call"], row["rules"], row["subject"]) == (call, kind, subject)
                         }  # fmt: skip
                if found:
                    without = (none or next(iter(found.values())))["none_s"]["median"] * 1e9
                    cells = [_added(found[n], "audit") if n in found else "" for n in counts]
                    bare = _added(none, "audit") if none and subject == "miss" else ""
                    title = kind if subject == "miss" else f"{kind}, {subject}"
                    yield f"| {call} | {title} | {without:,.0f} | {bare} | {' | '.join(cells)} |"


def _hits(rows: Sequence[Row]) -> Iterator[str]:
    """Yield a line a call and kind of rule: what a hit adds, with one rule."""
    states = [name for name in ("audit", "enforce", "audit, agent", "enforce, agent")
              if any(name in row for row in rows)]  # fmt: skip
    yield "| call | rules | " + " | ".join(f"hit, {name}" for name in states) + " |"
    yield "|" + "---|" * (2 + len(states))
    for call in CALLS:
        for row in rows:
            if (row["call"], row["subject"], row["count"]) == (call, "hit", 1):
                cells = [_added(row, name) for name in states]
                yield f"| {call} | {row['rules']} | {' | '.join(cells)} |"


def _programs(rows: Sequence[Row]) -> Iterator[str]:
    """Yield a line a call: what the kernel's own statistics say of one run of its program, on a
    miss, by kind of rule, with one of each."""
    kinds = (NOTHING, *RULES, ALL)
    found: dict[tuple[str, str], dict[str, float]] = {}
    for row in (row for row in rows if row["subject"] == "miss" and row["count"] <= 1):
        # Others ran as the measuring program began, or took little.
        name, told = max(row["programs"].items(), key=_took)
        found.setdefault((row["call"], name), {})[row["rules"]] = told["ns_a_run"]
    yield "| call | program | no rule | " + " | ".join(kinds[1:]) + " |"
    yield "|" + "---|" * (2 + len(kinds))
    for call in CALLS:
        for (made, name), told in found.items():
            if made == call:
                cells = (f"{told[kind]:,.0f}" if kind in told else "" for kind in kinds)
                yield f"| {call} | `{name}` | {' | '.join(cells)} |"


def _took(program: tuple[str, Row]) -> float:
    return float(program[1]["runs"] * program[1]["ns_a_run"])


def _added(row: Row, state: str) -> str:
    none, now = row["none_s"]["median"] * 1e9, row[state]["s"] * 1e9
    return f"{now - none:+,.0f} ({now / none - 1:+.1%})"


def mixes_table(rows: Sequence[Row]) -> str:
    """Return what hooks add to whole work, as Markdown."""
    lines = [
        "| a round of | without, million instructions | audit | enforce |",
        "|---|---|---|---|",
    ]
    for row in rows:
        cells = (_compared(row[state]) for state in ("audit", "enforce"))
        none = row["none_s"]["median"] * 1e3
        lines.append(f"| {row['work']} | {none:,.0f} | {' | '.join(cells)} |")
    return "\n".join(lines)


def _compared(told: Row) -> str:
    value, low, high = (round(told[name] - 1, 3) + 0.0 for name in ("ratio", "low_99", "high_99"))
    added = f"{value:+.1%} ({low:+.1%} to {high:+.1%})"
    return added if told["verdict"] != "no difference" else f"no difference: {added}"


def update(document: Path, rows: Sequence[Row]) -> None:
    """Put the tables between a document's marks, and the pictures beside it.

    Raises:
        ValueError: It has no marks.
    """
    put(document, MARK, tables(rows))
    for name, what in PICTURES.items():
        drawn = xml(picture(rows, what)) + "\n"
        write_atomic(document.parent / name, drawn.encode(), what="picture", mode=0o644)


def main() -> None:
    """Run from the command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("results", type=Path, help="what benchmarks.overhead --json printed")
    parser.add_argument("--mixes", type=Path, metavar="FILE", help="of benchmarks.mixes --json")
    parser.add_argument("--update", type=Path, metavar="FILE", help="put them into a document")
    options = parser.parse_args()
    rows = results_of(options.results)
    mixes = mixes_table(results_of(options.mixes)) if options.mixes else ""
    if options.update:
        update(options.update, rows)
        if mixes:
            put(options.update, MIXES_MARK, mixes)
    else:
        print(tables(rows), mixes, sep="\n\n")


def results_of(path: Path) -> list[Row]:
    """Return the results in a file that a benchmark's ``--json`` made."""
    found: list[Row] = json.loads(read_limited(path, LIMIT, what="results"))["results"]
    return found


if __name__ == "__main__":
    run_main(main)
