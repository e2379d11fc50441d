#!/usr/bin/env bash
# Runs every study of docs/findings.md, one after the other; what has finished is not run again.
#
#   benchmarks/findings.sh WORKDIR                   the built-in examples
#   benchmarks/findings.sh WORKDIR P3 MINILM MODEL   then those of real rows: a folder with train.jsonl.gz
#                                                    and test.jsonl.gz, all-MiniLM-L6-v2, SmolLM2-135M
set -euo pipefail
cd "$(dirname "$0")/.."

if [ $# -ne 1 ] && [ $# -ne 4 ]; then
  sed -n 's/^#   //p' "$0" >&2
  exit 2
fi
workdir=$1
shift

study() {
  local name=$1
  shift
  python -m zsg_jax.main --config "configs/${name%%:*}.py${name#"${name%%:*}"}" \
    --workdir "$workdir/${name/:/-}" "$@"
  sha256sum "$workdir/${name/:/-}/report/summary.json"
}

for name in tmta tmta:same_rows granularity turns permutations similarity; do
  study "$name"
done

if [ $# -eq 3 ]; then
  for name in tmta tmta:smollm2_same_rows granularity turns permutations similarity; do
    case $name in *:*) ;; *) name=$name:smollm2 ;; esac
    study "$name" --config.data.train="$1/train.jsonl.gz" --config.data.test="$1/test.jsonl.gz" \
      --config.similarity.encoder="$2" --config.tokenizer="$3" --config.model.init_from="$3"
  done
fi
