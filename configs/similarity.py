"""Which distance to the test rows tracks the test loss: every measure beside the loss.

    python -m zsg_jax.main --config configs/similarity.py

The built-in example: the model of configs/tmta.py and its pool, 4,800 string-rewriting rows of four
families, all met in every order; 300 steps, 3 seeds. It takes 8 minutes on 2 cores. The losses are
those that configs/permutations.py lists. Pearson's correlation of the test loss with each distance
of the rows seen so far, steps 10 to 300 (jax 0.10.2, CPU):

    distance       round-robin   cluster   random   wsd-nft   wsd-fft   all together
    nearest        0.99          0.08      0.98     0.94      0.86      0.82
    average        -0.28         0.33      -0.64    -0.46     0.90      0.53
    minimum        0.79          -0.11     0.80     –         0.82      0.74
    maximum        -0.63         0.09      -0.90    -0.64     –         0.17
    wsd            -0.58         0.32      -0.36    -0.52     0.90      0.51
    centroid       0.67          0.19      0.36     0.04      0.92      0.77
    transport      0.78          0.31      0.89     -0.44     0.89      0.52
    divergence     0.97          -0.17     0.97     0.66      0.86      0.57

Across orders the nearest row seen goes along best (Spearman's is highest for divergence, 0.59, and
0.54 for nearest). Both can only come nearer, as whatever falls with time does; where the loss rises
again (cluster) they part from it. WSD and transport, the study's, follow it in some orders alone.

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

from zsg_jax.config import WHOLE_POOL, choose, default_config
from zsg_jax.similarity.trajectory import MEASURES


def get_config(preset: str = "") -> ConfigDict:
    """The built-in example, or a preset, each of the whole pool, one epoch."""
    config = default_config()
    config.arrangement.methods = ("round-robin", "cluster", "random", "wsd-nft", "wsd-fft")
    config.similarity.trajectory = tuple(MEASURES)
    config.report.title = "Similarity beside loss"
    return choose("similarity", config, preset, WHOLE_POOL)
