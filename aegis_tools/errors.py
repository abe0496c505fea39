"""Errors: one hierarchy, one exit code a branch.

AegisError
├── UsageError      2  the command line was wrong
├── PolicyError     3  the policy cannot be used as it is
│   ├── LockoutError    it would deny what getting back in needs
│   └── ProbeError      it did, and was undone
├── TrustError      4  the signature, signer, serial or validity is not acceptable
├── BootError       5  the boot configuration cannot do what was asked
├── KernelError     6  the kernel refused, or lacks what is needed
│   └── NotLoadedError  nothing of ours is loaded
├── CommandError    7  a program we ran failed, timed out or does not exist
├── StateError      8  our files: locked, full, read-only, damaged, wrong owner
└── DriftError      9  the live state is not what the policy says
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any


class AegisError(Exception):
    """An error a user can act on.

    Args:
        message: What is wrong, in one line, without paths of ours, errno or internals.
        hint: What to do next, in one line; printed after the message.
        detail: Internals for ``--verbose`` and ``--json`` (paths, errno, tool output).
        data: Machine-readable facts for ``--json``.
    """

    exit_code = 1
    code = "error"

    def __init__(
        self, message: str, *, hint: str = "", detail: str = "", data: dict[str, Any] | None = None
    ) -> None:
        super().__init__(message)
        self.message = message
        self.hint = hint
        self.detail = detail
        self.data = data or {}

    def to_dict(self) -> dict[str, Any]:
        """Return the error as ``--json`` prints it."""
        return {
            "error": self.code,
            "message": self.message,
            "hint": self.hint,
            "detail": self.detail,
            "exit_code": self.exit_code,
            **self.data,
        }


class UsageError(AegisError):
    """The command line was wrong."""

    exit_code = 2
    code = "usage"


class PolicyError(AegisError):
    """The policy cannot be used as it is."""

    exit_code = 3
    code = "policy"


class LockoutError(PolicyError):
    """Rules would deny what getting back into the host needs.

    Args:
        refusals: ``control.lockout.model.Refusal``, at least one.
    """

    code = "lockout"

    def __init__(self, refusals: Sequence[Any]) -> None:
        many = f"{len(refusals)} rules" if len(refusals) > 1 else "this"
        lines = [f"{many} would lock you out: {refusals[0].text()}"]
        lines += [one.text() for one in refusals[1:]]
        super().__init__(
            "\n  ".join(lines),
            hint="take them out, narrow their operations, or let them audit (mode: audit)",
            data={"refusals": [one.to_dict() for one in refusals]},
        )


class ProbeError(PolicyError):
    """After a change the host could not be got into any more; it was undone."""

    code = "probe"


class TrustError(AegisError):
    """A signature, signer, serial or validity period is not acceptable."""

    exit_code = 4
    code = "trust"


class BootError(AegisError):
    """The boot configuration cannot do what was asked."""

    exit_code = 5
    code = "boot"


class KernelError(AegisError):
    """The kernel refused, or lacks what is needed."""

    exit_code = 6
    code = "kernel"


class NotLoadedError(KernelError):
    """Nothing of ours is loaded in the kernel."""

    code = "not_loaded"

    def __init__(self) -> None:
        super().__init__("Aegis is not loaded", hint="run: aegisbpf load")


class CommandError(AegisError):
    """A program we ran failed, timed out or does not exist."""

    exit_code = 7
    code = "command"


class StateError(AegisError):
    """One of our files is locked, damaged, full, read-only or has the wrong owner."""

    exit_code = 8
    code = "state"


class DriftError(AegisError):
    """The live state is not what the policy says."""

    exit_code = 9
    code = "drift"
