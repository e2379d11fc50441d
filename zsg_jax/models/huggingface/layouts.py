"""The names that the arrays of every family have in Hugging Face's files."""

import re
from collections.abc import Collection, Mapping
from typing import Any, NamedTuple

from flax import traverse_util

from zsg_jax.models.huggingface.weights import Place, Places, Weights
from zsg_jax.models.placement import Params


class Layout(NamedTuple):
    """How a family's tensors are named.

    Attributes:
        modules: from ours to theirs, # for the number of a layer. Theirs may end in "[i/n]": then
            ours is the i-th, from 0, of n equal pieces of its outputs.
        transposed: whether kernels lie (outputs, inputs), ours being (inputs, outputs).
        prefix: before all their names in some files, not in others.
        table: the embedding's tensor, which a tied head may repeat.
        harmless: a pattern of tensors that are passed over.
    """

    modules: Mapping[str, str]
    transposed: bool = True
    prefix: str = ""
    table: str = ""
    harmless: str = ""


_ROTARY = Layout(
    modules={
        "embed": "model.embed_tokens",
        "layers.#.attention.q": "model.layers.#.self_attn.q_proj",
        "layers.#.attention.k": "model.layers.#.self_attn.k_proj",
        "layers.#.attention.v": "model.layers.#.self_attn.v_proj",
        "layers.#.attention.o": "model.layers.#.self_attn.o_proj",
        "layers.#.attention.q_norm": "model.layers.#.self_attn.q_norm",
        "layers.#.attention.k_norm": "model.layers.#.self_attn.k_norm",
        "layers.#.mlp.gate": "model.layers.#.mlp.gate_proj",
        "layers.#.mlp.up": "model.layers.#.mlp.up_proj",
        "layers.#.mlp.down": "model.layers.#.mlp.down_proj",
        "layers.#.attention_norm": "model.layers.#.input_layernorm",
        "layers.#.mlp_norm": "model.layers.#.post_attention_layernorm",
        "norm": "model.norm",
        "lm_head": "lm_head",
    },
    table="model.embed_tokens.weight",
    harmless=r".*rotary_emb\.inv_freq|.*position_ids",
)

_GPT2 = Layout(
    modules={
        "embed": "wte",
        "position": "wpe",
        "layers.#.attention.q": "h.#.attn.c_attn[0/3]",
        "layers.#.attention.k": "h.#.attn.c_attn[1/3]",
        "layers.#.attention.v": "h.#.attn.c_attn[2/3]",
        "layers.#.attention.o": "h.#.attn.c_proj",
        "layers.#.attention_norm": "h.#.ln_1",
        "layers.#.mlp.up": "h.#.mlp.c_fc",
        "layers.#.mlp.down": "h.#.mlp.c_proj",
        "layers.#.mlp_norm": "h.#.ln_2",
        "norm": "ln_f",
    },
    transposed=False,
    prefix="transformer.",
    table="wte.weight",
    harmless=r"(transformer\.)?h\.\d+\.attn\.(masked_)?bias",
)

_BERT = Layout(
    modules={
        "word": "embeddings.word_embeddings",
        "position": "embeddings.position_embeddings",
        "token_type": "embeddings.token_type_embeddings",
        "norm": "embeddings.LayerNorm",
        "layers.#.attention.q": "encoder.layer.#.attention.self.query",
        "layers.#.attention.k": "encoder.layer.#.attention.self.key",
        "layers.#.attention.v": "encoder.layer.#.attention.self.value",
        "layers.#.attention.o": "encoder.layer.#.attention.output.dense",
        "layers.#.attention_norm": "encoder.layer.#.attention.output.LayerNorm",
        "layers.#.mlp.up": "encoder.layer.#.intermediate.dense",
        "layers.#.mlp.down": "encoder.layer.#.output.dense",
        "layers.#.mlp_norm": "encoder.layer.#.output.LayerNorm",
    },
    prefix="bert.",
    harmless=r".*position_ids|(bert\.)?pooler\..*|cls\..*",
)

LAYOUTS = {
    "llama": _ROTARY,
    "mistral": _ROTARY,
    "qwen2": _ROTARY,
    "qwen3": _ROTARY,
    "gpt2": _GPT2,
    "bert": _BERT,
}


def places(layout: Layout, shapes: Params, names: Collection[str] | None = None) -> Places:
    """The places of every array of `shapes`, by its path, joined by dots.

    An array of all layers lies in as many places, any other in one.

    Args:
        names: all tensors that there are, which tell whether they have the prefix; None: they do.
    """
    has = names is None or any(name.startswith(layout.prefix) for name in names)
    prefix = layout.prefix if has else ""
    found = {}
    for path, leaf in traverse_util.flatten_dict(shapes, sep=".").items():
        module, kind = path.rsplit(".", 1)
        number = re.search(r"\d+", module)
        layers: list[int | None] = [None]
        if module.startswith("layers.") and not number:
            module, layers = module.replace("layers.", "layers.#."), [*range(leaf.shape[0])]
        theirs = layout.modules[re.sub(r"\d+", "#", module)]
        piece = re.fullmatch(r"(.+)\[(\d)/(\d)\]", theirs)
        theirs, part, parts = (piece[1], int(piece[2]), int(piece[3])) if piece else (theirs, 0, 1)
        name = f"{prefix}{theirs}.{'bias' if kind == 'bias' else 'weight'}"
        transposed = layout.transposed and kind == "kernel"
        found[path] = tuple(
            Place(
                name.replace("#", number[0] if number else str(layer)),
                transposed,
                part,
                parts,
                layer,
            )
            for layer in layers
        )
    return found


def open_weights(
    folder: Any, layout: Layout, shapes: Params, *, tied: bool
) -> tuple[Weights, Places]:
    """The tensors of a folder and where each array lies; refuses tensors that have no place.

    Raises:
        UserError: a file is missing or damaged, or a tensor is one too many.
    """
    weights = Weights(folder)
    where, harmless = places(layout, shapes, weights.tensors), layout.harmless
    head = "lm_head.weight"
    tables = [name for name in weights.tensors if name.endswith(layout.table)]
    # Some files keep a copy of the tied table, which is fine for as long as it is a copy.
    if tied and head in weights.tensors and tables and weights.same(head, tables[0]):
        harmless += r"|lm_head\.weight"
    weights.refuse_others({place.name for each in where.values() for place in each}, harmless)
    return weights, where
