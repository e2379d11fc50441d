"""Diversity of real instructions: the same number of rows from few tasks or from many.

    python -m zsg_jax.main --config configs/diversity_real.py --config.data.train=FILE …

A pretrained Llama of 260,032 parameters on P3, of which each task has 40 rows: 320 rows of 8, 16,
64 or 276 tasks, none twice, one epoch; three draws of tasks each; measured on tasks that none of
them holds. Eight tasks are the fewest that hold so many rows: with more rows a task, raise
arrangement.budget and name fewer tasks. Prompts over 256 tokens lose their beginning, so that no
task is lost. It took 20 minutes on 2 cores shared with other jobs. Measured test loss, nats per
answer token, mean ± standard deviation over draws (jax 0.10.2, CPU; 200 test rows of 4 tasks):

    tasks    at step 10       at step 20       at the end, step 40
    8        6.28 ± 0.17      5.73 ± 0.14      5.55 ± 0.13
    16       6.38 ± 0.31      5.87 ± 0.09      5.42 ± 0.03
    64       6.59 ± 0.09      5.76 ± 0.38      5.48 ± 0.15
    276      6.66 ± 0.28      6.01 ± 0.29      5.43 ± 0.12

Few tasks fall sooner; at the end three draws cannot tell the numbers of tasks apart. So few rows
for so small a model are no answer yet.

    python -m zsg_jax.main --config configs/diversity_real.py:smollm2 --config.data.train=FILE …

SmolLM2-135M on a pool of at least 1,104 rows a task: 4,416 rows of 4, 16, 64 or 276 tasks. It has
not been run.
"""

from ml_collections import ConfigDict

from zsg_jax.config import choose, default_config, p3

DRAWS = range(3)


def get_config(preset: str = "") -> ConfigDict:
    """P3 with the small Llama, or a preset."""
    config = default_config()
    p3(config)
    # None of the methods goes by similarity; it is drawn beside the loss.
    config.similarity.encoder = "hashing"
    config.data.max_length = config.evaluation.max_length = 256
    config.data.truncation = "head"
    config.arrangement.methods = _tasks(8, 16, 64, 276)
    config.arrangement.budget = 320
    config.training.batch_size = 8
    config.report.title = "Few tasks or many, on P3"
    return choose("diversity_real", config, preset, {"smollm2": _smollm2})


def _tasks(*numbers: int) -> tuple[str, ...]:
    """Each number of tasks, drawn anew for each draw."""
    return tuple(f"tasks-{number}@{draw}" for number in numbers for draw in DRAWS)


def _smollm2(config: ConfigDict) -> None:
    """4,416 rows, 276 steps."""
    config.tokenizer = config.model.init_from = "hub:HuggingFaceTB/SmolLM2-135M"
    config.data.max_length = config.evaluation.max_length = 1024
    config.arrangement.methods = _tasks(4, 16, 64, 276)
    config.arrangement.budget = 4416
    config.training.batch_size = 16
    config.training.learning_rate = 1e-4
    config.model.dtype = "bfloat16"
    config.report.title += ", SmolLM2-135M"
