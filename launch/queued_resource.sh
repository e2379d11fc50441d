#!/usr/bin/env bash
# Queued resources: waits in Google's queue for a TPU VM that starts the study by itself.
#
#   launch/queued_resource.sh [--dry-run] --node-id NAME --zone ZONE --accelerator-type v5litepod-16 \
#     --runtime-version v2-alpha-tpuv5-lite --image IMAGE [--project ID] [--spot no] \
#     -- --config configs/tmta.py --workdir gs://BUCKET/WORKDIR …
#
# --image  of launch/Dockerfile, where the TPU VM's service account may pull it
# --spot   yes unless given; when it is taken away, the same command with another --node-id goes on

set -euo pipefail
arguments=("$@")
# shellcheck source=launch/settings.sh
. "$(dirname "$0")/settings.sh"
settings NODE_ID ZONE ACCELERATOR_TYPE RUNTIME_VERSION IMAGE PROJECT SPOT
need NODE_ID ZONE ACCELERATOR_TYPE RUNTIME_VERSION IMAGE
need_study
need_workdir gs://
: "${SPOT:=yes}"
[[ $SPOT == yes || $SPOT == no ]] || fail "--spot=$SPOT: give yes or no"

spot=()
[ "$SPOT" = no ] || spot=(--spot)
startup=$(mktemp)
trap 'rm -f "$startup"' EXIT
# Google's registries take the machine's own service account.
login=
case ${IMAGE%%/*} in
  *.pkg.dev | gcr.io | *.gcr.io) login="gcloud auth configure-docker --quiet $(quoted "${IMAGE%%/*}")" ;;
esac
# When the machine is taken away, docker gives the container these seconds to save.
cat >"$startup" <<STARTUP
#!/bin/bash
set -eu
$login
docker run --rm --name zsg_jax --privileged --network=host --stop-timeout=60 $(
  quoted "$IMAGE"
) --distributed=on $(quoted "${study[@]}")
STARTUP
if [ "$dry_run" = yes ]; then
  sed 's/^/# startup: /' "$startup"
  startup_shown=STARTUP_FILE
fi
run gcloud compute tpus queued-resources create "$NODE_ID" "--node-id=$NODE_ID" \
  ${PROJECT:+"--project=$PROJECT"} "--zone=$ZONE" "--accelerator-type=$ACCELERATOR_TYPE" \
  "--runtime-version=$RUNTIME_VERSION" "${spot[@]}" \
  "--metadata-from-file=startup-script=${startup_shown:-$startup}"
