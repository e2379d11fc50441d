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
        if family == "mistral":
            shape["windows"] = (5,)
        model = dataclasses.replace(FAMILIES[family].sized("tiny", 37, 64), **shape | changes)
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
GPT2 = {"vocab_size": 11, "n_embd": 8, "n_layer": 2, "n_head": 2, "n_positions": 32}


@pytest.fixture(scope="session")
def configs():
    """A config.json of every family."""
    return {
        "llama": {**ROTARY, "model_type": "llama", "torch_dtype": "bfloat16", "bos_token_id": 7},
        "mistral": {**ROTARY, "model_type": "mistral", "sliding_window": 3},
        "qwen2": {**ROTARY, "model_type": "qwen2", "head_dim": None},
        "qwen3": {**ROTARY, "model_type": "qwen3", "tie_word_embeddings": True},
        "gpt2": {**GPT2, "model_type": "gpt2", "resid_pdrop": 0.3},
    }


def _rotary_shapes(config):
    D, F, V = config["hidden_size"], config["intermediate_size"], config["vocab_size"]
    heads, kv = config["num_attention_heads"], config["num_key_value_heads"]
    H, family = config["head_dim"] or D // heads, config["model_type"]
    shapes = {"model.embed_tokens.weight": (V, D), "model.norm.weight": (D,)}
    if not config.get("tie_word_embeddings"):
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
        if family == "qwen3":
            for name in ("q_norm", "k_norm"):
                shapes[f"{layer}.self_attn.{name}.weight"] = (H,)
    return shapes


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
