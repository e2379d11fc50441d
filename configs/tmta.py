"""Test-centric Multi-turn Arrangement: the same rows nearest first, shuffled, and farthest first.

python -m zsg_jax.main --config configs/tmta.py
python -m zsg_jax.main --config configs/tmta.py:p3 --config.data.train=… --config.data.test=…
python -m zsg_jax.main --config configs/tmta.py:llama2_7b …
"""

from ml_collections import ConfigDict

from zsg_jax.config import default_config
from zsg_jax.errors import UserError


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
    """A small pretrained Llama on P3: 4,800 rows, one epoch, 300 steps."""
    config.seeds = (0,)
    config.data.train = "p3/train.jsonl.gz"
    config.data.test = "p3/test.jsonl.gz"
    config.data.max_length = 512
    config.evaluation.max_length = 512
    config.similarity.encoder = "all-MiniLM-L6-v2"
    config.tokenizer = "stories260k"
    config.model.init_from = "stories260k"
    config.arrangement.budget = 4800
    config.training.micro_batch_size = 4
    config.training.learning_rate = 1e-3
    config.report.title = "Test-centric arrangement on P3"


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
    config.arrangement.budget = 30_000
    config.mesh.data = 1
    config.mesh.fsdp = -1
    config.training.learning_rate = 1e-6
    config.report.title = "Test-centric arrangement, LLaMA-2-7B on Flan-mini"
