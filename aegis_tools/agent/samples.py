"""Families of metrics: made of plain values, for whichever collector has them to tell."""

from __future__ import annotations

import unicodedata
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from prometheus_client.core import Metric

LABEL_LENGTH = 256
"""Longer texts are cut: a label is kept by Prometheus for as long as its series."""

Samples = list[float] | dict[tuple[str, ...], float]
"""Of a metric without labels the one value, if any; else values by label values."""


def label(text: str) -> str:
    """Return a text as a label may have it: valid UTF-8 of one line, not too long.

    Controls, line separators and half characters become backslash escapes. Quotes and backslashes
    stay; the text format escapes them itself.
    """
    return "".join(
        c.encode("unicode_escape", "surrogatepass").decode()
        if unicodedata.category(c) in ("Cc", "Cs", "Zl", "Zp")
        else c
        for c in text[:LABEL_LENGTH]
    )


def gauge(name: str, text: str, samples: Samples, labels: Sequence[str] = ()) -> Metric:
    """Return a gauge."""
    from prometheus_client.core import GaugeMetricFamily

    return _filled(GaugeMetricFamily(name, text, labels=labels), samples)


def counter(name: str, text: str, samples: Samples, labels: Sequence[str] = ()) -> Metric:
    """Return a counter; ``name`` is without ``_total``."""
    from prometheus_client.core import CounterMetricFamily

    return _filled(CounterMetricFamily(name, text, labels=labels), samples)


def info(name: str, text: str, labels: dict[str, str]) -> Metric:
    """Return what is told by labels alone, if there are any; ``name`` is without ``_info``."""
    from prometheus_client.core import InfoMetricFamily

    return InfoMetricFamily(name, text, value=labels) if labels else InfoMetricFamily(name, text)


def _filled(family: Any, samples: Samples) -> Metric:
    values = samples.items() if isinstance(samples, dict) else [((), value) for value in samples]
    for labels, value in values:
        family.add_metric(labels, float(value))
    filled: Metric = family
    return filled
