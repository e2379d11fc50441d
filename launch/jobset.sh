#!/usr/bin/env bash
# GKE by JobSet alone: fills in launch/jobset.yaml and applies it.
#
#   launch/jobset.sh [--dry-run] --name NAME --image IMAGE --service-account NAME \
#     --accelerator tpu-v5-lite-podslice --topology 4x4 --hosts 4 --chips 4 \
#     -- --config configs/tmta.py --workdir gs://BUCKET/WORKDIR …
#
# --hosts            virtual machines of the slice; --chips those of each
# --service-account  of Kubernetes, which may read and write the bucket

set -euo pipefail
arguments=("$@")
# shellcheck source=launch/settings.sh
. "$(dirname "$0")/settings.sh"
settings NAME IMAGE SERVICE_ACCOUNT ACCELERATOR TOPOLOGY HOSTS CHIPS
need NAME IMAGE SERVICE_ACCOUNT ACCELERATOR TOPOLOGY HOSTS CHIPS
need_study
need_workdir gs://
whole HOSTS CHIPS
# shellcheck disable=SC2153 # settings.sh sets it
[[ $NAME =~ ^[a-z]([-a-z0-9]{0,38}[a-z0-9])?$ ]] ||
  fail "--name=$NAME: give small letters, digits and -, a letter first, 40 at most"

# A word in double quotes of YAML, which JSON's rules for them fit too.
word() {
  local text=${1//\\/\\\\}
  text=${text//\"/\\\"}
  text=${text//$'\n'/\\n}
  printf '"%s"' "${text//$'\t'/\\t}"
}

words=
for argument in "${study[@]}"; do words+="${words:+, }$(word "$argument")"; done
filled=$(<"$(dirname "$0")/jobset.yaml")
for name in NAME IMAGE SERVICE_ACCOUNT ACCELERATOR TOPOLOGY; do
  filled=${filled//"\${$name}"/"$(word "${!name}")"}
done
for name in HOSTS CHIPS; do
  filled=${filled//"\${$name}"/"${!name}"}
done
filled=${filled//"\${STUDY}"/"[$words]"}

run kubectl apply -f - <<<"$filled"
if [ "$dry_run" = yes ]; then
  printf '%s\n' "$filled"
fi
