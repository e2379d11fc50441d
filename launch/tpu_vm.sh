#!/usr/bin/env bash
# A TPU VM that is there already: the same command on all its hosts.
#
#   launch/tpu_vm.sh [--dry-run] --tpu-name NAME --zone ZONE [--project ID] [--python P] \
#     -- --config configs/tmta.py --workdir gs://BUCKET/WORKDIR …
#
# --tpu-name  the TPU VM; zsg_jax is installed there in ~/zsg_jax, as below
# --zone      where it is
# --project   gcloud's own project unless given
# --python    there, in ~/zsg_jax: .venv/bin/python unless given
# Install:    gcloud compute tpus tpu-vm scp --recurse . NAME:zsg_jax --worker=all --zone=ZONE, then
#             ssh --worker=all --command "cd zsg_jax && python3 -m pip install uv &&
#             python3 -m uv venv --python 3.12 && python3 -m uv pip install -e '.[tpu,bucket]'"
#             (these machines' own Python may be older than 3.11)

set -euo pipefail
arguments=("$@")
# shellcheck source=launch/settings.sh
. "$(dirname "$0")/settings.sh"
settings TPU_NAME ZONE PROJECT PYTHON
need TPU_NAME ZONE
need_study
: "${PYTHON:=.venv/bin/python}"

# Only its metadata server tells a TPU VM's hosts of each other, which --distributed=on asks.
remote="cd ~/zsg_jax && exec $(quoted "$PYTHON") -m zsg_jax.main --distributed=on $(quoted "${study[@]}")"
run gcloud compute tpus tpu-vm ssh "$TPU_NAME" ${PROJECT:+"--project=$PROJECT"} "--zone=$ZONE" \
  --worker=all "--command=$remote"
