"""From config.json to `DecoderConfig`, family by family, and back."""

from collections.abc import Callable, Sequence
from typing import Any

from zsg_jax.models.decoder import DecoderConfig
from zsg_jax.models.experts import Routing
from zsg_jax.models.families import FAMILIES
from zsg_jax.models.huggingface.reader import ConfigReader, rope_json, scaling_json
from zsg_jax.runtime.errors import check

# From our names of numbers to theirs.
_NUMBERS = {
    "vocab_size": "vocab_size",
    "hidden_size": "hidden_size",
    "intermediate_size": "intermediate_size",
    "num_layers": "num_hidden_layers",
    "num_heads": "num_attention_heads",
    "num_kv_heads": "num_key_value_heads",
    "head_dim": "head_dim",
    "max_positions": "max_position_embeddings",
}
_FULL, _SLIDING = "full_attention", "sliding_attention"
# Those whose kinds of layers have positions of their own, as (base, base of layers with a window).
_ROPES = {"gemma3_text": (1e6, 1e4), "olmo3": (5e5, 5e5)}
_GEMMA = ("gemma2", "gemma3_text")
# What they mean by a key that is left out, where that is not what the others mean.
_THETA = {"smollm3": 2e6, "gpt_oss": 150000.0}
_EPS = {"olmo2": 1e-5, "olmo3": 1e-5, "phi3": 1e-5, "gpt_oss": 1e-5}
_AS_MANY_KEYS = ("llama", "olmo2", "olmo3", "phi3")
_HEAD_DIM = ("gemma2", "gemma3_text", "qwen3", "gpt_oss")


def read_decoder(config: ConfigReader, family: str) -> DecoderConfig:
    """The config of a decoder; its fixed keys are taken before.

    Raises:
        UserError: naming what is missing or not computed here.
    """
    heads, width = config.values.get("num_attention_heads"), config.values.get("hidden_size")
    defaults: dict[str, Any] = {}
    if family in _AS_MANY_KEYS:
        defaults["num_kv_heads"] = heads
    if family == "llama":
        defaults["max_positions"] = 2048
    if family in _HEAD_DIM:
        check("head_dim" in config.values, f"{config.path}: 'head_dim' is missing; fetch it again")
    if isinstance(width, int | float) and isinstance(heads, int | float) and heads > 0:
        defaults["head_dim"] = width // heads
    numbers = config.numbers(_NUMBERS, defaults)
    more: dict[str, Any] = _MORE.get(family, _no_window)(config, numbers["num_layers"])
    if family in _ROPES:
        theta, scaling, more["local_rope_theta"] = config.ropes(*_ROPES[family])
    else:
        theta, scaling = config.rope(_THETA.get(family, 10000.0))
    tied = config.take("tie_word_embeddings", family in (*_GEMMA, "smollm3"))
    return config.build(
        FAMILIES[family].config,
        rope_theta=theta,
        rope_scaling=scaling,
        rms_norm_eps=config.number("rms_norm_eps", _EPS.get(family, 1e-6)),
        tie_embeddings=tied,
        **(numbers | more),
    )


def _period(kinds: Sequence[Any]) -> tuple[Any, ...]:
    """The shortest beginning that, repeated, gives all of `kinds`."""
    for size in range(1, len(kinds)):
        if all(kind == kinds[i % size] for i, kind in enumerate(kinds)):
            return tuple(kinds[:size])
    return tuple(kinds)


def _by_layer(config: ConfigReader, count: int, window: int | None, every: int) -> dict[str, Any]:
    """The windows that "layer_types" gives; left out, all but every `every`-th layer have one."""
    default = [_FULL if (i + 1) % every == 0 else _SLIDING for i in range(count)]
    kinds = config.take("layer_types", default)
    for kind in kinds:
        config.refuse_unless("layer_types", kind, _FULL, _SLIDING)
    check(
        len(kinds) == count,
        f"{config.path}: layer_types names {len(kinds)} layers of {count}; fetch the file again",
    )
    check(
        window is not None or _SLIDING not in kinds,
        f"{config.path}: 'sliding_window' is missing; give its width",
    )
    return {"windows": _period([window if kind == _SLIDING else None for kind in kinds])}


def _no_window(config: ConfigReader, count: int) -> dict[str, Any]:
    for kind in config.take("layer_types", []):
        config.refuse_unless("layer_types", kind, _FULL)
    return {}


def _mistral(config: ConfigReader, count: int) -> dict[str, Any]:
    # Left out, it means 4096 to transformers; null, as newer Mistrals have it, means no window.
    check(
        "sliding_window" in config.values,
        f"{config.path}: 'sliding_window' is missing; give its width, or null for none",
    )
    return _one_window(config, count)


def _one_window(config: ConfigReader, count: int) -> dict[str, Any]:
    if config.values.get("sliding_window") is None:
        return _no_window(config, count)
    return _by_layer(config, count, config.number("sliding_window"), count + 1)


_PATTERNS = "sliding_window_pattern", "_sliding_window_pattern"


def _gemma(config: ConfigReader, count: int, every: int, *read: str) -> dict[str, Any]:
    """What `read` names of `_PATTERNS` transformers goes by, where there are no layer_types."""
    config.ignore("hidden_act")  # hidden_activation is what is read
    window = config.number("sliding_window", 4096)
    both_ways = config.take("use_bidirectional_attention", False)
    config.refuse_unless("use_bidirectional_attention", both_ways, False, True)
    if both_ways:
        window = window // 2 + 1  # of both sides together; here it is one side's, and the token's
    for key in read:
        every = int(config.number(key, every))
    for key in (one for one in _PATTERNS if one not in read):
        other = config.number(key, every)
        check(
            other == every or config.values.get("layer_types") is not None,
            f"{config.path}: {key} is {other!r}, by which transformers does not go; give "
            "layer_types, a name for every layer",
        )
    return {
        **_by_layer(config, count, window, every),
        "causal": not both_ways,
        "query_scalar": float(config.number("query_pre_attn_scalar", 256)),
    }


def _gemma2(config: ConfigReader, count: int) -> dict[str, Any]:
    def softcap(kind: str, default: float) -> float | None:
        # Left out, it is the default; null, there is none.
        key = f"{kind}_logit_softcapping"
        if key in config.values and config.values[key] is None:
            return None
        return float(config.number(key, default))

    return {
        **_gemma(config, count, 2),
        "attention_softcap": softcap("attn", 50.0),
        "logit_softcap": softcap("final", 30.0),
    }


def _phi3(config: ConfigReader, count: int) -> dict[str, Any]:
    # Code that lies beside the file is never run; it is what is computed here.
    config.ignore("auto_map original_max_position_embeddings")
    share = config.take("partial_rotary_factor", 1.0)
    nested = config.values.get("rope_parameters")
    if isinstance(nested, dict):
        share = nested.pop("partial_rotary_factor", share)
    config.values["rope_share"] = share
    return {"rope_share": config.number("rope_share"), **_one_window(config, count)}


def _smollm3(config: ConfigReader, count: int) -> dict[str, Any]:
    interval = config.number("no_rope_layer_interval", 4)
    default = [int((i + 1) % interval != 0) for i in range(count)]
    turned = config.take("no_rope_layers", default)
    check(
        isinstance(turned, list) and len(turned) >= count and set(turned) <= {0, 1},
        f"{config.path}: no_rope_layers is {turned!r}; give a 1 or a 0 for every layer",
    )
    return {
        "rope_layers": _period([bool(one) for one in turned[:count]]),
        **_no_window(config, count),
    }


def _experts(config: ConfigReader, count: int) -> dict[str, Any]:
    # transformers writes the one or the other.
    experts = config.number("num_local_experts", config.number("num_experts", 128))
    return {
        "intermediate_size": config.number("moe_intermediate_size", 768),
        "routing": config.build_part(
            Routing,
            experts=experts,
            chosen=config.number("num_experts_per_tok", 8),
            normalized=config.take("norm_topk_prob", False),
        ),
        **_no_window(config, count),
    }


def _gpt_oss(config: ConfigReader, count: int) -> dict[str, Any]:
    # Left out, it means a YaRN of its own to transformers.
    check(
        bool(config.values.get("rope_scaling") or config.values.get("rope_parameters")),
        f"{config.path}: 'rope_scaling' is missing; fetch the file again",
    )
    return {
        **_by_layer(config, count, config.number("sliding_window", 128), 2),
        "routing": config.build_part(
            Routing,
            experts=config.number("num_local_experts", 128),
            chosen=config.number("num_experts_per_tok", 4),
            bias=True,
            limit=float(config.number("swiglu_limit", 7.0)),
            slope=float(config.number("swiglu_alpha", 1.702)),
        ),
    }


_MORE: dict[str, Callable[[ConfigReader, int], dict[str, Any]]] = {
    "mistral": _mistral,
    "ministral": _one_window,
    "olmo3": lambda config, count: _by_layer(
        config, count, config.number("sliding_window", 4096), 4
    ),
    "gemma2": _gemma2,
    "gemma3_text": lambda config, count: _gemma(config, count, 6, _PATTERNS[0]),
    "phi3": _phi3,
    "qwen3_moe": _experts,
    "gpt_oss": _gpt_oss,
    "smollm3": _smollm3,
}


def _experts_json(routing: Routing, model: DecoderConfig) -> dict[str, Any]:
    """What config.json says of experts."""
    content: dict[str, Any] = {"num_experts_per_tok": routing.chosen}
    if model.family == "gpt_oss":
        content |= {"swiglu_limit": routing.limit, "swiglu_alpha": routing.slope}
        return content | {"num_local_experts": routing.experts}
    content |= {"num_experts": routing.experts, "norm_topk_prob": routing.normalized}
    return content | {"moe_intermediate_size": model.intermediate_size}


def decoder_json(model: DecoderConfig) -> dict[str, Any]:
    """The config.json of a decoder but for what names it; `read_decoder` gives `model` again."""
    family = model.family
    content: dict[str, Any] = {theirs: getattr(model, ours) for ours, theirs in _NUMBERS.items()}
    content |= {
        "rms_norm_eps": model.rms_norm_eps,
        "tie_word_embeddings": model.tie_embeddings,
    }
    by_layer = [model.windows[i % len(model.windows)] for i in range(model.num_layers)]
    if model.local_rope_theta is not None:
        content["rope_parameters"] = {
            _FULL: rope_json(model.rope_theta, model.rope_scaling),
            _SLIDING: rope_json(model.local_rope_theta, None),
        }
    elif family == "gpt_oss":
        # Of which transformers would take a YaRN where it is left out.
        content["rope_parameters"] = rope_json(model.rope_theta, model.rope_scaling)
    else:
        content["rope_theta"] = model.rope_theta
        content["rope_scaling"] = scaling_json(model.rope_scaling)
    if family in ("mistral", "phi3"):
        (content["sliding_window"],) = model.windows
    elif family in ("ministral", "olmo3", "gpt_oss", *_GEMMA):
        content["sliding_window"] = next((w for w in model.windows if w is not None), None)
        content["layer_types"] = [_FULL if w is None else _SLIDING for w in by_layer]
    if family in _GEMMA:
        scalar = model.query_scalar
        # transformers takes whole numbers alone.
        content["query_pre_attn_scalar"] = int(scalar) if scalar == int(scalar or 0) else scalar
        content["attn_logit_softcapping"] = model.attention_softcap
        content["final_logit_softcapping"] = model.logit_softcap
    if family == "phi3":
        content["partial_rotary_factor"] = model.rope_share
    if model.routing is not None:
        content |= _experts_json(model.routing, model)
    if family == "smollm3":
        turned = model.rope_layers
        content["no_rope_layers"] = [int(turned[i % len(turned)]) for i in range(model.num_layers)]
    if family not in ("llama", "mistral", "qwen2", "qwen3"):
        # transformers would take one that may lie beyond the vocabulary.
        content["pad_token_id"] = None
    return content
