"""Causes of exchanges, on programs written by hand with the state's names as JAX gives them."""

import jax
import numpy as np
from jax.sharding import AbstractMesh, AxisType, NamedSharding, PartitionSpec

from zsg_jax.planning.causes import UNEXPLAINED, Explainer, explain
from zsg_jax.planning.collectives import collectives
from zsg_jax.planning.hlo import parse
from zsg_jax.planning.origins import Origins, argument_path

MESH = {"data": 2, "fsdp": 4}
TEXT = """%narrow (p: f32[16,24]) -> bf16[16,24] {
  %p = f32[16,24] parameter(0)
  ROOT %c = bf16[16,24] convert(%p)
}

%body (arg: (s32[], f32[16,24])) -> (s32[], f32[16,24]) {
  %arg = (s32[], f32[16,24]) parameter(0)
  %i = s32[] get-tuple-element(%arg), index=0
  %w = f32[16,24] get-tuple-element(%arg), index=1
  %low = bf16[16,24] fusion(%w), kind=kLoop, calls=%narrow
  %used = bf16[64,24] all-gather(%low), replica_groups=[2,4]<=[8], dimensions={0}
  %made = bf16[16,24] multiply(%low, %low)
  %odd = bf16[64,24] all-gather(%made), replica_groups=[2,4]<=[8], dimensions={0}, \
metadata={op_name="jit(step)/jvp()/mul"}
  %part = f32[16,24] reduce-scatter(%used), replica_groups=[2,4]<=[8], dimensions={0}, \
metadata={op_name="jit(step)/transpose(jvp())/dot_general"}
  %both = f32[16,24] all-reduce(%part), replica_groups=[4,2]<=[2,4]T(1,0), \
metadata={op_name="jit(step)/transpose(jvp())/dot_general"}
  %scale = f32[64] all-reduce(%part), replica_groups=[1,8]<=[8], \
metadata={op_name="jit(step)/transpose(jvp())/reduce_sum"}
  %table = f32[99,64] all-to-all(%made), replica_groups=[2,4]<=[8], \
metadata={op_name="jit(step)/transpose(jvp(jit(_take)))/scatter-add"}
  %lost = f32[7,1001] all-reduce(%part), replica_groups=[4,2]<=[2,4]T(1,0), \
metadata={op_name="jit(step)/transpose(jvp())/x"}
  ROOT %out = (s32[], f32[16,24]) tuple(%i, %w)
}

%condition (a: (s32[], f32[16,24])) -> pred[] {
  %a = (s32[], f32[16,24]) parameter(0)
  %n = s32[] get-tuple-element(%a), index=0
  %five = s32[] constant(5)
  ROOT %lt = pred[] compare(%n, %five), direction=LT
}

ENTRY %m (s: f32[16,24], b: s32[2]) -> f32[] {
  %s = f32[16,24] parameter(0), \
metadata={op_name="state[\\'params\\'][\\'layers\\'][\\'mlp\\'][\\'up\\'][\\'kernel\\']"}
  %b = s32[2] parameter(1), metadata={op_name="batch[\\'index\\']"}
  %z = s32[] constant(0)
  %t = (s32[], f32[16,24]) tuple(%z, %s)
  %loop = (s32[], f32[16,24]) while(%t), condition=%condition, body=%body
  %all = s32[16] all-gather(%b), replica_groups={}, dimensions={0}
  ROOT %sum = f32[] all-reduce(%z), replica_groups={}, to_apply=%add
}
"""


def params():
    mesh = AbstractMesh((2, 4), ("data", "fsdp"), axis_types=(AxisType.Auto,) * 2)

    def leaf(shape, *spec):
        where = NamedSharding(mesh, PartitionSpec(*spec))
        return jax.ShapeDtypeStruct(shape, np.float32, sharding=where)

    return {
        "layers": {"mlp": {"up": {"kernel": leaf((2, 64, 24), None, "fsdp")}}},
        "norm": {"scale": leaf((64,))},
    }


def test_every_exchange_has_its_cause():
    module = parse(TEXT)
    why = Explainer(module, params(), rows=16, width=64, layers=2)
    found = {one.name: one for one in collectives(module, MESH)}
    told = {name: why(one) for name, one in found.items()}
    up, norm = (r"layers/mlp/(gate|up)/kernel$",), (r"norm/(scale|bias)$",)
    assert told["used"] == ("weights split over fsdp are gathered where they are used", up)
    assert told["part"] == ("gradients are summed into the parts split over fsdp", up)
    assert told["both"] == ("gradients of what is copied over data", up)
    assert told["scale"] == ("gradients of what is copied over data, fsdp", norm)
    assert told["sum"][0].startswith("sums over all rows")
    assert told["all"][0].startswith("numbers of rows")
    assert told["table"][1] == (r"embed/embedding$",)
    assert told["odd"] == told["lost"] == (UNEXPLAINED, ())

    causes = explain(found.values(), why)
    assert sum(one.count for one in causes) == 7 * 5 + 2
    (unknown,) = (c for c in causes if c.why == UNEXPLAINED and c.kind == "all-gather")
    assert unknown.examples == ("jit(step)/jvp()/mul",)
    assert [c.wire for c in causes] == sorted((c.wire for c in causes), reverse=True)


def test_origins_are_followed_through_loops_and_fusions_but_not_through_arithmetic():
    origins = Origins(parse(TEXT))
    assert origins.of("body", "low") == {"state/params/layers/mlp/up/kernel"}
    assert origins.of("m", "all") == {"batch/index"}
    assert origins.of("body", "made") == frozenset()


def test_names_of_arguments():
    assert argument_path("state['params']['layers']['0']['q']") == "state/params/layers/0/q"
    assert argument_path("state['opt_state'][0].mu['embed']") == "state/opt_state/0/mu/embed"
