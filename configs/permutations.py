"""Orders of the same pool: by chance, by task, and by Weighted Similarity Distance.

    python -m zsg_jax.main --config configs/permutations.py

The built-in example: the model of configs/tmta.py and its pool, 4,800 string-rewriting rows of four
families, all met in every order; 300 steps, 3 seeds. It takes 7 minutes on 2 cores. Measured test
loss, nats per answer token, mean ± standard deviation over seeds (jax 0.10.2, CPU):

    order                         at step 30   at step 100     area under curve   final loss
    wsd-nft     (nearest first)   2.44         2.349 ± 0.103   2.392 ± 0.084      2.361 ± 0.125
    wsd-fft     (farthest first)  3.72         3.106 ± 0.032   2.929 ± 0.032      2.339 ± 0.052
    random                        2.85         2.432 ± 0.078   2.433 ± 0.055      2.210 ± 0.037
    round-robin                   2.87         2.445 ± 0.075   2.425 ± 0.065      2.180 ± 0.094
    cluster                       2.44         2.557 ± 0.093   2.545 ± 0.124      2.418 ± 0.084

Nearest first falls sooner than chance and round-robin and has the lowest area; both pass it in the
end, by 0.15 (95 %: 0.08 to 0.25) and 0.18 (0.08 to 0.26). Farthest first rises before it falls.
Cluster jumps where a task begins, up by 0.24 and down by 0.15 from one evaluation to the next;
random and round-robin never rise. At the end nearest and farthest first cannot be told apart.

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

SmolLM2-135M on the same data, 1,280 rows of each order. It has not been run; similarity.py:smollm2
trains in the same orders, and measures similarity beside them.

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
