#!/usr/bin/env bash
# A TPU VM that is there already: the same command on all its hosts.
#
#   launch/tpu_vm.sh [--dry-run] --tpu-name NAME --zone ZONE [--project ID] [--bucket NAME] [--python P] \
#     -- --config configs/tmta.py --workdir '~/bucket/WORKDIR' …
#
# --tpu-name  the TPU VM; zsg_jax is installed there in ~/zsg_jax, as below
# --zone      where it is
# --project   gcloud's own project unless given
# --bucket    is mounted at ~/bucket by gcsfuse first, for a workdir that all hosts share
# --python    there, in ~/zsg_jax: .venv/bin/python unless given
# Install:    gcloud compute tpus tpu-vm scp --recurse . NAME:zsg_jax --worker=all --zone=ZONE, then
#             ssh --worker=all --command "cd zsg_jax && python3 -m pip install uv &&
#             python3 -m uv venv --python 3.12 && python3 -m uv pip install -e '.[tpu]'"
#             (these machines' own Python may be older than 3.11)

set -euo pipefail
arguments=("$@")
# shellcheck source=launch/settings.sh
. "$(dirname "$0")/settings.sh"
settings TPU_NAME ZONE PROJECT BUCKET PYTHON
need TPU_NAME ZONE
need_study
bare_bucket gs
: "${PYTHON:=.venv/bin/python}"

remote='cd ~/zsg_jax'
if [ -n "${BUCKET:-}" ]; then
  mount="mkdir -p ~/bucket && { mountpoint -q ~/bucket ||"
  mount+=" gcsfuse --implicit-dirs --rename-dir-limit=100000 $(quoted "$BUCKET") ~/bucket; }"
  remote="$mount && $remote"
fi
# Only its metadata server tells a TPU VM's hosts of each other, which --distributed=on asks.
remote+=" && exec $(quoted "$PYTHON") -m zsg_jax.main --distributed=on $(quoted "${study[@]}")"
run gcloud compute tpus tpu-vm ssh "$TPU_NAME" ${PROJECT:+"--project=$PROJECT"} "--zone=$ZONE" \
  --worker=all "--command=$remote"
