import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from zsg_jax.models.decoder import DecoderConfig
from zsg_jax.models.families import FAMILIES
from zsg_jax.models.gpt2 import Gpt2Config
from zsg_jax.models.model import abstract
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


def make(**changes):
    """A model whose weights are large enough for every part of it to show in the logits."""
    config = DecoderConfig(**SMALL | changes)
    graphdef, shapes = abstract(config)
    rng = np.random.default_rng(0)
    params = jax.tree.map(
        lambda s: jnp.asarray(rng.normal(size=s.shape) * 0.4 + (len(s.shape) == 1), jnp.float32),
        shapes,
    )
    return config, graphdef, params


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
        {"tie_embeddings": True, "rope_theta": 50.0, "num_kv_heads": 1, "rms_norm_eps": 0.1},
        # Layers in a loop, three at a time, and two that are left.
        {"num_layers": 11, "windows": (2, 4, None), "attention_bias": True, "qk_norm": True},
    ],
    ids=["plain", "tied", "windows in a loop"],
)
def test_logits_equal_a_naive_float64_model(changes, segments, forward):
    config, graphdef, params = make(**changes)
    batch = [
        np.concatenate(x) for x in zip(segments(4, 3, pad=2), segments(9, seed=2), strict=True)
    ]
    logits = forward(graphdef, params, *batch)
    assert logits.dtype == jnp.float32
    expected = reference(config, params, *batch)
    np.testing.assert_allclose(logits, expected, rtol=1e-4, atol=1e-4)
    assert np.abs(expected).max() > 0.5


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (
            lambda: FAMILIES["llama"].sized("tinny", 9, 9),
            r"'tinny' is not one of tiny, .*mean tiny\?",
        ),
        (lambda: FAMILIES["llama"].sized("tiny", 512), "'tiny' has no max_positions"),
        (lambda: make(num_heads=3), "num_heads=3 is no multiple of num_kv_heads=2"),
        (lambda: make(head_dim=5), "head_dim=5 and rope_share=1.0 turn an odd"),
        (lambda: make(num_layers=0), "num_layers=0; give a whole number"),
        (lambda: make(num_layers=10**9), "num_layers=1000000000; it must be at most 10,000"),
        (lambda: make(vocab_size=True), "vocab_size=True"),
        (lambda: make(windows=(0,)), r"windows=\(0,\); give whole numbers"),
        (lambda: Gpt2Config(9, 12, 9, 1, 5, 9), "hidden_size=12 is no multiple of num_heads=5"),
        (lambda: Gpt2Config(9, 8, 9, 1, 2, 9, 0.0), r"layer_norm_eps=0\.0"),
        (lambda: make(rope_theta=float("nan")), "rope_theta=nan"),
        (lambda: make(tie_embeddings="no"), "tie_embeddings='no'"),
    ],
)
def test_a_config_that_makes_no_model_is_refused_in_one_line(call, message):
    with pytest.raises(UserError) as caught:
        call()
    assert re.search(message, str(caught.value))
    assert "\n" not in str(caught.value)
