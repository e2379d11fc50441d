"""Grain: rows ordered one by one, or whole tasks, by the same Weighted Similarity Distance.

    python -m zsg_jax.main --config configs/granularity.py

The built-in example: the model of configs/tmta.py and its pool, 4,800 string-rewriting rows of four
families, all met in every order; 300 steps, 3 seeds. It takes 5 minutes on 2 cores. WSD's weights
were 1 for the minimum and, for the average, 2.408 over rows and 1.296 over tasks. Measured test
loss, nats per answer token, mean ± standard deviation over eight seeds, of which the first three
are the default (jax 0.10.2, CPU):

    order                                at step 30   at step 70   at step 100     final loss
    wsd-nft    (fine, nearest first)     2.44         2.31         2.344 ± 0.136   2.350 ± 0.175
    coarse-nft (coarse, nearest first)   2.44         2.25         2.529 ± 0.160   2.793 ± 0.478
    wsd-fft    (fine, farthest first)    3.61         3.30         3.027 ± 0.257   2.303 ± 0.107
    coarse-fft (coarse, farthest first)  3.92         4.65         3.237 ± 0.267   2.402 ± 0.110

As in the study, fine and coarse grain of nearest first are level at the start, for both begin with
the same task; unlike there, coarse grain is then lower for a while. At the end fine grain is lower,
by 0.44 (95 %: 0.17 to 0.72), of farthest first by 0.10 (0.07 to 0.13).

    python -m zsg_jax.main --config configs/granularity.py:p3 --config.data.train=FILE …

A pretrained Llama of 260,032 parameters on P3 with all-MiniLM-L6-v2, 448 steps, one seed. The whole
of it has not been run; with --config.training.steps=60 it took 13 minutes and gave:

    order                                at step 10   at step 30   final loss
    wsd-nft    (fine, nearest first)     7.79         5.20         3.91
    coarse-nft (coarse, nearest first)   9.26         8.14         5.28
    wsd-fft    (fine, farthest first)    6.96         6.01         5.68
    coarse-fft (coarse, farthest first)  6.94         5.90         5.57

Nearest first gains from fine grain; farthest first does not.

    python -m zsg_jax.main --config configs/granularity.py:smollm2 …

SmolLM2-135M on the same data, 1,280 rows of each order. 20 steps have been run: fine 3.98 and 4.72
(nearest and farthest first), coarse 4.33 and 5.15, from 6.67 (docs/smollm2.md).

    python -m zsg_jax.main --config configs/granularity.py:llama2_7b …

The study's own settings: LLaMA-2-7B on Flan-mini, 20 rows of each task. It has not been run.
"""

from ml_collections import ConfigDict

from zsg_jax.config import WHOLE_POOL, choose, default_config


def get_config(preset: str = "") -> ConfigDict:
    """The built-in example, or a preset, each of the whole pool, one epoch."""
    config = default_config()
    config.arrangement.methods = ("wsd-nft", "wsd-fft", "coarse-nft", "coarse-fft")
    config.report.title = "Fine and coarse grain"
    return choose("granularity", config, preset, WHOLE_POOL)
