"""Kernels on a mesh of 8 simulated devices give what one device gives, each device its own part."""

import pytest

CHILD = """
import functools, json
import jax, jax.numpy as jnp, numpy as np
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec as P
from zsg_jax.models.attention import splash, xla

assert jax.device_count() == 8
mesh = Mesh(
    np.asarray(jax.devices()).reshape(2, 2, 2), ("data", "fsdp", "tensor"),
    axis_types=(AxisType.Auto,) * 3,
)
segments = np.zeros((4, 128), np.int32)
segments[0, :60], segments[0, 60:100], segments[1, :128], segments[2, :5] = 1, 2, 1, 1
told = {}

def layers(attend):
    # As a model does: a scan over layers, each of them computed again in the backward pass.
    def total(q, k, v, segments):
        def layer(x, _):
            return attend(x, k, v, segments), None
        x, _ = jax.lax.scan(jax.checkpoint(layer), q, None, length=2)
        return (x.astype(jnp.float32) ** 2).sum()
    return jax.value_and_grad(total, (0, 1, 2))

KERNELS = {"splash": functools.partial(splash.attend, interpret=True), "xla": xla.attend}
for name, rows, heads, spec in (
    ("whole", 4, 2, P(("data", "fsdp"), None, "tensor")),
    ("uneven", 2, 3, P("data")),
):
    rng = np.random.default_rng(0)
    q = rng.normal(size=(rows, 128, heads, 2, 8)).astype(np.float32)
    k, v = (rng.normal(size=(rows, 128, heads, 8)).astype(np.float32) for _ in range(2))
    ids = segments[:rows]
    with jax.default_matmul_precision("float32"):
        plain = jax.jit(layers(xla.attend))(q, k, v, ids)
        place = NamedSharding(mesh, spec)
        by_rows = NamedSharding(mesh, P(spec[0]))
        for kernel, attend in KERNELS.items():
            sharded = jax.jit(layers(attend), in_shardings=(place, place, place, by_rows))
            with jax.set_mesh(mesh):
                compiled = sharded.lower(q, k, v, ids).compile()
            found = compiled(*(jax.device_put(x, place) for x in (q, k, v)),
                             jax.device_put(ids, by_rows))
            told[f"{name} {kernel}"] = {
                "apart": [float(abs(a - b).max()) for a, b in zip(jax.tree.leaves(plain),
                                                                   jax.tree.leaves(found))],
                "largest": [float(abs(a).max()) for a in jax.tree.leaves(plain)],
                "gathers": compiled.as_text().count("all-gather("),
                "places": [str(x.sharding.spec) for x in found[1]],
            }

print(json.dumps(told))
"""


@pytest.fixture(scope="module")
def told(on_devices):
    return on_devices(8, CHILD)[0]


@pytest.mark.parametrize("kernel", ["splash", "xla"])
@pytest.mark.parametrize("name", ["whole", "uneven"])
def test_a_mesh_changes_no_value_and_no_gradient(told, name, kernel):
    name = f"{name} {kernel}"
    for apart, largest in zip(told[name]["apart"], told[name]["largest"], strict=True):
        assert largest > 0.1
        assert apart < 2e-5 * max(largest, 1)


@pytest.mark.parametrize("kernel", ["splash", "xla"])
def test_every_device_computes_its_own_rows_and_heads(told, kernel):
    # None asks another for its part of the queries, keys or values.
    whole = told[f"whole {kernel}"]
    assert whole["gathers"] == 0
    assert all("tensor" in place and "fsdp" in place for place in whole["places"])
