"""The search for a setting that fits, with a memory that is worked out instead of compiled."""

import itertools

import pytest

from zsg_jax.config import default_config, flatten
from zsg_jax.planning import advice


def config_of(**overrides):
    config = default_config()
    config.update_from_flattened_dict({"training.batch_size": 16, **overrides})
    return flatten(config)


def always(_):
    return True


REMAT = ("none", "dots", "full")


def weight(config):
    """Rows at once, fewer where more is computed again."""
    return advice.micro_batch(config) / (1 + REMAT.index(config["model.remat"]))


def test_the_chain_takes_ever_less_and_ends_with_the_fewest_rows():
    config = config_of()
    weights = [weight({**config, **one}) for one in advice.chain(config, 2)]
    assert all(a > b for a, b in itertools.pairwise([weight(config), *weights]))
    assert advice.chain(config, 2)[-1]["training.micro_batch_size"] == 2
    assert config["training.micro_batch_size"] is None
    last = config_of(**{"model.remat": REMAT[-1], "training.micro_batch_size": 2})
    assert advice.chain(last, 2) == []


@pytest.mark.parametrize("limit", [16, 12, 8, 5, 4, 2, 1])
def test_the_first_of_the_chain_that_fits_is_found(limit):
    config = config_of(**{"mesh.data": 1})
    tried = []

    def fits(setting):
        tried.append(weight({**config, **setting}))
        return tried[-1] <= limit

    found, count = advice.nearest(config, 1, always, fits)
    every = [weight({**config, **one}) for one in advice.chain(config, 1)]
    expected = next((one for one in every if one <= limit), None)
    assert (expected is None) == (found is None)
    if found is not None:
        assert weight({**config, **found}) == expected
    assert count == len(tried) <= advice.MOST
    assert len(set(tried)) == len(tried)  # each once


def test_what_cannot_fit_is_not_compiled():
    def never(_):
        raise AssertionError("compiled")

    found, count = advice.nearest(config_of(), 8, lambda _: False, never)
    assert (found, count) == (None, 0)


def test_fewer_bits_and_adapters_are_tried_last_and_in_this_order():
    def search(wanted, **overrides):
        tried = []

        config = config_of(**overrides)

        def fits(setting):
            other = {**config, **setting}
            tried.append((other["model.param_dtype"], other["model.lora.rank"]))
            return wanted == tried[-1]

        found, count = advice.nearest(config, 1, always, fits, adapters=True)

        assert count == len(tried)
        ranks = [("float32", 0), ("bfloat16", 0), ("float32", 16)]
        order = [ranks.index(one) for one in tried]
        assert order == sorted(order)  # what changes nothing comes first
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
    found, _ = advice.nearest(
        config_of(),
        1,
        always,
        lambda setting: setting == {"model.remat": "full"},
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
