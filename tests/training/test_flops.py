"""Counted operations against XLA's own count, the model's traced program, loops and a rule."""

import math
from dataclasses import replace

import jax
import jax.numpy as jnp
import pytest

from zsg_jax.models.families import FAMILIES
from zsg_jax.models.grouped import block_size
from zsg_jax.models.model import abstract, apply, count
from zsg_jax.training import flops

LENGTH, ROWS = 64, 2
# As long as a window, so that no family's mask hides a pair that its attention computes.
WIDE = {"hidden_size": 96, "intermediate_size": 160, "vocab_size": 200, "max_positions": LENGTH}


def wide(family, layers):
    """A shape in which every width differs, and in which products outweigh all else."""
    model = FAMILIES[family].sized("tiny", 200, LENGTH)
    given = {**WIDE, "num_layers": layers, "num_heads": 6}
    if family != "gpt2":
        given |= {"num_kv_heads": 3, "head_dim": 24, "tie_embeddings": family == "llama"}
    return replace(model, **given)


def program(model, sequences=ROWS):
    """The model's forward pass, to be traced, and shapes to trace it with."""
    graphdef, params = abstract(model)
    rows = jax.ShapeDtypeStruct((sequences, LENGTH), jnp.int32)

    def forward(params, tokens, positions, segment_ids):
        return apply(graphdef, params, tokens, positions, segment_ids)

    return forward, (params, rows, rows, rows)


def full_square(model, rows=ROWS):
    """What is computed for so many rows: every pair of a query and a key, and experts' blocks."""
    hidden = LENGTH * LENGTH - LENGTH * (LENGTH + 1) // 2
    more = rows * 4 * model.num_layers * model.num_heads * model.head_dim * hidden
    if model.family in ("qwen3_moe", "gpt_oss"):
        tokens, experts = rows * LENGTH, model.routing.experts
        choices = tokens * model.routing.chosen
        block = block_size(choices, experts)
        empty = (choices // block + experts) * block - choices
        more += empty * 2 * model.num_layers * 3 * model.hidden_size * model.intermediate_size
        if model.routing.bias:
            # The biases of a token's experts are a product with its shares.
            more += tokens * 2 * model.num_layers * experts * model.hidden_size
    return flops.forward(model, [LENGTH] * rows) + more


def products(jaxpr):
    """FLOPs of all matrix products of a traced program, those of a loop as often as it turns."""
    total = 0
    for equation in jaxpr.eqns:
        if equation.primitive.name == "dot_general":
            (contracted, _), _ = equation.params["dimension_numbers"]
            left = equation.invars[0].aval.shape
            inner = math.prod(left[axis] for axis in contracted)
            total += 2 * inner * math.prod(equation.outvars[0].aval.shape)
        for value in equation.params.values():
            # Of what is computed otherwise on each platform, one.
            one = value[0] if isinstance(value, tuple) and value else value
            inner = getattr(one, "jaxpr", one)
            if hasattr(inner, "eqns"):
                total += equation.params.get("length", 1) * products(inner)
    return total


@pytest.mark.parametrize("family", FAMILIES)
def test_every_product_of_the_program_is_counted(family):
    for layers in (1, 3):
        model = wide(family, layers)
        forward, shapes = program(model)
        assert products(jax.make_jaxpr(forward)(*shapes).jaxpr) == full_square(model)


def test_xla_counts_the_same_within_five_percent():
    # One layer and one row, since XLA counts what a loop repeats once; it counts sums and exponents
    # too.
    model = wide("mistral", 1)
    forward, shapes = program(model, 1)
    counted = jax.jit(forward).lower(*shapes).compile().cost_analysis()["flops"]
    assert 1 <= counted / full_square(model, 1) < 1.05


@pytest.mark.parametrize("window", [None, 1, 3, 7, 8, 50])
def test_pairs_are_those_of_the_mask(window):
    for length in (0, 1, 2, 7, 8, 20):
        seen = sum(
            1
            for query in range(length)
            for key in range(length)
            if key <= query and (window is None or query - key < window)
        )
        assert flops.pairs(length, window) == seen


def test_segments_are_apart_and_a_window_counts():
    model = wide("mistral", 2)
    assert model.windows == (LENGTH,)
    two = flops.forward(model, [10, 30])
    assert two == flops.forward(model, [10]) + flops.forward(model, [30])
    assert two < flops.forward(model, [40])
    assert flops.forward(model, []) == 0
    per_pair = 4 * model.num_layers * model.num_heads * model.head_dim
    narrow = replace(model, windows=(4,))
    unseen = (40 * 41 // 2) - (4 * 5 // 2 + 36 * 4)
    assert flops.forward(model, [40]) - flops.forward(narrow, [40]) == per_pair * unseen


@pytest.mark.parametrize(
    ("family", "size"), [("llama", "llama2_7b"), ("mistral", "mistral_7b"), ("qwen3", "qwen3_8b")]
)
def test_a_large_model_takes_six_operations_a_weight_and_token(family, size):
    model = FAMILIES[family].sized(size)
    weights = count(abstract(model)[1])
    weights -= model.vocab_size * model.hidden_size  # the embedding is looked up
    # Attention over 2,048 tokens comes on top; over few tokens it does not weigh.
    assert flops.train(model, [8] * 10) == pytest.approx(6 * weights * 80, rel=1e-3)
    assert 1.02 < flops.train(model, [2048]) / (6 * weights * 2048) < 1.1


@pytest.mark.parametrize(
    ("kind", "bfloat16", "float32"),
    [
        ("NVIDIA H100 80GB HBM3", 989e12, 494.7e12),
        ("NVIDIA H200", 989e12, 494.7e12),
        ("NVIDIA A100-SXM4-80GB", 312e12, 156e12),
        ("TPU v4", 275e12, 275e12),
        ("TPU v5 lite", 197e12, 197e12),
        ("TPU v5", 459e12, 459e12),
        ("TPU v5p", 459e12, 459e12),
        ("TPU v6 lite", 918e12, 918e12),
        ("cpu", None, None),
        ("TPU v4 lite", None, None),
        ("NVIDIA H100 PCIe", None, None),
        ("NVIDIA H100 80GB HBM3 MIG 1g.10gb", None, None),
    ],
)
def test_a_peak_is_known_or_left_out(kind, bfloat16, float32):
    assert flops.peak(kind, "bfloat16") == bfloat16
    assert flops.peak(kind, "float32") == float32
    assert flops.peak(kind, "float16") is None
