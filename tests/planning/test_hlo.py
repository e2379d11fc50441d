"""Programs that JAX compiled here, and lines as TPU's compiler writes them."""

import jax
import jax.numpy as jnp
import pytest

from zsg_jax.planning import hlo

TPU = """HloModule jit_step, is_scheduled=true

%body (arg: (s32[], f32[8,4])) -> (s32[], f32[8,4]) {
  %arg = (s32[]{:T(128)}, /*index=1*/f32[8,4]{1,0:T(8,128)(2,1)S(1)}) parameter(0)
  %i = s32[]{:T(128)} get-tuple-element(%arg), index=0
  %x = f32[8,4]{1,0:T(8,128)} get-tuple-element(%arg), index=1
  %one = s32[] constant(1)
  %next = s32[] add(%i, %one)
  %y = f32[8,4]{1,0} fusion(%x), kind=kLoop, calls=%fused, metadata={op_name="jit(step)/a[\\'b\\']"}
  ROOT %out = (s32[], f32[8,4]{1,0}) tuple(%next, %y)
}

%fused (p: f32[8,4]) -> f32[8,4] {
  %p = f32[8,4]{1,0} parameter(0)
  ROOT %twice = f32[8,4]{1,0} add(%p, %p)
}

%condition (arg.1: (s32[], f32[8,4])) -> pred[] {
  %bound = s32[]{:T(128)} constant(3)
  %arg.1 = (s32[], f32[8,4]) parameter(0)
  %i.1 = s32[]{:T(128)} get-tuple-element(%arg.1), index=0
  ROOT %lt = pred[]{:T(512)} compare(%i.1, %BOUND), direction=LT
}

ENTRY %main (a: f32[8,4]) -> f32[8,4] {
  %a = f32[8,4]{1,0} parameter(0), metadata={op_name="state[\\'x\\']"}
  %zero = s32[] constant(0)
  %start = (s32[], f32[8,4]) tuple(%zero, %a)
  %loop = (s32[], f32[8,4]) while(%start), condition=%condition, body=%body
  ROOT %end = f32[8,4]{1,0} get-tuple-element(%loop), index=1
}
"""


def test_a_loop_runs_its_body_and_what_that_calls_as_often_as_its_condition_says():
    runs = hlo.parse(TPU.replace("%BOUND", "%bound")).runs()
    assert runs == {"main": 1, "body": 3, "condition": 3, "fused": 3}


def test_a_loop_whose_turns_only_running_tells_takes_the_number_given():
    module = hlo.parse(TPU.replace("%BOUND", "%i.1"))
    assert module.runs(7)["fused"] == 7
    (loop,) = (one for one in module.computations["main"].instructions.values() if one.calls)
    assert hlo.trips(loop, module) is None


def test_a_loop_that_counts_by_twos_turns_half_as_often():
    text = TPU.replace("%BOUND", "%bound").replace("constant(1)", "constant(2)")
    assert hlo.parse(text.replace("constant(3)", "constant(8)")).runs()["body"] == 4
    assert hlo.parse(text.replace("constant(3)", "constant(7)")).runs()["body"] == 4


def test_a_kernel_written_over_several_lines_is_one_instruction_and_ends_no_computation():
    # As a Pallas kernel stands in a TPU's program; what follows it must not be lost.
    kernel = """  %kernel = f32[8,4]{1,0} custom-call(%a), frontend_attributes={kernel_metadata={
"xprof_metadata":"{\\"block_q\\": 256}"
}}, metadata={op_name="jit(step)/splash/pallas_call" stack_frame_id=52}
  %part = f32[8]{0} get-tuple-element(%kernel), index=3, frontend_attributes={kernel_metadata={
"xprof_metadata":"{\\"block_q\\": 256}"
}}
  %sum = f32[8,4]{1,0} all-reduce(%kernel), replica_groups={{0,1}}, to_apply=%fused
"""
    text = TPU.replace("%BOUND", "%bound").replace("  %zero =", kernel + "  %zero =")
    main = hlo.parse(text).computations["main"]
    assert list(main.instructions) == ["a", "kernel", "part", "sum", "zero", "start", "loop", "end"]
    assert main.instructions["kernel"].op_name == "jit(step)/splash/pallas_call"
    assert main.instructions["kernel"].operands == ("a",)
    assert main.root.name == "end"


def test_lines_are_taken_apart():
    module = hlo.parse(TPU.replace("%BOUND", "%bound"))
    fusion = module.computations["body"].instructions["y"]
    assert fusion.shapes == (("f32", (8, 4)),)
    assert (fusion.opcode, fusion.operands) == ("fusion", ("x",))
    assert fusion.op_name == "jit(step)/a['b']"
    parameter = module.computations["body"].instructions["arg"]
    assert parameter.shapes == (("s32", ()), ("f32", (8, 4)))
    assert module.computations["body"].root.name == "out"


@pytest.mark.parametrize(
    ("shape", "size"),
    [
        (("f32", (8, 4)), 128),
        (("bf16", (3,)), 6),
        (("pred", (5,)), 5),
        (("s4", (4,)), 2),
        (("f8e4m3fn", (4,)), 4),
        (("f64", ()), 8),
        (("token", ()), 0),
    ],
)
def test_sizes(shape, size):
    assert hlo.size(shape) == size


def test_nested_scans_as_jax_compiles_them_here():
    def inner(x, _):
        return jnp.sin(x) @ x, None

    def outer(x, _):
        return jax.lax.scan(inner, x, length=5)[0], None

    def step(x):
        return jax.lax.scan(outer, x, length=7)[0]

    module = hlo.parse(jax.jit(step).lower(jnp.eye(16)).compile().as_text())
    runs = module.runs()
    sines = [
        runs[name]
        for name, computation in module.computations.items()
        for one in computation.instructions.values()
        if one.opcode == "sine"
    ]
    assert sines == [35]


def test_no_program():
    with pytest.raises(ValueError, match="ENTRY"):
        hlo.parse("HloModule nothing")
