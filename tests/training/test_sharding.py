import re
from dataclasses import replace
from types import MappingProxyType

import jax
import numpy as np
import pytest

from zsg_jax.models.families import FAMILIES
from zsg_jax.models.model import initialize
from zsg_jax.runtime.errors import UserError
from zsg_jax.training import sharding
from zsg_jax.training.optimizer import adamw, schedule
from zsg_jax.training.step import initial_state


@pytest.mark.parametrize("tied", [True, False])
@pytest.mark.parametrize("family", FAMILIES)
def test_every_array_has_a_rule_and_moments_lie_like_their_parameters(family, tied):
    model = FAMILIES[family].sized("tiny", 50, 32)
    if not tied and family != "gpt2":
        model = replace(model, tie_embeddings=False)
    tx = adamw(schedule("cosine", 1e-3, 10), clip_norm=1.0)
    shapes = jax.eval_shape(
        lambda key: initial_state(initialize(model, key), tx), jax.random.key(0)
    )
    placed = sharding.shardings(shapes, sharding.make_mesh())
    by_path = {
        sharding.path_name(path): where.spec
        for path, where in jax.tree_util.tree_leaves_with_path(placed)
    }
    moments = 0
    for name, spec in by_path.items():
        found = re.search(r"/(mu|nu)/(.+)", name)
        if found:
            moments += 1
            assert spec == by_path[f"params/{found[2]}"], name
    assert moments == 2 * sum(name.startswith("params/") for name in by_path)


def test_a_path_without_a_rule_raises():
    mesh = sharding.make_mesh()
    with pytest.raises(ValueError, match="no sharding rule matches 'params/adapter/kernel'"):
        sharding.shardings({"params": {"adapter": {"kernel": np.zeros((2, 2))}}}, mesh)


@pytest.mark.parametrize(
    ("data", "fsdp", "message"),
    [
        (-1, -1, "only one may be -1"),
        (0, 1, "at least 1"),
        (1, 4096, "4096 devices"),
        (-1, 4096, "does not divide"),
    ],
)
def test_meshes_that_do_not_fit_are_refused(data, fsdp, message):
    with pytest.raises(UserError, match=message):
        sharding.make_mesh(data, fsdp)


class Sixteen:
    """A mesh, as far as what fits on it goes."""

    shape = MappingProxyType({"data": 2, "fsdp": 4, "tensor": 2})


def test_rows_that_do_not_divide_are_refused_with_sizes_that_fit():
    sharding.rows_fit(Sixteen, 16, 8)
    sharding.rows_fit(Sixteen, 16 * 10**13, 16 * 10**13)  # no loop over all numbers below
    with pytest.raises(UserError, match=r"sizes that fit: 8, 16$"):
        sharding.rows_fit(Sixteen, 16, 4)
    with pytest.raises(UserError, match=r"batch_size=12 must be a .* that fit: 8 or 16$"):
        sharding.rows_fit(Sixteen, 12, 12)
    with pytest.raises(UserError, match=r"batch_size=5 must be a .* that fit: 8$"):
        sharding.rows_fit(Sixteen, 5, 5)


def test_the_vocabulary_is_padded_for_tensor():
    assert [sharding.vocabulary_padding(words, Sixteen) for words in (37, 40)] == [1, 0]
