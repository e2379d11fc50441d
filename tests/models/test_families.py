"""Every family against transformers, from its own saved folder, and against itself when packed."""

import json
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from zsg_jax.models import huggingface
from zsg_jax.models.families import FAMILIES
from zsg_jax.models.model import abstract, apply, count
from zsg_jax.models.placement import Compute
from zsg_jax.models.rotary import Llama3Scaling, angles
from zsg_jax.runtime.errors import UserError

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
YARN = {
    "rope_type": "yarn",
    "factor": 4.0,
    "original_max_position_embeddings": 16,
    "rope_theta": 100.0,
}
PLAIN = {"rope_type": "default"}
# Layers of both kinds, in no regular order.
LAYERS = ["sliding_attention", "full_attention", "sliding_attention"]
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
    "qwen2 tied": ("Qwen2", {**ROTARY, "rms_norm_eps": 1e-2, "tie_word_embeddings": True}),
    "qwen3": ("Qwen3", {**ROTARY, "head_dim": 8}),
    "qwen3_moe": (
        "Qwen3Moe",
        {**ROTARY, "head_dim": 8, "num_experts": 5, "num_experts_per_tok": 3}
        | {"moe_intermediate_size": 12, "norm_topk_prob": True},
    ),
    "qwen3_moe shares": (
        "Qwen3Moe",
        {**ROTARY, "head_dim": 8, "num_experts": 4, "num_experts_per_tok": 2}
        | {"moe_intermediate_size": 12, "norm_topk_prob": False},
    ),
    "gpt_oss": (
        "GptOss",
        {**ROTARY, "head_dim": 8, "num_local_experts": 4, "num_experts_per_tok": 2}
        | {"num_hidden_layers": 3, "layer_types": LAYERS, "sliding_window": 5}
        | {"rope_parameters": {**YARN, "truncate": False}, "swiglu_limit": 0.6},
    ),
    "qwen2 yarn": ("Qwen2", {**ROTARY, "rope_parameters": YARN}),
    "llama yarn": (
        "Llama",
        {
            **ROTARY,
            "rope_parameters": YARN
            | {"beta_fast": 8.0, "mscale": 2.0, "mscale_all_dim": 0.5, "truncate": False},
        },
    ),
    "ministral": (
        "Ministral",
        {**ROTARY, "head_dim": 6, "sliding_window": 5, "num_hidden_layers": 3}
        | {"layer_types": LAYERS, "rope_parameters": YARN},
    ),
    "smollm3": (
        "SmolLM3",
        {**ROTARY, "no_rope_layers": [1, 0, 1], "num_hidden_layers": 3}
        | {"rope_parameters": {**PLAIN, "rope_theta": 50.0}},
    ),
    "olmo2": ("Olmo2", {**ROTARY, "rope_parameters": {**PLAIN, "rope_theta": 50.0}}),
    "olmo3": (
        "Olmo3",
        {**ROTARY, "num_hidden_layers": 3, "sliding_window": 5, "layer_types": LAYERS}
        | {
            "rope_parameters": {
                "full_attention": YARN,
                "sliding_attention": {**PLAIN, "rope_theta": 100.0},
            }
        },
    ),
    "gemma2": (
        "Gemma2",
        {**ROTARY, "head_dim": 6, "num_hidden_layers": 3, "sliding_window": 5}
        | {"query_pre_attn_scalar": 9, "attn_logit_softcapping": 2.0, "tie_word_embeddings": True}
        | {"final_logit_softcapping": 3.0, "rope_parameters": {**PLAIN, "rope_theta": 50.0}},
    ),
    "gemma3_text": (
        "Gemma3Text",
        {**ROTARY, "head_dim": 6, "num_hidden_layers": 3, "sliding_window": 5}
        | {"query_pre_attn_scalar": 9, "layer_types": LAYERS, "tie_word_embeddings": True}
        | {
            "rope_parameters": {
                "full_attention": {"rope_type": "linear", "factor": 3.0, "rope_theta": 100.0},
                "sliding_attention": {**PLAIN, "rope_theta": 10.0},
            }
        },
    ),
    "phi3": (
        "Phi3",
        {**ROTARY, "sliding_window": 5, "hidden_size": 32}
        | {"rope_parameters": {**PLAIN, "rope_theta": 50.0, "partial_rotary_factor": 0.5}},
    ),
    "gpt2": (
        "GPT2",
        {"vocab_size": 37, "n_embd": 12, "n_inner": 20, "n_layer": 2, "n_head": 3}
        | {"n_positions": 64, "layer_norm_epsilon": 1e-2},
    ),
}
# A family's gradients are compared once.
WITHOUT_GRADIENTS = (
    *("llama linear tied", "qwen2 yarn", "llama yarn", "ministral", "smollm3"),
    "qwen3_moe shares",
)
LENGTH = 23


def random_theirs(name, folder, shard_size="5GB"):
    """A random model of transformers' with large weights, saved in `folder`."""
    torch = pytest.importorskip("torch")
    transformers = pytest.importorskip("transformers")
    family, values = CASES[name]
    torch.manual_seed(0)
    head = "LMHeadModel" if family == "GPT2" else "ForCausalLM"
    # One of their own would lie beyond these words, or have no gradient.
    config = getattr(transformers, f"{family}Config")(**{"pad_token_id": None, **values})
    if "attn_logit_softcapping" in values:
        config._attn_implementation = "eager"  # their other ways leave the soft cap out
    model = getattr(transformers, family.removesuffix("Text") + head)(config).eval()
    # Norms start at 1 and biases at 0, which would hide that two were swapped or left out.
    with torch.no_grad():
        for path, parameter in model.named_parameters():
            norm = parameter.ndim == 1 and path.endswith("weight") and "Gemma" not in family
            parameter.normal_(float(norm), 0.3)
    model.save_pretrained(folder, max_shard_size=shard_size)
    return torch, model


@pytest.mark.parametrize("name", CASES)
def test_logits_and_gradients_equal_transformers(tmp_path, name):
    torch, theirs = random_theirs(name, tmp_path, "4KB")
    assert len(list(tmp_path.glob("*.safetensors"))) > 1
    tokens = np.random.default_rng(0).integers(0, 37, (2, LENGTH)).astype(np.int32)
    ids = torch.tensor(tokens).long()
    expected = theirs(ids, labels=ids)
    config = huggingface.read_config(tmp_path)
    assert config.family == name.split()[0].replace("llama3", "llama")
    graphdef, params = abstract(config)[0], huggingface.load(tmp_path, config)

    def loss(params):
        positions = np.broadcast_to(np.arange(LENGTH, dtype=np.int32), tokens.shape)
        logits = apply(graphdef, params, tokens, positions, np.ones_like(tokens))
        scores = jax.nn.log_softmax(logits[:, :-1])
        return -jnp.take_along_axis(scores, tokens[:, 1:, None], -1).mean(), logits

    if name in WITHOUT_GRADIENTS:
        logits = jax.jit(loss)(params)[1]
    else:
        expected.loss.backward()
        grads, logits = jax.jit(jax.grad(loss, has_aux=True))(params)
        same_gradients(grads, gradients(theirs), tmp_path, config)
    wanted = expected.logits.detach().numpy()
    assert np.abs(logits - wanted).max() < 1e-4
    assert np.abs(wanted).max() > 0.5


def gradients(theirs):
    """By the names of files, in which every expert has tensors of its own."""
    found = {}
    for name, parameter in theirs.named_parameters():
        path, _, kind = name.rpartition(".")
        if theirs.config.model_type != "qwen3_moe" or not path.endswith("experts"):
            found[name] = parameter.grad.numpy()
            continue
        for i, grad in enumerate(parameter.grad.numpy()):
            parts = {"down_proj": grad}
            if kind == "gate_up_proj":
                parts = dict(zip(("gate_proj", "up_proj"), np.split(grad, 2), strict=True))
            found |= {f"{path}.{i}.{part}.weight": one for part, one in parts.items()}
    return found


def same_gradients(grads, theirs, folder, config):
    """The names that lead to a tensor of theirs lead to its gradient too."""
    places = huggingface.open_weights(folder, config).places
    compared = set()
    for path, leaf in jax.tree.leaves_with_path(grads):
        for place in places[jax.tree_util.keystr(path, simple=True, separator=".")]:
            found = theirs[place.name]
            ours = leaf[place.at]
            found = found.T if place.transposed else found
            end = place.start + place.step * ours.shape[-1]
            found = found[..., place.start : end : place.step]
            np.testing.assert_allclose(ours, found, atol=1e-4, err_msg=place.name)
            assert np.abs(found).max() > 1e-4 or place.name.endswith("bias"), place.name
            compared.add(place.name)
    assert compared == set(theirs)


@pytest.mark.parametrize("family", FAMILIES)
def test_padding_and_packing_change_no_logits_of_a_token(family, tiny, forward):
    _, graphdef, params = tiny(family)
    tokens = np.random.default_rng(0).integers(0, 37, 20)
    lengths = [9, 4, 7]
    # Two segments, four places of padding between them and the last, and three after it.
    places = np.r_[0:13, 17:24]
    # The first sequence holds all of them, each of the others one.
    batch = np.zeros((3, 4, 27), np.int32)
    batch[0, 0, 13:17] = 5
    batch[:, 0, places] = (
        tokens,
        np.concatenate([np.arange(n) for n in lengths]),
        np.repeat([1, 2, 3], lengths),
    )
    ends = np.cumsum(lengths)
    for row, (n, end) in enumerate(zip(lengths, ends, strict=True), 1):
        batch[:, row, :n] = tokens[end - n : end], np.arange(n), np.ones(n)
    together, *alone = np.asarray(forward(graphdef, params, *batch))
    for one, n, end in zip(alone, lengths, ends, strict=True):
        np.testing.assert_allclose(together[places[end - n : end]], one[:n], atol=2e-5)
    assert np.abs(together).max() > 0.5


@pytest.mark.parametrize("family", ["llama", "gpt2", "mistral"])
def test_gradients_show_that_a_token_sees_its_own_segment_backwards_and_nothing_else(
    family, tiny, segments
):
    config, graphdef, params = tiny(family, num_layers=1)
    _, positions, ids = segments(3, 8, pad=2)
    n = ids.shape[1]
    tokens = np.arange(n, dtype=np.int32)[None]  # so embedding j is position j

    def outputs(table):
        changed = params | {"embed": {"embedding": table}}
        # Logits of tokens that do not stand in the sequence: the head is the embedding too.
        return apply(graphdef, changed, tokens, positions, ids)[0, :, n:].sum(-1)

    jacobian = jax.jit(jax.jacrev(outputs))(params["embed"]["embedding"])
    influence = np.abs(jacobian).sum(-1)[:, :n]
    allowed = np.tri(n, dtype=bool) & (ids[0][:, None] == ids[0]) & (ids[0] != 0)
    if family == "mistral":
        allowed &= ~np.tri(n, k=-config.windows[0], dtype=bool)
    assert ((influence > 0) == (allowed | np.eye(n, dtype=bool))).all()


@pytest.mark.parametrize("family", ["llama", "gpt2"])
def test_bfloat16_is_near_float32_and_padding_gives_no_nan(family, tiny, segments, forward):
    _, graphdef, params = tiny(family)
    _, rounded, _ = tiny(family, Compute(jnp.bfloat16))
    batch = [np.concatenate(x) for x in zip(segments(8), segments(pad=8), strict=True)]

    def total(params):
        logits = apply(rounded, params, *batch)
        return jnp.sum(logits**2), logits

    grads, logits = jax.jit(jax.grad(total, has_aux=True))(params)
    exact = forward(graphdef, params, *batch)
    assert logits.dtype == jnp.float32
    assert {leaf.dtype for leaf in jax.tree.leaves(grads)} == {jnp.dtype("float32")}
    assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves((grads, exact, logits)))
    # bfloat16 carries 8 bits; errors of 2**-9 an operation add up over two layers.
    exact, logits = exact[0], logits[0]
    assert 1e-4 < np.linalg.norm(logits - exact) / np.linalg.norm(exact) < 0.03
    # Logits that were rounded to bfloat16 at the end would all be bfloat16 numbers.
    assert (logits != logits.astype(jnp.bfloat16)).any()


def test_remat_recomputes_layers_and_changes_no_gradient(tiny, segments):
    _, graphdef, params = tiny("llama")
    _, rematted, _ = tiny("llama", Compute(remat="full"))
    batch = segments(6)

    def gradient(definition):
        return jax.jit(jax.grad(lambda p: jnp.sum(apply(definition, p, *batch) ** 2)))

    plain, again = (str(jax.make_jaxpr(gradient(d))(params)) for d in (graphdef, rematted))
    assert again.count("logistic") > plain.count("logistic")
    jax.tree.map(
        lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-3),
        gradient(graphdef)(params),
        gradient(rematted)(params),
    )


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
        ("qwen3_moe", "qwen3_30b_a3b", 30_532_122_624),
        ("gpt_oss", "gpt_oss_20b", 20_914_757_184),
        ("gpt2", "gpt2", 124_439_808),
        ("ministral", "ministral_8b", 8_019_808_256),
        ("smollm3", "smollm3_3b", 3_075_098_624),
        ("olmo2", "olmo2_7b", 7_298_617_344),
        ("olmo3", "olmo3_7b", 7_298_617_344),
        ("gemma2", "gemma2_2b", 2_614_341_888),
        ("gemma3_text", "gemma3_1b", 999_885_952),
        ("phi3", "phi4", 14_659_507_200),
    ],
)
def test_published_sizes_have_the_published_parameters(family, size, parameters):
    config = FAMILIES[family].sized(size)
    assert count(abstract(config)[1]) == parameters


def test_the_diversity_study_has_its_gpt2():
    study = FAMILIES["gpt2"].sized("diversity", 100, 64)
    assert (study.num_layers, study.num_heads, study.hidden_size) == (6, 4, 256)
    # Besides embeddings: 12 D² + 13 D a layer, and the last norm.
    assert count(abstract(study)[1]) - 164 * 256 == 6 * (12 * 256**2 + 13 * 256) + 2 * 256


@pytest.mark.parametrize(("family", "tied"), [("gpt2", {}), ("qwen2", {"tie_embeddings": False})])
def test_padded_tables_give_the_same_logits_and_no_gradient_beyond(
    family, tied, tiny, segments, forward
):
    _, graphdef, params = tiny(family, **tied)
    _, wide, _ = tiny(family, vocab_padding=3, **tied)
    more = np.random.default_rng(1).normal(size=(3, 16)).astype(np.float32)
    padded = params | {"embed": {"embedding": np.r_[params["embed"]["embedding"], more]}}
    if tied:
        padded["lm_head"] = {"kernel": np.c_[params["lm_head"]["kernel"], more.T]}
    expected = forward(graphdef, params, *segments(9))

    def total(params):
        logits = apply(wide, params, *segments(9))
        return jax.nn.logsumexp(logits, axis=-1).sum(), logits

    grads, logits = jax.jit(jax.grad(total, has_aux=True))(padded)
    assert logits.shape == expected.shape
    np.testing.assert_allclose(logits, expected, atol=1e-5)
    assert (grads["embed"]["embedding"][37:] == 0).all()


def test_a_size_may_be_a_config_file_and_a_family_must_agree(tmp_path):
    path = tmp_path / "mine.json"
    path.write_text(json.dumps({**ROTARY, "model_type": "mistral", "sliding_window": 7}))
    shape = {"vocab_size": 9, "max_positions": 9}
    model = huggingface.find_config("", str(path), "", **shape)
    assert (model.family, model.vocab_size, model.windows) == ("mistral", 37, (7,))
    assert huggingface.find_config("mistral", str(path), "", **shape) == model
    with pytest.raises(UserError, match=r"is 'mistral', but .*model\.family=llama; leave"):
        huggingface.find_config("llama", str(path), "", **shape)
    assert huggingface.find_config("", "tiny", "", **shape) == FAMILIES["llama"].sized("tiny", 9, 9)
    assert huggingface.find_config("qwen3", "tiny", "", **shape).family == "qwen3"
