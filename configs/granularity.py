"""Grain: rows ordered one by one, or whole tasks, by the same Weighted Similarity Distance.

    python -m zsg_jax.main --config configs/granularity.py

The built-in example: the pool of configs/tmta.py, 4,800 string-rewriting rows of four families, all
met in every order; a Llama of 127,552 parameters, 300 steps, 3 seeds. It took 2 minutes on 2 cores
shared with other jobs. WSD's weights were 1 for the minimum and, for the average, 2.408 over rows
and 1.296 over tasks. Measured test loss, nats per answer token, mean ± standard deviation over
seeds (jax 0.10.2, CPU):

    order                                at step 30   area under curve    final loss
    wsd-nft    (fine, nearest first)     2.59         2.696 ± 0.132       2.640 ± 0.084
    coarse-nft (coarse, nearest first)   2.57         3.727 ± 0.269       6.098 ± 1.469
    wsd-fft    (fine, farthest first)    4.69         3.140 ± 0.044       2.226 ± 0.039
    coarse-fft (coarse, farthest first)  6.53         4.717 ± 0.223       2.303 ± 0.018

Both grains of nearest first start with the same task (459 of the first 480 rows in fine grain) and
fall alike; coarse grain then forgets it, since whole tasks less like the test rows follow. Fine
grain has the lower area under the curve either way round; at the end all pairs can be told apart.

    python -m zsg_jax.main --config configs/granularity.py:p3 --config.data.train=FILE …

A pretrained Llama of 260,032 parameters on P3 with all-MiniLM-L6-v2, 448 steps, one seed. The whole
of it has not been run; with --config.training.steps=60 it took 13 minutes and gave:

    order                                at step 10   at step 30   final loss
    wsd-nft    (fine, nearest first)     7.79         5.20         3.91
    coarse-nft (coarse, nearest first)   9.26         8.14         5.28
    wsd-fft    (fine, farthest first)    6.96         6.01         5.68
    coarse-fft (coarse, farthest first)  6.94         5.90         5.57

Nearest first gains from fine grain; farthest first does not.

    python -m zsg_jax.main --config configs/granularity.py:llama2_7b …

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
    config.arrangement.methods = ("wsd-nft", "wsd-fft", "coarse-nft", "coarse-fft")
    config.report.title = "Fine and coarse grain"
    return choose("granularity", config, preset, PRESETS)
