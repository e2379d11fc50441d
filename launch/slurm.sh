#!/usr/bin/env bash
# Slurm: submits launch/slurm.sbatch.
#
#   launch/slurm.sh [--dry-run] --nodes N --tasks-per-node M [--gpus-per-node M] [--partition P] \
#     [--account A] [--time 4:00:00] [--cpus-per-task N] [--mem 0] \
#     -- --config configs/tmta.py --workdir /shared/WORKDIR …
#
# --tasks-per-node  JAX gives each process of Slurm one GPU, so as many as --gpus-per-node
# --cpus-per-task   many clusters give 1 unless asked; --mem likewise
# --time            when it is nearly over, the study saves, ends and is queued again

set -euo pipefail
arguments=("$@")
# shellcheck source=launch/settings.sh
. "$(dirname "$0")/settings.sh"
settings NODES TASKS_PER_NODE GPUS_PER_NODE PARTITION ACCOUNT TIME CPUS_PER_TASK MEM
need NODES TASKS_PER_NODE
need_study
whole NODES TASKS_PER_NODE

run sbatch "--nodes=$NODES" "--ntasks-per-node=$TASKS_PER_NODE" \
  ${GPUS_PER_NODE:+"--gpus-per-node=$GPUS_PER_NODE"} ${PARTITION:+"--partition=$PARTITION"} \
  ${ACCOUNT:+"--account=$ACCOUNT"} ${TIME:+"--time=$TIME"} \
  ${CPUS_PER_TASK:+"--cpus-per-task=$CPUS_PER_TASK"} ${MEM:+"--mem=$MEM"} \
  "$(dirname "$0")/slurm.sbatch" "${study[@]}"
