import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from zsg_jax.models.families import FAMILIES
from zsg_jax.models.gpt2 import Gpt2Config
from zsg_jax.models.model import abstract, apply, count
from zsg_jax.models.placement import Compute
from zsg_jax.runtime.errors import UserError

pytestmark = pytest.mark.references

SMALL = {
    "vocab_size": 23,
    "hidden_size": 12,
    "intermediate_size": 20,
    "num_layers": 3,
    "num_heads": 3,
    "max_positions": 16,
}

forward = jax.jit(apply, static_argnums=0)


def make(seed=0, dtype=jnp.float32, remat="none", **changes):
    """A model whose weights are large enough for every part of it to show in the logits."""
    config = Gpt2Config(**SMALL | changes)
    graphdef, shapes = abstract(config, Compute(dtype, remat))
    rng = np.random.default_rng(seed)
    params = jax.tree.map(
        lambda s: jnp.asarray(rng.normal(size=s.shape) * 0.4 + (len(s.shape) == 1), jnp.float32),
        shapes,
    )
    return config, graphdef, params


def rows(*lengths, pad=0, seed=1):
    """One row (1, L) that holds segments of these lengths, then padding."""
    positions = np.concatenate([np.arange(n) for n in lengths] + [np.zeros(pad, int)])
    segments = np.concatenate([np.full(n, i) for i, n in enumerate(lengths, 1)] + [[0] * pad])
    tokens = np.random.default_rng(seed).integers(0, SMALL["vocab_size"], len(positions))
    return tuple(np.asarray(x, np.int32)[None] for x in (tokens, positions, segments))


def theirs(config, params, eps):
    """transformers' GPT-2 with `params`, by the names of its own parameters."""
    torch = pytest.importorskip("torch")
    transformers = pytest.importorskip("transformers")
    model = transformers.GPT2LMHeadModel(
        transformers.GPT2Config(
            vocab_size=config.vocab_size,
            n_embd=config.hidden_size,
            n_inner=config.intermediate_size,
            n_layer=config.num_layers,
            n_head=config.num_heads,
            n_positions=config.max_positions,
            layer_norm_epsilon=eps,
            resid_pdrop=0.0,
            embd_pdrop=0.0,
            attn_pdrop=0.0,
        )
    )
    mine = {
        "wte.weight": params["embed"]["embedding"],
        "wpe.weight": params["position"]["embedding"],
    }

    def add(name, module):
        mine[f"{name}.weight"] = module["kernel"] if "kernel" in module else module["scale"]
        mine[f"{name}.bias"] = module["bias"]

    add("ln_f", params["norm"])
    for i in range(config.num_layers):
        layer = jax.tree.map(lambda leaf, i=i: leaf[i], params["layers"])
        fused = [layer["attention"][n] for n in "qkv"]
        mine[f"h.{i}.attn.c_attn.weight"] = np.concatenate([m["kernel"] for m in fused], axis=1)
        mine[f"h.{i}.attn.c_attn.bias"] = np.concatenate([m["bias"] for m in fused])
        add(f"h.{i}.attn.c_proj", layer["attention"]["o"])
        add(f"h.{i}.ln_1", layer["attention_norm"])
        add(f"h.{i}.ln_2", layer["mlp_norm"])
        add(f"h.{i}.mlp.c_fc", layer["mlp"]["up"])
        add(f"h.{i}.mlp.c_proj", layer["mlp"]["down"])
    found = dict(model.transformer.named_parameters())
    assert found.keys() == mine.keys()
    with torch.no_grad():
        for name, parameter in found.items():
            parameter.copy_(torch.tensor(np.asarray(mine[name])))
    return torch, model, found


@pytest.mark.parametrize("eps", [1e-5, 0.1])
def test_logits_and_gradients_equal_transformers(eps):
    config, graphdef, params = make(layer_norm_eps=eps)
    torch, model, found = theirs(config, params, eps)
    tokens = np.random.default_rng(2).integers(0, 23, (2, 9)).astype(np.int32)
    weight = np.random.default_rng(3).normal(size=(2, 9, 23)).astype(np.float32)
    place = np.broadcast_to(np.arange(9, dtype=np.int32), (2, 9))

    expected = model(torch.tensor(tokens).long()).logits
    (expected * torch.tensor(weight)).sum().backward()

    def total(params):
        logits = forward(graphdef, params, tokens, place, np.ones_like(tokens))
        return (logits * weight).sum(), logits

    grads, logits = jax.jit(jax.grad(total, has_aux=True))(params)
    assert logits.dtype == jnp.float32
    np.testing.assert_allclose(logits, expected.detach().numpy(), atol=1e-4)
    assert np.abs(logits).max() > 0.5
    # The same names lead from our gradients to theirs.
    again = {name: p.grad.numpy().copy() for name, p in found.items()}
    _, _, placed = theirs(config, grads, eps)
    for name, gradient in again.items():
        ours = placed[name].detach().numpy()
        np.testing.assert_allclose(ours, gradient, rtol=1e-3, atol=1e-3, err_msg=name)
        assert np.abs(gradient).max() > 1e-3


def test_gradients_show_that_a_token_sees_its_own_segment_backwards_and_nothing_else():
    _, graphdef, params = make()
    tokens, positions, segments = rows(3, 4, 2, pad=2)
    tokens = np.arange(tokens.shape[1], dtype=np.int32)[None]  # so embedding j is position j
    n = tokens.shape[1]
    weight = np.random.default_rng(4).normal(size=12).astype(np.float32)

    def outputs(first):
        changed = jnp.concatenate([first, params["embed"]["embedding"][n:]])
        logits = forward(
            graphdef, params | {"embed": {"embedding": changed}}, tokens, positions, segments
        )
        # The head is the embedding too: logits of tokens that do not stand in the row leave it out.
        return logits[0, :, n:] @ weight[: 23 - n]

    influence = np.abs(jax.jit(jax.jacrev(outputs))(params["embed"]["embedding"][:n])).sum(-1)
    same = segments[0][:, None] == segments[0][None, :]
    allowed = np.tri(n, dtype=bool) & same & (segments[0] != 0) | np.eye(n, dtype=bool)
    assert ((influence > 0) == allowed).all()


@pytest.mark.parametrize("dtype", [jnp.float32, jnp.bfloat16])
def test_a_row_of_padding_gives_no_nan_in_value_or_gradient(dtype):
    _, graphdef, params = make(dtype=dtype)
    batch = [np.zeros((2, 5), np.int32)] * 3
    grad = jax.jit(jax.value_and_grad(lambda p: jnp.sum(forward(graphdef, p, *batch) ** 2)))
    loss, grads = grad(params)
    assert np.isfinite(loss)
    assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(grads))


def test_bfloat16_computes_near_float32_with_float32_parameters_and_logits():
    _, graphdef, params = make()
    _, rounded, _ = make(dtype=jnp.bfloat16)
    exact, logits = (forward(g, params, *rows(8)) for g in (graphdef, rounded))
    assert logits.dtype == jnp.float32
    assert 1e-4 < np.linalg.norm(logits - exact) / np.linalg.norm(exact) < 0.03
    assert (logits != logits.astype(jnp.bfloat16)).any()


def test_remat_recomputes_layers_and_changes_no_gradient():
    _, graphdef, params = make()
    _, rematted, _ = make(remat="full")

    def gradient(definition):
        return jax.jit(jax.grad(lambda p: jnp.sum(forward(definition, p, *rows(6)) ** 2)))

    plain, again = (str(jax.make_jaxpr(gradient(d))(params)) for d in (graphdef, rematted))
    assert again.count("tanh") > plain.count("tanh")
    jax.tree.map(
        lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-3),
        gradient(graphdef)(params),
        gradient(rematted)(params),
    )


def test_sizes():
    full = FAMILIES["gpt2"].sized("gpt2")
    assert count(abstract(full, Compute(jnp.bfloat16))[1]) == 124_439_808
    study = FAMILIES["gpt2"].sized("diversity", 100, 64)
    assert (study.num_layers, study.num_heads, study.hidden_size) == (6, 4, 256)
    # Besides embeddings: 12 D² + 13 D a layer, and the last norm.
    found = count(abstract(study)[1]) - 164 * 256
    assert found == 6 * (12 * 256**2 + 13 * 256) + 2 * 256


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (
            lambda: FAMILIES["gpt2"].sized("tinny", 9, 9),
            r"'tinny' is not one of tiny, .*mean tiny\?",
        ),
        (lambda: FAMILIES["gpt2"].sized("tiny", 512), "'tiny' has no max_positions"),
        (lambda: make(num_heads=5), "hidden_size=12 is no multiple of num_heads=5"),
        (lambda: make(num_layers=0), "num_layers=0; give a whole number"),
        (lambda: make(layer_norm_eps=0.0), "layer_norm_eps=0.0"),
    ],
)
def test_a_config_that_makes_no_model_is_refused_in_one_line(call, message):
    with pytest.raises(UserError) as caught:
        call()
    assert re.search(message, str(caught.value))
    assert "\n" not in str(caught.value)
