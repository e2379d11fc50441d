"""Kernels in 4 bits, beside the quantiles of the paper and the nearest of them."""

from statistics import NormalDist

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from zsg_jax.models import packed
from zsg_jax.models.families import FAMILIES
from zsg_jax.models.lora import LoRA
from zsg_jax.planning.estimate import shard_bytes
from zsg_jax.runtime.errors import UserError
from zsg_jax.training import sharding
from zsg_jax.training.trainer import Trainer, TrainerOptions

pytest.importorskip("qwix")
pytestmark = pytest.mark.references

OPTIONS = TrainerOptions(8, 4, 1e-2, "cosine", 0, 1.0, 0.1, packing=False)


def levels():
    """The sixteen numbers of NF4 (arXiv 2305.14314, section 3 and appendix E)."""
    quantile = NormalDist().inv_cdf
    end = 1 - (1 / 32 + 1 / 30) / 2
    above = [quantile(p) for p in np.linspace(end, 0.5, 9)[:-1]]
    below = [-quantile(p) for p in np.linspace(end, 0.5, 8)[:-1]]
    return np.sort([*below, 0.0, *above]) / max(above)


@pytest.mark.parametrize(("inputs", "block"), [(128, 64), (172, 43), (6, 6)])
def test_every_weight_is_the_nearest_level_of_its_block(inputs, block):
    rng = np.random.default_rng(0)
    kernel = rng.normal(size=(3, inputs, 5)) * rng.lognormal(size=(3, 1, 5))
    blocks = kernel.reshape(3, -1, block, 5)
    largest = np.abs(blocks).max(axis=2, keepdims=True)
    nearest = np.abs((blocks / largest)[..., None] - levels()).argmin(-1)
    expected = (levels()[nearest] * largest).reshape(kernel.shape)
    made = packed.pack(jnp.asarray(kernel, jnp.float32))
    np.testing.assert_allclose(packed.unpack(made), expected, atol=1e-5 * largest.max())
    assert made.codes.nbytes == kernel.size // 2
    again = packed.pack(packed.unpack(made))
    np.testing.assert_array_equal(made.codes, again.codes)


def test_the_gradient_of_what_goes_in_is_that_of_the_rounded_kernel():
    rng = np.random.default_rng(0)
    x, kernel = (jnp.asarray(rng.normal(size=size), jnp.float32) for size in ((4, 64), (64, 8)))
    one = jax.tree.map(lambda leaf: leaf[0], packed.pack(kernel[None]))
    found = jax.grad(lambda x: (packed.packed_product(x, one) ** 2).sum())(x)
    rounded = packed.unpack(one)
    np.testing.assert_allclose(found, 2 * x @ rounded @ rounded.T, rtol=1e-4, atol=1e-4)


def test_adapted_kernels_alone_take_a_seventh_and_no_odd_width_is_taken():
    model = FAMILIES["llama"].sized("tiny", 258, 256)
    kept = {}
    for base in ("same", "nf4"):
        lora = LoRA(4, targets=("up",), base=base)
        one = Trainer(model, OPTIONS, sharding.make_mesh(1, 1), lora=lora)
        kept[base] = {
            name: shard_bytes(part["kernel"])
            for name, part in one.abstract_state["frozen"]["layers"]["mlp"].items()
        }
    assert kept["nf4"]["up"] * 7 < kept["same"]["up"] <= kept["nf4"]["up"] * 8
    assert kept["nf4"]["down"] == kept["same"]["down"]
    with pytest.raises(UserError, match="of 5 inputs is not kept in 4 bits"):
        packed.pack(jnp.ones((1, 5, 4)))
