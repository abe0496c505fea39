"""Run a command that may look at the kernel and change nothing: whoever tries is killed.

With a seccomp filter: no fork, clone or exec, and of bpf(2) only what looks.
"""

from __future__ import annotations

import ctypes
import struct
import sys

LOOKS = (1, 4, 7, 11, 12, 13, 14, 15, 24, 31)
"""Lookup, next key, open a pin, next ids, descriptors by id, info: enum bpf_cmd."""
STARTS = (56, 57, 58, 59, 322, 435)
"""clone, fork, vfork, execve, execveat, clone3: x86-64."""
BPF = 321

_LD, _JEQ, _RET = 0x20, 0x15, 0x06
_ALLOW, _KILL = 0x7FFF0000, 0x80000000
_NO_NEW_PRIVS, _SET_SECCOMP, _FILTER = 38, 22, 2


def forbid_changes() -> None:
    """Forbid them to this process, for good."""
    code = [(_LD, 0, 0, 0)]
    for number in STARTS:
        code += [(_JEQ, 0, 1, number), (_RET, 0, 0, _KILL)]
    code += [(_JEQ, 1, 0, BPF), (_RET, 0, 0, _ALLOW), (_LD, 0, 0, 16)]
    for command in LOOKS:
        code += [(_JEQ, 0, 1, command), (_RET, 0, 0, _ALLOW)]
    code.append((_RET, 0, 0, _KILL))
    program = b"".join(struct.pack("HBBI", *line) for line in code)
    buffer = ctypes.create_string_buffer(program, len(program))
    filter_ = struct.pack("HxxxxxxQ", len(code), ctypes.addressof(buffer))
    libc = ctypes.CDLL(None, use_errno=True)
    zero = ctypes.c_ulong(0)
    assert libc.prctl(_NO_NEW_PRIVS, ctypes.c_ulong(1), zero, zero, zero) == 0
    assert libc.prctl(_SET_SECCOMP, ctypes.c_ulong(_FILTER), filter_, zero, zero) == 0


if __name__ == "__main__":
    from aegis_tools.cli.main import run

    forbid_changes()
    sys.exit(run(sys.argv[1:]))
