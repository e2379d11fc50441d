"""Test-centric Multi-turn Arrangement: the same rows nearest first, shuffled, and farthest first.

    python -m zsg_jax.main --config configs/tmta.py

The built-in example: 4,800 string-rewriting rows of four families, of which only some share letters
with the two families of unseen test rules; a Llama of 127,552 parameters, 300 steps, 3 seeds. It
takes 80 seconds on 2 cores. Measured test loss, nats per answer token, mean ± standard deviation
over seeds (jax 0.10.2, CPU):

    order                        at step 30   area under curve    final loss
    tmta-nft (nearest first)     2.58         2.894 ± 0.199       2.984 ± 0.678
    tmta-rt  (shuffled)          2.89         2.427 ± 0.018       2.134 ± 0.059
    tmta-fft (farthest first)    7.03         3.310 ± 0.008       2.251 ± 0.022

Nearest first falls soonest, then forgets as the pool runs out of similar rows.

    python -m zsg_jax.main --config configs/tmta.py:p3 --config.data.train=FILE …

A pretrained Llama of 260,032 parameters on P3 with all-MiniLM-L6-v2, in the form of the study's
figure: nearest first begins with the 2,400 nearest rows and ends with the farthest, farthest first
the other way round, and the same rows shuffled. So up to the middle, the study's window, the two
have met different rows. It has not been run.

    python -m zsg_jax.main --config configs/tmta.py:p3_same_rows --config.data.train=FILE …

The stricter comparison: the same rows in each order, TMTA's turns forward, shuffled and backward.
20 minutes on 2 cores. Nearest first, shuffled, farthest first (one seed): at step 20 4.69, 5.02 and
5.38, at step 150 2.40, 2.21 and 2.46, at the end 2.41, 2.26 and 2.16.

    python -m zsg_jax.main --config configs/tmta.py:llama2_7b …
    python -m zsg_jax.main --config configs/tmta.py:llama2_7b_same_rows …

The study's own settings, in either form, for a pod; shapes and shardings are tested, the training
was not run.
"""

from ml_collections import ConfigDict

from zsg_jax.config import choose, default_config, llama2_7b, p3, smollm2

# The study's figure: the nearest rows and then the farthest, the same rows shuffled, and the
# farthest first. Up to the middle, nearest and farthest first have met different rows.
STUDY = ("tmta-min-max", "tmta-random", "tmta-max-min")


def get_config(preset: str = "") -> ConfigDict:
    """The built-in example, or a preset: in the study's form, or the same rows in each order."""
    presets = {
        "same_rows": lambda config: _built_in(config, config.arrangement.methods),
        "p3": lambda config: _p3(config, STUDY),
        "p3_same_rows": lambda config: _p3(config, config.arrangement.methods),
        "smollm2": lambda config: _smollm2(config, STUDY),
        "smollm2_same_rows": lambda config: _smollm2(config, config.arrangement.methods),
        "llama2_7b": lambda config: _llama2_7b(config, STUDY),
        "llama2_7b_same_rows": lambda config: _llama2_7b(config, config.arrangement.methods),
    }
    config = default_config()
    if not preset:
        _built_in(config, STUDY)
    return choose("tmta", config, preset, presets)


def _built_in(config: ConfigDict, methods: tuple[str, ...]) -> None:
    """About 2,400 of 4,800 rows, one epoch, some 150 steps, of a model pretrained on the spot."""
    config.arrangement.methods = methods
    config.arrangement.budget = 2400
    config.model.pretraining.steps = 300
    config.training.learning_rate = 5e-4
    config.report.window = 75


def _p3(config: ConfigDict, methods: tuple[str, ...]) -> None:
    """4,800 rows, one epoch, 300 steps."""
    p3(config)
    config.arrangement.methods = methods
    config.arrangement.budget = 4800
    config.report.window = 150


def _smollm2(config: ConfigDict, methods: tuple[str, ...]) -> None:
    """1,280 rows, one epoch, 80 steps."""
    smollm2(config)
    config.arrangement.methods = methods


def _llama2_7b(config: ConfigDict, methods: tuple[str, ...]) -> None:
    """30,000 rows of all of Flan-mini, one epoch."""
    llama2_7b(config)
    config.arrangement.methods = methods
    config.arrangement.budget = 30_000
    config.report.window = 890
