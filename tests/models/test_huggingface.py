"""Folders read: what is in them, exactly, or a refusal that names file and key."""

import json
import shutil
from pathlib import Path

import jax
import jax.numpy as jnp
import ml_dtypes
import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from zsg_jax.models import encoder, huggingface
from zsg_jax.models.model import abstract, apply
from zsg_jax.runtime.errors import UserError

pytestmark = pytest.mark.references

CONFIG = {
    "model_type": "llama",
    "vocab_size": 32,
    "hidden_size": 16,
    "intermediate_size": 24,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 4,
    "max_position_embeddings": 64,
    "tie_word_embeddings": False,
}
BERT = {
    "model_type": "bert",
    "vocab_size": 32,
    "hidden_size": 8,
    "intermediate_size": 12,
    "num_hidden_layers": 1,
    "num_attention_heads": 2,
}


def load(folder):
    return huggingface.load(folder, huggingface.read_config(folder))


@pytest.mark.parametrize("dtype", [np.float32, np.float16, ml_dtypes.bfloat16])
@pytest.mark.parametrize("shards", [0, 3])
def test_every_dtype_is_read_exactly_as_float32_and_kernels_lie_inputs_first(
    tmp_path, dtype, shards, make_folder
):
    data = make_folder(tmp_path, CONFIG, dtype, shards=shards)
    params = load(tmp_path)
    assert {leaf.dtype for leaf in jax.tree.leaves(params)} == {jnp.dtype("float32")}
    down = params["layers"]["mlp"]["down"]["kernel"][1]
    assert (down == data["model.layers.1.mlp.down_proj.weight"].T.astype(np.float32)).all()
    embedding = data["model.embed_tokens.weight"].astype(np.float32)
    assert (params["embed"]["embedding"] == embedding).all()


def test_tied_tables_may_be_stored_twice_only_while_they_are_equal(tmp_path, make_folder):
    table = np.random.default_rng(1).normal(size=(32, 16)).astype(np.float32)
    tied = CONFIG | {"tie_word_embeddings": True}
    # Buffers of old files are passed over.
    tensors = {"model.layers.0.self_attn.rotary_emb.inv_freq": np.ones(2)}
    tensors |= {"model.embed_tokens.weight": table, "lm_head.weight": table.copy()}
    make_folder(tmp_path, tied, tensors=tensors)
    assert "lm_head" not in load(tmp_path)
    make_folder(tmp_path, tied, tensors=tensors | {"lm_head.weight": -table})
    with pytest.raises(UserError, match=r"no place for, such as 'lm_head\.weight'"):
        load(tmp_path)


@pytest.mark.parametrize(
    ("family", "changes", "message"),
    [
        ("llama", {"model_type": "phi"}, "'phi', but only 'llama', 'mistral', 'qwen2'"),
        ("llama", {"model_type": None}, "'model_type' is missing"),
        ("llama", {"architectures": ["MistralForCausalLM"]}, "architectures is"),
        ("llama", {"architectures": ["LlamaForTokenClassification"]}, "architectures is"),
        ("llama", {"hidden_act": "gelu"}, "hidden_act is 'gelu', but only 'silu'"),
        ("llama", {"attention_bias": True}, "attention_bias is True"),
        ("llama", {"mlp_bias": True}, "mlp_bias is True"),
        ("llama", {"rope_scaling": {"type": "dynamic", "factor": 2}}, "rope_type is 'dynamic'"),
        (
            "llama",
            {"rope_parameters": {"rope_theta": 1e4, "rope_type": "llama3", "factor": 8.0}},
            "rope_parameters.low_freq_factor is missing",
        ),
        (
            "llama",
            {
                "rope_scaling": {"type": "linear", "factor": 3.0},
                "rope_parameters": {"rope_type": "default", "rope_theta": 77.0},
            },
            "rope_scaling and rope_parameters disagree",
        ),
        ("gemma2", {"sliding_window_pattern": 3}, "sliding_window_pattern is 3"),
        ("gemma3_text", {"_sliding_window_pattern": 3}, "_sliding_window_pattern is 3"),
        ("llama", {"rope_parameters": {"full_attention": {}}}, "full_attention is {}"),
        ("llama", {"rope_parameters": {"rope_theta": "big"}}, "rope_theta='big'"),
        ("phi3", {"rope_scaling": {"type": "longrope"}}, "rope_type is 'longrope'"),
        ("gemma3_text", {"attn_logit_softcapping": 9.0}, "attn_logit_softcapping is 9.0"),
        ("gemma2", {"use_bidirectional_attention": True}, "use_bidirectional_attention is True"),
        ("olmo3", {"layer_types": ["full_attention"]}, "names 1 layers of 11"),
        ("ministral", {"layer_types": ["chunked_attention"]}, "is 'chunked_attention'"),
        ("smollm3", {"no_rope_layers": [1, 2]}, r"no_rope_layers is \[1, 2\]"),
        ("llama", {"model_type": "gemma3"}, "model_type is 'gemma3', but only"),
        ("llama", {"model_type": "mixtral"}, "model_type is 'mixtral', but only"),
        ("qwen3_moe", {"mlp_only_layers": [1]}, r"mlp_only_layers is \[1\], but only"),
        ("qwen3_moe", {"decoder_sparse_step": 2}, "decoder_sparse_step is 2, but only"),
        ("qwen3_moe", {"num_experts_per_tok": 13}, "chosen=13 of 12"),
        ("gemma3_text", {"use_bidirectional_attention": True}, "bidirectional_attention is True"),
        ("llama", {"rope_scaling": 2}, "rope_scaling is 2"),
        ("llama", {"quantization_config": {"bits": 4}}, "quantization_config is {'bits': 4}"),
        ("llama", {"sliding_window": 128}, "sliding_window is 128, a key not known here"),
        ("llama", {"num_hidden_layers": None}, "'num_hidden_layers' is missing"),
        ("llama", {"num_hidden_layers": "two"}, "num_hidden_layers is 'two'"),
        ("llama", {"hidden_size": 16.0, "head_dim": None}, "hidden_size=16.0"),
        ("llama", {"num_key_value_heads": 3}, "num_kv_heads=3"),
        ("mistral", {"sliding_window": "wide"}, "sliding_window is 'wide'"),
        ("mistral", {"num_key_value_heads": None}, "'num_key_value_heads' is missing"),
        ("qwen2", {"use_sliding_window": True}, "use_sliding_window is True"),
        ("qwen2", {"rope_scaling": {"type": "yarn"}}, "factor or mscale of yarn is missing"),
        (
            "qwen2",
            {"rope_scaling": {"type": "yarn", "factor": 4.0}},
            "original_max_position_embeddings is missing",
        ),
        ("qwen3", {"layer_types": ["sliding_attention"]}, "layer_types is 'sliding_attention'"),
        ("qwen3", {"attention_bias": True}, "attention_bias is True"),
        ("gpt2", {"activation_function": "relu"}, "activation_function is 'relu'"),
        ("gpt2", {"scale_attn_by_inverse_layer_idx": True}, "scale_attn_by_inverse_layer_idx"),
        ("gpt2", {"tie_word_embeddings": False}, "tie_word_embeddings is False"),
    ],
    ids=str,
)
def test_what_is_not_computed_is_refused_by_name_in_one_line(
    tmp_path, family, changes, message, configs
):
    (tmp_path / "config.json").write_text(json.dumps(configs[family] | changes))
    with pytest.raises(UserError, match=message) as caught:
        huggingface.read_config(tmp_path)
    assert str(tmp_path / "config.json") in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    "more",
    [
        # As SmolLM2 has them.
        {"is_llama_config": True, "rope_interleaved": False, "transformers.js_config": {"a": 1}},
        # As copies of Unsloth have them.
        {"unsloth_fixed": True, "unsloth_version": "2025.9.1", "_commit_hash": "abc"},
        # As old versions of transformers wrote all they knew.
        {"do_sample": True, "temperature": 0.6, "top_p": 0.9, "max_length": 4096, "num_beams": 1}
        | {"pruned_heads": {}, "torchscript": False, "is_decoder": True, "num_labels": 2}
        | {"add_cross_attention": False, "tie_encoder_decoder": False, "output_scores": False},
        # As several write what they do not have.
        {"use_sliding_window": False, "partial_rotary_factor": 1.0, "mlp_bias": False},
    ],
    ids=lambda more: next(iter(more)),
)
def test_keys_that_change_nothing_change_nothing(tmp_path, more, configs):
    for family in ("llama", "mistral", "qwen2", "qwen3"):
        read = []
        for config in (configs[family], configs[family] | more):
            (tmp_path / "config.json").write_text(json.dumps(config))
            read.append(huggingface.read_config(tmp_path))
        assert read[0] == read[1]


@pytest.mark.parametrize(
    "more",
    [
        {"rope_interleaved": True},
        {"unslothed": 1},
        {"partial_rotary_factor": 0.5},
        {"pruned_heads": {"0": [1]}},
        {"attention_multiplier": 2.0},
        {"use_sliding_window": True},
    ],
    ids=str,
)
def test_keys_that_may_change_something_are_refused_by_name(tmp_path, more, configs):
    for family in ("llama", "mistral", "qwen2", "qwen3"):
        (tmp_path / "config.json").write_text(json.dumps(configs[family] | more))
        with pytest.raises(UserError, match=f"{next(iter(more))} is "):
            huggingface.read_config(tmp_path)


def test_a_window_left_out_is_not_guessed_and_architectures_may_tell_the_family(tmp_path, configs):
    config = {k: v for k, v in configs["mistral"].items() if k != "sliding_window"}
    path = Path(tmp_path / "config.json")
    path.write_text(json.dumps(config))
    with pytest.raises(UserError, match="'sliding_window' is missing; give its width, or null"):
        huggingface.read_config(tmp_path)
    del config["model_type"]
    config |= {"sliding_window": None, "architectures": ["MistralForCausalLM"]}
    path.write_text(json.dumps(config))
    assert huggingface.read_config(tmp_path).windows == (None,)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"model_type": "t5"}, "model_type is 't5', but only 'bert', 'roberta'"),
        ({"hidden_act": "gelu_new"}, "hidden_act is 'gelu_new'"),
        ({"position_embedding_type": "relative_key"}, "position_embedding_type is 'relative_key'"),
        ({"is_decoder": True}, "is_decoder is True"),
    ],
    ids=str,
)
def test_a_bert_config_that_is_not_computed_here_is_refused_by_name(tmp_path, changes, message):
    (tmp_path / "config.json").write_text(json.dumps(BERT | changes))
    with pytest.raises(UserError, match=message):
        huggingface.read_encoder_config(tmp_path)


def test_configs_of_older_and_newer_transformers_are_read(tmp_path):
    for extra in (
        {"rope_theta": 5e5, "rope_scaling": None, "torch_dtype": "float16", "pretraining_tp": 1},
        {"rope_parameters": {"rope_theta": 5e5, "rope_type": "default"}, "dtype": "bfloat16"},
        {"rope_theta": 5e5, "rope_scaling": {"type": "default"}},
    ):
        (tmp_path / "config.json").write_text(json.dumps(CONFIG | extra))
        config = huggingface.read_config(tmp_path)
        assert (config.rope_theta, config.head_dim, config.rms_norm_eps) == (5e5, 4, 1e-6)


def test_missing_and_broken_json_is_named(tmp_path):
    with pytest.raises(UserError, match=r"nowhere/config\.json: no folder .*nowhere; give"):
        huggingface.read_config(tmp_path / "nowhere")
    with pytest.raises(UserError, match=r"config\.json: no such file; give"):
        huggingface.read_config(tmp_path)
    (tmp_path / "config.json").write_text('{"model_type": "lla')
    with pytest.raises(UserError, match=r"config\.json: cannot be read as JSON"):
        huggingface.read_config(tmp_path)


def test_a_truncated_or_damaged_file_is_named(tmp_path, make_folder):
    make_folder(tmp_path, CONFIG)
    path = tmp_path / "model.safetensors"
    whole = path.read_bytes()
    for broken in (whole[:-100], whole[:50], b"", b"\xff" * 8 + whole[8:]):
        path.write_bytes(broken)
        with pytest.raises(UserError, match=r"model\.safetensors: truncated or damaged") as caught:
            load(tmp_path)
        assert "\n" not in str(caught.value)
    path.unlink()
    with pytest.raises(UserError, match=r"model\.safetensors: no such file"):
        load(tmp_path)


def test_a_missing_shard_and_a_broken_index_are_named(tmp_path, make_folder):
    make_folder(tmp_path, CONFIG, shards=3)
    kept, other = (tmp_path / f"part-{number}.safetensors" for number in (1, 2))
    whole = other.read_bytes()
    shutil.copy(kept, other)
    with pytest.raises(UserError, match=r"part-2\.safetensors: tensor .* stands in part-1\.safe"):
        load(tmp_path)
    other.write_bytes(whole)
    (tmp_path / "part-1.safetensors").unlink()
    with pytest.raises(UserError, match=r"part-1\.safetensors: no such file, although model.*json"):
        load(tmp_path)
    index = tmp_path / "model.safetensors.index.json"
    for content in ("{}", "[]", '{"weight_map": {"a": "../secret"}}', '{"weight_map": {"a": 1}}'):
        index.write_text(content)
        with pytest.raises(UserError, match=r"index\.json: no 'weight_map'"):
            load(tmp_path)


@pytest.mark.parametrize(
    ("tensors", "message"),
    [
        (
            {"model.norm.weight": np.ones(17, np.float32)},
            r"tensor 'model\.norm\.weight' has shape \(17,\), config\.json makes it \(16,\)",
        ),
        (
            {"model.layers.1.mlp.down_proj.weight": np.ones((24, 16), np.float32)},
            r"down_proj\.weight' has shape \(24, 16\), config\.json makes it \(16, 24\)",
        ),
        ({"lm_head.weight": None}, r"no tensor 'lm_head\.weight'"),
        (
            {"model.layers.0.self_attn.q_proj.bias": np.ones(16, np.float32)},
            r"1 tensors .* such as 'model\.layers\.0\.self_attn\.q_proj\.bias'",
        ),
        ({"model.norm.weight": np.ones(16, np.int8)}, r"'model\.norm\.weight' is I8; only F32"),
    ],
)
def test_a_wrong_missing_or_unexpected_tensor_is_named(tmp_path, tensors, message, make_folder):
    make_folder(tmp_path, CONFIG, tensors=tensors)
    with pytest.raises(UserError, match=message) as caught:
        load(tmp_path)
    assert str(tmp_path / "model.safetensors") in str(caught.value)


def write_bert(folder, prefix=""):
    (folder / "config.json").write_text(json.dumps(BERT))
    rng = np.random.default_rng(0)
    data = {"embeddings.position_ids": np.arange(512)[None]}
    shapes = {"pooler.dense.weight": (8, 8), "embeddings.LayerNorm": (8,)}
    shapes |= {"embeddings.word_embeddings": (32, 8), "embeddings.position_embeddings": (512, 8)}
    shapes |= {"embeddings.token_type_embeddings": (2, 8)}
    layer = "encoder.layer.0"
    for name in ("self.query", "self.key", "self.value", "output.dense"):
        shapes[f"{layer}.attention.{name}"] = (8, 8)
    shapes |= {f"{layer}.intermediate.dense": (12, 8), f"{layer}.output.dense": (8, 12)}
    shapes |= {f"{layer}.attention.output.LayerNorm": (8,), f"{layer}.output.LayerNorm": (8,)}
    for name, shape in shapes.items():
        data[f"{name}.weight"] = rng.normal(size=shape).astype(np.float32)
        if not name.endswith("embeddings"):
            data[f"{name}.bias"] = rng.normal(size=shape[:1]).astype(np.float32)
    save_file({prefix + k: v for k, v in data.items()}, folder / "model.safetensors")


def test_bert_is_read_with_and_without_a_prefix(tmp_path):
    loaded = []
    for prefix in ("", "bert."):
        write_bert(tmp_path, prefix)
        config = huggingface.read_encoder_config(tmp_path)
        loaded.append(huggingface.load_encoder(tmp_path, config))
    assert jax.tree.structure(loaded[0]) == jax.tree.structure(encoder.abstract(config)[1])
    jax.tree.map(np.testing.assert_array_equal, *loaded)
    data = load_file(tmp_path / "model.safetensors")
    data["bert.encoder.layer.1.output.dense.bias"] = np.ones(8, np.float32)
    save_file(data, tmp_path / "model.safetensors")
    with pytest.raises(UserError, match=r"such as 'bert\.encoder\.layer\.1\.output\.dense\.bias'"):
        huggingface.load_encoder(tmp_path, config)


def test_a_pretrained_llama_tells_its_story_as_transformers_does(assets):
    torch = pytest.importorskip("torch")
    transformers = pytest.importorskip("transformers")
    tokenizers = pytest.importorskip("tokenizers")
    folder = assets / "models" / "stories260k"
    tokenizer = tokenizers.Tokenizer.from_file(str(folder / "tokenizer.json"))
    start = "Once upon a time, there was a little girl"
    story = f"{start} named Lily. She loved to play outside in the park."
    known, ids = (
        [1, *tokenizer.encode(text, add_special_tokens=False).ids] for text in (start, story)
    )
    theirs = transformers.LlamaForCausalLM.from_pretrained(folder).eval()
    with torch.no_grad():
        expected = theirs(torch.tensor([ids])).logits.numpy()
    tokens = np.asarray([ids], np.int32)
    forward = jax.jit(apply, static_argnums=0)
    graphdef, _ = abstract(huggingface.read_config(folder))
    where = np.arange(len(ids))[None], np.ones_like(tokens)
    logits = np.asarray(forward(graphdef, load(folder), tokens, *where))
    assert np.abs(logits - expected).max() < 1e-4
    # Every token that goes on from there is the likeliest one.
    assert (logits[0, len(known) - 1 : -1].argmax(-1) == ids[len(known) :]).all()


@pytest.mark.parametrize("given", ["x", [1, "x"], True, [-1], [1.0]])
def test_what_ends_a_text_is_told_by_numbers_of_tokens(tmp_path, given):
    (tmp_path / "generation_config.json").write_text(json.dumps({"eos_token_id": given}))
    with pytest.raises(UserError, match=r"generation_config\.json: eos_token_id=.* is no id"):
        huggingface.eos_ids(tmp_path)


def test_what_ends_a_text_may_be_several_tokens(tmp_path):
    assert huggingface.eos_ids(None) == huggingface.eos_ids(tmp_path) == ()
    for given, ends in ((0, (0,)), ([0, 3], (0, 3)), (None, ())):
        (tmp_path / "generation_config.json").write_text(json.dumps({"eos_token_id": given}))
        assert huggingface.eos_ids(tmp_path) == ends
