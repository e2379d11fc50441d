#!/usr/bin/env bash
# SkyPilot: starts launch/sky.yaml as a managed job.
#
#   launch/sky.sh [--dry-run] --bucket gs://NAME [--gpus A100:8] [--num-nodes N] [--extra cuda] \
#     -- --config configs/tmta.py --workdir /bucket/WORKDIR …
#
# --bucket  is mounted at /bucket on every node
# --extra   of pyproject.toml: cuda unless given, or tpu
# The nodes get a copy of this repository.

set -euo pipefail
arguments=("$@")
# shellcheck source=launch/settings.sh
. "$(dirname "$0")/settings.sh"
settings BUCKET GPUS NUM_NODES EXTRA
need BUCKET
need_study
need_workdir gs:// s3:// /bucket/
[[ $BUCKET == *://* ]] || fail "--bucket=$BUCKET: give it as gs://NAME or s3://NAME"

run sky jobs launch --yes ${GPUS:+"--gpus=$GPUS"} ${NUM_NODES:+"--num-nodes=$NUM_NODES"} \
  --env "BUCKET=$BUCKET" ${EXTRA:+--env "EXTRA=$EXTRA"} --env "STUDY=$(quoted "${study[@]}")" \
  "--workdir=$(cd "$(dirname "$0")/.." && pwd)" "$(dirname "$0")/sky.yaml"
