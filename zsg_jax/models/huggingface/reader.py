"""Takes what is known out of a config.json, and names whatever nobody knew."""

import math
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from zsg_jax.models.huggingface.weights import read_json
from zsg_jax.models.rotary import LinearScaling, Llama3Scaling, RopeScaling
from zsg_jax.runtime.errors import UserError, check

# Written by one version or another of transformers and without effect on the forward pass.
_HARMLESS = """
_attn_implementation _name_or_path architectures attention_dropout attention_probs_dropout_prob
attn_implementation bos_token_id chunk_size_feed_forward classifier_dropout dtype eos_token_id
gradient_checkpointing hidden_dropout_prob id2label initializer_range is_encoder_decoder label2id
max_length max_sequence_length mlp_dropout output_attentions output_hidden_states pad_token_id
pretraining_tp problem_type return_dict tokenizer_class torch_dtype transformers_version use_cache
"""

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
}


class ConfigReader:
    """The keys of a config.json that nobody has taken yet."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.values = read_json(path)
        check(isinstance(self.values, dict), f"{path}: holds no JSON object; fetch it again")
        self.only("quantization_config", None)

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

    def rope(self) -> tuple[Any, RopeScaling | None]:
        """Base and scaling of the rotary positions; each transformers writes them elsewhere."""
        theta, scalings = self.number("rope_theta", 10000.0), []
        self.only("partial_rotary_factor", 1.0, 1)
        for key in ("rope_scaling", "rope_parameters"):  # the older and the newer name
            rope = self.take(key, {})
            check(isinstance(rope, dict), f"{self.path}: {key} is {rope!r}; give an object or null")
            rope = {name: value for name, value in rope.items() if value is not None}
            theta = rope.pop("rope_theta", theta)  # its range is the config's to check
            name = f"{key}.partial_rotary_factor"
            self.refuse_unless(name, rope.pop("partial_rotary_factor", 1.0), 1.0, 1)
            kinds = [rope.pop(name) for name in ("rope_type", "type") if name in rope]
            for kind in kinds:
                self.refuse_unless(f"{key}.rope_type", kind, "default", *_SCALINGS)
            check(len(set(kinds)) < 2, f"{self.path}: {key} has two types, {kinds}; leave one")
            if kinds and kinds[0] in _SCALINGS:
                scalings.append(self._scaling(key, kinds[0], rope))
            for name, value in rope.items():
                self.refuse_key(f"{key}.{name}", value)
        check(
            len(set(scalings)) < 2,
            f"{self.path}: rope_scaling and rope_parameters disagree; leave one of them",
        )
        return theta, scalings[0] if scalings else None

    def _scaling(self, key: str, kind: str, rope: dict[str, Any]) -> RopeScaling:
        make, names = _SCALINGS[kind]
        for name in names:
            check(name in rope, f"{self.path}: {key}.{name} is missing; fetch the file again")
        try:
            return make(**{ours: rope.pop(theirs) for theirs, ours in names.items()})
        except UserError as error:
            raise UserError(f"{self.path}: {error}") from None

    def refuse_key(self, key: str, value: Any) -> None:
        """Refuses a key that nobody took."""
        raise UserError(
            f"{self.path}: {key} is {value!r}, a key not known here; delete it from"
            " the file if the model computes the same without it"
        )

    def build(self, make: Callable[..., Any], **values: Any) -> Any:
        """Refuses keys that nobody took, then makes the config, naming the file if it objects."""
        self.ignore(_HARMLESS)
        for key, value in self.values.items():
            if value is not None:
                self.refuse_key(key, value)
        try:
            return make(**values)
        except UserError as error:
            raise UserError(f"{self.path}: {error}") from None


def scaling_json(scaling: RopeScaling | None) -> dict[str, Any] | None:
    """What config.json says of a scaling of rotary positions, its "rope_scaling"."""
    for name, (make, names) in _SCALINGS.items():
        if type(scaling) is make:
            return {"rope_type": name} | {t: getattr(scaling, ours) for t, ours in names.items()}
    return None
