"""Which distance to the test rows tracks the test loss: every measure beside the loss.

    python -m zsg_jax.main --config configs/similarity.py

The built-in example: the pool of configs/tmta.py, 4,800 string-rewriting rows of four families, all
met in every order; a Llama of 127,552 parameters, 300 steps, 3 seeds. It took 6 minutes on 2 cores
shared with other jobs, 110 seconds of them for the trajectories. Measured test loss, nats per
answer token, mean ± standard deviation over seeds (jax 0.10.2, CPU):

    order         at step 30   area under curve    final loss
    round-robin   2.88         2.408 ± 0.021       2.110 ± 0.016
    cluster       2.57         4.222 ± 0.227       2.915 ± 0.155
    random        2.79         2.419 ± 0.017       2.134 ± 0.030
    wsd-nft       2.59         2.716 ± 0.116       2.624 ± 0.090
    wsd-fft       4.69         3.141 ± 0.044       2.234 ± 0.036

Pearson's correlation of that loss with each distance of the rows seen so far, steps 10 to 300:

    distance       round-robin   cluster   random   wsd-nft   wsd-fft   all together
    nearest        0.96          -0.35     0.94     0.50      0.78      0.15
    average        -0.26         0.56      -0.83    0.22      0.88      0.12
    minimum        0.90          -0.41     0.87     –         0.72      0.12
    maximum        -0.55         0.35      -0.80    -0.05     –         0.08
    wsd            -0.73         0.55      -0.63    0.17      0.87      0.11
    centroid       0.89          0.41      0.62     0.23      0.87      0.21
    transport      0.78          0.53      0.89     0.10      0.93      0.07
    divergence     0.98          -0.49     0.98     -0.08     0.93      0.18

No distance tracks the loss across orders (Spearman's is 0.46 for divergence, under 0.2 for the
rest): the nearest row seen can only come nearer, while this model forgets. In orders that mix
tasks, nearest and divergence fall with the loss, as whatever falls with time does; where the loss
rises again (cluster, wsd-nft) they part from it.

    python -m zsg_jax.main --config configs/similarity.py:p3 --config.data.train=FILE …

A pretrained Llama of 260,032 parameters on P3 with all-MiniLM-L6-v2, one seed. The whole of it has
not been run; with --config.training.steps=30 --config.arrangement.budget=480 the final losses were
6.31 (round-robin), 6.30 (cluster), 5.63 (random), 5.91 (wsd-nft), 6.26 (wsd-fft), and divergence
alone went with the loss across orders (Pearson 0.85, the others -0.48 to 0.09, over 15 points).

    python -m zsg_jax.main --config configs/similarity.py:smollm2 …

SmolLM2-135M on the same data, 1,280 rows of each order. It has not been run.

    python -m zsg_jax.main --config configs/similarity.py:llama2_7b …

The study's own settings: LLaMA-2-7B on Flan-mini, 20 rows of each task, distances every 160 rows.
It has not been run.
"""

from ml_collections import ConfigDict

from zsg_jax.config import (
    choose,
    default_config,
    llama2_7b_by_task,
    p3,
    smollm2,
)
from zsg_jax.similarity.trajectory import MEASURES

PRESETS = {"p3": p3, "smollm2": smollm2, "llama2_7b": llama2_7b_by_task}


def get_config(preset: str = "") -> ConfigDict:
    """The built-in example, or a preset, each of the whole pool, one epoch."""
    config = default_config()
    config.arrangement.methods = ("round-robin", "cluster", "random", "wsd-nft", "wsd-fft")
    config.similarity.trajectory = tuple(MEASURES)
    config.report.title = "Similarity beside loss"
    return choose("similarity", config, preset, PRESETS)
