"""Takes what is known out of a config.json, and names whatever nobody knew."""

import math
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from zsg_jax.models.huggingface.mxfp4 import METHOD
from zsg_jax.models.huggingface.weights import read_json
from zsg_jax.models.rotary import LinearScaling, Llama3Scaling, RopeScaling, YarnScaling
from zsg_jax.runtime.errors import UserError, check

# Keys without effect on what is computed, by why they have none.
_HARMLESS = {
    "what is trained, and how": """attention_dropout attention_probs_dropout_prob classifier_dropout
        embd_pdrop gradient_checkpointing hidden_dropout hidden_dropout_prob initializer_range
        layerdrop mlp_dropout resid_pdrop router_aux_loss_coef""",
    "what a call gives back, and how quickly": """_attn_implementation _experts_implementation
        attn_implementation cache_implementation chunk_size_feed_forward output_attentions
        output_hidden_states output_scores pretraining_tp return_dict torchscript use_bfloat16
        use_cache""",
    "how texts are begun, ended and drawn": """bad_words_ids begin_suppress_tokens bos_token_id
        decoder_start_token_id diversity_penalty do_sample early_stopping
        encoder_no_repeat_ngram_size eos_token_id exponential_decay_length_penalty
        forced_bos_token_id forced_eos_token_id length_penalty max_length max_new_tokens min_length
        no_repeat_ngram_size num_beam_groups num_beams num_return_sequences pad_token_id prefix
        remove_invalid_values repetition_penalty sep_token_id suppress_tokens temperature top_k
        top_p typical_p""",
    "other heads": """finetuning_task id2label label2id num_labels problem_type
        task_specific_params""",
    "where the file comes from": """_commit_hash _name_or_path architectures dtype is_llama_config
        max_sequence_length model_name tf_legacy_loss tokenizer_class torch_dtype
        transformers.js_config transformers_version""",
}
# The same, for keys that begin so.
_HARMLESS_BEGINNINGS = ("unsloth_",)
# Keys that some files spell out: with these values they mean what is computed anyway.
_WITHOUT_EFFECT: dict[str, tuple[Any, ...]] = {
    "add_cross_attention": (False,),
    "cross_attention_hidden_size": (None,),
    "is_decoder": (False, True),
    "is_encoder_decoder": (False,),
    "mlp_bias": (False,),
    "partial_rotary_factor": (1.0, 1),
    "pruned_heads": ({},),
    "rope_interleaved": (False,),
    "tie_encoder_decoder": (False,),
    "use_sliding_window": (False,),
}

# From their name of a number to ours; by the name of the scaling, which decides what it takes.
_SCALINGS: dict[str, tuple[type[RopeScaling], dict[str, str]]] = {
    "linear": (LinearScaling, {"factor": "factor"}),
    "llama3": (
        Llama3Scaling,
        {
            "factor": "factor",
            "low_freq_factor": "low_freq_factor",
            "high_freq_factor": "high_freq_factor",
            "original_max_position_embeddings": "original_max_positions",
        },
    ),
    "yarn": (
        YarnScaling,
        {
            "factor": "factor",
            "original_max_position_embeddings": "original_max_positions",
            "attention_factor": "attention_factor",
            "beta_fast": "beta_fast",
            "beta_slow": "beta_slow",
            "truncate": "truncate",
        },
    ),
}


def _quantized(values: Mapping[str, Any]) -> Any:
    """How a model is quantized, if it is."""
    found = values.get("quantization_config")
    return found.get("quant_method") if isinstance(found, dict) else None


class ConfigReader:
    """The keys of a config.json that nobody has taken yet."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.values = read_json(path)
        check(isinstance(self.values, dict), f"{path}: holds no JSON object; fetch it again")
        # What gpt-oss is packed in is read.
        packed = self.values.get("model_type") == "gpt_oss" and _quantized(self.values) == METHOD
        self.only("quantization_config", self.values["quantization_config"] if packed else None)

    def take(self, key: str, default: Any = None) -> Any:
        """The value, or the default where it is absent or null."""
        value = self.values.pop(key, None)
        return default if value is None else value

    def number(self, key: str, default: float | None = None) -> Any:
        """A number that must be there unless it has a default; the config checks its range."""
        value = self.take(key, default)
        check(value is not None, f"{self.path}: {key!r} is missing; fetch the file again")
        number = isinstance(value, int | float) and not isinstance(value, bool)
        check(
            number and 0 < value < math.inf,
            f"{self.path}: {key} is {value!r}; give a number above 0",
        )
        return value

    def numbers(self, names: Mapping[str, str], defaults: Mapping[str, Any]) -> dict[str, Any]:
        """Numbers under our names, by theirs; those without a default must be there."""
        return {ours: self.number(theirs, defaults.get(ours)) for ours, theirs in names.items()}

    def only(self, key: str, *allowed: Any) -> None:
        """Refuses any other value; an absent or null key means the first one."""
        self.refuse_unless(key, self.take(key, allowed[0]), *allowed)

    def ignore(self, keys: str) -> None:
        """Drops keys that change nothing that is computed."""
        for key in keys.split():
            self.values.pop(key, None)

    def refuse_unless(self, key: str, found: Any, *allowed: Any) -> None:
        """Refuses a value that is not computed here."""
        told = f"but only {', '.join(map(repr, allowed))} is computed here"
        if allowed == (None,):
            told = "which is not computed here"
        check(
            any(found == one and type(found) is type(one) for one in allowed),
            f"{self.path}: {key} is {found!r}, {told}; take another model",
        )

    def rope(self, theta: float = 10000.0) -> tuple[Any, RopeScaling | None]:
        """Base and scaling of the rotary positions; each transformers writes them elsewhere.

        Args:
            theta: the base that is meant where none is given.
        """
        theta = self.number("rope_theta", theta)
        found: list[tuple[Any, RopeScaling | None]] = []
        for key in ("rope_scaling", "rope_parameters"):  # the older and the newer name
            rope = self.take(key, {})
            check(isinstance(rope, dict), f"{self.path}: {key} is {rope!r}; give an object or null")
            rope = {name: value for name, value in rope.items() if value is not None}
            if not rope:
                continue
            base, scaling = rope.pop("rope_theta", theta), None  # the config checks its range
            name = f"{key}.partial_rotary_factor"
            self.refuse_unless(name, rope.pop("partial_rotary_factor", 1.0), 1.0, 1)
            kinds = [rope.pop(name) for name in ("rope_type", "type") if name in rope]
            for kind in kinds:
                self.refuse_unless(f"{key}.rope_type", kind, "default", *_SCALINGS)
            check(len(set(kinds)) < 2, f"{self.path}: {key} has two types, {kinds}; leave one")
            if kinds and kinds[0] in _SCALINGS:
                scaling = self._scaling(key, kinds[0], rope)
            found.append((base, scaling))
            for name, value in rope.items():
                self.refuse_key(f"{key}.{name}", value)
        check(
            all(one == found[0] for one in found),
            f"{self.path}: rope_scaling and rope_parameters disagree; leave one of them",
        )
        return found[0] if found else (theta, None)

    def ropes(self, theta: float, local: float | None) -> tuple[Any, RopeScaling | None, Any]:
        """As `rope`, and the base of layers with a window, whose positions are not scaled.

        Args:
            local: that base where none is given; None: as that of the others.
        """
        by_layer = self.values.get("rope_parameters")
        kinds = {"full_attention", "sliding_attention"}
        if not isinstance(by_layer, dict) or not by_layer.keys() & kinds:
            check(
                not by_layer,
                f"{self.path}: rope_parameters has no full_attention and sliding_attention; give "
                "them, one for each kind of layer",
            )
            theta, scaling = self.rope(theta)
            return theta, scaling, self.number("rope_local_base_freq", local or theta)
        self.ignore("rope_parameters rope_theta rope_local_base_freq rope_scaling")
        given = {kind: by_layer.pop(kind, None) or {} for kind in sorted(kinds)}
        for name, value in by_layer.items():
            self.refuse_key(f"rope_parameters.{name}", value)
        self.values["rope_parameters"] = given["sliding_attention"]
        near, scaled = self.rope(local or theta)
        check(
            scaled is None,
            f"{self.path}: rope_parameters.sliding_attention is scaled, which is not computed here",
        )
        self.values["rope_parameters"] = given["full_attention"]
        return (*self.rope(theta), near)

    def _scaling(self, key: str, kind: str, rope: dict[str, Any]) -> RopeScaling:
        if kind == "yarn":
            self._fill_yarn(key, rope)
        make, names = _SCALINGS[kind]
        for name in names:
            check(name in rope, f"{self.path}: {key}.{name} is missing; fetch the file again")
        values = {ours: rope.pop(theirs) for theirs, ours in names.items()}
        return self.build_part(make, **values)

    def _fill_yarn(self, key: str, rope: dict[str, Any]) -> None:
        """Puts what transformers takes for what is left out into a YaRN's parameters."""
        scales = rope.pop("mscale", None), rope.pop("mscale_all_dim", None)
        factor: Any = rope.get("factor")
        numbers = [one for one in (factor, *scales) if one is not None]
        check(
            factor is not None and all(isinstance(one, int | float) for one in numbers),
            f"{self.path}: {key}.factor or mscale of yarn is missing or no number",
        )

        def wider(scale: float) -> float:
            return 1.0 if factor <= 1 else 0.1 * scale * math.log(factor) + 1.0

        ratio = wider(scales[0]) / wider(scales[1]) if all(scales) else wider(1.0)
        defaults = {"attention_factor": ratio, "beta_fast": 32.0, "beta_slow": 1.0}
        for name, value in (defaults | {"truncate": True}).items():
            rope.setdefault(name, value)

    def refuse_key(self, key: str, value: Any) -> None:
        """Refuses a key that nobody took."""
        raise UserError(
            f"{self.path}: {key} is {value!r}, a key not known here; delete it from"
            " the file if the model computes the same without it"
        )

    def build(self, make: Callable[..., Any], **values: Any) -> Any:
        """Refuses keys that nobody took, then makes the config, naming the file if it objects."""
        self.ignore(" ".join(_HARMLESS.values()))
        for key, allowed in _WITHOUT_EFFECT.items():
            self.only(key, *allowed)
        for key, value in self.values.items():
            if value is not None and not key.startswith(_HARMLESS_BEGINNINGS):
                self.refuse_key(key, value)
        return self.build_part(make, **values)

    def build_part(self, make: Callable[..., Any], **values: Any) -> Any:
        """Makes the config, or a part of it, naming the file if it objects."""
        try:
            return make(**values)
        except UserError as error:
            raise UserError(f"{self.path}: {error}") from None


def rope_json(theta: float, scaling: RopeScaling | None) -> dict[str, Any]:
    """What "rope_parameters" says of a base and a scaling."""
    return {"rope_type": "default", "rope_theta": theta} | (scaling_json(scaling) or {})


def scaling_json(scaling: RopeScaling | None) -> dict[str, Any] | None:
    """What config.json says of a scaling of rotary positions, its "rope_scaling"."""
    for name, (make, names) in _SCALINGS.items():
        if type(scaling) is make:
            return {"rope_type": name} | {t: getattr(scaling, ours) for t, ours in names.items()}
    return None
