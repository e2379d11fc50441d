import json
from dataclasses import replace

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx, traverse_util
from safetensors.numpy import load_file, save_file

from zsg_jax.models import lora
from zsg_jax.models.families import FAMILIES
from zsg_jax.models.huggingface.adapters import write_adapters
from zsg_jax.models.huggingface.read_adapters import add_adapters
from zsg_jax.models.huggingface.write import write
from zsg_jax.models.lora import LoRA
from zsg_jax.models.model import abstract
from zsg_jax.models.model import apply as apply_model
from zsg_jax.models.model import initialize as initialize_model
from zsg_jax.models.placement import Compute
from zsg_jax.models.rotary import Llama3Scaling
from zsg_jax.runtime.errors import UserError

pytestmark = pytest.mark.references

TOKENS = np.random.default_rng(0).integers(0, 37, (2, 11)).astype(np.int32)
PLACES = np.broadcast_to(np.arange(11), (2, 11))
WHERE = (TOKENS, PLACES, np.ones_like(TOKENS))


def test_a_layer_adds_the_scaled_product_of_its_adapter():
    rng = np.random.default_rng(1)
    base = nnx.Linear(5, 3, rngs=nnx.Rngs(0))
    layer = lora.AdaptedLinear(base, LoRA(2, 6.0), jax.random.key(0), training=False)
    a, b = rng.normal(size=(5, 2)), rng.normal(size=(2, 3))
    bound = np.abs(layer.lora_a[...]).max()
    assert 0.5 / np.sqrt(5) < bound <= 1 / np.sqrt(5)
    assert (layer.lora_b[...] == 0).all()
    layer.lora_a[...], layer.lora_b[...] = jnp.asarray(a, jnp.float32), jnp.asarray(b, jnp.float32)
    x = rng.normal(size=(4, 5))
    kernel, bias = np.asarray(base.kernel[...], np.float64), np.asarray(base.bias[...], np.float64)
    expected = [
        [
            sum(row[i] * kernel[i, o] for i in range(5))
            + bias[o]
            + 3.0 * sum(row[i] * a[i, r] * b[r, o] for i in range(5) for r in range(2))
            for o in range(3)
        ]
        for row in x
    ]
    np.testing.assert_allclose(layer(jnp.asarray(x, jnp.float32)), expected, atol=1e-5)


@pytest.mark.parametrize("family", ["llama", "gpt2"])
def test_merged_and_unmerged_agree_and_fresh_adapters_change_nothing(family, tiny, forward):
    adapters = LoRA(3, 5.0)
    model, graphdef, params = tiny(family, lora=adapters)
    plain, shapes = abstract(model)
    base = lora.split(params)[1]
    logits, without = forward(graphdef, params, *WHERE), forward(plain, base, *WHERE)
    assert np.abs(logits - without).max() > 0.1
    merged = lora.merge(params, adapters)
    assert jax.tree.map(lambda x: x.shape, merged) == jax.tree.map(lambda x: x.shape, shapes)
    np.testing.assert_allclose(logits, forward(plain, merged, *WHERE), atol=1e-4)
    initialize = jax.jit(initialize_model, static_argnums=(0, 2))
    fresh, drawn = lora.split(initialize(model, jax.random.key(3), adapters))
    begun = forward(graphdef, lora.join(fresh, base), *WHERE)
    np.testing.assert_allclose(begun, without, atol=1e-6)
    # The weights themselves do not depend on whether they are adapted.
    jax.tree.map(np.testing.assert_array_equal, initialize(model, jax.random.key(3)), drawn)


def test_dropout_follows_its_key_and_leaves_evaluation_alone(tiny, forward):
    adapters = LoRA(4, 8.0, ("q", "down"), 0.5)
    model, graphdef, params = tiny("llama", lora=adapters)
    training, _ = abstract(model, lora=adapters, training=True)
    parts = lora.split(params)
    apply = jax.jit(lambda key: apply_model(training, lora.join(*parts, key), *WHERE))
    one, again, other = (np.asarray(apply(jax.random.key(seed))) for seed in (0, 0, 1))
    assert (one == again).all()
    assert np.abs(one - other).max() > 1e-3
    exact = np.asarray(forward(graphdef, params, *WHERE))
    assert np.abs(one - exact).max() > 1e-3
    # What is left is scaled up, so that a layer's mean is that without dropout.
    layer = lora.AdaptedLinear(
        nnx.Linear(64, 4, rngs=nnx.Rngs(0)), adapters, jax.random.key(0), training=True
    )
    layer.lora_b[...] = jnp.ones((4, 4))
    x, means = jnp.ones((2000, 64)), []
    for training in (True, False):
        layer.dropout = 0.5 if training else 0.0
        layer.lora_key[...] = jax.random.key_data(jax.random.key(5))
        means.append(np.asarray(layer(x)).mean(0))
    np.testing.assert_allclose(means[0], means[1], atol=0.1)


def test_layers_drop_different_numbers(tiny):
    _, _, params = tiny("qwen2", lora=LoRA(2, dropout=0.5))
    keys = traverse_util.flatten_dict(lora.join(*lora.split(params), jax.random.key(0)))
    drawn = [tuple(row) for path, leaf in keys.items() if path[-1] == lora.KEY for row in leaf]
    assert len(drawn) == len({tuple(map(int, row)) for row in drawn}) == 2 * 7


def test_gradients_reach_the_adapters_through_remat_and_many_layers(tiny):
    adapters, found = LoRA(2, 4.0, dropout=0.3), []
    model, _, params = tiny("qwen3", lora=adapters, num_layers=9)
    own, base = lora.split(params)
    for remat in ("none", "full"):
        graphdef, _ = abstract(model, Compute(remat=remat), adapters, training=True)

        def total(own, graphdef=graphdef):
            whole = lora.join(own, base, jax.random.key(0))
            return jnp.square(apply_model(graphdef, whole, *WHERE)).sum()

        found.append(jax.jit(jax.grad(total))(own))
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-3, atol=1e-4), *found)
    assert all(np.abs(leaf).max() > 1e-4 for leaf in jax.tree.leaves(found[0]))


# Families whose layers have kernels of other names or shapes; the others by name.
KERNELS = ("llama", "gpt2", "gemma2", "phi3", "qwen3_moe")


@pytest.mark.parametrize(
    ("family", "targets"),
    [
        *(
            pytest.param(one, ("all",), marks=[] if one in KERNELS else pytest.mark.slow)
            for one in FAMILIES
        ),
        ("gpt2", ("q", "v", "down")),
    ],
    ids=str,
)
def test_transformers_and_peft_give_the_same_logits(tmp_path, family, targets, tiny, forward):
    torch = pytest.importorskip("torch")
    transformers = pytest.importorskip("transformers")
    peft = pytest.importorskip("peft")
    adapters = LoRA(3, 7.0, targets, 0.1)
    more = {"rope_scaling": Llama3Scaling(4.0, 1.0, 4.0, 8)} if family == "llama" else {}
    model, graphdef, params = tiny(family, lora=adapters, **more)
    own, base = lora.split(params)
    folder, adapted = tmp_path / "model", tmp_path / "adapters"
    for one in (folder, adapted):
        one.mkdir()
    write(folder, model, base, source=None, more={"eos_token_id": 2})
    write_adapters(adapted, model, own, adapters, base=str(folder))
    plain = transformers.AutoModelForCausalLM.from_pretrained(folder).eval()
    assert plain.config.eos_token_id == 2
    with torch.no_grad():
        before = plain(torch.tensor(TOKENS).long()).logits.numpy()
        theirs = peft.PeftModel.from_pretrained(plain, adapted).eval()
        expected = theirs(torch.tensor(TOKENS).long()).logits.numpy()
    without = forward(abstract(model)[0], base, *WHERE)
    assert np.abs(without - before).max() < 1e-4
    assert np.abs(forward(graphdef, params, *WHERE) - expected).max() < 1e-4
    assert np.abs(before - expected).max() > 0.1
    assert theirs.active_peft_config.lora_dropout == 0.1
    merged = add_adapters(base, model, adapted)
    assert np.abs(forward(abstract(model)[0], merged, *WHERE) - expected).max() < 1e-4
    write_adapters(adapted, model, own, adapters, base=str(folder), dtype="bfloat16")
    halves = load_file(adapted / "adapter_model.safetensors")
    assert {str(one.dtype) for one in halves.values()} == {"bfloat16"}


def test_adapters_of_peft_with_settings_of_their_own_are_added(tmp_path, tiny, forward):
    torch = pytest.importorskip("torch")
    transformers = pytest.importorskip("transformers")
    peft = pytest.importorskip("peft")
    model, graphdef, params = tiny("llama")
    write(tmp_path, model, params, source=None)
    plain = transformers.AutoModelForCausalLM.from_pretrained(tmp_path)
    settings = {"r": 3, "lora_alpha": 5, "use_rslora": True, "init_lora_weights": False}
    settings |= {"target_modules": ["q_proj", "down_proj"], "rank_pattern": {"q_proj": 2}}
    settings |= {"alpha_pattern": {"layers.1.mlp.down_proj": 9}}
    torch.manual_seed(0)
    theirs = peft.get_peft_model(plain, peft.LoraConfig(task_type="CAUSAL_LM", **settings)).eval()
    theirs.save_pretrained(tmp_path / "adapters")
    with torch.no_grad():
        expected = theirs(torch.tensor(TOKENS).long()).logits.numpy()
    merged = add_adapters(params, model, tmp_path / "adapters")
    assert np.abs(forward(graphdef, merged, *WHERE) - expected).max() < 1e-4
    path = tmp_path / "adapters" / "adapter_config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"use_dora": True}))
    with pytest.raises(UserError, match="use_dora is True, but only False is computed here"):
        add_adapters(params, model, tmp_path / "adapters")
    other = tiny("llama", num_layers=1)
    path.write_text(json.dumps(json.loads(path.read_text()) | {"use_dora": False}))
    with pytest.raises(UserError, match=r"model\.layers\.1\..*adapts nothing"):
        add_adapters(other[2], other[0], tmp_path / "adapters")


def test_a_tensor_that_would_be_left_out_is_refused(tmp_path, tiny):
    model, _, params = tiny("llama")
    q_proj = "base_model.model.model.layers.0.self_attn.q_proj"
    embed = "base_model.model.model.embed_tokens.lora_embedding_"
    content = {"peft_type": "LORA", "r": 1, "lora_alpha": 1}
    (tmp_path / "adapter_config.json").write_text(json.dumps(content))
    width = model.hidden_size
    both = {
        f"{q_proj}.lora_A.weight": np.ones((1, width), np.float32),
        f"{q_proj}.lora_B.weight": np.ones((width, 1), np.float32),
    }
    named = {name.replace(".weight", ".default.weight"): one for name, one in both.items()}
    table = {f"{embed}A": np.ones((1, 37), np.float32), f"{embed}B": np.ones((width, 1))}
    for tensors in (named, table, both | table, both | named):
        save_file(tensors, tmp_path / "adapter_model.safetensors")
        with pytest.raises(UserError, match="adapts nothing"):
            add_adapters(params, model, tmp_path)
    save_file({}, tmp_path / "adapter_model.safetensors")
    with pytest.raises(UserError, match="holds no adapters"):
        add_adapters(params, model, tmp_path)
    save_file(both, tmp_path / "adapter_model.safetensors")
    add_adapters(params, model, tmp_path)


def test_adapters_of_the_head_fit_a_vocabulary_that_is_padded(tmp_path, tiny):
    model, _, params = tiny("llama", tie_embeddings=False)
    padded = replace(model, vocab_padding=3)
    head = "base_model.model.lm_head"
    content = {"peft_type": "LORA", "r": 1, "lora_alpha": 1}
    (tmp_path / "adapter_config.json").write_text(json.dumps(content))
    outputs = np.arange(model.vocab_size, dtype=np.float32)[:, None]
    inputs = np.ones((1, model.hidden_size), np.float32)
    tensors = {f"{head}.lora_A.weight": inputs, f"{head}.lora_B.weight": outputs}
    save_file(tensors, tmp_path / "adapter_model.safetensors")
    wider = params | {"lm_head": {"kernel": jnp.pad(params["lm_head"]["kernel"], ((0, 0), (0, 3)))}}
    found = add_adapters(wider, padded, tmp_path)["lm_head"]["kernel"]
    expected = np.asarray(params["lm_head"]["kernel"]) + outputs[:, 0]
    assert np.asarray(found)[:, :-3] == pytest.approx(expected, abs=1e-5)
    assert not np.asarray(found)[:, -3:].any()


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"rank": 0}, "rank=0; give a whole number above 0"),
        ({"rank": 2, "alpha": 0.0}, "alpha=0.0; give a number above 0"),
        ({"rank": 2, "dropout": 1.0}, "dropout=1.0; give a share"),
    ],
)
def test_values_that_make_no_adapter_are_refused(given, message):
    with pytest.raises(UserError, match=message):
        LoRA(**given)


def test_a_target_that_is_not_there_is_refused_with_those_that_are(tiny):
    with pytest.raises(UserError, match=r"target 'gate' is none of all, q, k, v, o, up, down"):
        tiny("gpt2", lora=LoRA(2, targets=("gate",)))
    with pytest.raises(UserError, match=r"target 'q_proj' is none of .*did you mean q"):
        tiny("llama", lora=LoRA(2, targets=("q_proj",)))
