"""Tiny models of every family, all of whose numbers show, and folders of random weights."""

import dataclasses
import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from safetensors.numpy import save_file

from zsg_jax.models.families import FAMILIES
from zsg_jax.models.model import abstract, apply


@pytest.fixture(scope="session")
def forward():
    """`apply`, compiled once for each model and shape."""
    return jax.jit(apply, static_argnums=0)


@pytest.fixture(scope="session")
def tiny():
    """Makes a model of a family, 37 words: its config, its definition, and random parameters."""

    def make(family, compute=None, lora=None, **changes):
        shape = {"num_layers": 2, "hidden_size": 16, "intermediate_size": 24}
        if family != "gpt2":
            shape["head_dim"] = 4
        model = FAMILIES[family].sized("tiny", 37, 64)
        if family != "gpt2":
            # Windows that show, and a layer of each kind.
            shape["windows"] = tuple(window and 5 for window in model.windows)
            shape["num_layers"] = max(2, model.period)
        model = dataclasses.replace(model, **shape | changes)
        graphdef, shapes = abstract(model, compute, lora)
        rng = np.random.default_rng(0)
        # Norms start at 1 and biases at 0, which would hide that two were swapped or left out.
        params = jax.tree_util.tree_map_with_path(
            lambda path, leaf: jnp.asarray(
                rng.normal(size=leaf.shape) * 0.3 + ("scale" in str(path)), jnp.float32
            ),
            shapes,
        )
        return model, graphdef, params

    return make


@pytest.fixture(scope="session")
def segments():
    """Makes tokens, positions and segment ids of one sequence, (1, L): segments, then padding."""

    def make(*lengths, pad=0, seed=1):
        positions = np.concatenate([np.arange(n) for n in lengths] + [np.zeros(pad, int)])
        ids = np.concatenate([np.full(n, i) for i, n in enumerate(lengths, 1)] + [[0] * pad])
        tokens = np.random.default_rng(seed).integers(0, 19, len(positions))
        return tuple(np.asarray(x, np.int32)[None] for x in (tokens, positions, ids))

    return make


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
YARN = {"rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 16}
LAYERS = ["sliding_attention", "sliding_attention", "full_attention"] * 4
GPT2 = {"vocab_size": 11, "n_embd": 8, "n_layer": 2, "n_head": 2, "n_positions": 32}


@pytest.fixture(scope="session")
def configs():
    """A config.json of every family."""
    return {
        "llama": {**ROTARY, "model_type": "llama", "torch_dtype": "bfloat16", "bos_token_id": 7},
        "mistral": {**ROTARY, "model_type": "mistral", "sliding_window": 3},
        "qwen2": {**ROTARY, "model_type": "qwen2", "head_dim": None},
        "qwen3": {**ROTARY, "model_type": "qwen3", "tie_word_embeddings": True},
        "qwen3_moe": {**ROTARY, "model_type": "qwen3_moe", "num_hidden_layers": 2}
        | {"num_experts": 12, "num_experts_per_tok": 2, "moe_intermediate_size": 4},
        "gpt_oss": {**ROTARY, "model_type": "gpt_oss", "sliding_window": 3}
        | {"num_local_experts": 3, "num_experts_per_tok": 2, "rope_scaling": YARN},
        "ministral": {**ROTARY, "model_type": "ministral", "sliding_window": 3}
        | {"layer_types": LAYERS[:11], "rope_parameters": {**YARN, "rope_theta": 100.0}},
        "smollm3": {**ROTARY, "model_type": "smollm3", "no_rope_layers": [1, 0] * 5 + [1]},
        "olmo2": {**ROTARY, "model_type": "olmo2"},
        "olmo3": {**ROTARY, "model_type": "olmo3", "rope_scaling": YARN},
        "gemma2": {**ROTARY, "model_type": "gemma2", "attn_logit_softcapping": None},
        "gemma3_text": {**ROTARY, "model_type": "gemma3_text", "rope_local_base_freq": 100.0},
        "phi3": {
            **ROTARY,
            "model_type": "phi3",
            "partial_rotary_factor": 0.5,
            "auto_map": {"a": "b"},
        },
        "gpt2": {**GPT2, "model_type": "gpt2", "resid_pdrop": 0.3},
    }


def _rotary_shapes(config):
    D, F, V = config["hidden_size"], config["intermediate_size"], config["vocab_size"]
    heads, kv = config["num_attention_heads"], config["num_key_value_heads"]
    H, family = config["head_dim"] or D // heads, config["model_type"]
    shapes = {"model.embed_tokens.weight": (V, D), "model.norm.weight": (D,)}
    tied = family in ("gemma2", "gemma3_text", "smollm3")
    if not config.get("tie_word_embeddings", tied):
        shapes["lm_head.weight"] = (V, D)
    for i in range(config["num_hidden_layers"]):
        layer = f"model.layers.{i}"
        for name, width in {"q_proj": heads * H, "k_proj": kv * H, "v_proj": kv * H}.items():
            shapes[f"{layer}.self_attn.{name}.weight"] = (width, D)
            if family == "qwen2":
                shapes[f"{layer}.self_attn.{name}.bias"] = (width,)
        shapes[f"{layer}.self_attn.o_proj.weight"] = (D, heads * H)
        for name, shape in {"gate": (F, D), "up": (F, D), "down": (D, F)}.items():
            shapes[f"{layer}.mlp.{name}_proj.weight"] = shape
        for name in ("input_layernorm", "post_attention_layernorm"):
            shapes[f"{layer}.{name}.weight"] = (D,)
        if family in ("qwen3", "qwen3_moe"):
            for name in ("q_norm", "k_norm"):
                shapes[f"{layer}.self_attn.{name}.weight"] = (H,)
        _change(shapes, family, layer, (D, F, H, heads, kv))
    return shapes


def _change(shapes, family, layer, sizes):
    """What a layer has otherwise than Llama's."""
    D, F, H, heads, kv = sizes
    attention, mlp = f"{layer}.self_attn", f"{layer}.mlp"
    if family == "phi3":
        for name in ("q", "k", "v"):
            del shapes[f"{attention}.{name}_proj.weight"]
        for name in ("gate", "up"):
            del shapes[f"{mlp}.{name}_proj.weight"]
        shapes[f"{attention}.qkv_proj.weight"] = ((heads + 2 * kv) * H, D)
        shapes[f"{mlp}.gate_up_proj.weight"] = (2 * F, D)
    if family == "gpt_oss":
        experts = 3
        for name, width in {"q": heads * H, "k": kv * H, "v": kv * H, "o": D}.items():
            shapes[f"{attention}.{name}_proj.bias"] = (width,)
        shapes[f"{attention}.sinks"] = (heads,)
        shapes |= {f"{mlp}.router.weight": (experts, D), f"{mlp}.router.bias": (experts,)}
        for name in ("gate", "up", "down"):
            del shapes[f"{mlp}.{name}_proj.weight"]
        for name, (inputs, outputs) in {"gate_up": (D, 2 * F), "down": (F, D)}.items():
            shapes[f"{mlp}.experts.{name}_proj"] = (experts, inputs, outputs)
            shapes[f"{mlp}.experts.{name}_proj_bias"] = (experts, outputs)
    if family == "qwen3_moe":
        experts, inner = 12, 4
        shapes[f"{mlp}.gate.weight"] = (experts, D)
        for name, shape in {"gate": (inner, D), "up": (inner, D), "down": (D, inner)}.items():
            del shapes[f"{mlp}.{name}_proj.weight"]
            for i in range(experts):
                shapes[f"{mlp}.experts.{i}.{name}_proj.weight"] = shape
    if family in ("olmo2", "olmo3"):
        del shapes[f"{layer}.input_layernorm.weight"]
        shapes[f"{layer}.post_feedforward_layernorm.weight"] = (D,)
        shapes[f"{attention}.q_norm.weight"] = (heads * H,)
        shapes[f"{attention}.k_norm.weight"] = (kv * H,)
    if family in ("gemma2", "gemma3_text"):
        for name in ("pre", "post"):
            shapes[f"{layer}.{name}_feedforward_layernorm.weight"] = (D,)
    if family == "gemma3_text":
        for name in ("q_norm", "k_norm"):
            shapes[f"{attention}.{name}.weight"] = (H,)


def _gpt2_shapes(config):
    D, F = config["n_embd"], 4 * config["n_embd"]
    shapes = {"wte.weight": (config["vocab_size"], D), "wpe.weight": (32, D)}
    shapes |= {"ln_f.weight": (D,), "ln_f.bias": (D,)}
    kernels = {"attn.c_attn": (D, 3 * D), "attn.c_proj": (D, D)}
    kernels |= {"mlp.c_fc": (D, F), "mlp.c_proj": (F, D)}
    for i in range(config["n_layer"]):
        for name, shape in kernels.items():
            shapes[f"h.{i}.{name}.weight"] = shape
            shapes[f"h.{i}.{name}.bias"] = shape[1:]
        for name in ("ln_1", "ln_2"):
            shapes |= {f"h.{i}.{name}.weight": (D,), f"h.{i}.{name}.bias": (D,)}
    return shapes


@pytest.fixture(scope="session")
def make_folder():
    """Writes a folder of random weights, spelt out apart from the tables in use; gives them."""

    def make(folder, config, dtype=np.float32, *, prefix="", shards=0, seed=0, tensors=None):
        """`tensors` changes, adds or (None) removes some; `shards` files, or one."""
        folder.mkdir(parents=True, exist_ok=True)
        rng = np.random.default_rng(seed)
        shapes = (_gpt2_shapes if config["model_type"] == "gpt2" else _rotary_shapes)(config)
        data = {
            prefix + name: rng.normal(size=shape).astype(dtype) for name, shape in shapes.items()
        }
        data = {name: one for name, one in (data | (tensors or {})).items() if one is not None}
        (folder / "config.json").write_text(json.dumps(config))
        if not shards:
            save_file(data, folder / "model.safetensors")
            return data
        table = {name: f"part-{i % shards}.safetensors" for i, name in enumerate(sorted(data))}
        for file in set(table.values()):
            save_file({n: data[n] for n, f in table.items() if f == file}, folder / file)
        (folder / "model.safetensors.index.json").write_text(json.dumps({"weight_map": table}))
        return data

    return make
