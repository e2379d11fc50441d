"""Which space and which rule select the training rows that help most, against rows at random.

    python -m zsg_jax.main --config configs/selection.py

The built-in example: a Llama of 127,552 parameters, pretrained on the spot, then tuned on 320 or
640 of 4,800 string-rewriting rows, at random or selected for 200 test rows by hashed n-grams or by
its own hidden states; scored on 200 others of the same two families. 70 runs, 5 seeds. It takes 4
minutes of one core; beside much other work it took 10. Measured test loss, nats per answer
token, mean ± standard deviation over seeds, and less that of as many rows at random (95 %; jax
0.10.2, CPU):

    space          rule       320 rows       less random           640 rows       less random
    -              random     2.944 ± .060                         2.871 ± .099
    hashing        targets    2.724 ± .039   -.220 (-.25, -.19)    2.530 ± .024   -.340 (-.44, -.24)
    hashing        tmta-min   2.723 ± .034   -.221 (-.26, -.18)    2.527 ± .013   -.344 (-.46, -.23)
    hashing        min-nft    2.728 ± .037   -.216 (-.25, -.18)    2.535 ± .017   -.336 (-.44, -.23)
    states:start   targets    2.777 ± .031   -.167 (-.21, -.13)    2.623 ± .023   -.248 (-.35, -.15)
    states:start   tmta-min   2.758 ± .029   -.186 (-.23, -.15)    2.602 ± .022   -.268 (-.37, -.17)
    states:start   min-nft    2.844 ± .065   -.101 (-.14, -.06)    2.751 ± .050   -.119 (-.20, -.04)

Every way of the table beats random. Here the space decides: by n-grams (1 second for all rows) the
three rules cannot be told apart, and tmta-min by them is told apart from all three by states (4
seconds). By --config.grid.spaces="('gradients:start,dimension=512',)", 46 seconds, the same rules
were not told from random: .018 to .035 above it at 320 rows.

    python -m zsg_jax.main --config configs/selection.py:p3 --config.data.train=FILE …

A pretrained Llama of 260,032 parameters on P3, all of whose weights are tuned; all-MiniLM-L6-v2
is a third space, and exact match is measured too. Two rules of 320 rows have been run, by loss
alone, 35 runs in 18 minutes of half a core: test loss of the other half of 4 unseen tasks, less
that of as many rows at random (5.84 ± .12):

    space               targets                      min-nft
    hashing             6.24   +.40 (.16, .65)       6.86   +1.03 (.81, 1.25)
    all-MiniLM-L6-v2    5.16   -.67 (-.97, -.38)     5.74    -.09 (-.43, .24)
    states:start        5.66   -.17 (-.47, .13)      6.15    +.31 (.08, .54)

    python -m zsg_jax.main --config configs/selection.py:smollm2 --config.data.train=FILE …

Adapters of SmolLM2-135M on the same data. With 48 of 276 rows, 6 steps, rule targets and ten
seeds (docs/selection.md has the settings), less random (3.94 ± .26): all-MiniLM-L6-v2 -.08 (-.30,
.14), the model's states -.33 (-.54, -.12); the states .25 below MiniLM (p .004).
"""

from ml_collections import ConfigDict

from zsg_jax.config import choose, default_config, p3, pretrained_here, smollm2
from zsg_jax.config_selection import selection_config


def get_config(preset: str = "") -> ConfigDict:
    """The built-in example, or a preset."""
    bases = {"": pretrained_here, "p3": p3, "smollm2": smollm2}
    config = selection_config(choose("selection", default_config(), preset, bases))
    return choose("selection", config, preset, {"": _built_in, "p3": _p3, "smollm2": _smollm2})


def _built_in(config: ConfigDict) -> None:
    """400 test rows of two families, half of them to aim at."""
    config.data.rewrites.test_rules = 100


def _p3(config: ConfigDict) -> None:
    """A Llama of 260,032 parameters, all of whose weights are tuned."""
    config.grid.spaces = ("hashing", "all-MiniLM-L6-v2", "states:start")
    config.evaluation.metrics = ("loss", "exact_match")
    config.report.title += ", P3"


def _smollm2(config: ConfigDict) -> None:
    """SmolLM2-135M with adapters."""
    _p3(config)
    config.model.lora.rank = 8
    config.training.learning_rate = 2e-4
    config.report.title += ", SmolLM2-135M with adapters"
