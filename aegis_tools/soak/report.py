"""The report on a soak: one document, and the files that are made of it.

``report.json`` holds all that the others show (``report.schema.json`` beside this module is its
schema). The same soak and verdict make the same bytes.
"""

from __future__ import annotations

import contextlib
import json
import math
import os
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from aegis_tools.control.files import SYSTEM, Calls, write_atomic
from aegis_tools.paths import Paths
from aegis_tools.soak import words
from aegis_tools.soak.columns import Sample
from aegis_tools.soak.folder import Folder, folder
from aegis_tools.soak.happened import Happened
from aegis_tools.soak.reading import Soak
from aegis_tools.soak.segments import deltas
from aegis_tools.soak.series import Axis, matches, series
from aegis_tools.soak.verdict import CONFIDENCE, Verdict, judge

FORMAT = 1
MOST_TOLD = 200
"""Of what happened so much is told; the worst is kept, and the soak's own file has all."""
MOST_RULES = 50
MOST_EVIDENCE = 200
_RANK = {"bad": 0, "warn": 1, "info": 2}


def build(
    soak: Soak, verdict: Verdict, *, evidence: Sequence[tuple[str, int]] = ()
) -> dict[str, Any]:
    """Return the report.

    Args:
        soak: What is known.
        verdict: What it has shown.
        evidence: Name and bytes of the files that were collected.
    """
    axis = Axis(soak, verdict.length_s)
    told = _told(soak.happened, axis)
    settings = soak.settings
    found: dict[str, Any] = {
        "format": FORMAT,
        "soak": _soak(soak, verdict),
        "verdict": {
            "status": verdict.status,
            "text": verdict.text,
            "short": verdict.short,
            "minimum_s": verdict.minimum_s,
            "confidence": CONFIDENCE,
        },
        "criteria": [asdict(one) for one in verdict.criteria],
        "figures": _figures(soak),
        "denials": _denials(soak),
        "happened": told,
        "happened_left_out": len(soak.happened) - len(told),
        "policy": None if settings.policy is None else {
            **asdict(settings.policy), "signers": list(settings.policy.signers)
        },
        "host": asdict(settings.host),
        "samples": {
            "made": len(soak.samples),
            "due": int(verdict.length_s // settings.interval_s) + 1,
            "problems": list(soak.problems),
        },
        "evidence": [{"name": n, "bytes": size} for n, size in evidence[:MOST_EVIDENCE]],
        "series": series(soak, axis),
    }  # fmt: skip
    text, commands = words.recommendation(found)
    found["recommendation"] = {"text": text, "commands": commands}
    return found


def _soak(soak: Soak, verdict: Verdict) -> dict[str, Any]:
    settings = soak.settings
    return {
        "id": settings.id,
        "scenario": settings.scenario,
        "state": soak.state,
        "started": words.rfc3339(settings.started),
        "ended": words.rfc3339(soak.until),
        "start": settings.started,
        "length_s": round(verdict.length_s, 3),
        "duration_s": settings.duration_s,
        "interval_s": settings.interval_s,
        "mode": settings.mode,
        "workload": settings.workload,
        "expected": list(settings.expected),
        "override": settings.override,
        "note": settings.note,
    }


def _figures(soak: Soak) -> dict[str, Any]:
    kinds = Counter(one.kind for one in soak.happened)
    running = [one for one in soak.samples if one.present]
    return {
        "cpu": _spread(one.cpu_pct for one in running),
        "memory": _spread(one.mem_mb for one in running),
        "probe": _spread(one.probe_us for one in soak.samples),
        "blocks": _growth(soak, lambda one: one.blocks),
        "audits": _growth(soak, lambda one: one.audits),
        "events": _growth(soak, lambda one: one.events),
        "lost": _growth(soak, lambda one: one.ringbuf_drops),
        "bpf_ns_a_run": _cost(soak),
        "restarts": kinds["restart"],
        "reboots": kinds["reboot"],
        "crashes": kinds["crash"],
    }


def _spread(values: Iterable[float | None]) -> dict[str, float] | None:
    """Return mean, 95th and 99th percentile (nearest rank) and maximum; None of nothing."""
    known = sorted(value for value in values if value is not None)
    if not known:
        return None
    mean = sum(known) / len(known)
    ranks = {f"p{n}": known[math.ceil(n / 100 * len(known)) - 1] for n in (95, 99)}
    return {"mean": round(mean, 4), **ranks, "max": known[-1]}


def _growth(soak: Soak, value: Callable[[Sample], int | None]) -> int | None:
    """Return by how much a counter has grown; one that fell began anew."""
    grown = deltas(soak.samples, value)
    return sum(grown) if grown else None


def _cost(soak: Soak) -> float | None:
    """Return nanoseconds a run of our programs, as far as the kernel counted them."""
    runs, spent = (_growth(soak, value) for value in (lambda s: s.bpf_runs, lambda s: s.bpf_ns))
    return round(spent / runs, 1) if runs and spent is not None else None


def _denials(soak: Soak) -> list[dict[str, Any]]:
    """Return what each rule matched in all, the most first."""
    found: list[dict[str, Any]] = []
    for rule, grown in matches(soak).items():
        blocks, audits = sum(one[1] for one in grown), sum(one[2] for one in grown)
        if blocks + audits:
            expected = rule in soak.settings.expected
            found.append({"rule": rule, "blocks": blocks, "audits": audits, "expected": expected})
    found.sort(key=lambda one: (-one["blocks"] - one["audits"], one["rule"]))
    return found[:MOST_RULES]


def _told(happened: Sequence[Happened], axis: Axis) -> list[dict[str, Any]]:
    """Return what happened, oldest first; of too much the worst."""
    ranked = sorted(enumerate(happened), key=lambda pair: (_RANK[words.tone(pair[1])], pair[0]))
    kept = sorted(ranked[:MOST_TOLD])
    return [
        {
            "time": words.rfc3339(one.time),
            "after_s": round(axis.of(one.time), 1),
            "kind": one.kind,
            "class": one.class_,
            "tone": words.tone(one),
            "text": one.text,
        }
        for _, one in kept
    ]


def to_json(report: Mapping[str, Any]) -> bytes:
    """Return the document's bytes."""
    return (json.dumps(report, separators=(",", ":"), allow_nan=False) + "\n").encode("ascii")


def write_report(paths: Paths, soak: Soak, *, calls: Calls = SYSTEM) -> dict[str, Any]:
    """Write verdict and report into the soak's folder; what is as it should be stays untouched.

    Each file is replaced whole. A kill in between leaves some of them old: the next call makes
    them the same again. The caller holds ``Paths.soak_lock``.

    Returns:
        The report.

    Raises:
        StateError: A file cannot be written.
    """
    from aegis_tools.soak.markdown import to_markdown
    from aegis_tools.soak.page import render

    at = folder(paths, soak.settings.id)
    verdict = judge(soak)
    report = build(soak, verdict, evidence=evidence_of(at))
    made = (
        (at.report_json, to_json(report), "report"),
        (at.report_markdown, to_markdown(report).encode(), "report"),
        (at.report_html, render(report).encode(), "report"),
        # Last: who finds a verdict finds its report.
        (at.verdict, (json.dumps(verdict.to_dict(), indent=1) + "\n").encode("ascii"), "verdict"),
    )
    for path, data, what in made:
        if not _is(path, data):
            write_atomic(path, data, what=what, calls=calls)
    return report


def _is(path: Path, data: bytes) -> bool:
    """Return whether a file holds just that."""
    with contextlib.suppress(OSError):
        fd = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
        with open(fd, "rb") as file:
            return file.read(len(data) + 1) == data
    return False


def evidence_of(at: Folder) -> list[tuple[str, int]]:
    """Return name and size of what was collected, by name."""
    try:
        with os.scandir(at.evidence) as entries:
            found = [
                (one.name, one.stat(follow_symlinks=False).st_size)
                for one, _ in zip(entries, range(MOST_EVIDENCE), strict=False)
                if one.is_file(follow_symlinks=False)
            ]
    except OSError:
        return []
    return sorted(found)
