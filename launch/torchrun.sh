#!/usr/bin/env bash
# Run on every host; what launch/slurm.sbatch and launch/kubernetes.yaml run there too:
#
#   NUM_NODES=2 NODE_RANK=0 MASTER_ADDR=10.0.0.1 launch/torchrun.sh launch/train.py CONFIG
#
# Environment
#   NUM_NODES          number of hosts (Slurm: SLURM_NNODES)
#   NODE_RANK          this host, from 0 (Slurm: SLURM_NODEID, Kubernetes: JOB_COMPLETION_INDEX)
#   MASTER_ADDR        address of the first host, reachable from all
#   MASTER_PORT        a free port of it (default 29500), the same everywhere
#   RANKS_PER_NODE     ranks of a host (default: SLURM_GPUS_ON_NODE, else `gpu`: its devices)
#   LOPE_MAX_RESTARTS  give up after so many failures in a row (default 10)
#   LOPE_GRACE_S       seconds from a SIGTERM to the kill (default 60): time for a checkpoint
# torchrun's own restarts are off: a host that comes back on its own cannot join the others. The
# supervisor ends all ranks of this host and starts them again; the other hosts' do the same.
# On hosts with several networks add engine.interface=eth0 (train) or --interface eth0 (eval).
set -euo pipefail
num_nodes=${NUM_NODES:-${SLURM_NNODES:-}}
node_rank=${NODE_RANK:-${SLURM_NODEID:-${JOB_COMPLETION_INDEX:-}}}
grace=${LOPE_GRACE_S:-60}
# torchrun has a time of its own, 30 s, after which it kills its ranks.
export TORCH_ELASTIC_SHUTDOWN_TIMEOUT=${TORCH_ELASTIC_SHUTDOWN_TIMEOUT:-${grace%.*}}
exec python "$(dirname "$0")/supervise.py" --max-restarts "${LOPE_MAX_RESTARTS:-10}" \
  --grace "$grace" -- \
  torchrun --nnodes "${num_nodes:?set NUM_NODES: how many hosts}" \
  --node_rank "${node_rank:?set NODE_RANK: this host, from 0}" \
  --nproc_per_node "${RANKS_PER_NODE:-${SLURM_GPUS_ON_NODE:-gpu}}" \
  --master_addr "${MASTER_ADDR:?set MASTER_ADDR: the first host}" \
  --master_port "${MASTER_PORT:-29500}" --max-restarts 0 "$@"
