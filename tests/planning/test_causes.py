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


def large():
    """A kernel of (76, 24) a layer: a sum of (20, 96) is 1.05 times as large."""
    where = params()["layers"]["mlp"]["up"]["kernel"].sharding
    return jax.ShapeDtypeStruct((2, 76, 24), np.float32, sharding=where)


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


# As TPU's compiler splits products: parts of a weight go round, and so do sums of its gradient; and
# where it rounded parts of a sum up (5 rows for 4), they exchange their ends.
ROUND = """%all-reduce-scatter.1 (g: f32[20,96]) -> f32[5,96] {
  %g = f32[20,96] parameter(0)
  %whole = f32[20,96] all-reduce(%g), replica_groups=[2,4]<=[8]
  ROOT %mine = f32[5,96] dynamic-slice(%whole), dynamic_slice_sizes={5,96}
}

%body (arg: (f32[16,24], f32[16,24], s32[])) -> (f32[16,24], f32[16,24], s32[]) {
  %arg = (f32[16,24], f32[16,24], s32[]) parameter(0)
  %w = f32[16,24] get-tuple-element(%arg), index=0
  %grad = f32[16,24] get-tuple-element(%arg), index=1
  %i = s32[] get-tuple-element(%arg), index=2
  %w1 = (f32[16,24], f32[16,24], u32[]) collective-permute-start(%w), PAIRS
  %w2 = f32[16,24] collective-permute-done(%w1)
  %w3 = f32[16,24] collective-permute(%w2), PAIRS
  %more = f32[16,24] add(%grad, %w3)
  %sum = f32[16,24] collective-permute(%more), PAIRS, \
metadata={op_name="jit(step)/transpose(jvp())/dot_general"}
  %odd = f32[7,11] collective-permute(%more), PAIRS, \
metadata={op_name="jit(step)/transpose(jvp())/dot_general"}
  %two = s32[] constant(2)
  %next = s32[] add(%i, %two)
  ROOT %out = (f32[16,24], f32[16,24], s32[]) tuple(%w3, %sum, %next)
}

%condition (a: (f32[16,24], f32[16,24], s32[])) -> pred[] {
  %a = (f32[16,24], f32[16,24], s32[]) parameter(0)
  %n = s32[] get-tuple-element(%a), index=2
  %four = s32[] constant(4)
  ROOT %lt = pred[] compare(%n, %four), direction=LT
}

ENTRY %m (s: f32[16,24], x: f32[20,96]) -> f32[] {
  %s = f32[16,24] parameter(0), \
metadata={op_name="state[\\'params\\'][\\'layers\\'][\\'mlp\\'][\\'up\\'][\\'kernel\\']"}
  %x = f32[20,96] parameter(1), metadata={op_name="x"}
  %z = s32[] constant(0)
  %zeros = f32[16,24] broadcast(%z)
  %t = (f32[16,24], f32[16,24], s32[]) tuple(%s, %zeros, %z)
  %loop = (f32[16,24], f32[16,24], s32[]) while(%t), condition=%condition, body=%body
  %scattered = f32[5,96] fusion(%x), kind=kCustom, calls=%all-reduce-scatter.1
  %end = f32[2,96] slice(%scattered), slice={[3:5], [0:96]}
  %ends = f32[2,96] collective-permute(%end), PAIRS
  %other = f32[2,96] slice(%x), slice={[3:5], [0:96]}
  ROOT %strange = f32[2,96] collective-permute(%other), PAIRS
}
""".replace("PAIRS", "source_target_pairs={{0,1},{1,2},{2,3},{3,0},{4,5},{5,6},{6,7},{7,4}}")


def test_what_goes_round_the_chips_has_its_cause_and_is_counted_by_hops():
    module = parse(ROUND)
    tree = params() | {"layers": {"mlp": {"up": {"kernel": large()}}}}
    why = Explainer(module, params(), rows=16, width=64, layers=2)
    found = {one.name: one for one in collectives(module, MESH)}
    told = {name: why(one) for name, one in found.items()}
    up = (r"layers/mlp/(gate|up)/kernel$",)
    for name in ("w1", "w3"):
        assert told[name] == ("weights split over fsdp are passed round where they are used", up)
        assert found[name].count == 2  # from 0 to 4 by twos
        assert found[name].wire == 16 * 24 * 4
    assert told["sum"] == ("gradients are summed into the parts split over fsdp", up)
    assert told["odd"] == told["strange"] == (UNEXPLAINED, ())
    wider = Explainer(module, tree, rows=16, width=64, layers=2)
    assert wider(found["ends"]) == ("gradients are summed into the parts split over fsdp", up)
    assert wider(found["whole"]) == ("gradients are summed into the parts split over fsdp", up)
    assert wider(found["strange"]) == (UNEXPLAINED, ())


def test_origins_are_followed_through_loops_and_fusions_but_not_through_arithmetic():
    origins = Origins(parse(TEXT))
    assert origins.of("body", "low") == {"state/params/layers/mlp/up/kernel"}
    assert origins.of("m", "all") == {"batch/index"}
    assert origins.of("body", "made") == frozenset()


def test_names_of_arguments():
    assert argument_path("state['params']['layers']['0']['q']") == "state/params/layers/0/q"
    assert argument_path("state['opt_state'][0].mu['embed']") == "state/opt_state/0/mu/embed"
