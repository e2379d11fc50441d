"""The search for a setting that fits, with a memory that is worked out instead of compiled."""

import itertools

import pytest

from zsg_jax.config import default_config
from zsg_jax.planning import advice
from zsg_jax.planning.join import REMAT


def config_of(**overrides):
    config = default_config()
    config.update_from_flattened_dict({"training.batch_size": 16, **overrides})
    return config


def weight(config):
    """Rows at once, fewer where more is computed again."""
    rows = config.training.micro_batch_size or config.training.batch_size
    return rows / (1 + REMAT.index(config.model.remat))


def test_the_chain_takes_ever_less_and_ends_with_the_fewest_rows():
    config = config_of()
    weights = [weight(advice.changed(config, one)) for one in advice.chain(config, 2)]
    assert all(a > b for a, b in itertools.pairwise([weight(config), *weights]))
    assert advice.chain(config, 2)[-1]["training.micro_batch_size"] == 2
    assert config.training.micro_batch_size is None
    last = config_of(**{"model.remat": REMAT[-1], "training.micro_batch_size": 2})
    assert advice.chain(last, 2) == []


@pytest.mark.parametrize("limit", [16, 12, 8, 5, 4, 2, 1])
def test_the_first_of_the_chain_that_fits_is_found(limit):
    import jax

    config = config_of(**{"mesh.data": 1})
    devices = jax.devices()[:1]
    tried = []

    def fits(other):
        tried.append(weight(other))
        return weight(other) <= limit

    found, count = advice.nearest(config, devices, "cpu:1", 10**12, fits)
    every = [weight(advice.changed(config, one)) for one in advice.chain(config, 1)]
    expected = next((one for one in every if one <= limit), None)
    assert (expected is None) == (found is None)
    if found is not None:
        assert weight(advice.changed(config, found)) == expected
    assert count == len(tried) <= advice.MOST
    assert len(set(tried)) == len(tried)  # each once


def test_a_state_that_is_too_large_is_not_compiled():
    import jax

    def never(_):
        raise AssertionError("compiled")

    found, count = advice.nearest(config_of(), jax.devices()[:1], "cpu:1", 1000, never)
    assert (found, count) == (None, 0)


def test_other_meshes_have_as_many_chips_and_split_the_state_ever_further():
    config = config_of(**{"mesh.data": 8, "mesh.fsdp": 1})
    found = list(advice.meshes(config, 8))
    sizes = [
        (one["mesh.data"], one["mesh.fsdp"]) for one in found if one.get("mesh.tensor", 1) == 1
    ]
    assert sizes == [(4, 2), (2, 4), (1, 8)]
    assert all(len(one) == len(found[0]) for one in found)
