"""Settings of JAX under which a study would have other numbers."""

import jax
import numpy as np
import pytest

import zsg_jax
from zsg_jax.diversity import sweep
from zsg_jax.runtime.errors import UserError
from zsg_jax.runtime.jax_defaults import check_defaults
from zsg_jax.training.sharding import make_mesh


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("jax_enable_x64", True),
        ("jax_default_prng_impl", "rbg"),
        ("jax_threefry_partitionable", False),
        ("jax_random_seed_offset", 5),
        ("jax_default_matmul_precision", "bfloat16"),
        ("jax_numpy_dtype_promotion", "strict"),
        ("jax_disable_jit", True),
        ("jax_numpy_rank_promotion", "raise"),
    ],
)
def test_what_changes_the_numbers_is_refused_by_name(name, value):
    own = getattr(jax.config, name)
    jax.config.update(name, value)
    try:
        for work in (make_mesh, check_defaults, lambda: sweep.plan(1, 1)):
            with pytest.raises(UserError, match=f"^{name.upper()}={value}: .*{own}; unset it$"):
                work()
    finally:
        jax.config.update(name, own)
    make_mesh()


def test_an_order_hangs_on_types_alone():
    rows = np.eye(3, dtype=np.float32)
    with jax.enable_x64(True), jax.numpy_rank_promotion("raise"):
        assert zsg_jax.arrange_data(rows, rows[:1]).order[0] == 0
    with jax.numpy_dtype_promotion("strict"), pytest.raises(UserError, match="PROMOTION=strict"):
        zsg_jax.arrange_data(rows, rows[:1])
