"""Settings of JAX, from the environment or another program, under which numbers would be others."""

import jax

from zsg_jax.runtime.errors import check

_TYPES = {"jax_numpy_dtype_promotion": "standard", "jax_disable_jit": False}
_TRAINING = {
    "jax_enable_x64": False,
    "jax_default_prng_impl": "threefry2x32",
    "jax_threefry_partitionable": True,
    "jax_random_seed_offset": 0,
    "jax_default_matmul_precision": None,
    "jax_numpy_rank_promotion": "allow",
}


def check_defaults(*, training: bool = True) -> None:
    """Refuses other settings than JAX's own: a config and its seeds alone decide what comes out.

    Args:
        training: also those that an order does not hang on.

    Raises:
        UserError: naming the setting, as the environment spells it.
    """
    for name, own in (_TYPES | (_TRAINING if training else {})).items():
        found = getattr(jax.config, name, own)
        check(
            found == own,
            f"{name.upper()}={found}: what comes out here is computed with JAX's own, {own}; unset "
            "it",
        )
