"""Orders of the same pool: by chance, by task, and by Weighted Similarity Distance.

    python -m zsg_jax.main --config configs/permutations.py

The built-in example: the model of configs/tmta.py and its pool, 4,800 string-rewriting rows of four
families, all met in every order; 300 steps, 3 seeds. It takes 7 minutes on 2 cores. Measured test
loss, nats per answer token, mean ± standard deviation over eight seeds, of which the first three
are the default (jax 0.10.2, CPU):

    order                         at step 30   at step 100     area under curve   final loss
    wsd-nft     (nearest first)   2.44         2.344 ± 0.136   2.385 ± 0.128      2.350 ± 0.175
    wsd-fft     (farthest first)  3.61         3.027 ± 0.257   2.855 ± 0.183      2.303 ± 0.107
    random                        2.80         2.404 ± 0.099   2.407 ± 0.095      2.190 ± 0.100
    round-robin                   2.82         2.407 ± 0.094   2.397 ± 0.091      2.174 ± 0.105
    cluster                       2.44         2.568 ± 0.118   2.620 ± 0.267      2.434 ± 0.222

Nearest first falls sooner than chance and round-robin, by 0.36 (95 %: 0.28 to 0.44) and 0.38 at
step 30; their areas are level, and both pass it in the end, by 0.16 (0.09 to 0.23) and 0.18 (0.10
to 0.25). Farthest first rises before it falls, and at the end cannot be told apart from nearest
first. Cluster jumps where a task begins, twice up, by 0.20 and 0.29 from one evaluation to the
next, and once down, by 0.26; the means of random and round-robin never rise.

    python -m zsg_jax.main --config configs/permutations.py:p3 --config.data.train=FILE …

A pretrained Llama of 260,032 parameters on P3 with all-MiniLM-L6-v2, 448 steps, one seed. The whole
of it has not been run; with --config.training.steps=60 it took 14 minutes and gave:

    order                         at step 10   at step 30   final loss
    wsd-nft     (nearest first)   7.79         5.20         3.91
    wsd-fft     (farthest first)  6.96         6.01         5.68
    random                        6.22         5.47         4.83
    round-robin                   7.04         6.06         5.55
    cluster                       6.76         7.21         7.41

Nearest first starts late and is ahead of all from step 30 on.

    python -m zsg_jax.main --config configs/permutations.py:smollm2 …

SmolLM2-135M on the same data, 1,280 rows of each order; similarity.py:smollm2 trains in the same
orders, and was run: after 16 steps random 4.55, round-robin 4.65, cluster 4.84.

    python -m zsg_jax.main --config configs/permutations.py:llama2_7b …

The study's own settings: LLaMA-2-7B on Flan-mini, 20 rows of each task. It has not been run.
"""

from ml_collections import ConfigDict

from zsg_jax.config import WHOLE_POOL, choose, default_config


def get_config(preset: str = "") -> ConfigDict:
    """The built-in example, or a preset, each of the whole pool, one epoch."""
    config = default_config()
    config.arrangement.methods = ("wsd-nft", "wsd-fft", "random", "round-robin", "cluster")
    config.report.title = "Permutations of the training data"
    return choose("permutations", config, preset, WHOLE_POOL)
