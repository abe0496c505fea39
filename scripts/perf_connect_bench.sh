#!/bin/sh
# What a connection takes: as it is; with WITH_AGENT=1, as root, without and with Aegis.
set -eu
here=$(dirname "$(dirname "$(readlink -f "$0")")")
python=$here/.venv/bin/python
[ -x "$python" ] || python=python3
export PYTHONPATH="$here" PYTHONSAFEPATH=1 AEGIS_BENCHMARK="${0##*/}"
[ "${WITH_AGENT:-0}" = 0 ] || set -- --with-agent "$@"
exec "$python" -m benchmarks.syscalls --calls connect "$@"
