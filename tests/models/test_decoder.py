import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from zsg_jax.models.decoder import DecoderConfig
from zsg_jax.models.families import FAMILIES
from zsg_jax.models.model import abstract, apply
from zsg_jax.models.placement import Compute
from zsg_jax.runtime.errors import UserError

SMALL = {
    "family": "llama",
    "vocab_size": 19,
    "hidden_size": 12,
    "intermediate_size": 20,
    "num_layers": 2,
    "num_heads": 4,
    "num_kv_heads": 2,
    "head_dim": 6,
    "max_positions": 32,
}


forward = jax.jit(apply, static_argnums=0)


def make(seed=0, dtype=jnp.float32, remat="none", **changes):
    """A model whose weights are large enough for every part of it to show in the logits."""
    config = DecoderConfig(**SMALL | changes)
    graphdef, shapes = abstract(config, Compute(dtype, remat))
    rng = np.random.default_rng(seed)
    params = jax.tree.map(
        lambda s: jnp.asarray(rng.normal(size=s.shape) * 0.4 + (len(s.shape) == 1), jnp.float32),
        shapes,
    )
    return config, graphdef, params


def batch_of(*lengths, pad=0, seed=1):
    """One sequence (1, L) that holds segments of these lengths, then padding."""
    positions = np.concatenate([np.arange(n) for n in lengths] + [np.zeros(pad, int)])
    segments = np.concatenate([np.full(n, i) for i, n in enumerate(lengths, 1)] + [[0] * pad])
    tokens = np.random.default_rng(seed).integers(0, SMALL["vocab_size"], len(positions))
    return tuple(np.asarray(x, np.int32)[None] for x in (tokens, positions, segments))


def reference(config, params, tokens, positions, segments):
    """The decoder in float64, one token and one head at a time; padding gives rows of zeros."""
    p = jax.tree.map(lambda x: np.asarray(x, np.float64), params)
    h, group = config.head_dim, config.num_heads // config.num_kv_heads

    def norm(x, scale):
        return x / np.sqrt(np.mean(x**2) + config.rms_norm_eps) * scale

    def turn(x, position):
        out = np.empty(h)
        for j in range(h // 2):
            angle = position * config.rope_theta ** (-2 * j / h)
            out[j] = x[j] * np.cos(angle) - x[j + h // 2] * np.sin(angle)
            out[j + h // 2] = x[j + h // 2] * np.cos(angle) + x[j] * np.sin(angle)
        return out

    logits = np.zeros((*tokens.shape, config.vocab_size))
    for b, row in enumerate(tokens):
        xs = [p["embed"]["embedding"][token] for token in row]
        for i in range(config.num_layers):
            layer = jax.tree.map(lambda leaf, i=i: leaf[i], p["layers"])
            normed = [norm(x, layer["attention_norm"]["scale"]) for x in xs]
            mix, window = layer["attention"], config.windows[i % len(config.windows)]
            q, k, v = (
                [x @ mix[n]["kernel"] + mix[n].get("bias", 0) for x in normed] for n in "qkv"
            )
            if config.qk_norm:
                q, k = (
                    [
                        np.concatenate([norm(x[j : j + h], scale) for j in range(0, len(x), h)])
                        for x in vectors
                    ]
                    for vectors, scale in ((q, mix["q_norm"]["scale"]), (k, mix["k_norm"]["scale"]))
                )
            for t in range(len(row)):
                seen = [
                    s
                    for s in range(0 if window is None else max(0, t - window + 1), t + 1)
                    if segments[b, s] == segments[b, t] and segments[b, s]
                ]
                heads = []
                for head in range(config.num_heads):
                    mine = slice(head * h, head * h + h)
                    theirs = slice(head // group * h, head // group * h + h)
                    query = turn(q[t][mine], positions[b, t])
                    scores = [query @ turn(k[s][theirs], positions[b, s]) / h**0.5 for s in seen]
                    weights = np.exp(scores) / np.sum(np.exp(scores))
                    heads.append(sum(w * v[s][theirs] for w, s in zip(weights, seen, strict=True)))
                if seen:
                    xs[t] = xs[t] + np.concatenate(heads) @ mix["o"]["kernel"]
                x = norm(xs[t], layer["mlp_norm"]["scale"])
                gate, up = (x @ layer["mlp"][n]["kernel"] for n in ("gate", "up"))
                xs[t] = xs[t] + (gate / (1 + np.exp(-gate)) * up) @ layer["mlp"]["down"]["kernel"]
        for t, x in enumerate(xs):
            table = p["embed"]["embedding"].T if config.tie_embeddings else p["lm_head"]["kernel"]
            logits[b, t] = norm(x, p["norm"]["scale"]) @ table
    return logits


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"tie_embeddings": True, "rope_theta": 50.0},
        {"num_kv_heads": 4, "rms_norm_eps": 0.1},
        {"num_kv_heads": 1, "head_dim": 2},
        {"attention_bias": True, "windows": (3,)},
        {"qk_norm": True, "windows": (2, None)},
        # Layers in a loop, three at a time, and two that are left.
        {"num_layers": 11, "windows": (2, 4, None), "attention_bias": True, "qk_norm": True},
    ],
    ids=str,
)
def test_logits_equal_a_naive_float64_model(changes):
    config, graphdef, params = make(**changes)
    batch = [
        np.concatenate(x) for x in zip(batch_of(4, 3, pad=2), batch_of(9, seed=2), strict=True)
    ]
    logits = forward(graphdef, params, *batch)
    assert logits.dtype == jnp.float32
    expected = reference(config, params, *batch)
    np.testing.assert_allclose(logits, expected, rtol=1e-4, atol=1e-4)
    assert np.abs(expected).max() > 0.5


@pytest.mark.parametrize("lengths", [(6,), (3, 4)])
def test_gradients_show_that_a_token_sees_its_own_segment_backwards_and_nothing_else(lengths):
    _, graphdef, params = make()
    tokens, positions, segments = batch_of(*lengths, pad=2)
    tokens = np.arange(tokens.shape[1], dtype=np.int32)[None]  # so embedding j is position j

    def outputs(table):
        changed = params | {"embed": {"embedding": table}}
        return forward(graphdef, changed, tokens, positions, segments)[0, :, 0]

    influence = np.abs(jax.jit(jax.jacrev(outputs))(params["embed"]["embedding"])).sum(-1)
    n = tokens.shape[1]
    same = segments[0][:, None] == segments[0][None, :]
    allowed = np.tri(n, dtype=bool) & same & (segments[0] != 0) | np.eye(n, dtype=bool)
    assert ((influence[:, :n] > 0) == allowed).all()


@pytest.mark.parametrize("dtype", [jnp.float32, jnp.bfloat16])
def test_a_row_of_padding_gives_no_nan_in_value_or_gradient(dtype):
    _, graphdef, params = make(dtype=dtype)
    batch = [np.zeros((2, 5), np.int32)] * 3
    grad = jax.jit(jax.value_and_grad(lambda p: jnp.sum(forward(graphdef, p, *batch) ** 2)))
    loss, grads = grad(params)
    assert np.isfinite(loss)
    assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(grads))


@pytest.mark.parametrize("tied", [pytest.param(False, marks=pytest.mark.slow), True])
def test_bfloat16_computes_near_float32_with_float32_parameters_and_gradients(tied):
    _, graphdef, params = make(tie_embeddings=tied)
    _, rounded, _ = make(tie_embeddings=tied, dtype=jnp.bfloat16)
    batch = batch_of(8)
    exact = forward(graphdef, params, *batch)
    logits = forward(rounded, params, *batch)
    grads = jax.jit(jax.grad(lambda p: jnp.sum(forward(rounded, p, *batch) ** 2)))(params)
    assert logits.dtype == jnp.float32
    assert {leaf.dtype for leaf in jax.tree.leaves(grads)} == {jnp.dtype("float32")}
    # bfloat16 carries 8 bits; errors of 2**-9 an operation add up over two layers.
    assert 1e-4 < np.linalg.norm(logits - exact) / np.linalg.norm(exact) < 0.03
    # Logits that were rounded to bfloat16 at the end would all be bfloat16 numbers.
    assert (logits != logits.astype(jnp.bfloat16)).any()


def test_remat_recomputes_layers_and_changes_no_gradient():
    _, graphdef, params = make()
    _, rematted, _ = make(remat="full")
    batch = batch_of(6)

    def gradient(definition):
        return jax.jit(jax.grad(lambda p: jnp.sum(forward(definition, p, *batch) ** 2)))

    plain, again = (str(jax.make_jaxpr(gradient(d))(params)) for d in (graphdef, rematted))
    assert again.count("logistic") > plain.count("logistic")
    jax.tree.map(
        lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-3),
        gradient(graphdef)(params),
        gradient(rematted)(params),
    )


def test_parameter_paths_and_shapes():
    _, shapes = abstract(DecoderConfig(**SMALL))
    found = {
        jax.tree_util.keystr(path, simple=True, separator="."): leaf.shape
        for path, leaf in jax.tree.leaves_with_path(shapes)
    }
    assert found == {
        "embed.embedding": (19, 12),
        "layers.attention.q.kernel": (2, 12, 24),
        "layers.attention.k.kernel": (2, 12, 12),
        "layers.attention.v.kernel": (2, 12, 12),
        "layers.attention.o.kernel": (2, 24, 12),
        "layers.attention_norm.scale": (2, 12),
        "layers.mlp.gate.kernel": (2, 12, 20),
        "layers.mlp.up.kernel": (2, 12, 20),
        "layers.mlp.down.kernel": (2, 20, 12),
        "layers.mlp_norm.scale": (2, 12),
        "norm.scale": (12,),
        "lm_head.kernel": (12, 19),
    }
    _, tied = abstract(DecoderConfig(**SMALL | {"tie_embeddings": True}))
    assert "lm_head" not in tied


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (
            lambda: FAMILIES["llama"].sized("tinny", 9, 9),
            r"'tinny' is not one of tiny, .*mean tiny\?",
        ),
        (lambda: FAMILIES["llama"].sized("tiny", 512), "'tiny' has no max_positions"),
        (lambda: make(num_heads=3), "num_heads=3 is no multiple of num_kv_heads=2"),
        (lambda: make(head_dim=5), "head_dim=5 is odd"),
        (lambda: make(num_layers=0), "num_layers=0; give a whole number"),
        (lambda: make(vocab_size=True), "vocab_size=True"),
        (lambda: make(rope_theta=float("nan")), "rope_theta=nan"),
        (lambda: make(tie_embeddings="no"), "tie_embeddings='no'"),
    ],
)
def test_a_config_that_makes_no_model_is_refused_in_one_line(call, message):
    with pytest.raises(UserError) as caught:
        call()
    assert re.search(message, str(caught.value))
    assert "\n" not in str(caught.value)
