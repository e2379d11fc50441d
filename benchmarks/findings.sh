#!/usr/bin/env bash
# Runs every study of docs/findings.md, one after the other; what has finished is not run again.
#
#   benchmarks/findings.sh WORKDIR                   the built-in examples; one has a reward model, which
#                                                    torch trains (pip install -e '.[parity]')
#   benchmarks/findings.sh WORKDIR P3 MINILM MODEL [NI] [--config.KEY=VALUE …]
#                                                    then those of real rows: a folder with train.jsonl.gz
#                                                    and test.jsonl.gz, all-MiniLM-L6-v2, SmolLM2-135M; NI: a
#                                                    folder with train_tasks.txt and test_tasks.txt. Their form
#                                                    is cut to what a core does in an hour each; the settings
#                                                    go to these alone, last, as for a GPU
#                                                    --config.model.dtype=bfloat16
#                                                    --config.training.micro_batch_size=None
#                                                    --config.training.steps=None
#                                                    --config.data.max_length=256
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

eight=--config.seeds="(0, 1, 2, 3, 4, 5, 6, 7)"  # three do not tell nearest first from shuffled
study tmta configs/tmta.py "$eight"
study tmta-same_rows configs/tmta.py:same_rows "$eight"
study tmta-other-half configs/tmta.py "$eight" --config.data.report_fraction=0.5
for name in granularity turns permutations similarity; do
  study "$name" "configs/$name.py" "$eight"
done
mkdir -p "$workdir"
cat > "$workdir/answering.json" << 'END'
{"model_type": "llama", "vocab_size": 320, "hidden_size": 128, "intermediate_size": 344,
 "num_hidden_layers": 3, "num_attention_heads": 4, "num_key_value_heads": 4, "head_dim": 32,
 "max_position_embeddings": 64, "rms_norm_eps": 1e-5, "tie_word_embeddings": true}
END
rows=rewrites:rules=4096,samples=19,spaced=true,test_rows=128,test_rules=128
[ -e "$workdir/rewarding" ] || python benchmarks/rewriting_reward.py $rows "$workdir/rewarding"
study answering configs/tmta.py --config.model.size="$workdir/answering.json" \
  --config.seeds="(0,)" --config.model.pretraining.steps=0 \
  --config.tokenizer=train --config.tokenizer_size=320 \
  --config.data.train=$rows --config.data.test=$rows,side=test \
  --config.data.max_length=64 --config.evaluation.max_length=64 \
  --config.arrangement.methods="('random@0', 'random@1')" --config.arrangement.budget=None \
  --config.report.window=None --config.training.batch_size=64 --config.training.learning_rate=4e-3 \
  --config.training.warmup_steps=100 --config.training.weight_decay=0.1 \
  --config.evaluation.every=20 --config.evaluation.scores_every=1 --config.evaluation.batch_size=128 \
  --config.evaluation.metrics="('loss', 'rouge', 'exact_match', 'reward')" \
  --config.evaluation.texts.decoding=greedy,max_new_tokens=12 \
  --config.evaluation.texts.reward_model="$workdir/rewarding" \
  --config.evaluation.texts.reward_template=chat
[ $# -ge 3 ] || exit 0

p3=$1 encoder=$2 model=$3
shift 3
instructions=
if [[ $# -ge 1 && $1 != --* ]]; then
  instructions=$1
  shift
fi
settings=("$@")

# Without rows that leak; SmolLM2-135M takes some 15 seconds a step of these on one core.
real() {
  local folder=$1 config=$2
  shift 2
  study "$folder" "configs/$config" \
    --config.similarity.encoder="$encoder" --config.similarity.cache="$workdir/cache" \
    --config.tokenizer="$model" --config.model.init_from="$model" \
    --config.data.train="$p3/train.jsonl.gz" --config.data.test="$workdir/choices.jsonl" \
    --config.data.test_per_task=25 --config.data.truncation=head --config.data.max_length=128 \
    --config.evaluation.max_length=128 --config.evaluation.every=10 \
    --config.training.checkpoint_every=10 --config.training.steps=30 --config.report.window=30 \
    --config.arrangement.drop_leaks=0.95 "$@" "${settings[@]}"
}

python benchmarks/p3_choices.py "$p3/test.jsonl.gz" "$workdir/choices.jsonl"
# T0's tasks, which have few kin in the pool: the study's form, with two shuffles; the same rows in
# each order; toward one half of the rows, scored on the other; and adapters.
form=(--config.arrangement.methods="('tmta-min-max', 'tmta-random', 'tmta-max-min', 'tmta-random@1')"
  --config.evaluation.metrics="('loss', 'choices', 'exact_match')"
  --config.evaluation.scores_every=100 --config.evaluation.texts.decoding=greedy,max_new_tokens=8)
real t0 tmta.py:smollm2 "${form[@]}"
real t0-same-rows tmta.py:smollm2_same_rows --config.arrangement.budget=480 --config.report.window=15
real t0-other-half tmta.py:smollm2 --config.data.report_fraction=0.5
real t0-adapters tmta.py:smollm2 "${form[@]}" --config.seeds="(0,)" --config.model.lora.rank=16 \
  --config.model.lora.alpha=32 --config.training.learning_rate=2e-4
# A whole epoch, of fewer rows.
real t0-epoch tmta.py:smollm2 --config.arrangement.budget=480 --config.training.steps=None \
  --config.report.window=17 --config.evaluation.every=5 --config.training.checkpoint_every=15 \
  --config.arrangement.methods="('tmta-min-max', 'tmta-random', 'tmta-max-min', 'tmta-random@1', 'tmta-random@2')"
# Orders by chance, by task and by distance; every measure of similarity beside them.
real t0-similarity similarity.py:smollm2 --config.data.test_per_task=15 \
  --config.training.steps=16 --config.evaluation.every=2 --config.report.window=16
real t0-turns turns.py:smollm2 --config.training.steps=12 --config.evaluation.every=4 \
  --config.arrangement.budget=None \
  --config.arrangement.methods="('tmta-turns-1-4', 'tmta-turns-20-23', 'tmta-turns-50-53', 'tmta-turns-90-93')"
real t0-near-turns turns.py:smollm2 --config.training.steps=12 --config.evaluation.every=4 \
  --config.arrangement.methods="('tmta-turns-1-4', 'tmta-turns-4-7', 'tmta-turns-7-10', 'tmta-turns-10-13')"
real t0-granularity granularity.py:smollm2 --config.data.test_per_task=15 \
  --config.training.steps=20 --config.evaluation.every=5
# Tasks held out at random, which have near kin in the pool, as in the study's figure; and the same
# with the rows that leak.
held_out=(--config.data.test="$p3/train.jsonl.gz" --config.data.split=held-out:0.12
  --config.data.test_per_task=3 --config.data.max_length=192 --config.evaluation.max_length=192)
real held-out tmta.py:smollm2 "${held_out[@]}" --config.training.steps=20 --config.report.window=20 \
  --config.evaluation.every=5 --config.training.checkpoint_every=5 \
  --config.arrangement.methods="('tmta-min-max', 'tmta-random@0', 'tmta-max-min')"
real held-out-leaks tmta.py:smollm2 "${held_out[@]}" --config.training.steps=40 \
  --config.report.window=40 --config.arrangement.drop_leaks=None \
  --config.arrangement.methods="('tmta-min-max', 'tmta-random@0', 'tmta-max-min', 'tmta-random@1')"
if [ -n "$instructions" ]; then
  real instructions tmta.py:smollm2 --config.data.train="$instructions/train_tasks.txt" \
    --config.data.test="$instructions/test_tasks.txt" --config.data.test_per_task=50 \
    --config.data.natural_instructions.train_per_task=0 \
    --config.data.natural_instructions.positive_examples=0 --config.data.truncation=middle \
    --config.data.max_length=192 --config.evaluation.max_length=192 --config.arrangement.budget=960
fi
