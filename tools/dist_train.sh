#!/usr/bin/env bash
# dist_train.sh CONFIG PROCESSES [options of train.py]; without a GPU the processes share the CPU
# several machines: set NNODES, NODE_RANK, MASTER_ADDR and PORT on each
set -e
CONFIG=$1
GPUS=$2
PYTHONPATH="$(dirname "$0")/..":$PYTHONPATH \
python -m torch.distributed.run \
    --nnodes="${NNODES:-1}" \
    --node_rank="${NODE_RANK:-0}" \
    --master_addr="${MASTER_ADDR:-127.0.0.1}" \
    --master_port="${PORT:-29500}" \
    --nproc_per_node="$GPUS" \
    "$(dirname "$0")/train.py" "$CONFIG" --launcher pytorch "${@:3}"
