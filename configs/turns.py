"""Groups of TMTA's turns, each trained on alone: what near, middling and far rows teach.

    python -m zsg_jax.main --config configs/turns.py

The built-in example: the model of configs/tmta.py and its pool, whose 4,800 rows make 56 turns;
five groups of ten turns, 861 to 924 rows, 50 steps each, 3 seeds. It takes 3 minutes on 2 cores.
Measured test loss, nats per answer token, mean ± standard deviation over eight seeds, of which the
first three are the default (jax 0.10.2, CPU):

    turns               at step 10      area under curve   final loss
    tmta-turns-1-11     2.759 ± 0.044   2.649 ± 0.028      2.453 ± 0.017
    tmta-turns-11-21    2.783 ± 0.042   2.724 ± 0.035      2.593 ± 0.039
    tmta-turns-21-31    2.972 ± 0.041   2.979 ± 0.043      2.919 ± 0.055
    tmta-turns-31-41    3.047 ± 0.040   3.114 ± 0.054      3.117 ± 0.073
    tmta-turns-41-51    3.158 ± 0.053   3.285 ± 0.081      3.359 ± 0.133

The earlier the turns, the lower the loss, at the end in every seed; all pairs can be told apart
there, neighbours by 0.14 (95 %: 0.12 to 0.16) at least.

    python -m zsg_jax.main --config configs/turns.py:p3 --config.data.train=FILE …

A pretrained Llama of 260,032 parameters on P3 with all-MiniLM-L6-v2, one seed. Two of its five
groups have been run: turns 1 to 5 ended at 3.88 after 45 steps, turns 6 to 10 at 4.44 after 51.

    python -m zsg_jax.main --config configs/turns.py:smollm2 …

SmolLM2-135M on P3, three groups of two turns. Groups of three of the whole pool have been run, 12
steps each: turns 1 to 3, 20 to 22, 50 to 52 and 90 to 92 come to 4.59, 4.94, 4.93 and 5.05 on T0's
tasks, from 6.69 (docs/smollm2.md).

    python -m zsg_jax.main --config configs/turns.py:llama2_7b …

The study's own settings: LLaMA-2-7B on Flan-mini, six groups of five turns. It has not been run.
"""

from ml_collections import ConfigDict

from zsg_jax.config import choose, default_config, llama2_7b, p3, pretrained_here, smollm2


def get_config(preset: str = "") -> ConfigDict:
    """The built-in example, or a preset, each with groups of 5 turns as in the study."""
    config = default_config()
    # The default has 56 turns, of some 88 rows each up to turn 48.
    config.arrangement.methods = _ranges(10, 5)
    config.training.steps = 50
    config.report.title = "Turns apart"
    presets = {"": pretrained_here, "p3": _p3, "smollm2": _smollm2, "llama2_7b": _llama2_7b}
    return choose("turns", config, preset, presets)


def _ranges(turns: int, ranges: int) -> tuple[str, ...]:
    """The first `ranges` groups of `turns` turns, from turn 1."""
    starts = range(1, turns * ranges, turns)
    return tuple(f"tmta-turns-{start}-{start + turns}" for start in starts)


def _p3(config: ConfigDict) -> None:
    """5 groups, one epoch of each: 4,800 rows make 29 turns."""
    p3(config)
    config.arrangement.methods = _ranges(5, 5)
    config.arrangement.budget = 4800
    config.training.steps = None


def _smollm2(config: ConfigDict) -> None:
    """3 groups of two turns, one epoch of each."""
    smollm2(config)
    config.arrangement.methods = _ranges(2, 3)
    config.training.steps = None


def _llama2_7b(config: ConfigDict) -> None:
    """6 groups, one epoch of each, of the turns that 30,000 rows of Flan-mini make."""
    llama2_7b(config)
    config.arrangement.methods = _ranges(5, 6)
    config.arrangement.budget = 30_000
    config.training.steps = None
