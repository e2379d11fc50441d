"""Test-centric Multi-turn Arrangement: the same rows nearest first, shuffled, and farthest first.

    python -m zsg_jax.main --config configs/tmta.py

The embedded default: 4,800 string-rewriting rows of four families, of which only some share letters
with the two families of unseen test rules; a Llama of 127,552 parameters, 300 steps, 3 seeds. It
takes 80 seconds on 2 cores. Measured test loss, nats per answer token, mean ± standard deviation
over seeds (jax 0.10.2, CPU):

    order                        at step 30   area under curve    final loss
    tmta-nft (nearest first)     2.58         2.852 ± 0.238       2.945 ± 0.689
    tmta-rt  (shuffled)          2.89         2.427 ± 0.018       2.134 ± 0.059
    tmta-fft (farthest first)    7.23         3.327 ± 0.139       2.245 ± 0.021

Nearest first falls soonest, then forgets as the pool runs out of similar rows.

    python -m zsg_jax.main --config configs/tmta.py:p3 --config.data.train=FILE …

A pretrained Llama of 260,032 parameters on P3 with all-MiniLM-L6-v2; 20 minutes on 2 cores. Final
loss 2.534, 2.339 and 2.160 in the order above (one seed); at step 20 it is 4.57, 5.24 and 5.76.

    python -m zsg_jax.main --config configs/tmta.py:llama2_7b …

The study's own settings, for a pod; shapes and shardings are tested, the training was not run.
"""

from ml_collections import ConfigDict

from zsg_jax.config import default_config, p3
from zsg_jax.runtime.errors import UserError


def get_config(preset: str = "") -> ConfigDict:
    """The embedded default, or a preset: "p3" or "llama2_7b"."""
    config = default_config()
    if preset == "p3":
        _p3(config)
    elif preset == "llama2_7b":
        _llama2_7b(config)
    elif preset:
        raise UserError(f"configs/tmta.py has no preset {preset!r}; choose p3 or llama2_7b")
    return config


def _p3(config: ConfigDict) -> None:
    """4,800 rows, one epoch, 300 steps."""
    p3(config, "Test-centric arrangement on P3")
    config.arrangement.budget = 4800


def _llama2_7b(config: ConfigDict) -> None:
    """The study's own settings (arXiv 2406.11721, fine-tuning): 30,000 rows of Flan-mini."""
    config.seeds = (0,)
    config.data.train = "flan-mini/train.jsonl.gz"
    config.data.test = "flan-mini/test.jsonl.gz"
    config.data.max_length = 2048
    config.evaluation.max_length = 1024
    config.similarity.encoder = "all-MiniLM-L6-v2"
    config.tokenizer = "Llama-2-7b-hf"
    config.model.size = "llama2_7b"
    config.model.init_from = "Llama-2-7b-hf"
    config.model.dtype = "bfloat16"
    config.model.remat = "full"
    config.arrangement.budget = 30_000
    config.mesh.data = 1
    config.mesh.fsdp = -1
    config.training.learning_rate = 1e-6
    config.report.title = "Test-centric arrangement, LLaMA-2-7B on Flan-mini"
