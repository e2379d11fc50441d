#!/usr/bin/env bash
# One machine: one process, or several that share its devices.
#
#   launch/local.sh [--dry-run] [--num-processes N] [--port P] -- --config configs/tmta.py …
#
# --num-processes  processes, 1 unless given; each takes GPU 0, 1, … of those that are there, or is
#                  a CPU process with gloo between them
# --port           at which process 0 listens, 8476 unless given
# --python         the interpreter, python unless given

set -euo pipefail
arguments=("$@")
# shellcheck source=launch/settings.sh
. "$(dirname "$0")/settings.sh"
settings NUM_PROCESSES PORT PYTHON
need_study
: "${NUM_PROCESSES:=1}" "${PORT:=8476}" "${PYTHON:=python}"
whole NUM_PROCESSES PORT

if [ "$NUM_PROCESSES" = 1 ]; then
  run exec "$PYTHON" -m zsg_jax.main "${study[@]}"
  exit
fi

children=()
# shellcheck disable=SC2329 # the traps do
pass_on() {
  for child in "${children[@]}"; do kill -s "$1" "$child" 2>/dev/null || true; done
}
trap 'pass_on TERM' TERM
trap 'pass_on INT' INT
for ((number = 0; number < NUM_PROCESSES; number++)); do
  one=(env "JAX_LOCAL_DEVICE_IDS=$number" "$PYTHON" -m zsg_jax.main "${study[@]}"
    "--coordinator_address=127.0.0.1:$PORT" "--num_processes=$NUM_PROCESSES"
    "--process_id=$number")
  if [ "$dry_run" = yes ]; then
    printf '%s &\n' "$(quoted "${one[@]}")"
  else
    # Job control: what a shell starts with & is else deaf to Ctrl-C.
    set -m
    "${one[@]}" &
    children+=($!)
    set +m
  fi
done
if [ "$dry_run" = yes ]; then
  printf 'wait\n'
  exit
fi

# 143 (stopped, to be started again) counts before a mistake, and that before what it brought about.
worst=0
for child in "${children[@]}"; do
  code=0
  wait "$child" || code=$?
  # A signal to this shell ends `wait` before the child has ended.
  while kill -0 "$child" 2>/dev/null; do
    code=0
    wait "$child" || code=$?
  done
  case $code:$worst in
    0:* | *:143) ;;
    143:* | 1:* | *:0) worst=$code ;;
  esac
done
exit "$worst"
