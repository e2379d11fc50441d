"""Exchanges of programs that JAX's compiler makes for simulated devices, against those by hand."""

import json
import os
import subprocess
import sys

import jax
import jax.numpy as jnp
import pytest

from zsg_jax.planning.collectives import Exchanges, collectives

CHILD = """
import json
import jax
jax.config.update("jax_num_cpu_devices", 8)
import jax.numpy as jnp
from functools import partial
from jax.sharding import AxisType, PartitionSpec as P
mesh = jax.make_mesh((2, 4), ("data", "fsdp"), axis_types=(AxisType.Auto,) * 2)
x = jnp.zeros((16, 32, 8))
def program(body, out, spec=P("data", "fsdp")):
    mapped = jax.shard_map(body, mesh=mesh, in_specs=spec, out_specs=out, check_vma=False)
    return jax.jit(mapped).lower(x).compile().as_text()
lax = jax.lax
def three(x):
    return lax.scan(lambda c, _: (lax.psum(jnp.sin(c), "data"), None), x, length=3)[0]
print(json.dumps({
    "gather": program(lambda x: lax.all_gather(x, "fsdp", axis=1, tiled=True), P("data")),
    "sum": program(lambda x: lax.psum(x, "data"), P(None, "fsdp")),
    "sum of all": program(lambda x: lax.psum(x, ("data", "fsdp")), P()),
    "scatter": program(
        lambda x: lax.psum_scatter(x, "fsdp", scatter_dimension=1, tiled=True),
        P("data", "fsdp"), P("data")),
    "swap": program(lambda x: lax.all_to_all(x, "fsdp", 2, 1, tiled=True), P("data", None, "fsdp")),
    "shift": program(
        lambda x: lax.ppermute(x, "fsdp", [(i, (i + 1) % 4) for i in range(4)]),
        P("data", "fsdp")),
    "loop": program(three, P("data", "fsdp")),
}))
"""


@pytest.fixture(scope="module")
def programs():
    done = subprocess.run(
        [sys.executable, "-c", CHILD],
        capture_output=True,
        text=True,
        check=True,
        env={**os.environ, "JAX_PLATFORMS": "cpu"},
    )
    return json.loads(done.stdout)


# Every chip holds (8, 8, 8) float32 of x split over both axes: 2,048 bytes.
@pytest.mark.parametrize(
    ("name", "kind", "group", "size", "sent", "count"),
    [
        ("gather", "all-gather", 4, 8192, 6144, 1),
        ("sum", "all-reduce", 2, 2048, 2048, 1),
        ("sum of all", "all-reduce", 8, 2048, 3584, 1),
        ("scatter", "reduce-scatter", 4, 8192, 6144, 1),
        ("swap", "all-to-all", 4, 2048, 1536, 1),
        ("shift", "collective-permute", 2, 2048, 2048, 1),
        ("loop", "all-reduce", 2, 3 * 2048, 3 * 2048, 3),
    ],
)
def test_what_jax_makes_of_each(programs, name, kind, group, size, sent, count):
    assert collectives(programs[name], 8) == [Exchanges(kind, group, count, size, sent)]


def test_a_program_of_one_chip_exchanges_nothing():
    text = jax.jit(lambda x: jnp.sin(x @ x)).lower(jnp.zeros((8, 8))).compile().as_text()
    assert collectives(text, 1) == []
