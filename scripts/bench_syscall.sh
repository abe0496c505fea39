#!/bin/sh
# What single system calls take without and with Aegis, as root: bench_syscall.sh --json --out FILE
set -eu
here=$(dirname "$(dirname "$(readlink -f "$0")")")
python=$here/.venv/bin/python
[ -x "$python" ] || python=python3
# The folder it is called in stays, as --out may be relative to it; nothing is imported from there.
export PYTHONPATH="$here" PYTHONSAFEPATH=1 AEGIS_BENCHMARK="${0##*/}"
exec "$python" -m benchmarks.syscalls --with-agent "$@"
