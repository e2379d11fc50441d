"""Folders written: the same bytes as were read, the same logits in transformers."""

import dataclasses
import json
from pathlib import Path

import jax
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.numpy import load_file, save_file

from zsg_jax.models import huggingface
from zsg_jax.models.families import FAMILIES
from zsg_jax.models.huggingface.write import DTYPES, write
from zsg_jax.models.model import abstract, apply, initialize
from zsg_jax.models.rotary import Llama3Scaling
from zsg_jax.runtime.errors import UserError

pytestmark = pytest.mark.references

ROTARY = {
    "vocab_size": 11,
    "hidden_size": 8,
    "intermediate_size": 6,
    "num_hidden_layers": 11,  # "10" comes before "2" where names are sorted as text
    "num_attention_heads": 2,
    "num_key_value_heads": 1,
    "max_position_embeddings": 32,
    "head_dim": 4,
}
GPT2 = {"vocab_size": 11, "n_embd": 8, "n_layer": 2, "n_head": 2, "n_positions": 32}
CONFIGS = {
    "llama": {**ROTARY, "model_type": "llama", "torch_dtype": "bfloat16", "bos_token_id": 7},
    "mistral": {**ROTARY, "model_type": "mistral", "sliding_window": 3},
    "qwen2": {**ROTARY, "model_type": "qwen2", "head_dim": None, "num_attention_heads": 2},
    "qwen3": {**ROTARY, "model_type": "qwen3", "tie_word_embeddings": True},
    "gpt2": {**GPT2, "model_type": "gpt2", "resid_pdrop": 0.3},
}


def tensor_shapes(config):
    """Names and shapes as Hugging Face has them, spelt out apart from the table in use."""
    if config["model_type"] == "gpt2":
        D, F = config["n_embd"], 4 * config["n_embd"]
        shapes = {"wte.weight": (config["vocab_size"], D), "wpe.weight": (32, D)}
        shapes |= {"ln_f.weight": (D,), "ln_f.bias": (D,)}
        for i in range(config["n_layer"]):
            for name, shape in {
                "attn.c_attn": (D, 3 * D),
                "attn.c_proj": (D, D),
                "mlp.c_fc": (D, F),
                "mlp.c_proj": (F, D),
            }.items():
                shapes[f"h.{i}.{name}.weight"] = shape
                shapes[f"h.{i}.{name}.bias"] = shape[1:]
            for name in ("ln_1", "ln_2"):
                shapes |= {f"h.{i}.{name}.weight": (D,), f"h.{i}.{name}.bias": (D,)}
        return shapes
    D, F, V = config["hidden_size"], config["intermediate_size"], config["vocab_size"]
    heads, kv = config["num_attention_heads"], config["num_key_value_heads"]
    H = config["head_dim"] or D // heads
    shapes = {"model.embed_tokens.weight": (V, D), "model.norm.weight": (D,)}
    if not config.get("tie_word_embeddings"):
        shapes["lm_head.weight"] = (V, D)
    for i in range(config["num_hidden_layers"]):
        layer = f"model.layers.{i}"
        for name, shape in {
            "self_attn.q_proj": (heads * H, D),
            "self_attn.k_proj": (kv * H, D),
            "self_attn.v_proj": (kv * H, D),
            "self_attn.o_proj": (D, heads * H),
            "mlp.gate_proj": (F, D),
            "mlp.up_proj": (F, D),
            "mlp.down_proj": (D, F),
        }.items():
            shapes[f"{layer}.{name}.weight"] = shape
            if config["model_type"] == "qwen2" and name[10] in "qkv" and name[:4] == "self":
                shapes[f"{layer}.{name}.bias"] = shape[:1]
        for name in ("input_layernorm", "post_attention_layernorm"):
            shapes[f"{layer}.{name}.weight"] = (D,)
        if config["model_type"] == "qwen3":
            for name in ("q_norm", "k_norm"):
                shapes[f"{layer}.self_attn.{name}.weight"] = (H,)
    return shapes


def make(folder, config, dtype=np.float32, prefix="", shards=0, seed=0):
    folder.mkdir(parents=True)
    rng = np.random.default_rng(seed)
    data = {
        prefix + name: rng.normal(size=shape).astype(dtype)
        for name, shape in tensor_shapes(config).items()
    }
    (folder / "config.json").write_text(json.dumps(config))
    if not shards:
        save_file(data, folder / "model.safetensors")
        return data
    table = {name: f"part-{i % shards}.safetensors" for i, name in enumerate(sorted(data))}
    for file in set(table.values()):
        save_file({n: data[n] for n, f in table.items() if f == file}, folder / file)
    (folder / "model.safetensors.index.json").write_text(json.dumps({"weight_map": table}))
    return data


def read_all(folder):
    tensors = {}
    for path in sorted(folder.glob("*.safetensors")):
        part = load_file(path)
        assert not tensors.keys() & part.keys()
        tensors |= part
    return tensors


def there_and_back(source, target, file_bytes=5 * 10**9, dtype="same", padding=0):
    model = huggingface.read_config(source)
    model = dataclasses.replace(model, vocab_padding=padding)
    params = huggingface.load(source, model)
    target.mkdir()
    write(target, model, params, source=source, dtype=dtype, file_bytes=file_bytes)


@settings(max_examples=12, deadline=None)
@given(
    family=st.sampled_from(sorted(CONFIGS)),
    dtype=st.sampled_from(list(DTYPES.values())),
    shards=st.sampled_from([0, 3]),
    file_bytes=st.sampled_from([1, 700, 10**9]),
    padding=st.sampled_from([0, 5]),
    seed=st.integers(0, 9),
)
def test_there_and_back_gives_the_same_bytes(
    tmp_path_factory, family, dtype, shards, file_bytes, padding, seed
):
    folder = tmp_path_factory.mktemp("folders")
    prefix = "transformer." if family == "gpt2" and seed % 2 else ""
    data = make(folder / "a", CONFIGS[family], dtype, prefix, shards, seed)
    there_and_back(folder / "a", folder / "b", file_bytes, padding=padding)
    again = read_all(folder / "b")
    assert again.keys() == data.keys()
    for name, tensor in data.items():
        assert again[name].dtype == tensor.dtype, name
        assert again[name].shape == tensor.shape, name
        assert again[name].tobytes() == tensor.tobytes(), name
    configs = [json.loads((folder / one / "config.json").read_text()) for one in "ab"]
    assert configs[0] == configs[1]
    files = sorted((folder / "b").glob("*.safetensors"))
    if file_bytes == 10**9:
        assert [file.name for file in files] == ["model.safetensors"]
    elif file_bytes == 1:
        assert len(files) == len(data)
    else:
        index = json.loads((folder / "b" / "model.safetensors.index.json").read_text())
        assert index["metadata"]["total_size"] == sum(t.nbytes for t in data.values())
        for file in files:
            part = load_file(file)
            assert len(part) == 1 or sum(t.nbytes for t in part.values()) <= 700
            assert {index["weight_map"][name] for name in part} == {file.name}


def test_buffers_beside_the_parameters_are_no_hindrance(tmp_path):
    data = make(tmp_path / "a", CONFIGS["gpt2"])
    buffers = {"h.0.attn.bias": np.ones((1, 1, 4, 4), bool)}
    save_file(data | buffers, tmp_path / "a" / "model.safetensors")
    there_and_back(tmp_path / "a", tmp_path / "b")
    assert read_all(tmp_path / "b").keys() == data.keys()


def test_another_dtype_is_rounded_and_told_and_what_does_not_fit_is_refused(tmp_path):
    data = make(tmp_path / "a", CONFIGS["llama"])
    there_and_back(tmp_path / "a", tmp_path / "b", dtype="float16")
    found = read_all(tmp_path / "b")
    assert all((found[k] == data[k].astype(np.float16)).all() for k in data)
    assert json.loads((tmp_path / "b" / "config.json").read_text())["torch_dtype"] == "float16"
    data["model.norm.weight"][3] = 1e6
    save_file(data, tmp_path / "a" / "model.safetensors")
    with pytest.raises(
        UserError, match=r"'model\.norm\.weight' holds numbers too large for float16"
    ):
        there_and_back(tmp_path / "a", tmp_path / "c", dtype="float16")


@pytest.mark.parametrize("family", FAMILIES)
def test_a_model_from_scratch_is_the_same_in_transformers(tmp_path, family):
    torch = pytest.importorskip("torch")
    transformers = pytest.importorskip("transformers")
    model = FAMILIES[family].sized("tiny", 37, 64)
    if family == "mistral":
        model = dataclasses.replace(model, windows=(4,))
    if family == "llama":
        scaling = Llama3Scaling(4.0, 1.0, 4.0, 16)
        model = dataclasses.replace(model, rope_scaling=scaling, tie_embeddings=False)
    params = initialize(model, jax.random.key(0))
    rng = np.random.default_rng(0)
    params = jax.tree.map(lambda x: x + rng.normal(size=x.shape).astype(np.float32) * 0.1, params)
    write(tmp_path, model, params, source=None, more={"eos_token_id": 2})
    assert huggingface.read_config(tmp_path) == model
    theirs = transformers.AutoModelForCausalLM.from_pretrained(tmp_path).eval()
    assert theirs.config.eos_token_id == 2
    tokens = rng.integers(0, 37, (2, 19)).astype(np.int32)
    with torch.no_grad():
        expected = theirs(torch.tensor(tokens).long()).logits.numpy()
    graphdef, _ = abstract(model)
    place = np.broadcast_to(np.arange(19), (2, 19))
    logits = jax.jit(apply, static_argnums=0)(graphdef, params, tokens, place, np.ones_like(tokens))
    assert np.abs(logits - expected).max() < 1e-4
    assert np.abs(expected).max() > 0.5


def test_buffers_and_a_copied_head_of_gpt2_files_are_passed_over(tmp_path):
    data = make(tmp_path / "a", CONFIGS["gpt2"])
    extra = {
        "h.0.attn.bias": np.ones((1, 1, 4, 4), np.float32),
        "lm_head.weight": data["wte.weight"],
    }
    save_file(data | extra, tmp_path / "a" / "model.safetensors")
    there_and_back(tmp_path / "a", tmp_path / "b")
    assert read_all(tmp_path / "b").keys() == data.keys()
    save_file(
        data | extra | {"lm_head.weight": -extra["lm_head.weight"]},
        tmp_path / "a/model.safetensors",
    )
    with pytest.raises(UserError, match=r"no place for, such as 'lm_head\.weight'"):
        huggingface.load(tmp_path / "a", huggingface.read_config(tmp_path / "a"))


@pytest.mark.parametrize(
    ("family", "changes", "message"),
    [
        ("mistral", {"sliding_window": "wide"}, "sliding_window is 'wide'"),
        ("mistral", {"hidden_act": "gelu"}, "hidden_act is 'gelu', but only 'silu'"),
        ("mistral", {"num_key_value_heads": None}, "'num_key_value_heads' is missing"),
        ("qwen2", {"use_sliding_window": True}, "use_sliding_window is True"),
        ("qwen2", {"rope_scaling": {"type": "yarn", "factor": 4.0}}, "rope_type is 'yarn'"),
        ("qwen3", {"layer_types": ["sliding_attention"]}, "layer_types is 'sliding_attention'"),
        ("qwen3", {"attention_bias": True}, "attention_bias is True"),
        ("qwen3", {"quantization_config": {"bits": 4}}, "quantization_config is"),
        ("gpt2", {"activation_function": "relu"}, "activation_function is 'relu'"),
        ("gpt2", {"scale_attn_by_inverse_layer_idx": True}, "scale_attn_by_inverse_layer_idx"),
        ("gpt2", {"tie_word_embeddings": False}, "tie_word_embeddings is False"),
        ("llama", {"architectures": ["MistralForCausalLM"]}, "architectures is"),
        ("llama", {"architectures": ["LlamaForTokenClassification"]}, "architectures is"),
        ("llama", {"model_type": "mamba"}, "model_type is 'mamba', but only 'llama', 'mistral'"),
        ("llama", {"model_type": None}, "'model_type' is missing"),
        ("llama", {"sideways": 1}, "sideways is 1, a key not known here"),
    ],
    ids=str,
)
def test_what_is_not_computed_is_refused_by_name_in_one_line(tmp_path, family, changes, message):
    (tmp_path / "config.json").write_text(json.dumps(CONFIGS[family] | changes))
    with pytest.raises(UserError, match=message) as caught:
        huggingface.read_config(tmp_path)
    assert str(tmp_path / "config.json") in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_window_left_out_is_not_guessed_and_architectures_may_tell_the_family(tmp_path):
    config = {k: v for k, v in CONFIGS["mistral"].items() if k != "sliding_window"}
    path = Path(tmp_path / "config.json")
    path.write_text(json.dumps(config))
    with pytest.raises(UserError, match="'sliding_window' is missing; give its width, or null"):
        huggingface.read_config(tmp_path)
    del config["model_type"]
    config |= {"sliding_window": None, "architectures": ["MistralForCausalLM"]}
    path.write_text(json.dumps(config))
    assert huggingface.read_config(tmp_path).windows == (None,)
