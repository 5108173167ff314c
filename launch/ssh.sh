#!/usr/bin/env bash
# Start all hosts of a hostfile from one of them, over ssh, and start again on failure:
#
#   launch/ssh.sh HOSTFILE launch/train.py CONFIG [KEY=VALUE]...
#   launch/ssh.sh HOSTFILE launch/eval.py RUN --tasks TASKS
#
# Needs pdsh here (apt install pdsh), ssh without a password to every host, this folder and the
# same Python environment at the same paths on each. `lope doctor --hostfile HOSTFILE` checks all
# of it.
#
# Environment
#   LOPE_MAX_RESTARTS  give up after so many failures within an hour (default 10)
#   MASTER_ADDR        address of the first host; default: the first that `hostname -I` prints there
#   MASTER_PORT        a free port of the first host (default 29500)
#   .deepspeed_env     file of NAME=VALUE lines in this folder or $HOME, set on every host. DeepSpeed
#                      prints them: no tokens there
# On hosts with several networks add engine.interface=eth0 (train) or --interface eth0 (eval).
set -euo pipefail
hostfile=${1:?give the hostfile}
shift
launcher=(deepspeed --hostfile "$hostfile" --no_local_rank --master_port "${MASTER_PORT:-29500}")
if [[ -n ${MASTER_ADDR:-} ]]; then
  launcher+=(--master_addr "$MASTER_ADDR")
fi
exec python "$(dirname "$0")/supervise.py" --max-restarts "${LOPE_MAX_RESTARTS:-10}" -- \
  "${launcher[@]}" "$@"
