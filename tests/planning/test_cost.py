"""Arithmetic and traffic against counts by hand, and the compiler's own where nothing loops."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from zsg_jax.models import gpt2, llama, mistral
from zsg_jax.planning import cost, hlo


def flops(function, *shapes, unknown=1):
    given = [jax.ShapeDtypeStruct(shape, jnp.float32) for shape in shapes]
    return cost.matmul_flops(jax.make_jaxpr(function)(*given).jaxpr, unknown)


def test_a_product_and_its_gradients():
    def loss(w, x):
        return jnp.square(jnp.sin(x @ w)).sum()

    assert flops(loss, (8, 5), (3, 8)) == 2 * 3 * 8 * 5
    assert flops(jax.grad(loss, (0, 1)), (8, 5), (3, 8)) == 3 * 2 * 3 * 8 * 5
    assert flops(jax.grad(jax.checkpoint(loss)), (8, 5), (3, 8)) == 3 * 2 * 3 * 8 * 5


def test_loops_count_by_their_turns():
    def scanned(x):
        return jax.lax.scan(lambda c, _: (c @ c, None), x, length=6)[0]

    def until(x, n):
        return jax.lax.fori_loop(0, n.astype(int), lambda _, c: c @ c, x)

    assert flops(scanned, (4, 4)) == 6 * 2 * 4**3
    assert flops(until, (4, 4), (), unknown=9) == 9 * 2 * 4**3


def naive_flops(matrices, layers, heads_width, rows, length, window):
    total = 0
    for _ in range(rows):
        for query in range(length):
            total += 3 * 2 * sum(a * b for a, b in matrices)
            for key in range(query + 1):
                if query - key < window:
                    total += 3 * layers * (2 * heads_width + 2 * heads_width)
    return total


@pytest.mark.parametrize("window", [None, 3])
def test_the_model_s_formula_counted_token_by_token(window):
    shape = {
        **{"vocab_size": 50, "hidden_size": 16, "intermediate_size": 24, "num_layers": 2},
        **{"num_heads": 4, "num_kv_heads": 2, "head_dim": 4, "max_positions": 32},
    }
    if window:
        family, model = mistral, mistral.MistralConfig(**shape, sliding_window=window)
    else:
        family, model = llama, llama.LlamaConfig(**shape)
    layer = [(16, 16), (16, 8), (16, 8), (16, 16), (16, 24), (16, 24), (24, 16)]
    told = cost.model_flops(model, family.abstract(model)[1], rows=3, length=7)
    assert told == naive_flops([*layer * 2, (16, 50)], 2, 16, 3, 7, window or 7)


def test_a_tied_table_is_multiplied_once_and_positions_never():
    model = gpt2.sized("tiny", 50, 32)
    D, N = model.hidden_size, model.num_layers
    layer = [(D, 3 * D), (D, D), (D, 4 * D), (4 * D, D)]
    told = cost.model_flops(model, gpt2.abstract(model)[1], rows=2, length=5)
    assert told == naive_flops([*layer * N, (D, 50)], N, D, 2, 5, 5)


def compiled(function, *arrays):
    return jax.jit(function).lower(*arrays).compile()


def test_traffic_without_loops_is_near_the_compiler_s_count():
    x = jnp.zeros((256, 256))
    done = compiled(lambda a, b: jnp.sin(a @ b) @ a + jnp.cos(b).sum(), x, x)
    told = done.cost_analysis()["bytes accessed"]
    assert cost.memory_traffic(hlo.parse(done.as_text())) == pytest.approx(told, rel=0.1)


def test_traffic_of_a_loop_over_layers_reads_each_layer_once():
    layers, width = 32, 128

    def step(weights, x):
        return jax.lax.scan(lambda c, w: (jnp.sin(c @ w), None), x, weights)[0]

    weights, x = jnp.zeros((layers, width, width)), jnp.zeros((8, width))
    text = compiled(step, weights, x).as_text()
    told = cost.memory_traffic(hlo.parse(text))
    # All weights once or, where the slice is copied first, three times; never all in every turn.
    assert weights.nbytes <= told < 4 * weights.nbytes


HAND = """%fused (p: f32[100,4], q: s32[]) -> f32[1,4] {
  %p = f32[100,4] parameter(0)
  %q = s32[] parameter(1)
  %zero = s32[] constant(0)
  ROOT %s = f32[1,4] dynamic-slice(%p, %q, %zero), dynamic_slice_sizes={1,4}
}

%write (a: f32[100,4], b: f32[1,4], c: s32[]) -> f32[100,4] {
  %a = f32[100,4] parameter(0)
  %b = f32[1,4] parameter(1)
  %c = s32[] parameter(2)
  ROOT %u = f32[100,4] dynamic-update-slice(%a, %b, %c, %c)
}

ENTRY %m (x: f32[100,4], i: s32[]) -> f32[100,4] {
  %x = f32[100,4] parameter(0)
  %i = s32[] parameter(1)
  %row = f32[1,4] fusion(%x, %i), kind=kLoop, calls=%fused
  %near = f32[1,4]{1,0:T(8,128)S(1)} negate(%row)
  %taking = ((f32[100,4]), f32[2,4]{1,0:S(1)}, s32[]{:S(2)}) slice-start(%x), slice={[0:2]}
  %taken = f32[2,4]{1,0:S(1)} slice-done(%taking)
  ROOT %out = f32[100,4] fusion(%x, %near, %i), kind=kLoop, calls=%write
}"""


def test_slices_updates_in_place_and_near_memory():
    # Slice: its 16 bytes in and out, and the index. Negation: 16 in, nothing far out. Two rows are
    # taken near. Update: the index, and 16 out.
    assert cost.memory_traffic(hlo.parse(HAND)) == (16 + 4 + 16) + 16 + 32 + (4 + 16)


def test_a_step_of_a_model_computes_what_its_formula_says_and_the_masked_half_of_attention():
    model = llama.sized("tiny", 300, 64)
    params = llama.abstract(model)[1]
    graphdef, _ = llama.abstract(model)
    B, L = 2, 64

    def loss(params, tokens):
        positions = jnp.broadcast_to(jnp.arange(L), (B, L))
        return llama.apply(graphdef, params, tokens, positions, jnp.ones((B, L), int)).sum()

    tokens = jax.ShapeDtypeStruct((B, L), np.int32)
    traced = cost.matmul_flops(jax.make_jaxpr(jax.grad(loss))(params, tokens).jaxpr)
    whole = 12 * model.num_layers * model.num_heads * model.head_dim * B * L * L
    formula = cost.model_flops(model, params, B, L)
    masked = whole - 12 * model.num_layers * model.num_heads * model.head_dim * B * L * (L + 1) / 2
    # The backward pass makes the scores, one product of six, once more.
    again = whole / 6
    assert formula + again <= traced <= formula + again + masked * 1.01


def test_frozen_weights_have_no_gradient_of_their_own():
    def leaf(*shape):
        return jax.ShapeDtypeStruct(shape, np.float32)

    model = llama.sized("tiny", 50, 32)
    frozen = {"mlp": {"kernel": leaf(16, 24)}, "lm_head": {"kernel": leaf(16, 50)}}
    trained = {"mlp": {"lora_a": leaf(16, 2), "lora_b": leaf(2, 24)}}
    told = cost.model_flops(model, trained, 3, 5, frozen)
    nothing = cost.model_flops(model, {}, 3, 5, {"lm_head": {"kernel": leaf(0)}})
    # A product a weight forward and one for the gradient of its input; trained ones have a third.
    by_hand = 15 * (4 * (16 * 24 + 16 * 50) + 6 * (16 * 2 + 2 * 24))
    assert told - nothing == by_hand


# An all-gather of a TPU that goes on beside a product, as its compiler writes it.
BESIDE = """HloModule m

%begin (p: f32[1,4]) -> (f32[1,4], f32[8,4]) {
  %p = f32[1,4] parameter(0)
  %g1 = f32[8,4] all-gather(%p), channel_id=1, dimensions={0}, FUSED
  ROOT %s = (f32[1,4], f32[8,4]) custom-call(%g1), custom_call_target="AsyncCollectiveStart"
}

%beside (q: f32[1,4], w: f32[8,4], y: f32[5,4]) -> (f32[5,4], f32[1,4], f32[8,4], f32[8,4]) {
  %q = f32[1,4] parameter(0)
  %w = f32[8,4] parameter(1)
  %y = f32[5,4] parameter(2)
  %g2 = f32[8,4] all-gather(%q), channel_id=1, dimensions={0}, FUSED
  %n = f32[5,4] negate(%y)
  ROOT %t = (f32[5,4], f32[1,4], f32[8,4], f32[8,4]) tuple(%n, %q, %w, %g2)
}

%end (r: f32[1,4], v: f32[8,4]) -> f32[8,4] {
  %r = f32[1,4] parameter(0)
  %v = f32[8,4] parameter(1)
  ROOT %d = f32[8,4] custom-call(%r, %v), custom_call_target="AsyncCollectiveDone"
}

ENTRY %m (x: f32[1,4], z: f32[5,4]) -> f32[8,4] {
  %x = f32[1,4] parameter(0)
  %z = f32[5,4] parameter(1)
  %b = (f32[1,4], f32[8,4]) fusion(%x), kind=kCustom, calls=%begin
  %b0 = f32[1,4] get-tuple-element(%b), index=0
  %b1 = f32[8,4] get-tuple-element(%b), index=1
  %m0 = (f32[5,4], f32[1,4], f32[8,4], f32[8,4]) fusion(%b0, %b1, %z), kind=kOutput, calls=%beside
  %m2 = f32[8,4] get-tuple-element(%m0), index=3
  ROOT %e = f32[8,4] fusion(%b0, %m2), kind=kCustom, calls=%end
}""".replace("FUSED", 'backend_config={"async_collective_fusion_config":{"flag_start":"2"}}')


def test_a_gather_beside_other_work_is_written_once():
    # What begins it writes its two parts; the negation beside it reads and writes 5 rows of 4.
    assert cost.memory_traffic(hlo.parse(BESIDE)) == (16 + 128) + (80 + 80)
