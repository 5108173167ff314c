#!/usr/bin/env bash
# Run on every host, by whatever starts programs there; no ssh between them is needed:
#
#   NODE_RANK=0 MASTER_ADDR=10.0.0.1 launch/no_ssh.sh HOSTFILE launch/train.py CONFIG
#
# Environment
#   NODE_RANK          this host's line in the hostfile, from 0
#   MASTER_ADDR        address of the first host, reachable from all
#   MASTER_PORT        a free port of it (default 29500), the same everywhere
#   LOPE_MAX_RESTARTS  give up after so many failures in a row (default 10)
# On hosts with several networks add engine.interface=eth0 (train) or --interface eth0 (eval).
set -euo pipefail
hostfile=${1:?give the hostfile}
shift
exec python "$(dirname "$0")/supervise.py" --max-restarts "${LOPE_MAX_RESTARTS:-10}" -- \
  deepspeed --hostfile "$hostfile" --no_ssh --no_local_rank \
  --node_rank "${NODE_RANK:?set NODE_RANK: this host, from 0}" \
  --master_addr "${MASTER_ADDR:?set MASTER_ADDR: the first host}" \
  --master_port "${MASTER_PORT:-29500}" "$@"
