"""Durations on the command line: ``90s``, ``15m``, ``12h``, ``7d``, ``2w``, or plain seconds."""

from __future__ import annotations

from aegis_tools.control.quantities import parse_duration

__all__ = ["parse_duration"]
