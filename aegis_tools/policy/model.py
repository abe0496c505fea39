"""The policy as a person means it: rules with targets, before any inode is known.

Both file formats parse into this model and nothing else; see ``text`` and ``yamlform``.
"""

from __future__ import annotations

from enum import Enum, IntFlag
from typing import NamedTuple


class Op(IntFlag):
    """What a rule denies. The values are the bit numbers of ``enum aegis_op`` (bpf/aegis.h)."""

    READ = 1
    WRITE = 2
    EXEC = 4
    MODIFY = 8
    EGRESS = 16
    BIND = 32


FILE_OPS = Op.READ | Op.WRITE | Op.EXEC | Op.MODIFY
OPEN_OPS = Op.READ | Op.WRITE | Op.EXEC
NET_OPS = Op.EGRESS | Op.BIND


class Mode(str, Enum):
    """What a match leads to: a log line, or a refusal as well."""

    AUDIT = "audit"
    ENFORCE = "enforce"


class Signal(str, Enum):
    """The signal sent to the process whose access was refused."""

    NONE = "none"
    INT = "int"
    KILL = "kill"
    TERM = "term"


class Kind(str, Enum):
    """What a rule's target names. Canonical target text in brackets.

    PATH       an absolute path [``/etc/shadow``], present or not yet
    DIRECTORY  a directory and all below it [``/srv/secrets/``, trailing slash]
    INODE      ``dev:ino``, dev as the kernel counts it, (major << 20) | minor, decimal
    IP         one address [``10.0.0.1``, ``2001:db8::1``; a mapped IPv4 is written as IPv4]
    CIDR       ``10.0.0.0/8``, ``2001:db8::/32``
    PORT       ``22:tcp``, ``53:udp``, ``8080:any``
    IP_PORT    ``10.0.0.1:443:tcp``, ``[2001:db8::1]:443:any``
    """

    PATH = "path"
    DIRECTORY = "directory"
    INODE = "inode"
    IP = "ip"
    CIDR = "cidr"
    PORT = "port"
    IP_PORT = "ip_port"


class Rule(NamedTuple):
    """One deny rule.

    A named tuple, not a dataclass: 65,536 of them are made on an apply, and it is 5 times faster.

    Attributes:
        id: Stable name, unique in the policy; ``KIND:TARGET`` where the author gave none.
        kind: What ``target`` is.
        target: Canonical text, see :class:`Kind`.
        operations: What is denied.
        mode: AUDIT keeps this rule from refusing, whatever the host's mode is.
        signal: Sent on a refusal.
        depth: DIRECTORY only: levels below the directory that are covered (1 = its own entries).
        owner: Who answers for the rule; free text.
        reason: Why it exists; free text.
        expires: Unix seconds after which the rule is left out at apply; 0 = never.
        line: Line in the source file, 1-based; 0 = not from a file.
    """

    id: str
    kind: Kind
    target: str
    operations: Op
    mode: Mode = Mode.ENFORCE
    signal: Signal = Signal.NONE
    depth: int = 0
    owner: str = ""
    reason: str = ""
    expires: int = 0
    line: int = 0


MAX_DEPTH = 32
"""Levels a directory rule can cover: AEGIS_MAX_DEPTH in bpf/aegis.h."""


class Policy(NamedTuple):
    """A parsed policy.

    Attributes:
        rules: In file order, ids unique.
        allow_cgroups: cgroup paths (``/system.slice/x.service``) or ``cgid:N``, in file order.
        version: The ``version=`` of the line format, or of the YAML document.
    """

    rules: tuple[Rule, ...]
    allow_cgroups: tuple[str, ...] = ()
    version: int = 1


class Problem(NamedTuple):
    """One finding of the parser or of lint.

    Attributes:
        line: 1-based line; 0 = the file as a whole.
        message: What is wrong, and what would be right.
        error: False for a warning.
        rule: Id of the rule concerned, if any.
    """

    line: int
    message: str
    error: bool = True
    rule: str = ""
