"""Which distance to the test rows tracks the test loss: every measure beside the loss.

    python -m zsg_jax.main --config configs/similarity.py

The built-in example: the model of configs/tmta.py and its pool, 4,800 string-rewriting rows of four
families, all met in every order; 300 steps, 3 seeds. It takes 8 minutes on 2 cores. The losses are
those that configs/permutations.py lists. Pearson's correlation of the test loss, the mean of eight
seeds, of which the first three are the default, with each distance of the rows seen so far, steps
10 to 300, transport at 20 of these 30 (jax 0.10.2, CPU):

    distance       round-robin   cluster   random   wsd-nft   wsd-fft   all together
    nearest        0.996         -0.09     0.99     0.94      0.88      0.74
    average        -0.28         0.45      -0.67    -0.48     0.92      0.47
    minimum        0.82          -0.23     0.82     –         0.84      0.66
    maximum        -0.62         0.22      -0.90    -0.66     –         0.16
    wsd            -0.61         0.44      -0.38    -0.54     0.93      0.45
    centroid       0.71          0.31      0.39     -0.00     0.94      0.70
    transport      0.79          0.43      0.89     -0.47     0.91      0.46
    divergence     0.98          -0.31     0.97     0.68      0.89      0.55

Across orders the nearest row seen goes along best (Spearman's is highest for divergence, 0.59, and
0.45 for nearest). Both can only come nearer, as whatever falls with time does; where the loss rises
again (cluster) they part from it. WSD and transport, the study's, follow it in some orders alone.

    python -m zsg_jax.main --config configs/similarity.py:p3 --config.data.train=FILE …

A pretrained Llama of 260,032 parameters on P3 with all-MiniLM-L6-v2, one seed. The whole of it has
not been run; with --config.training.steps=30 --config.arrangement.budget=480 the final losses were
6.31 (round-robin), 6.30 (cluster), 5.63 (random), 5.91 (wsd-nft), 6.26 (wsd-fft), and divergence
alone went with the loss across orders (Pearson 0.85, the others -0.48 to 0.09, over 15 points).

    python -m zsg_jax.main --config configs/similarity.py:smollm2 …

SmolLM2-135M on the same data, 1,280 rows of each order. 16 steps have been run: wsd-nft 4.44,
random 4.55, round-robin 4.65, cluster 4.84, wsd-fft 5.06, from 6.67; Pearson's over all 0.53 for
the nearest row seen, 0.30 for WSD, 0.42 for transport (docs/smollm2.md).

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
