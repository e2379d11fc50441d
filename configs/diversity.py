"""Instruction diversity: how many rewriting rules until unseen ones are followed (2402.10891).

    python -m zsg_jax.main --config configs/diversity.py

A rule x → y asks for the leftmost x in a string to be replaced by y. Each cell trains a small model
from scratch on 76,800 rows, drawn from few or many rules, and is scored on rules of which neither x
nor y was trained on. The default: 64 to 4,096 rules, three seeds, 21 cells. Measured exact match on
unseen rules, mean ± standard deviation over seeds (jax 0.11.2, one H200):

    rules    64      256     512            768            1,024          2,048          4,096
    exact    .000    .001    .024 ± .029    .111 ± .048    .275 ± .069    .816 ± .028    .933 ± .013

The fitted midpoint is 1,280 rules (95 % over seeds: 1,227 to 1,336); on 2 cores of a CPU, in 14
minutes, 1,282 (1,200 to 1,394). docs/diversity.md tells what the presets came to.

    --config configs/diversity.py:quick        256 and 4,096 rules, one seed
    --config configs/diversity.py:noops        some rows hold no x; rows with and without apart
    --config configs/diversity.py:families     rules of a structure, tested on others
    --config configs/diversity.py:tail         few rules have most of the rows
    --config configs/diversity.py:occurrences  x stands in z once, or several times
    --config configs/diversity.py:samples      I rules × S rows each
    --config configs/diversity.py:markov       lists of rules, applied by priority
    --config configs/diversity.py:encrypted    under a letter cipher
    --config configs/diversity.py:lengths      longer x and z
    --config configs/diversity.py:paper        the paper's model, lengths and grid, for a GPU
"""

from ml_collections import ConfigDict

from zsg_jax.config import choose
from zsg_jax.config_diversity import diversity_config


def get_config(preset: str = "") -> ConfigDict:
    """The small form of the main experiment, or a preset."""
    presets = {
        "quick": _quick,
        "noops": _noops,
        "families": _families,
        "tail": _tail,
        "occurrences": _occurrences,
        "samples": _samples,
        "markov": _markov,
        "encrypted": _encrypted,
        "lengths": _lengths,
        "paper": _paper,
    }
    return choose("diversity", diversity_config(), preset, presets)


def _quick(config: ConfigDict) -> None:
    config.grid.rules = (256, 4096)
    config.grid.seed = (0,)
    config.report.title += " Two cells"


def _noops(config: ConfigDict) -> None:
    """Every cell is scored on the same rows, of which 30 % hold no x."""
    config.grid.rules = (256, 512, 1024, 4096)
    config.grid.no_ops = (0.0, 0.1, 0.3, 0.5)
    config.grid.seed = (0,)
    config.evaluation.no_ops = 0.3
    config.report.title += " With no-ops"


def _families(config: ConfigDict) -> None:
    """Trained on letters repeated 3 to 12 times, scored on free rules and on fewer repetitions."""
    config.grid.rules = (512, 1024, 4096)
    config.grid.families = (
        "repeat:3-12",
        "repeat:3-12+period:3-12",
        "repeat:3-12+period:3-12+mirror:3-12",
        "free",
    )
    config.grid.lengths = ("12/12/20",)
    config.grid.seed = (0,)
    config.evaluation.families = "free+repeat:1-2+period:1-2+mirror:1-2"
    config.report.title += " By family"


def _tail(config: ConfigDict) -> None:
    config.grid.rules = (1024, 4096)
    config.grid.exponent = (0.0, 2.0, 1.0, 0.5, 0.2, 0.1, 0.07, 0.03)
    config.grid.seed = (0,)
    config.report.title += " With a long tail"


def _occurrences(config: ConfigDict) -> None:
    """Every cell is scored on the same rows, in which x stands once, twice or three times.

    z is longer than elsewhere: three times aaa, say, does not fit 10 letters without a fourth.
    """
    config.grid.lengths = ("3/3/20",)
    config.grid.rules = (256, 512, 1024, 2048)
    config.grid.occurrences = ("1", "2", "3", "1+2+3")
    config.grid.seed = (0,)
    config.evaluation.occurrences = "1+2+3"
    config.report.title += " By occurrences"


def _samples(config: ConfigDict) -> None:
    config.grid.rules = (256, 512, 1024, 2048, 4096)
    config.grid.samples = (1, 4, 16, 0)
    config.grid.seed = (0,)
    config.report.title += " Rules × samples"


def _markov(config: ConfigDict) -> None:
    config.grid.rules = (512, 1024, 4096)
    config.grid.list_length = (1, 2, 3)
    config.grid.limit = (6,)
    config.grid.seed = (0,)
    config.report.title += " Markov lists"


def _encrypted(config: ConfigDict) -> None:
    config.grid.rules = (256, 1024, 4096)
    config.grid.no_ops = (0.4,)
    config.grid.encrypted = (False, True)
    config.grid.seed = (0,)
    config.evaluation.no_ops = 0.4
    config.report.title += " Under a cipher"


def _lengths(config: ConfigDict) -> None:
    config.grid.rules = (512, 1024, 4096)
    config.grid.lengths = ("3/3/10", "3/3/20", "4/4/12", "6/6/18")
    config.grid.seed = (0,)
    config.report.title += " By lengths"


def _paper(config: ConfigDict) -> None:
    """10⁶ rows, 50 epochs; rows a step and warm-up are not told by the paper and chosen here."""
    config.grid.rules = (10, 20, 50, 100, 200, 300, 400, 500, 600)
    config.grid.rules += (1000, 2000, 2500, 5000, 10_000, 100_000, 1_000_000)
    config.grid.pool = (1_000_000,)
    config.grid.lengths = ("20/20/50",)
    config.grid.learning_rate = (1e-3,)
    config.grid.seed = (0,)
    config.model.size = "gpt2"
    config.training.batch_size = 256
    config.training.steps = 195_300
    config.training.warmup_steps = 0
    config.training.final_share = 0.0
    config.training.b2 = 0.999
    config.training.weight_decay = 0.01
    config.training.checkpoint_every = 1000
    config.evaluation.every = 1000
    config.evaluation.rows = 10_000
    config.evaluation.rules = 10_000
    config.report.title += " The paper's size"
