#!/usr/bin/env bash
# Start all hosts of a hostfile from one of them, over ssh, and start again on failure:
#
#   launch/ssh.sh HOSTFILE launch/train.py CONFIG [KEY=VALUE]...
#   launch/ssh.sh HOSTFILE launch/eval.py RUN --tasks TASKS
#
# Needs pdsh here (apt install pdsh), ssh without a password to every host, this folder and the
# same Python environment at the same paths on each. `lope doctor --hostfile HOSTFILE` checks all
# of it, pdsh included.
#
# Environment
#   LOPE_MAX_RESTARTS  give up after so many failures in a row (default 10)
#   MASTER_ADDR        address of the first host; default: the first that `hostname -I` prints there
#   MASTER_PORT        a free port of the first host (default 29500)
#   LOPE_*, HF_HOME    and others that say what is read and where trackers write
#                      (lope_dist/core/sent_variables.py) are set on every host as they are here
#   .deepspeed_env     file of NAME=VALUE lines in this folder or $HOME, set there too; they win.
#                      DeepSpeed prints all of these: no tokens there
# On hosts with several networks add engine.interface=eth0 (train) or --interface eth0 (eval).
set -euo pipefail
hostfile=${1:?give the hostfile}
shift
launcher=(python "$(dirname "$0")/over_ssh.py" --hostfile "$hostfile" --no_local_rank)
launcher+=(--master_port "${MASTER_PORT:-29500}")
if [[ -n ${MASTER_ADDR:-} ]]; then
  launcher+=(--master_addr "$MASTER_ADDR")
fi
exec python "$(dirname "$0")/supervise.py" --max-restarts "${LOPE_MAX_RESTARTS:-10}" -- \
  "${launcher[@]}" "$@"
