"""Changes by hand that a procedure makes: the editor it uses, and how a change is undone."""

from __future__ import annotations

import contextlib
import os
import shlex
import time
from collections.abc import Iterator

from aegis_tools.control import bootstate, capacity
from aegis_tools.control.edit import Editor
from aegis_tools.control.live import Live
from aegis_tools.control.names import Names
from aegis_tools.control.promote import set_rule_modes
from aegis_tools.control.remember import remember
from aegis_tools.errors import PolicyError
from aegis_tools.kernel.inode_keys import Identifier
from aegis_tools.kernel.layout import RULE_ATTR
from aegis_tools.paths import Paths
from aegis_tools.policy.model import Kind, Mode, Op, Rule
from aegis_tools.policy.targets import FILE_KINDS


@contextlib.contextmanager
def editing(paths: Paths, live: Live) -> Iterator[Editor]:
    """Yield an editor of what is live, put right first. The caller holds the lock."""
    with contextlib.ExitStack() as stack:
        editor = Editor(
            live,
            Names(live, paths),
            lambda: stack.enter_context(Identifier(live.pins)),
            now_ns=time.time_ns(),
            by=os.getuid(),
        )
        editor.heal()
        yield editor


def enforces(live: Live, uid: int) -> bool:
    """Return whether a rule is live, and refuses where the host enforces."""
    inner = live.inner("rules")
    if inner is None:
        return False
    with inner:
        attribute = inner.get(uid.to_bytes(8, "little"))
    return bool(attribute and RULE_ATTR.unpack(attribute)[0])


def remove(paths: Paths, live: Live, uid: int, note: str) -> None:
    """Remove one rule, for good. The caller holds the lock.

    Args:
        paths: Where the history is.
        live: The loaded maps.
        uid: The rule.
        note: For the history, the rule's id first.

    Raises:
        KernelError: The kernel refused; the rule is still live.
    """
    with editing(paths, live) as editor:
        rule = editor.names.get(uid)
        editor.remove({uid})
    action = "block del" if rule is None or rule.kind in FILE_KINDS else "network deny del"
    remember(paths, action, counts={"removed": 1}, note=note)
    capacity.note(paths, now=time.time())


def demote(paths: Paths, live: Live, uid: int, note: str) -> None:
    """Let one rule only audit, for good, reboots included; see :func:`remove`.

    Raises:
        PolicyError: The rule has no name, so that it cannot be told what it was.
        KernelError: The kernel refused; the rule still refuses.
    """
    with editing(paths, live) as editor:
        rule = editor.names.get(uid)
        if rule is None:
            raise PolicyError(
                "the rule has no name, because the live policy is not stored any more",
                hint="remove it instead: aegisbpf incident blocking --fix remove",
            )
        set_rule_modes(editor, [rule._replace(mode=Mode.AUDIT)])
    bootstate.keep_demoted(paths, live)
    remember(paths, "rule demote", counts={"demoted": 1}, note=note)


def put_back(rule: Rule | None, fix: str) -> str:
    """Return the command that undoes a fix; empty where an apply of the policy does.

    Args:
        rule: What was demoted, or made by hand and removed; None where nobody can name it.
        fix: ``demote`` or ``remove``.
    """
    if rule is None:
        return ""
    if fix == "demote":
        return f"aegisbpf rule promote {shlex.quote(rule.id)} --force"
    if rule.kind not in FILE_KINDS:
        return ""
    names = ",".join(op.name.lower() for op in Op if op & rule.operations and op.name)
    target = f"--inode {rule.target}" if rule.kind is Kind.INODE else shlex.quote(rule.target)
    more = f" --signal {rule.signal.value}" if rule.signal.value != "none" else ""
    more += f" --depth {rule.depth}" if rule.depth else ""
    return f"aegisbpf block add {target} --operations {names}{more}"
