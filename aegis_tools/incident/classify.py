"""Why an agent keeps dying: texts and facts to one cause, with the lines that show it.

Pure. The sources are asked in the order of what they prove: a load that was just tried, what
systemd says of the process, what the program said last, the stored state, the kernel's log. The
first that shows anything decides: within it the first cause of the table, and in a journal, which
may tell of other deaths as well, the newest line.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from enum import Enum
from typing import Any

SOURCES = ("trial", "systemd", "journal", "state", "kernel")
"""Where texts come from, the strongest first."""
MAX_LINES = 8
"""Of the lines that show the cause."""
_MAX_LINE = 400


class Cause(Enum):
    """What an agent dies of."""

    VERIFIER = "verifier-rejection"
    MAP_SIZE = "map-size"
    CONFIGURATION = "configuration"
    KERNEL = "kernel-incompatibility"
    RESOURCES = "resources"
    UNKNOWN = "unknown"


MEANING = {
    Cause.VERIFIER: "the kernel's verifier rejects the BPF programs of this version",
    Cause.MAP_SIZE: "maps cannot be made, or do not hold what they must",
    Cause.CONFIGURATION: "a setting, an option or a stored file is not usable",
    Cause.KERNEL: "the kernel lacks what the programs need",
    Cause.RESOURCES: "memory, disk, descriptors or time ran out",
    Cause.UNKNOWN: "nothing that was looked at says why",
}

NEXT = {
    Cause.VERIFIER: "install the version before, or the next one; then: aegisbpf reset && "
    "aegisbpf boot",
    Cause.MAP_SIZE: "see: aegisbpf capacity; then: aegisbpf load --replace --max-rules=N",
    Cause.CONFIGURATION: "see: systemctl cat aegisbpf; aegisbpf health --check-config",
    Cause.KERNEL: "see: aegisbpf health; aegisbpf incident kernel-upgrade",
    Cause.RESOURCES: "see: systemctl show aegisbpf; df; free; then give it what it lacks",
    Cause.UNKNOWN: "read the evidence of the record; escalate",
}

_TABLE: tuple[tuple[Cause, str], ...] = (
    (Cause.RESOURCES, r"oom-kill|out of memory|\bOOM killer\b"),
    (Cause.RESOURCES, r"no space left on device|the disk is full|quota is used up"),
    (Cause.RESOURCES, r"cannot allocate memory|MemoryError|kernel memory, and there is room for"),
    (Cause.RESOURCES, r"too many open files|resource temporarily unavailable|can't start new"),
    (Cause.RESOURCES, r"result '?(watchdog|timeout)|Result=(watchdog|timeout|resources)"),
    (Cause.KERNEL, r"no BTF|failed to find valid kernel BTF|CO-RE relocation|invalid func unknown"),
    (Cause.KERNEL, r"unknown func|Function not implemented|BPF LSM is not active"),
    (Cause.KERNEL, r"kernel refuses BPF LSM|disabled on the kernel command line|cannot be mounted"),
    (Cause.KERNEL, r"a hook could not be attached"),
    (Cause.MAP_SIZE, r"needs \d+ entries in|is no capacity for|is no ring buffer size"),
    (Cause.MAP_SIZE, r"map create failed|failed to create map|Argument list too long"),
    (Cause.MAP_SIZE, r"loaded with other sizes|map is full"),
    (Cause.VERIFIER, r"BEGIN PROG LOAD LOG|BPF program load failed|processed \d+ insns"),
    (Cause.VERIFIER, r"the kernel did not accept the BPF programs"),
    (Cause.CONFIGURATION, r"is damaged|is missing, current\.json has"),
    (Cause.CONFIGURATION, r"is not the one this version was built with|BPF object is missing"),
    (Cause.CONFIGURATION, r"belongs to another user|can be changed by others|cannot read the"),
    (Cause.CONFIGURATION, r"takes signed policies only|is not trusted|keys must sign|signature"),
    (Cause.CONFIGURATION, r"run: aegisbpf run --help|aegisbpf --help|there is no command"),
    (Cause.CONFIGURATION, r"is no option|unrecognized arguments|another version of Aegis"),
    (Cause.CONFIGURATION, r"failed to parse|Bad unit file|bad-setting"),
    (Cause.CONFIGURATION, r"Failed (to execute|at step)|code=exited, status=2\d\d/"),
    (Cause.CONFIGURATION, r"ModuleNotFoundError|ImportError|SyntaxError|No such file or directory"),
)
_RULES = tuple((cause, re.compile(text, re.IGNORECASE)) for cause, text in _TABLE)

_ON_ITS_OWN = frozenset({"systemd", "journal"})
"""Sources that tell of the agent's process, and nothing of policy, programs or kernel."""
_OWN_CAUSES = frozenset({Cause.CONFIGURATION, Cause.RESOURCES})


@dataclass(frozen=True)
class Finding:
    """Why the agent dies, as far as anything tells.

    Attributes:
        cause: One of the six.
        source: Which text showed it; empty where none did.
        lines: The lines that show it, oldest first; at most MAX_LINES.
    """

    cause: Cause
    source: str = ""
    lines: tuple[str, ...] = ()

    @property
    def spares_enforcement(self) -> bool:
        """Whether the trouble is how the agent is started, and neither policy nor programs.

        What the kernel enforces is as good as before then.
        """
        return self.source in _ON_ITS_OWN and self.cause in _OWN_CAUSES and not _of_state(self)

    def text(self) -> str:
        """Return it in one line, for a person."""
        return f"{self.cause.value}: {MEANING[self.cause]}"

    def to_dict(self) -> dict[str, Any]:
        """Return it as the record has it."""
        return {
            "cause": self.cause.value,
            "meaning": MEANING[self.cause],
            "source": self.source,
            "lines": list(self.lines),
            "next": NEXT[self.cause],
        }


def _of_state(found: Finding) -> bool:
    return any(re.search(r"is damaged|stored policy|signed policies", line) for line in found.lines)


def classify(texts: Mapping[str, str]) -> Finding:
    """Return the cause.

    Args:
        texts: By source (SOURCES); those that are missing or empty say nothing. ``systemd`` is
            the lines of ``systemctl show``; ``journal`` what the units logged; ``state`` the
            messages of the checks of stored files that failed; ``kernel`` the kernel's log, of
            which only lines about our processes and programs count.
    """
    for source in SOURCES:
        lines = _lines(source, texts.get(source, ""))
        cause = _newest(lines) if source == "journal" else _first(lines)
        if cause is not None:
            return Finding(cause, source, _last(_all_of(cause, lines)))
    ended = [line for line in texts.get("journal", "").splitlines() if _ENDED.search(line)]
    return Finding(Cause.UNKNOWN, "", _last([*ended, *endings(texts.get("systemd", ""))]))


def _first(lines: Iterable[str]) -> Cause | None:
    """Return the first cause of the table that any line shows."""
    text = "\n".join(lines)
    return next((cause for cause, pattern in _RULES if pattern.search(text)), None)


def _newest(lines: Sequence[str]) -> Cause | None:
    """Return the cause that the newest line shows: those before it may be of another death."""
    found = map(_first, ([line] for line in reversed(lines)))
    return next((cause for cause in found if cause is not None), None)


def _all_of(cause: Cause, lines: Sequence[str]) -> list[str]:
    """Return the lines that show a cause; of the verifier's, its verdict, which has no form."""
    patterns = [pattern for known, pattern in _RULES if known is cause]
    found = [any(pattern.search(line) for pattern in patterns) for line in lines]
    verdicts = [_COUNT.match(line) is not None for line in [*lines[1:], ""]]
    shown = zip(lines, found, verdicts, strict=True)
    return [line for line, showing, verdict in shown if showing or verdict]


_COUNT = re.compile(r"processed \d+ insns")


def _last(lines: Iterable[str]) -> tuple[str, ...]:
    """Return the last lines, each once, cut."""
    known = dict.fromkeys(line.strip()[:_MAX_LINE] for line in lines)
    return tuple(known)[-MAX_LINES:]


def _lines(source: str, text: str) -> list[str]:
    lines = [line for line in text.splitlines() if line.strip() and not _is_event(line)]
    if source == "kernel":
        return [line for line in lines if _OURS.search(line)]
    if source == "journal":
        return [line for line in lines if "warning: " not in line]
    return lines


_ENDED = re.compile(r"code=(killed|dumped|exited), status=[1-9]")
_OURS = re.compile(r"aegis|\bbpf\b|libbpf", re.IGNORECASE)


def _is_event(line: str) -> bool:
    """An event quotes what others chose: the name of a file is no message of ours."""
    return '{"time":"' in line


def endings(systemd: str) -> list[str]:
    """Return what systemd says of how the process ended, for a person.

    Args:
        systemd: Lines of ``systemctl show``.
    """
    facts = dict(line.partition("=")[::2] for line in systemd.splitlines() if "=" in line)
    code, status = facts.get("ExecMainCode", ""), facts.get("ExecMainStatus", "")
    if code == "1" and status not in ("", "0"):
        return [f"the process ended with exit code {status}"]
    if code in ("2", "3"):
        return [f"the process was killed by signal {status}"]
    return [f"Result={facts['Result']}"] if facts.get("Result", "success") != "success" else []
