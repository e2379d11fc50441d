"""The TPU kernel compiled ahead of time for real chips, which this machine need not have."""

import importlib.util

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.experimental import topologies
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec

from zsg_jax.models.attention import splash, xla


def compiled(name, attend, *, heads, head_dim, length, dtype, window=None):
    """Forward and backward, for four chips: two rows over "fsdp", key-value heads over "tensor"."""
    chips = topologies.get_topology_desc(
        platform="tpu",
        topology_name=name,
        chip_config_name="default",
        chips_per_host_bounds=(2, 2, 1),
        num_slices=1,
    ).devices
    mesh = Mesh(
        np.asarray(chips).reshape(1, 2, 2),
        ("data", "fsdp", "tensor"),
        axis_types=(AxisType.Auto,) * 3,
    )
    rows = PartitionSpec(("data", "fsdp"))
    both = NamedSharding(mesh, PartitionSpec(*rows, None, "tensor"))
    q = jax.ShapeDtypeStruct((2, length, 2, heads // 2, head_dim), dtype, sharding=both)
    k = jax.ShapeDtypeStruct((2, length, 2, head_dim), dtype, sharding=both)
    ids = jax.ShapeDtypeStruct((2, length), jnp.int32, sharding=NamedSharding(mesh, rows))

    def total(q, k, v, ids):
        return attend(q, k, v, ids, window=window).astype(jnp.float32).sum()

    with jax.set_mesh(mesh):
        return jax.jit(jax.grad(total, (0, 1, 2))).lower(q, k, k, ids).compile()


@pytest.fixture(scope="module", autouse=True)
def _compiler():
    if importlib.util.find_spec("libtpu") is None:
        pytest.skip("libtpu, the compiler for TPUs, is not installed")
    if jax.default_backend() == "tpu":
        pytest.skip("these compile from a machine without TPUs")
    with pytest.MonkeyPatch.context() as patch:
        # One process at a time may have the chips; several may compile where there are none.
        patch.setenv("ALLOW_MULTIPLE_LIBTPU_LOAD", "1")
        # What was compiled for a chip that is not here cannot be read back.
        cached = jax.config.jax_enable_compilation_cache
        jax.config.update("jax_enable_compilation_cache", False)
        yield
        jax.config.update("jax_enable_compilation_cache", cached)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["v5e:2x2", "v5p:2x2x1"])
@pytest.mark.parametrize(
    "sizes",
    [
        {"heads": 8, "head_dim": 128, "length": 2048, "dtype": jnp.bfloat16},
        {"heads": 8, "head_dim": 128, "length": 2048, "dtype": jnp.bfloat16, "window": 512},
        # Heads and rows that fill no block.
        {"heads": 4, "head_dim": 12, "length": 200, "dtype": jnp.float32},
        {"heads": 2, "head_dim": 256, "length": 512, "dtype": jnp.float32, "window": 5},
    ],
)
def test_the_kernel_compiles_each_chip_for_itself(name, sizes):
    program = compiled(name, splash.attend, **sizes).as_text()
    # Forward, and backward for queries and for keys and values.
    assert program.count('custom_call_target="tpu_custom_call"') == 3
    assert "all-gather" not in program


@pytest.mark.slow
def test_the_kernel_takes_less_than_half_the_memory_of_plain_xla():
    sizes = {"heads": 8, "head_dim": 128, "length": 2048, "dtype": jnp.bfloat16}
    kernel, plain = (
        compiled("v5p:2x2x1", module.attend, **sizes).memory_analysis().temp_size_in_bytes
        for module in (splash, xla)
    )
    assert kernel < plain / 2
