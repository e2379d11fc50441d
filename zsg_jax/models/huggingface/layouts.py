"""The names that the arrays of every family have in Hugging Face's files."""

import itertools
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
        start, whole: where the array begins along the tensor's outputs, our last axis, and how many
            numbers that axis has there; None: as many as the array.
        step: from each of the array's outputs to the next there.
        at: where the array is a stack of layers, which of them; of experts in layers, which layer
            and which expert.
    """

    name: str
    transposed: bool = False
    start: int = 0
    whole: int | None = None
    step: int = 1
    at: tuple[int, ...] = ()

    def own(self, shape: tuple[int, ...]) -> tuple[int, ...]:
        """What lies here of an array of this shape: all of it, a layer, or an expert."""
        return shape[len(self.at) :]

    def shape_in_file(self, shape: tuple[int, ...]) -> tuple[int, ...]:
        """The whole tensor's shape, where `own` gives `shape`."""
        shape = (*shape[:-1], shape[-1] if self.whole is None else self.whole)
        return shape[::-1] if self.transposed else shape


# By path, as "layers.attention.q.kernel".
Places = Mapping[str, tuple[Place, ...]]


class Layout(NamedTuple):
    """How a family's tensors are named.

    Attributes:
        modules: from ours to theirs, # for the number of a layer, @ for that of an expert. Theirs
            may end in "[i/n]": then ours is the i-th, from 0, of n pieces of its outputs; in
            "[i%n]": every n-th of them, from the i-th.
        transposed: whether kernels lie (outputs, inputs), ours being (inputs, outputs).
        prefix: before all their names in some files, not in others.
        table: the embedding's tensor, which a tied head may repeat.
        harmless: a pattern of tensors that are passed over.
        bare: a pattern of their modules whose tensors lie as ours do, and are called as the module,
            biases with "_bias" behind.
    """

    modules: dict[str, str]
    transposed: bool = True
    prefix: str = ""
    table: str = ""
    harmless: str = ""
    bare: str = ""


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

_POST_NORMS = {
    "layers.#.attention_post_norm": "model.layers.#.post_attention_layernorm",
    "layers.#.mlp_post_norm": "model.layers.#.post_feedforward_layernorm",
}
_OLMO = _ROTARY._replace(modules=_ROTARY.modules | _POST_NORMS)
_GEMMA = _OLMO._replace(
    modules=_OLMO.modules | {"layers.#.mlp_norm": "model.layers.#.pre_feedforward_layernorm"}
)
_PHI3 = _ROTARY._replace(
    modules=_ROTARY.modules
    | {
        "layers.#.attention.q": "model.layers.#.self_attn.qkv_proj[0/3]",
        "layers.#.attention.k": "model.layers.#.self_attn.qkv_proj[1/3]",
        "layers.#.attention.v": "model.layers.#.self_attn.qkv_proj[2/3]",
        "layers.#.mlp.gate": "model.layers.#.mlp.gate_up_proj[0/2]",
        "layers.#.mlp.up": "model.layers.#.mlp.gate_up_proj[1/2]",
    }
)

_QWEN3_MOE = _ROTARY._replace(
    modules=_ROTARY.modules
    | {
        "layers.#.mlp.router": "model.layers.#.mlp.gate",
        "layers.#.mlp.experts.gate": "model.layers.#.mlp.experts.@.gate_proj",
        "layers.#.mlp.experts.up": "model.layers.#.mlp.experts.@.up_proj",
        "layers.#.mlp.experts.down": "model.layers.#.mlp.experts.@.down_proj",
    }
)

_GPT_OSS = _ROTARY._replace(
    modules=_ROTARY.modules
    | {
        "layers.#.attention.sinks": "model.layers.#.self_attn.sinks",
        "layers.#.mlp.router": "model.layers.#.mlp.router",
        "layers.#.mlp.experts.gate": "model.layers.#.mlp.experts.gate_up_proj[0%2]",
        "layers.#.mlp.experts.up": "model.layers.#.mlp.experts.gate_up_proj[1%2]",
        "layers.#.mlp.experts.down": "model.layers.#.mlp.experts.down_proj",
    },
    bare=r".*\.(sinks|experts\.\w+)",
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
    "qwen3_moe": _QWEN3_MOE,
    "gpt_oss": _GPT_OSS,
    "ministral": _ROTARY,
    "smollm3": _ROTARY,
    "olmo2": _OLMO,
    "olmo3": _OLMO,
    "gemma2": _GEMMA,
    "gemma3_text": _GEMMA,
    "phi3": _PHI3,
    "gpt2": _GPT2,
}


def places(layout: Layout, shapes: Params, names: Collection[str] | None = None) -> Places:
    """The places of every array of `shapes`, by its path, joined by dots.

    An array of all layers lies in as many places, of all their experts in one for each, any other
    in one.

    Args:
        names: all tensors that there are, which tell whether they have the prefix; None: they do.
    """
    has = names is None or any(name.startswith(layout.prefix) for name in names)
    prefix = layout.prefix if has else ""
    flat = traverse_util.flatten_dict(shapes, sep=".")
    pieces = _pieces(layout, {path: leaf.shape[-1] for path, leaf in flat.items()})
    found = {}
    for path, leaf in flat.items():
        module, kind = path.rsplit(".", 1)
        number = re.search(r"\d+", module)
        numbered = re.sub(r"\d+", "#", module)
        stack: tuple[int, ...] = ()
        if module.startswith("layers.") and not number:
            numbered = module.replace("layers.", "layers.#.")
            stack = leaf.shape[: 1 + ("@" in layout.modules[numbered])]
        theirs = re.sub(r"\[.*", "", layout.modules[numbered])
        bare = bool(layout.bare and re.fullmatch(layout.bare, theirs))
        endings = ("_bias", "") if bare else (".bias", ".weight")
        name = f"{prefix}{theirs}{endings[kind != 'bias']}"
        start, whole, step = pieces.get(path, (0, None, 1))
        found[path] = tuple(
            Place(
                _numbered(name, number[0] if number else "", *at),
                layout.transposed and kind == "kernel" and not bare,
                start,
                whole,
                step,
                at,
            )
            for at in itertools.product(*map(range, stack))
        )
    return found


def _numbered(name: str, number: str, *at: int) -> str:
    """A name with the numbers of a layer, which the array's own name may hold, and an expert."""
    for mark, one in zip("#@", at or (number,), strict=False):
        name = name.replace(mark, str(one))
    return name


def _pieces(layout: Layout, sizes: Mapping[str, int]) -> dict[str, tuple[int, int, int]]:
    """Where pieces of a tensor begin along its outputs, how many those are, and the step, by path.

    Args:
        sizes: outputs of every array, by path.
    """
    by_tensor: dict[str, list[tuple[int, str, str]]] = {}
    for path in sizes:
        module, kind = path.rsplit(".", 1)
        numbered = re.sub(r"\d+", "#", module)
        if module.startswith("layers.") and numbered == module:
            numbered = module.replace("layers.", "layers.#.")
        piece = re.fullmatch(r"(.+)\[(\d)([/%])\d\]", layout.modules[numbered])
        if piece:
            number = re.search(r"\d+", module)
            tensor = f"{piece[1]}.{kind}.{number[0] if number else ''}"
            by_tensor.setdefault(tensor, []).append((int(piece[2]), piece[3], path))
    found = {}
    for parts in by_tensor.values():
        whole, start = sum(sizes[path] for *_, path in parts), 0
        for place, sign, path in sorted(parts):
            found[path] = (place, whole, len(parts)) if sign == "%" else (start, whole, 1)
            start += sizes[path]
    return found
