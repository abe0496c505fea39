#!/bin/sh
# One row of the agent's figures, added to a CSV; for cron: */5 * * * * PATH/scripts/soak_monitor.sh
# A soak that ends in a verdict makes rows of its own: aegisbpf soak start
set -eu
PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin:${PATH:-}
here=$(dirname "$(readlink -f "$0")")
program=$here/../.venv/bin/aegisbpf
[ -x "$program" ] || program=aegisbpf
exec "$program" soak sample --csv /var/log/aegisbpf-soak-metrics.csv "$@"
