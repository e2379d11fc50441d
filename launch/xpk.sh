#!/usr/bin/env bash
# GKE by XPK: a workload on a cluster that `xpk cluster create` has made.
#
#   launch/xpk.sh [--dry-run] --cluster NAME --workload NAME --tpu-type v5litepod-16 --zone ZONE \
#     --project ID --image IMAGE [--num-slices N] [--max-restarts N] \
#     -- --config configs/tmta.py --workdir gs://BUCKET/WORKDIR …
#
# --image         of launch/Dockerfile, in a registry that the cluster may pull from
# --num-slices    1 unless given
# --max-restarts  10 unless given; a pod that was taken away, or that failed, starts all again

set -euo pipefail
arguments=("$@")
# shellcheck source=launch/settings.sh
. "$(dirname "$0")/settings.sh"
settings CLUSTER WORKLOAD TPU_TYPE ZONE PROJECT IMAGE NUM_SLICES MAX_RESTARTS
need CLUSTER WORKLOAD TPU_TYPE ZONE PROJECT IMAGE
need_study
need_workdir gs:// /
: "${NUM_SLICES:=1}" "${MAX_RESTARTS:=10}"
whole NUM_SLICES MAX_RESTARTS

# Without this one XPK starts only machines again, not a process that ended with 143.
run xpk workload create "--cluster=$CLUSTER" "--workload=$WORKLOAD" "--tpu-type=$TPU_TYPE" \
  "--num-slices=$NUM_SLICES" "--zone=$ZONE" "--project=$PROJECT" "--docker-image=$IMAGE" \
  "--max-restarts=$MAX_RESTARTS" --restart-on-user-code-failure \
  --termination-grace-period-seconds=300 \
  "--command=exec python -m zsg_jax.main --distributed=on $(quoted "${study[@]}")"
