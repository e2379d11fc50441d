"""Every family against transformers, from its own saved folder, and against itself when packed."""

import dataclasses
import json
import math
from types import MappingProxyType

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from zsg_jax.models import attention, huggingface
from zsg_jax.models.families import FAMILIES
from zsg_jax.models.model import abstract, apply, count
from zsg_jax.models.rotary import Llama3Scaling, angles
from zsg_jax.runtime.errors import UserError
from zsg_jax.training import sharding

pytestmark = pytest.mark.references

ROTARY = {
    "vocab_size": 37,
    "hidden_size": 16,
    "intermediate_size": 24,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 64,
    "tie_word_embeddings": False,
}
LLAMA3 = {
    "rope_type": "llama3",
    "factor": 8.0,
    "low_freq_factor": 1.0,
    "high_freq_factor": 4.0,
    "original_max_position_embeddings": 24,
}
# The name of transformers' classes, and values that use each feature of the family.
CASES = {
    "llama3 scaled": ("Llama", {**ROTARY, "rope_parameters": {"rope_theta": 30.0, **LLAMA3}}),
    "llama linear tied": (
        "Llama",
        {
            **ROTARY,
            "tie_word_embeddings": True,
            "rope_parameters": {"rope_theta": 100.0, "rope_type": "linear", "factor": 3.0},
        },
    ),
    "mistral window": ("Mistral", {**ROTARY, "sliding_window": 5, "head_dim": 6}),
    "mistral no window tied": (
        "Mistral",
        {**ROTARY, "sliding_window": None, "tie_word_embeddings": True},
    ),
    "qwen2": ("Qwen2", {**ROTARY, "rms_norm_eps": 1e-2}),
    "qwen2 tied scaled": (
        "Qwen2",
        {
            **ROTARY,
            "tie_word_embeddings": True,
            "rope_parameters": {"rope_theta": 1e6, "rope_type": "linear", "factor": 2.0},
        },
    ),
    "qwen3": ("Qwen3", {**ROTARY, "head_dim": 8}),
    "qwen3 tied": ("Qwen3", {**ROTARY, "head_dim": 6, "tie_word_embeddings": True}),
    "gpt2": (
        "GPT2",
        {"vocab_size": 37, "n_embd": 12, "n_inner": 20, "n_layer": 2, "n_head": 3}
        | {"n_positions": 64, "layer_norm_epsilon": 1e-2},
    ),
}
LENGTH = 23


def random_theirs(name, folder, shard_size="5GB"):
    """A random model of transformers' with large weights, saved in `folder`."""
    torch = pytest.importorskip("torch")
    transformers = pytest.importorskip("transformers")
    family, values = CASES[name]
    torch.manual_seed(0)
    head = "LMHeadModel" if family == "GPT2" else "ForCausalLM"
    config = getattr(transformers, f"{family}Config")(**values)
    model = getattr(transformers, family + head)(config).eval()
    # Norms start at 1 and biases at 0, which would hide that two were swapped or left out.
    with torch.no_grad():
        for path, parameter in model.named_parameters():
            norm = parameter.ndim == 1 and path.endswith("weight")
            parameter.normal_(float(norm), 0.3)
    model.save_pretrained(folder, max_shard_size=shard_size)
    return torch, model


forward = jax.jit(apply, static_argnums=0)


def batch(count=2, length=LENGTH):
    tokens = np.random.default_rng(0).integers(0, 37, (count, length)).astype(np.int32)
    positions = np.broadcast_to(np.arange(length, dtype=np.int32), (count, length))
    return tokens, positions, np.ones_like(tokens)


def ours(folder):
    config = huggingface.read_config(folder)
    graphdef, _ = abstract(config)
    return config, graphdef, huggingface.load(folder, config)


@pytest.mark.parametrize("name", CASES)
def test_logits_equal_transformers(tmp_path, name):
    torch, theirs = random_theirs(name, tmp_path, "4KB")
    assert len(list(tmp_path.glob("*.safetensors"))) > 1
    tokens, positions, segments = batch()
    with torch.no_grad():
        expected = theirs(torch.tensor(tokens).long()).logits.numpy()
    config, graphdef, params = ours(tmp_path)
    assert config.family == name.split()[0].replace("llama3", "llama")
    logits = forward(graphdef, params, tokens, positions, segments)
    assert np.abs(logits - expected).max() < 1e-4
    assert np.abs(expected).max() > 0.5


@pytest.mark.parametrize("name", ["qwen3 tied", "qwen2", "mistral window"])
def test_gradients_of_the_loss_equal_transformers(tmp_path, name):
    torch, theirs = random_theirs(name, tmp_path)
    tokens, positions, segments = batch()
    ids = torch.tensor(tokens).long()
    theirs(ids, labels=ids).loss.backward()
    config, graphdef, params = ours(tmp_path)

    def loss(params):
        logits = apply(graphdef, params, tokens, positions, segments)
        scores = jax.nn.log_softmax(logits[:, :-1])
        return -jnp.take_along_axis(scores, tokens[:, 1:, None], -1).mean()

    grads = jax.jit(jax.grad(loss))(params)
    _, places, _ = huggingface.open_folder(tmp_path, config)
    found = dict(theirs.named_parameters())
    flat = {
        jax.tree_util.keystr(path, simple=True, separator="."): leaf
        for path, leaf in jax.tree.leaves_with_path(grads)
    }
    compared = set()
    for path, leaf in flat.items():
        for place in places[path]:
            mine = leaf if place.layer is None else leaf[place.layer]
            expected = found[place.name].grad.numpy()
            expected = expected.T if path.endswith("kernel") else expected
            np.testing.assert_allclose(mine, expected, atol=1e-4, err_msg=place.name)
            assert np.abs(expected).max() > 1e-4, place.name
            compared.add(place.name)
    assert compared == set(found)


def tiny(family, **changes):
    """A tiny model of the family with weights large enough to show."""
    config = dataclasses.replace(FAMILIES[family].sized("tiny", 37, 64), num_layers=2, **changes)
    if family == "mistral":
        config = dataclasses.replace(config, windows=(5,))
    graphdef, shapes = abstract(config)
    rng = np.random.default_rng(0)
    params = jax.tree_util.tree_map_with_path(
        lambda path, s: jnp.asarray(
            rng.normal(size=s.shape) * 0.2 + ("scale" in str(path)), jnp.float32
        ),
        shapes,
    )
    return config, graphdef, params


@pytest.mark.parametrize("family", FAMILIES)
def test_padding_and_packing_change_no_logits_of_a_token(family):
    _, graphdef, params = tiny(family)
    tokens, _, _ = batch(1, 20)
    lengths = [9, 4, 7]
    # Two segments, four places of padding between them and the last, and three after it.
    places = np.r_[0:13, 17:24]
    packed = np.full((3, 1, 27), 0, np.int32)
    packed[0, 0, places] = tokens[0]
    packed[1, 0, places] = np.concatenate([np.arange(n) for n in lengths])
    packed[2, 0, places] = np.repeat([1, 2, 3], lengths)
    packed[0, 0, 13:17] = 5
    together = np.asarray(forward(graphdef, params, *packed))[0, places]
    start = 0
    for n in lengths:
        part = tokens[:, start : start + n]
        alone = forward(graphdef, params, part, np.arange(n)[None], np.ones_like(part))
        np.testing.assert_allclose(together[start : start + n], alone[0], atol=2e-5)
        start += n
    assert np.abs(together).max() > 0.5


@pytest.mark.parametrize("size", [4, 128])
@pytest.mark.parametrize("window", [pytest.param(1, marks=pytest.mark.slow), 5, 40])
def test_a_window_shows_a_token_that_many_and_no_more(monkeypatch, window, size):
    # With blocks of 4 queries too, which leave out keys that lie before all their windows.
    monkeypatch.setattr(attention.xla, "QUERY_BLOCK", size)
    monkeypatch.setattr(attention.xla, "MOST_BLOCKS", 99)
    config, _, params = tiny("mistral")
    config = dataclasses.replace(config, num_layers=1, windows=(window,))
    graphdef, _ = abstract(config)
    params = params | {"layers": jax.tree.map(lambda leaf: leaf[:1], params["layers"])}
    positions = np.arange(LENGTH, dtype=np.int32)[None]
    segments = np.repeat([1, 2], [15, 8])[None]

    def outputs(table):
        changed = params | {"embed": {"embedding": table}}
        # Logits of tokens that do not stand in the row: the head is the embedding too.
        return apply(graphdef, changed, positions, positions, segments)[0, :, LENGTH:].sum(-1)

    jacobian = jax.jit(jax.jacrev(outputs))(params["embed"]["embedding"])
    influence = np.abs(jacobian).sum(-1)[:, :LENGTH]
    for query in range(LENGTH):
        for key in range(LENGTH):
            seen = key <= query and query - key < window and (key < 15) == (query < 15)
            assert (influence[query, key] > 0) == seen, (query, key)


def test_llama3_scaling_is_that_of_the_paper():
    scaling = Llama3Scaling(8.0, 1.0, 4.0, 100)
    found = np.asarray(angles(np.ones((1, 1), np.int32), 32, 200.0, scaling))[0, 0]
    kinds = set()
    for j, value in enumerate(found):
        plain = 200.0 ** (-2 * j / 32)
        wave = 2 * math.pi / plain
        if wave < 100 / 4:
            expected, kind = plain, "fast"
        elif wave > 100 / 1:
            expected, kind = plain / 8, "slow"
        else:
            smooth = (100 / wave - 1) / (4 - 1)
            expected, kind = (1 - smooth) * plain / 8 + smooth * plain, "between"
        assert value == pytest.approx(expected, rel=1e-5)
        kinds.add(kind)
    assert kinds == {"fast", "slow", "between"}


@pytest.mark.parametrize(
    ("family", "size", "parameters"),
    [
        ("llama", "llama2_7b", 6_738_415_616),
        ("llama", "llama3_8b", 8_030_261_248),
        ("llama", "llama3_1_8b", 8_030_261_248),
        ("mistral", "mistral_7b", 7_241_732_096),
        ("qwen2", "qwen2_5_7b", 7_615_616_512),
        ("qwen3", "qwen3_8b", 8_190_735_360),
        ("gpt2", "gpt2", 124_439_808),
    ],
)
def test_published_sizes_have_the_published_parameters(family, size, parameters):
    config = FAMILIES[family].sized(size)
    assert count(abstract(config)[1]) == parameters


@pytest.mark.parametrize("family", FAMILIES)
def test_every_tiny_model_has_a_rule_for_every_parameter_and_pads_for_tensor(family):
    config, _, _ = tiny(family)
    mesh = sharding.make_mesh(1, 1)
    _, shapes = abstract(config)
    sharding.shardings({"params": shapes}, mesh)
    assert sharding.vocabulary_padding(config.vocab_size, mesh) == 0

    class Eight:
        shape = MappingProxyType({"data": 1, "fsdp": 1, "tensor": 8})

    assert sharding.vocabulary_padding(37, Eight) == 3
    assert sharding.vocabulary_padding(40, Eight) == 0


@pytest.mark.parametrize("family", FAMILIES)
def test_padded_tables_give_the_same_logits_and_no_gradient_beyond(family):
    _, graphdef, params = tiny(family)
    padded, wide, _ = tiny(family, vocab_padding=3)
    rng = np.random.default_rng(1)
    more = jax.tree.map(lambda x: x, params)
    more["embed"] = {
        "embedding": np.concatenate([params["embed"]["embedding"], rng.normal(size=(3, 64))])
    }
    if "lm_head" in params:
        extra = rng.normal(size=(64, 3))
        more["lm_head"] = {"kernel": np.concatenate([params["lm_head"]["kernel"], extra], axis=1)}
    expected = forward(graphdef, params, *batch())

    def total(params):
        logits = apply(wide, params, *batch())
        return jax.nn.logsumexp(logits, axis=-1).sum(), logits

    grads, logits = jax.jit(jax.grad(total, has_aux=True))(more)
    assert logits.shape == expected.shape
    np.testing.assert_allclose(logits, expected, atol=1e-5)
    assert (grads["embed"]["embedding"][37:] == 0).all()
    assert padded.vocab_size == 37


def test_a_size_may_be_a_config_file_and_a_family_must_agree(tmp_path):
    path = tmp_path / "mine.json"
    path.write_text(json.dumps({**ROTARY, "model_type": "mistral", "sliding_window": 7}))
    shape = {"vocab_size": 9, "max_positions": 9}
    model = huggingface.find_config("", str(path), "", **shape)
    assert (model.family, model.vocab_size, model.windows) == ("mistral", 37, (7,))
    assert huggingface.find_config("mistral", str(path), "", **shape) == model
    with pytest.raises(UserError, match=r"is 'mistral', but model\.family=llama; leave"):
        huggingface.find_config("llama", str(path), "", **shape)
    assert huggingface.find_config("", "tiny", "", **shape) == FAMILIES["llama"].sized("tiny", 9, 9)
    assert huggingface.find_config("qwen3", "tiny", "", **shape).family == "qwen3"
