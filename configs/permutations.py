"""Orders of the same pool: by chance, by task, and by Weighted Similarity Distance.

    python -m zsg_jax.main --config configs/permutations.py

The built-in example: the pool of configs/tmta.py, 4,800 string-rewriting rows of four families, all
met in every order; a Llama of 127,552 parameters, 300 steps, 3 seeds. It took 175 seconds on 2
cores shared with other jobs. WSD's weights were 1 for the minimum and 2.408 for the average.
Measured test loss, nats per answer token, mean ± standard deviation over seeds (jax 0.10.2, CPU):

    order                         at step 30   area under curve    final loss
    wsd-nft     (nearest first)   2.59         2.696 ± 0.132       2.640 ± 0.084
    wsd-fft     (farthest first)  4.69         3.140 ± 0.044       2.226 ± 0.039
    random                        2.79         2.419 ± 0.017       2.137 ± 0.030
    round-robin                   2.88         2.408 ± 0.021       2.110 ± 0.016
    cluster                       2.57         4.243 ± 0.135       3.112 ± 0.064

Nearest first falls sooner than chance and round-robin, and is passed by both, as under TMTA.
Cluster begins with the family whose letters are the test rules' own, and loses it again. At the end
all pairs can be told apart but random and round-robin (95 %: -0.002 to 0.053).

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

    python -m zsg_jax.main --config configs/permutations.py:llama2_7b …

The study's own settings: LLaMA-2-7B on Flan-mini, 20 rows of each task. It has not been run.
"""

from ml_collections import ConfigDict

from zsg_jax.config import (
    choose,
    default_config,
    llama2_7b_by_task,
    p3,
    pretrained_here,
    smollm2,
)

PRESETS = {"": pretrained_here, "p3": p3, "smollm2": smollm2, "llama2_7b": llama2_7b_by_task}


def get_config(preset: str = "") -> ConfigDict:
    """The built-in example, or a preset, each of the whole pool, one epoch."""
    config = default_config()
    config.arrangement.methods = ("wsd-nft", "wsd-fft", "random", "round-robin", "cluster")
    config.report.title = "Permutations of the training data"
    return choose("permutations", config, preset, PRESETS)
