"""How the next token is chosen of its logits: settings, and what they do to a distribution."""

import math
from typing import NamedTuple

import jax
import jax.numpy as jnp

from zsg_jax.runtime.errors import UserError, check, did_you_mean


class Sampling(NamedTuple):
    """How text is generated.

    Attributes:
        max_new_tokens, min_new_tokens: how many at most, and before which none ends the text.
        temperature: logits are divided by it; 0 takes the likeliest token, the first of equals.
        top_k: draws of the so many likeliest tokens; 0 for all.
        top_p: draws of the fewest tokens, the likeliest first, that have this probability together.
        repetition_penalty: logits of tokens that were there are divided by it if above 0, and
            multiplied if below (arXiv 1909.05858, section 4.1).
        penalty_on: "generated": the tokens that were there are those generated, as in the
            arrangement study; "all": those of the prompt too, as in transformers.
        samples: texts of each example, whose scores are averaged.
        seed: of what is drawn for them.
    """

    max_new_tokens: int = 128
    min_new_tokens: int = 0
    temperature: float = 0.0
    top_k: int = 0
    top_p: float = 1.0
    repetition_penalty: float = 1.0
    penalty_on: str = "generated"
    samples: int = 1
    seed: int = 0

    def refuse_none(self) -> None:
        """Refuses settings that mean nothing; `UserError` names the first."""
        for name, right, what in (
            ("max_new_tokens", self.max_new_tokens > 0, "a whole number above 0"),
            (
                "min_new_tokens",
                0 <= self.min_new_tokens <= self.max_new_tokens,
                f"a whole number from 0 to max_new_tokens={self.max_new_tokens}",
            ),
            ("temperature", 0 <= self.temperature < math.inf, "0 for the likeliest, or more"),
            ("top_k", self.top_k >= 0, "0 for all, or a whole number above"),
            ("top_p", 0 < self.top_p <= 1, "a share above 0, at most 1"),
            ("repetition_penalty", 0 < self.repetition_penalty < math.inf, "1 for none, or more"),
            ("samples", self.samples > 0, "a whole number above 0"),
            ("seed", 0 <= self.seed < 2**32, "a whole number from 0"),
            ("penalty_on", self.penalty_on in ("generated", "all"), "generated or all"),
        ):
            check(right, f"decoding: {name}={getattr(self, name)!r}; give {what}")


PRESETS = {
    "greedy": Sampling(),
    # As in arXiv 2406.11721, where no text ends before its first token.
    "study": Sampling(128, 1, temperature=0.9, top_p=0.9, repetition_penalty=1.2),
}


def parse(text: str) -> Sampling:
    """Settings as a user gives them: a preset, changes of it, or both, separated by commas.

    "greedy", "study,max_new_tokens=64" or "temperature=0.7,top_p=0.9", which changes "greedy".

    Raises:
        UserError: an unknown name, or a value that means nothing.
    """
    first, *rest = text.replace(" ", "").split(",")
    changes = rest if first in PRESETS else [first, *rest]
    sampling = PRESETS.get(first, PRESETS["greedy"])
    for change in changes:
        name, _, value = change.partition("=")
        check(
            name in Sampling._fields,
            f"decoding: {name!r} is no setting; give {' or '.join(PRESETS)}, or NAME=VALUE of "
            f"{', '.join(Sampling._fields)}{did_you_mean(name, (*PRESETS, *Sampling._fields))}",
        )
        wanted = type(getattr(sampling, name))
        try:
            sampling = sampling._replace(**{name: wanted(value)})
        except ValueError:
            what = "a whole number" if wanted is int else "a number"
            raise UserError(f"decoding: {name}={value!r} must be {what}") from None
    sampling.refuse_none()
    return sampling


def idle(text: str) -> str:
    """What settings that `parse` takes name without effect, as a line for the user, or ""."""
    sampling = parse(text)
    named = {change.partition("=")[0] for change in text.replace(" ", "").split(",")}
    named = {
        name
        for name in named & {"top_k", "top_p", "samples"}
        if getattr(sampling, name) != Sampling._field_defaults[name]
    }
    if sampling.temperature or not named:
        return ""
    return (
        f"decoding: {' and '.join(sorted(named))} without effect at temperature 0, which always "
        "takes the likeliest token; give a temperature above 0 too"
    )


def penalized(logits_BxV: jax.Array, there_BxV: jax.Array, penalty: float) -> jax.Array:
    """`logits`, those of tokens that were there made less likely."""
    less = jnp.where(logits_BxV > 0, logits_BxV / penalty, logits_BxV * penalty)
    return jnp.where(there_BxV, less, logits_BxV)


def choose(logits_BxV: jax.Array, keys_B: jax.Array, sampling: Sampling) -> jax.Array:
    """The next token of each sequence, (B,) int32, each drawn by its own key."""
    if not sampling.temperature:
        return jnp.argmax(logits_BxV, axis=-1).astype(jnp.int32)
    logits_BxV = logits_BxV / sampling.temperature
    if not sampling.top_k and sampling.top_p == 1:
        return jax.vmap(jax.random.categorical)(keys_B, logits_BxV).astype(jnp.int32)
    # Drawn of the sorted tokens, so that those left out are the last, ties by the lower id.
    order_BxV = jnp.argsort(-logits_BxV, axis=-1, stable=True)
    kept_BxV = kept(jnp.take_along_axis(logits_BxV, order_BxV, axis=-1), sampling)
    drawn_B = jax.vmap(jax.random.categorical)(keys_B, kept_BxV)
    return jnp.take_along_axis(order_BxV, drawn_B[:, None], axis=-1)[:, 0].astype(jnp.int32)


def kept(sorted_BxV: jax.Array, sampling: Sampling) -> jax.Array:
    """Sorted logits, the largest first; -inf in place of those that top_k and top_p leave out."""
    if sampling.top_k:
        inside = jnp.arange(sorted_BxV.shape[-1]) < sampling.top_k
        sorted_BxV = jnp.where(inside, sorted_BxV, -jnp.inf)
    if sampling.top_p < 1:
        chances = jax.nn.softmax(sorted_BxV, axis=-1)
        before = jnp.cumsum(chances, axis=-1) - chances
        sorted_BxV = jnp.where(before < sampling.top_p, sorted_BxV, -jnp.inf)
    return sorted_BxV
