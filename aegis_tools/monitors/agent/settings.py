"""What the monitors' agent does: ``/etc/aegisbpf/monitors.json``.

Without the file no monitor is loaded; limits of profiles are watched all the same::

    {"version": 1,
     "monitors": {"disk-io-monitor": {}, "memory-monitor": {"min_bytes": 65536}},
     "store": {"keep": "7d", "keep_hourly": "400d", "keep_size": "1G"}}

The options of a monitor are those of ``monitor load``. ``"store": null``: nothing is stored.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from aegis_tools.control.quantities import parse_duration, parse_size
from aegis_tools.errors import UsageError
from aegis_tools.monitors import settingsfile
from aegis_tools.monitors.options import MIN_BYTES_MOST, Options
from aegis_tools.monitors.registry import find
from aegis_tools.paths import Paths
from aegis_tools.policy import strictjson

_MAX_BYTES = 1 << 20
_KEYS = {"version", "monitors", "store"}
_LISTS = ("only_uid", "only_cgroup", "only_command")
_LONGEST = 4096


@dataclass(frozen=True)
class Keeping:
    """How much of what is stored is kept.

    Attributes:
        events: Seconds.
        hourly: Seconds.
        size: Bytes.
    """

    events: int = 7 * 86400
    hourly: int = 400 * 86400
    size: int = 1 << 30


@dataclass(frozen=True)
class Settings:
    """What is asked for.

    Attributes:
        monitors: How each is loaded, by its full name.
        store: How much is kept; None for nothing.
    """

    monitors: Mapping[str, Options] = field(default_factory=dict)
    store: Keeping | None = field(default_factory=Keeping)


def load(paths: Paths) -> Settings:
    """Return the settings of this host.

    Raises:
        StateError: The file is damaged, or could be changed by others.
    """
    found = settingsfile.read(
        paths.monitor_settings, parse, what="settings of the monitors", most=_MAX_BYTES,
        hint="write them as docs/monitors.md shows, or remove them to load none",
    )  # fmt: skip
    return found or Settings()


def parse(data: bytes) -> Settings:
    """Return what a file says.

    Raises:
        ValueError: It is not such a file.
    """
    found = strictjson.loads(data, fractions=True)
    if not isinstance(found, dict) or not strictjson.is_integer(found.get("version"), 1, 1):
        raise ValueError("they are of another version")
    _check_keys(found, _KEYS)
    asked = found.get("monitors", {})
    if not isinstance(asked, dict):
        raise ValueError("monitors is no object of names and options")
    monitors: dict[str, Options] = {}
    for text, options in asked.items():
        name = _name(text)
        if name in monitors:
            raise ValueError(f"{name} is there twice")
        monitors[name] = _options(name, options)
    return Settings(monitors, _keeping(found.get("store", {})))


def _check_keys(found: Mapping[str, Any], known: set[str]) -> None:
    unknown = sorted(set(found) - known)
    if unknown:
        raise ValueError(f"the key {unknown[0][:40]!r} is not known")


def _name(text: str) -> str:
    try:
        return find([text])[0].name
    except UsageError:
        raise ValueError(f"there is no monitor {text[:40]!r}") from None


def _options(name: str, found: Any) -> Options:
    if not isinstance(found, dict):
        raise ValueError(f"the options of {name} are no object")
    _check_keys(found, {*_LISTS, "min_bytes", "sample", "ring_size"})
    if not strictjson.is_integer(found.get("min_bytes", 0), 0, MIN_BYTES_MOST):
        raise ValueError(f"min_bytes of {name} is no number of bytes")
    lists = {key: _texts(f"{key} of {name}", found.get(key, [])) for key in _LISTS}
    size = found.get("ring_size")
    try:
        return Options(
            **lists, min_bytes=found.get("min_bytes", 0), sample=_sample(found.get("sample", 1)),
            ring_size=None if size is None else _size(f"ring_size of {name}", size),
        )  # fmt: skip
    except UsageError as error:
        raise ValueError(f"{name}: {error.message}") from None


def _texts(what: str, found: Any) -> tuple[str, ...]:
    numbers_too = [str(one) if strictjson.is_integer(one, 0, 1 << 32) else one for one in found] \
        if isinstance(found, list) else found  # fmt: skip
    try:
        texts = strictjson.texts(numbers_too)
    except ValueError:
        raise ValueError(f"{what} is no list of texts") from None
    if any(not text or "\0" in text or len(text) > _LONGEST for text in texts):
        raise ValueError(f"{what} holds what is no name")
    return texts


def _sample(found: Any) -> str:
    if isinstance(found, bool) or not isinstance(found, str | int | float):
        raise ValueError("a sample is no share")
    return str(found)


def _size(what: str, found: Any) -> int:
    if isinstance(found, bool) or not isinstance(found, str | int):
        raise ValueError(f"{what} is no size")
    return parse_size(str(found))


def _keeping(found: Any) -> Keeping | None:
    if found is None:
        return None
    if not isinstance(found, dict):
        raise ValueError("store is neither null nor an object")
    _check_keys(found, {"keep", "keep_hourly", "keep_size"})
    usual = Keeping()
    try:
        return Keeping(
            _time("keep", found["keep"]) if "keep" in found else usual.events,
            _time("keep_hourly", found["keep_hourly"]) if "keep_hourly" in found else usual.hourly,
            _size("keep_size", found["keep_size"]) if "keep_size" in found else usual.size,
        )
    except UsageError as error:
        raise ValueError(error.message) from None


def _time(what: str, found: Any) -> int:
    seconds = parse_duration(found) if isinstance(found, str) else 0
    if not seconds:
        raise ValueError(f"{what} is no time, such as 7d")
    return seconds
