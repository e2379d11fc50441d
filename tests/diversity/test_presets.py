"""Every preset asks for rows that can be drawn."""

import importlib.util
from pathlib import Path

import pytest

from zsg_jax.diversity.cells import CellData
from zsg_jax.workflows.diversity import read

CONFIG = Path(__file__).parents[2] / "configs" / "diversity.py"
SMALL = ("", "quick", "noops", "families", "tail", "occurrences", "samples", "markov")
PRESETS = (*SMALL, "encrypted", "lengths", "paper")


def load(preset):
    spec = importlib.util.spec_from_file_location("diversity_config_file", CONFIG)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module.get_config(preset)


@pytest.mark.parametrize("preset", PRESETS)
def test_the_rows_of_a_preset_can_be_drawn(preset):
    config = load(preset)
    config.evaluation.rows = config.evaluation.rules = 500
    config.grid.rules, config.grid.seed = config.grid.rules[-1:], (0,)
    if preset == "paper":
        config.grid.rules = (10_000,)
    cells, settings = read(config)
    for cell in cells:
        data = CellData(
            cell,
            settings.scoring,
            letters=settings.letters,
            form=settings.form,
            steps=settings.recipe.steps,
            batch_size=settings.recipe.batch_size,
        )
        tokens, lengths = data.steps(0, 2)
        assert tokens.shape[:2] == (2, settings.recipe.batch_size)
        assert lengths.min() > 0
        assert len(data.unseen.encoded.tokens) == len(data.seen.encoded.tokens) == 500
