"""Exchanges that JAX's compiler makes on simulated devices, and lines written by hand."""

import json
import os
import subprocess
import sys
from itertools import product

import numpy as np
import pytest

from zsg_jax.planning.collectives import collectives, replica_groups
from zsg_jax.planning.hlo import parse

MESH = {"data": 2, "fsdp": 4}
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
    ("name", "kind", "axes", "size", "sent", "count"),
    [
        ("gather", "all-gather", ("fsdp",), 8192, 6144, 1),
        ("sum", "all-reduce", ("data",), 2048, 2048, 1),
        ("sum of all", "all-reduce", ("data", "fsdp"), 2048, 3584, 1),
        ("scatter", "reduce-scatter", ("fsdp",), 8192, 6144, 1),
        ("swap", "all-to-all", ("fsdp",), 2048, 1536, 1),
        ("shift", "collective-permute", ("fsdp",), 2048, 2048, 1),
        ("loop", "all-reduce", ("data",), 2048, 2048, 3),
    ],
)
def test_what_jax_makes_of_each(programs, name, kind, axes, size, sent, count):
    (one,) = collectives(parse(programs[name]), MESH)
    assert (one.kind, one.axes, one.bytes, one.wire, one.count) == (kind, axes, size, sent, count)


def test_groups_that_leave_a_host_are_told(programs):
    for wired, spread in ((4, True), (8, False), (0, False)):
        (one,) = collectives(parse(programs["sum"]), MESH, wired=wired)
        assert one.spread is spread
    (one,) = collectives(parse(programs["gather"]), MESH, wired=4)
    assert not one.spread


def test_groups_however_they_are_written():
    def same(text, groups):
        assert {frozenset(g) for g in replica_groups(text, 8)} == set(map(frozenset, groups))

    rows, columns = np.arange(8).reshape(2, 4), np.arange(8).reshape(2, 4).T
    same("replica_groups={{0,1,2,3},{4,5,6,7}}, x", rows)
    same("replica_groups=[2,4]<=[8], x", rows)
    same("replica_groups=[4,2]<=[2,4]T(1,0), x", columns)
    same("replica_groups={}, x", [range(8)])
    same("x", [range(8)])
    same("replica_groups=mesh['a'=2,'b'=4] {'b'}, x", rows)
    same("replica_groups=mesh['a'=4,'b'=2], device_ids=([2,4]T(1,0)) {'b'}, x", columns)
    same("replica_groups=mesh['a'=4,'b'=1,'c'=2], device_ids=([2,4]T(1,0)) {'a'}, x", rows)
    # The outer and the inner factor of an axis of 8, by hand.
    same("replica_groups=mesh['a'=8] {'a':(1)2}, x", [[i, i + 4] for i in range(4)])
    same("replica_groups=mesh['a'=8] {'a':(2)4}, x", rows)
    same("replica_groups=mesh['a'=8] {'a':(2)2}, x", [[0, 2], [1, 3], [4, 6], [5, 7]])


def test_every_pair_of_axes_is_named():
    sizes = {"data": 2, "fsdp": 3, "tensor": 2}
    numbers = np.arange(12).reshape(2, 3, 2)
    for chosen in product([False, True], repeat=3):
        axes = tuple(axis for axis, one in zip(sizes, chosen, strict=True) if one)
        if not axes:
            continue
        others = [k for k in range(3) if not chosen[k]]
        along = [k for k in range(3) if chosen[k]]
        width = int(np.prod([numbers.shape[k] for k in along]))
        groups = numbers.transpose([*others, *along]).reshape(-1, width).tolist()
        text = ",".join("{" + ",".join(map(str, group)) + "}" for group in groups)
        line = (
            f"ENTRY %m (a: f32[2]) -> f32[2] {{\n  %a = f32[2] parameter(0)\n"
            f"  ROOT %s = f32[2] all-reduce(%a), replica_groups={{{text}}}, to_apply=%add\n}}"
        )
        (one,) = collectives(parse(line), sizes)
        assert one.axes == axes


STARTS = """ENTRY %m (a: bf16[4,8]) -> bf16[16,8] {
  %a = bf16[4,8]{1,0} parameter(0)
  %s = (bf16[4,8]{1,0}, bf16[16,8]{1,0}) all-gather-start(%a), replica_groups=[2,4]<=[8]
  %d = bf16[16,8]{1,0} all-gather-done(%s)
  %r = bf16[16,8]{1,0} all-reduce-start(%d), replica_groups=[2,4]<=[8], to_apply=%add
  ROOT %e = bf16[16,8]{1,0} all-reduce-done(%r)
  %c = (bf16[4,8], bf16[4,8], u32[]) collective-permute-start(%a), source_target_pairs={{0,1},{1,0}}
  %f = bf16[4,8] collective-permute-done(%c)
}"""


def test_exchanges_in_two_parts_count_once():
    found = {one.kind: one for one in collectives(parse(STARTS), MESH)}
    assert len(found) == 3
    assert found["all-gather"].bytes == found["all-reduce"].bytes == 16 * 8 * 2
    assert found["collective-permute"].bytes == 4 * 8 * 2
