"""The plan of the second study, against numbers reckoned by hand."""

import json

import pytest

from zsg_jax.config_diversity import diversity_config
from zsg_jax.diversity.program import model_config
from zsg_jax.models.model import abstract, count
from zsg_jax.models.placement import Compute
from zsg_jax.runtime.errors import UserError
from zsg_jax.training import flops
from zsg_jax.workflows import plan_diversity


def small():
    config = diversity_config()
    config.grid.rules = (8, 16, 32)
    config.grid.lengths = ("2/2/5", "3/3/9")
    config.grid.seed = (0, 1)
    config.training.batch_size = 4
    config.training.steps = 40
    config.evaluation.every = 20
    config.evaluation.rows = 10
    config.mesh.stack = 4
    return config


def planned(config, machine, capsys, **options):
    advice = plan_diversity.run(config, machine, as_json=True, **options)
    return json.loads(capsys.readouterr().out), advice


@pytest.mark.ci
@pytest.mark.slow
def test_numbers_by_hand(capsys):
    (first, second), advice = planned(small(), "h200:2", capsys)
    assert advice is None
    for part, length in ((first, 2 + 2 + 5 + 3 + 5 + 1), (second, 3 + 3 + 9 + 3 + 9 + 1)):
        assert (part["cells"], part["stack"], part["length"]) == (6, 4, length)
        model = model_config("small", 26 + 4, length)
        _, params = abstract(model, Compute())
        own = 2
        assert part["memory"]["parameters"] == own * 4 * count(params)
        assert part["memory"]["optimizer"] == pytest.approx(2 * own * 4 * count(params), rel=1e-3)
        assert part["memory"]["batch"] == own * 20 * (4 * length + 4 * 4 + 4)
        # 3 scorings of 10 rows of either side in 40 steps.
        forward = flops.forward(model, [length])
        assert part["model_flops"] == pytest.approx(own * forward * (3 * 4 + 3 * 20 / 40))
        # A stack of four, then one of the two that are left.
        assert part["steps"] == 2 * 40
        assert part["hours"] == pytest.approx(80 * part["seconds"] / 3600)


@pytest.mark.ci
@pytest.mark.slow
def test_what_does_not_fit_is_told_with_a_stack_that_does(capsys):
    config = small()
    config.grid.lengths = ("2/2/5",)
    # No number of cells fits 0.1 MB, and one of two a chip fits what is less than both take.
    (part,), advice = planned(config, "v5e-8", capsys, memory_gb=1e-4)
    assert not part["fits"]
    assert "larger chips" in advice
    gigabytes = 1.5 * part["memory"]["total"] / 1e9
    (part,), advice = planned(config, "v5e-4", capsys, memory_gb=gigabytes)
    assert (part["stack"], part["fits"]) == (4, True)
    config.mesh.stack = 8
    (part,), advice = planned(config, "v5e-4", capsys, memory_gb=gigabytes)
    assert (part["stack"], part["fits"]) == (8, False)
    assert advice.endswith("--config.mesh.stack=4")


def test_a_cpu_computes_a_cell_a_core(capsys):
    config = small()
    config.grid.lengths = ("2/2/5",)
    (part,), advice = planned(config, "cpu:2", capsys)
    assert (part["stack"], part["steps"], part["hours"]) == (2, 3 * 40, None)
    assert advice is None


def test_the_text_tells_memory_and_hours(capsys):
    config = small()
    config.grid.lengths = ("2/2/5",)
    assert plan_diversity.run(config, "v5e-8") is None
    text = capsys.readouterr().out
    assert "6 cells of lengths 2/2/5 in 1 stack of 8, 1 a chip" in text
    assert "hours for all cells" in text
    with pytest.raises(UserError, match="known"):
        plan_diversity.run(config, "h300:1")
