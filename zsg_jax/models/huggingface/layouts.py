"""The names that the arrays of every family have in Hugging Face's files."""

import re
from collections.abc import Collection, Mapping
from typing import NamedTuple

from flax import traverse_util

from zsg_jax.models.placement import Params


class Place(NamedTuple):
    """Where an array of ours lies in the files.

    Attributes:
        name: the tensor's.
        transposed: whether it lies the other way there.
        part, parts: the array is this one of so many equal pieces of the tensor's last axis.
        layer: where the array is a stack of layers, which of them; else None.
    """

    name: str
    transposed: bool = False
    part: int = 0
    parts: int = 1
    layer: int | None = None

    def own(self, shape: tuple[int, ...]) -> tuple[int, ...]:
        """What lies here of an array of this shape: all of it, or a layer."""
        return shape if self.layer is None else shape[1:]

    def shape_in_file(self, shape: tuple[int, ...]) -> tuple[int, ...]:
        """The whole tensor's shape, where `own` gives `shape`."""
        if self.transposed:
            shape = shape[::-1]
        return (*shape[:-1], shape[-1] * self.parts)


# By path, as "layers.attention.q.kernel".
Places = Mapping[str, tuple[Place, ...]]


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

# What a reward model's head, without a bias, is called: by transformers' classifiers of sequences,
# and by UltraRM.
HEADS = ("score", "regression_head")

LAYOUTS = {
    "llama": _ROTARY,
    "mistral": _ROTARY,
    "qwen2": _ROTARY,
    "qwen3": _ROTARY,
    "gpt2": _GPT2,
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
        numbered = re.sub(r"\d+", "#", module)
        layers: list[int | None] = [None]
        if module.startswith("layers.") and not number:
            numbered, layers = module.replace("layers.", "layers.#."), [*range(leaf.shape[0])]
        piece = re.fullmatch(r"(.+?)(?:\[(\d)/(\d)\])?", layout.modules[numbered])
        assert piece is not None  # any name matches
        name = f"{prefix}{piece[1]}.{'bias' if kind == 'bias' else 'weight'}"
        part, parts = int(piece[2] or 0), int(piece[3] or 1)
        found[path] = tuple(
            Place(
                name.replace("#", number[0] if number else str(layer)),
                layout.transposed and kind == "kernel",
                part,
                parts,
                layer,
            )
            for layer in layers
        )
    return found
