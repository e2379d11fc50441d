"""Test-centric Multi-turn Arrangement: nearest first, shuffled, and farthest first.

    python -m zsg_jax.main --config configs/tmta.py

The built-in example: a Llama of 127,552 parameters, pretrained on the spot on general strings, then
tuned on some 2,400 of 4,800 string-rewriting rows of four families, of which only some share
letters with the two families of unseen test rules; 152 steps, 3 seeds. The form is that of the
study's figure: the nearest rows and then the farthest, the same shuffled, and the other way round.
Measured test loss, nats per answer token, mean ± standard deviation over eight seeds, of which the
first three are the default (jax 0.10.2, CPU):

    order                              at step 0   at step 10   at step 70    at the end
    tmta-min-max (nearest first)       3.41        2.75         2.31 ± 0.05   2.41 ± 0.18
    tmta-random  (shuffled)            3.41        2.91         2.46 ± 0.10   2.33 ± 0.08
    tmta-max-min (farthest first)      3.41        3.08         2.91 ± 0.23   2.49 ± 0.12

In the study's window, the first half, the three rank as in the study in every seed; at the end
nearest first is not told apart from shuffled. docs/findings.md says what the model learns.

    python -m zsg_jax.main --config configs/tmta.py:same_rows

The stricter comparison of the same model: the 2,400 nearest rows in each order, TMTA's turns
forward, shuffled and backward; eight seeds.

    order                              at step 70      at the end
    tmta-nft (nearest first)           2.31 ± 0.05     2.38 ± 0.15
    tmta-rt  (shuffled)                2.43 ± 0.07     2.32 ± 0.09
    tmta-fft (farthest first)          2.75 ± 0.08     2.41 ± 0.07

    python -m zsg_jax.main --config configs/tmta.py:p3 --config.data.train=FILE …

A pretrained Llama of 260,032 parameters on P3 with all-MiniLM-L6-v2, in the form of the study's
figure: nearest first begins with the 2,400 nearest rows and ends with the farthest, farthest first
the other way round, and the same rows shuffled. So up to the middle, the study's window, the two
have met different rows. One seed, 35 minutes on 2 quiet cores:

    order                              at step 0   at step 50   at step 150   at the end
    tmta-min-max (nearest first)       9.65        3.06         2.40          2.48
    tmta-random  (shuffled)            9.65        3.78         2.76          2.40
    tmta-max-min (farthest first)      9.65        4.85         3.34          2.19

Step 150 ends the study's window: nearest first is 0.35 below shuffled (95 % over test rows 0.25 to
0.46), and at the end 0.09 above it.

    python -m zsg_jax.main --config configs/tmta.py:p3_same_rows --config.data.train=FILE …

The stricter comparison: the same rows in each order, TMTA's turns forward, shuffled and backward.
20 minutes on 2 cores. Nearest first, shuffled, farthest first (one seed): at step 20 4.69, 5.02 and
5.38, at step 150 2.40, 2.21 and 2.46, at the end 2.41, 2.26 and 2.16.

    python -m zsg_jax.main --config configs/tmta.py:smollm2 …
    python -m zsg_jax.main --config configs/tmta.py:smollm2_same_rows …

SmolLM2-135M on 1,280 rows of P3, in either form. Of the first, 30 steps have been run on T0's
tasks: nearest first 3.09, shuffled 3.42 and 3.48, farthest first 3.88, from 6.69; and 40 on tasks
held out at random: 3.49, 3.60 and 3.65, 3.77, from 5.67, but without the rows that share passages
with these (--config.arrangement.drop_leaks=0.95) no lead is seen (docs/findings.md). A step
takes 12 seconds or more on 2 cores; benchmarks/findings.sh cuts the studies of this model to what
one core does in an hour each.

    python -m zsg_jax.main --config configs/tmta.py:llama2_7b …
    python -m zsg_jax.main --config configs/tmta.py:llama2_7b_same_rows …

The study's own settings, in either form, for a pod; shapes and shardings are tested, the training
was not run.
"""

from ml_collections import ConfigDict

from zsg_jax.config import choose, default_config, llama2_7b, p3, pretrained_here, smollm2

# The study's figure: the nearest rows and then the farthest, the same rows shuffled, and the
# farthest first. Up to the middle, nearest and farthest first have met different rows.
STUDY = ("tmta-min-max", "tmta-random", "tmta-max-min")


def get_config(preset: str = "") -> ConfigDict:
    """The built-in example, or a preset: in the study's form, or the same rows in each order."""
    presets = {
        "": lambda config: _built_in(config, STUDY),
        "same_rows": lambda config: _built_in(config, config.arrangement.methods),
        "p3": lambda config: _p3(config, STUDY),
        "p3_same_rows": lambda config: _p3(config, config.arrangement.methods),
        "smollm2": lambda config: _smollm2(config, STUDY),
        "smollm2_same_rows": lambda config: _smollm2(config, config.arrangement.methods),
        "llama2_7b": lambda config: _llama2_7b(config, STUDY),
        "llama2_7b_same_rows": lambda config: _llama2_7b(config, config.arrangement.methods),
    }
    return choose("tmta", default_config(), preset, presets)


def _built_in(config: ConfigDict, methods: tuple[str, ...]) -> None:
    """About 2,400 of 4,800 rows, one epoch, some 150 steps, of a model pretrained on the spot."""
    pretrained_here(config)
    config.arrangement.methods = methods
    config.arrangement.budget = 2400
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
