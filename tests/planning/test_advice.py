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


def test_fewer_bits_and_adapters_are_tried_last_and_in_this_order():
    import jax

    def search(wanted, **overrides):
        tried = []

        def fits(other):
            tried.append((other.model.param_dtype, other.model.lora.rank))
            return wanted == tried[-1]

        config = config_of(**{"mesh.data": 1, **overrides})
        devices = jax.devices()[:1]
        found, count = advice.nearest(config, devices, "cpu:1", 10**12, fits, adapters=True)
        assert count == len(tried)
        ranks = [("float32", 0), ("bfloat16", 0), ("float32", 16)]
        places = [ranks.index(one) for one in tried]
        assert places == sorted(places)  # what changes nothing comes first
        return found

    assert search(("bfloat16", 0))["model.param_dtype"] == "bfloat16"
    lora = search(("float32", 16))
    assert (lora["model.lora.rank"], lora["model.dtype"]) == (16, "bfloat16")
    assert advice.learns_otherwise(lora)
    assert not advice.learns_otherwise({"model.remat": "full", "mesh.fsdp": 2})
    adapted = config_of(**{"model.lora.rank": 8})
    assert advice.coarser(adapted, adapters=True) == [{"model.dtype": "bfloat16"}]
    assert advice.coarser(config_of(), adapters=False) == [{"model.param_dtype": "bfloat16"}]


def test_a_batch_that_is_not_parted_fits_where_sums_of_parts_do_not():
    import jax

    found, _ = advice.nearest(
        config_of(**{"mesh.data": 1}),
        jax.devices()[:1],
        "cpu:1",
        10**12,
        lambda other: other.training.micro_batch_size is None and other.model.remat == "full",
    )
    assert found == {"model.remat": "full"}


def test_other_meshes_have_as_many_chips_and_split_the_state_ever_further():
    config = config_of(**{"mesh.data": -1, "mesh.fsdp": 1})
    found = list(advice.meshes(config, 8))
    sizes = [
        (one["mesh.data"], one["mesh.fsdp"]) for one in found if one.get("mesh.tensor", 1) == 1
    ]
    assert sizes == [(4, 2), (2, 4), (1, 8)]
    assert all(len(one) == len(found[0]) for one in found)
