#!/usr/bin/env bash
# Runs every study of docs/findings.md, one after the other; what has finished is not run again.
#
#   benchmarks/findings.sh WORKDIR                   the built-in examples
#   benchmarks/findings.sh WORKDIR P3 MINILM MODEL [--config.KEY=VALUE …]
#                                                    then those of real rows: a folder with train.jsonl.gz
#                                                    and test.jsonl.gz, all-MiniLM-L6-v2, SmolLM2-135M; the
#                                                    settings go to these alone, as for a GPU
#                                                    --config.model.dtype=bfloat16
#                                                    --config.training.micro_batch_size=None
set -euo pipefail
cd "$(dirname "$0")/.."

if [ $# -ne 1 ] && [ $# -lt 4 ]; then
  sed -n 's/^#   //p' "$0" >&2
  exit 2
fi
workdir=$1
shift

study() {
  local folder=$1 config=$2
  shift 2
  python -m zsg_jax.main --config "$config" --workdir "$workdir/$folder" "$@"
  sha256sum "$workdir/$folder/report/summary.json"
}

for name in tmta tmta:same_rows granularity turns permutations similarity; do
  study "${name/:/-}" "configs/${name/:/.py:}$([[ $name == *:* ]] || echo .py)"
done

if [ $# -ge 3 ]; then
  p3=$1 encoder=$2 model=$3
  shift 3
  given=(--config.similarity.encoder="$encoder" --config.tokenizer="$model"
    --config.model.init_from="$model" --config.data.train="$p3/train.jsonl.gz" "$@")
  for name in tmta:smollm2 tmta:smollm2_same_rows granularity:smollm2 turns:smollm2 \
    permutations:smollm2 similarity:smollm2; do
    study "${name/:/-}" "configs/${name/:/.py:}" --config.data.test="$p3/test.jsonl.gz" "${given[@]}"
  done
  # Unseen tasks that have near kin in the pool, as in the study's figure.
  for name in tmta:smollm2 tmta:smollm2_same_rows; do
    study "${name/:/-}-held-out" "configs/${name/:/.py:}" --config.data.split=held-out:0.12 \
      --config.data.test="$p3/train.jsonl.gz" --config.data.test_per_task=6 \
      --config.data.truncation=head "${given[@]}"
  done
fi
