import json
import os
import subprocess
import sys
from pathlib import Path

import jax
import jax.numpy as jnp
import ml_dtypes
import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from zsg_jax.models import bert, huggingface
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
SHARDED_LOAD = """
import sys, jax, numpy as np
from jax.sharding import AxisType, NamedSharding, PartitionSpec as P
from zsg_jax.models import huggingface, model as models
from zsg_jax.models.huggingface import weights
folder = sys.argv[1]
config = huggingface.read_config(folder)
whole = huggingface.load(folder, config)
mesh = jax.make_mesh((2, 2), ("fsdp", "tensor"), axis_types=(AxisType.Auto,) * 2)
specs = {3: P(None, "fsdp", "tensor"), 2: P("fsdp", "tensor"), 1: P()}
shardings = jax.tree_util.tree_map_with_path(
    lambda path, x: NamedSharding(mesh, P() if "scale" in str(path) else specs[x.ndim]), whole)
sizes, reader = [], weights.Weights.reader
def counting(self, *args):
    read = reader(self, *args)
    return lambda index: sizes.append(read(index).size) or read(index)
weights.Weights.reader = counting
wanted = jax.tree.map(
    lambda x, s: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=s), whole, shardings)
parts = huggingface.load(folder, config, wanted)
same = jax.tree.map(lambda a, b, s: bool((np.asarray(a) == np.asarray(b)).all()) and
                    b.sharding == s and b.dtype == "float32", whole, parts, shardings)
assert all(jax.tree.leaves(same)), same
# Each quarter once, each copied vector once: every number is read once in all.
assert sum(sizes) == models.count(whole), (sum(sizes), models.count(whole))
assert max(sizes) == 32 * 16 // 4
"""


def names(config):
    """Tensor names and shapes of a Hugging Face Llama, spelt out apart from the loader's table."""
    D, F, V = config["hidden_size"], config["intermediate_size"], config["vocab_size"]
    kv = D // config["num_attention_heads"] * config["num_key_value_heads"]
    shapes = {"model.embed_tokens.weight": (V, D), "model.norm.weight": (D,)}
    shapes["lm_head.weight"] = (V, D)
    for i in range(config["num_hidden_layers"]):
        layer = f"model.layers.{i}"
        for name, shape in {
            "self_attn.q_proj": (D, D),
            "self_attn.k_proj": (kv, D),
            "self_attn.v_proj": (kv, D),
            "self_attn.o_proj": (D, D),
            "mlp.gate_proj": (F, D),
            "mlp.up_proj": (F, D),
            "mlp.down_proj": (D, F),
            "input_layernorm": (D,),
            "post_attention_layernorm": (D,),
        }.items():
            shapes[f"{layer}.{name}.weight"] = shape
    return shapes


def write(folder, dtype=np.float32, tensors=None, shards=0, **changes):
    """A random Llama in `folder`; `tensors` changes, adds or (None) removes some of its tensors."""
    folder.mkdir(exist_ok=True)
    rng = np.random.default_rng(0)
    data = {k: rng.normal(size=s).astype(dtype) for k, s in names(CONFIG).items()}
    data = {k: v for k, v in (data | (tensors or {})).items() if v is not None}
    (folder / "config.json").write_text(json.dumps(CONFIG | changes))
    if not shards:
        save_file(data, folder / "model.safetensors")
        return data
    table = {name: f"part-{i % shards}.safetensors" for i, name in enumerate(sorted(data))}
    for file in set(table.values()):
        save_file({n: data[n] for n, f in table.items() if f == file}, folder / file)
    index = {"metadata": {}, "weight_map": table}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))
    return data


def load(folder):
    return huggingface.load(folder, huggingface.read_config(folder))


@pytest.mark.parametrize("dtype", [np.float32, np.float16, ml_dtypes.bfloat16])
@pytest.mark.parametrize("shards", [0, 3])
def test_every_dtype_is_read_exactly_as_float32_and_kernels_lie_inputs_first(
    tmp_path, dtype, shards
):
    data = write(tmp_path, dtype, shards=shards)
    params = load(tmp_path)
    assert {leaf.dtype for leaf in jax.tree.leaves(params)} == {jnp.dtype("float32")}
    down = params["layers"]["mlp"]["down"]["kernel"][1]
    assert (down == data["model.layers.1.mlp.down_proj.weight"].T.astype(np.float32)).all()
    embedding = data["model.embed_tokens.weight"].astype(np.float32)
    assert (params["embed"]["embedding"] == embedding).all()


def test_on_a_mesh_every_device_reads_its_own_part(tmp_path):
    write(tmp_path, shards=2)
    flags = {"XLA_FLAGS": "--xla_force_host_platform_device_count=4", "JAX_PLATFORMS": "cpu"}
    root = str(Path(huggingface.__file__).parents[3])
    run = subprocess.run(
        [sys.executable, "-c", SHARDED_LOAD, str(tmp_path)],
        env=os.environ | flags | {"PYTHONPATH": root},
        capture_output=True,
        text=True,
        check=False,
    )
    assert run.returncode == 0, run.stderr


def test_tied_tables_may_be_stored_twice_only_while_they_are_equal(tmp_path):
    table = np.random.default_rng(1).normal(size=(32, 16)).astype(np.float32)
    tensors = {"model.embed_tokens.weight": table, "lm_head.weight": table.copy()}
    write(tmp_path, tensors=tensors, tie_word_embeddings=True)
    assert "lm_head" not in load(tmp_path)
    write(tmp_path, tensors=tensors | {"lm_head.weight": -table}, tie_word_embeddings=True)
    with pytest.raises(UserError, match=r"no place for, such as 'lm_head\.weight'"):
        load(tmp_path)


def test_buffers_of_old_files_are_passed_over(tmp_path):
    write(tmp_path, tensors={"model.layers.0.self_attn.rotary_emb.inv_freq": np.ones(2)})
    load(tmp_path)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"model_type": "phi3"}, "model_type is 'phi3', but only 'llama', 'mistral', 'qwen2'"),
        ({"hidden_act": "gelu"}, "hidden_act is 'gelu', but only 'silu'"),
        ({"attention_bias": True}, "attention_bias is True"),
        ({"mlp_bias": True}, "mlp_bias is True"),
        ({"rope_scaling": {"type": "dynamic", "factor": 2}}, "rope_scaling.rope_type is 'dynamic'"),
        (
            {"rope_parameters": {"rope_theta": 1e4, "rope_type": "llama3", "factor": 8.0}},
            "rope_parameters.low_freq_factor is missing",
        ),
        ({"rope_parameters": {"full_attention": {}}}, "rope_parameters.full_attention is {}"),
        ({"rope_parameters": {"rope_theta": "big"}}, "config.json: .*rope_theta='big'"),
        ({"rope_scaling": 2}, "rope_scaling is 2"),
        ({"quantization_config": {"bits": 4}}, "quantization_config is {'bits': 4}"),
        ({"sliding_window": 128}, "sliding_window is 128, a key not known here"),
        ({"num_hidden_layers": None}, "'num_hidden_layers' is missing"),
        ({"num_hidden_layers": "two"}, "num_hidden_layers is 'two'"),
        ({"num_key_value_heads": 3}, "config.json: .*num_kv_heads=3"),
    ],
    ids=str,
)
def test_a_llama_config_that_is_not_computed_here_is_refused_by_name(tmp_path, changes, message):
    (tmp_path / "config.json").write_text(json.dumps(CONFIG | changes))
    with pytest.raises(UserError, match=message) as caught:
        huggingface.read_config(tmp_path)
    assert str(tmp_path / "config.json") in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"model_type": "roberta"}, "model_type is 'roberta', but only 'bert'"),
        ({"hidden_act": "gelu_new"}, "hidden_act is 'gelu_new'"),
        ({"position_embedding_type": "relative_key"}, "position_embedding_type is 'relative_key'"),
        ({"is_decoder": True}, "is_decoder is True"),
    ],
    ids=str,
)
def test_a_bert_config_that_is_not_computed_here_is_refused_by_name(tmp_path, changes, message):
    (tmp_path / "config.json").write_text(json.dumps(BERT | changes))
    with pytest.raises(UserError, match=message):
        huggingface.read_bert_config(tmp_path)


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


def test_a_truncated_or_damaged_file_is_named(tmp_path):
    write(tmp_path)
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


def test_a_missing_shard_and_a_broken_index_are_named(tmp_path):
    write(tmp_path, shards=3)
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
def test_a_wrong_missing_or_unexpected_tensor_is_named(tmp_path, tensors, message):
    write(tmp_path, tensors=tensors)
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
        config = huggingface.read_bert_config(tmp_path)
        loaded.append(huggingface.load_bert(tmp_path, config))
    assert jax.tree.structure(loaded[0]) == jax.tree.structure(bert.abstract(config)[1])
    jax.tree.map(np.testing.assert_array_equal, *loaded)
    data = load_file(tmp_path / "model.safetensors")
    data["bert.encoder.layer.1.output.dense.bias"] = np.ones(8, np.float32)
    save_file(data, tmp_path / "model.safetensors")
    with pytest.raises(UserError, match=r"such as 'bert\.encoder\.layer\.1\.output\.dense\.bias'"):
        huggingface.load_bert(tmp_path, config)


@pytest.fixture
def stories():
    """The folder of a small pretrained Llama."""
    assets = os.environ.get("ZSG_JAX_ASSETS")
    if not assets or not (folder := Path(assets) / "models" / "stories260k").is_dir():
        pytest.skip("needs ZSG_JAX_ASSETS, a folder that has models/stories260k")
    return folder


def test_pretrained_llama_equals_transformers(stories):
    torch = pytest.importorskip("torch")
    transformers = pytest.importorskip("transformers")
    theirs = transformers.LlamaForCausalLM.from_pretrained(stories).eval()
    tokens = np.random.default_rng(0).integers(0, 512, (2, 200)).astype(np.int32)
    with torch.no_grad():
        expected = theirs(torch.tensor(tokens).long()).logits.numpy()
    graphdef, _ = abstract(huggingface.read_config(stories))
    positions = np.broadcast_to(np.arange(200), (2, 200))
    forward = jax.jit(apply, static_argnums=0)
    logits = forward(graphdef, load(stories), tokens, positions, np.ones_like(tokens))
    assert np.abs(logits - expected).max() < 1e-4


def test_pretrained_llama_tells_its_story(stories):
    tokenizers = pytest.importorskip("tokenizers")
    tokenizer = tokenizers.Tokenizer.from_file(str(stories / "tokenizer.json"))
    start = "Once upon a time, there was a little girl"
    ids = [1, *tokenizer.encode(start, add_special_tokens=False).ids]
    graphdef, _ = abstract(huggingface.read_config(stories))
    params, forward = load(stories), jax.jit(apply, static_argnums=0)
    expected = start + " named Lily. She loved to play outside in the park."
    while len(ids) < 64 and len(tokenizer.decode(ids)) < len(expected):
        tokens, segments = np.zeros((2, 1, 64), np.int32)
        tokens[0, : len(ids)], segments[0, : len(ids)] = ids, 1
        logits = forward(graphdef, params, tokens, np.arange(64)[None], segments)
        ids.append(int(logits[0, len(ids) - 1].argmax()))
    assert tokenizer.decode(ids) == expected
