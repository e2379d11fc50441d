"""Rotary positions (arXiv 2104.09864), plain and scaled, of all families but GPT-2.

Halves are turned, not pairs, as Hugging Face does, so that its weights load unpermuted.
"""

import math
from dataclasses import dataclass

import jax
import jax.numpy as jnp

from zsg_jax.models.checks import check_fields
from zsg_jax.runtime.errors import check


@dataclass(frozen=True)
class LinearScaling:
    """Positions divided by `factor` (arXiv 2306.15595)."""

    factor: float

    def __post_init__(self) -> None:
        check_fields("rope scaling", self)

    def __call__(self, frequencies: jax.Array, theta: float) -> jax.Array:
        """The frequencies that are used instead of these."""
        return frequencies / self.factor


@dataclass(frozen=True)
class Llama3Scaling:
    """Llama 3.1's (arXiv 2407.21783): slow frequencies are divided, fast ones left, between mixed.

    A wave is fast if more than `high_freq_factor` of it fit into `original_max_positions`, slow if
    fewer than `low_freq_factor` do.
    """

    factor: float
    low_freq_factor: float
    high_freq_factor: float
    original_max_positions: int

    def __post_init__(self) -> None:
        check_fields("rope scaling", self)
        check(
            self.low_freq_factor < self.high_freq_factor,
            f"rope scaling: low_freq_factor={self.low_freq_factor} must be below"
            f" high_freq_factor={self.high_freq_factor}",
        )

    def __call__(self, frequencies: jax.Array, theta: float) -> jax.Array:
        """The frequencies that are used instead of these."""
        waves = self.original_max_positions * frequencies / (2 * math.pi)
        share = (waves - self.low_freq_factor) / (self.high_freq_factor - self.low_freq_factor)
        share = jnp.clip(share, 0.0, 1.0)
        return share * frequencies + (1 - share) * frequencies / self.factor


@dataclass(frozen=True)
class YarnScaling:
    """YaRN's (arXiv 2309.00071): slow pairs are divided, fast ones left, a ramp between them.

    A pair is fast if it turns more than `beta_fast` times over `original_max_positions`, slow if
    fewer than `beta_slow` times.

    Attributes:
        attention_factor: what turned queries and keys are multiplied by.
        truncate: whether the ends of the ramp are whole numbers of pairs.
    """

    factor: float
    original_max_positions: int
    attention_factor: float
    beta_fast: float = 32.0
    beta_slow: float = 1.0
    truncate: bool = True

    def __post_init__(self) -> None:
        check_fields("rope scaling", self)
        check(
            self.beta_slow < self.beta_fast,
            f"rope scaling: beta_slow={self.beta_slow} must be below beta_fast={self.beta_fast}",
        )

    def __call__(self, frequencies: jax.Array, theta: float) -> jax.Array:
        """The frequencies that are used instead of these."""
        pairs = len(frequencies)

        def pair(turns: float) -> float:
            waves = self.original_max_positions / (turns * 2 * math.pi)
            return pairs * math.log(waves) / math.log(theta)

        low, high = pair(self.beta_fast), pair(self.beta_slow)
        if self.truncate:
            low, high = math.floor(low), math.ceil(high)
        low, high = max(low, 0), min(high, 2 * pairs - 1)
        width = high - low if high != low else 0.001
        slow = jnp.clip((jnp.arange(pairs, dtype=jnp.float32) - low) / width, 0.0, 1.0)
        return slow * frequencies / self.factor + (1 - slow) * frequencies


RopeScaling = LinearScaling | Llama3Scaling | YarnScaling


def amplitude(scaling: RopeScaling | None) -> float:
    """What turned queries and keys are multiplied by."""
    return scaling.attention_factor if isinstance(scaling, YarnScaling) else 1.0


def angles(
    positions_BxL: jax.Array, head_dim: int, theta: float, scaling: RopeScaling | None = None
) -> jax.Array:
    """How far each pair of numbers of a head is turned at each position, (B, L, H/2) float32."""
    frequencies = theta ** (-jnp.arange(0, head_dim, 2, jnp.float32) / head_dim)
    if scaling is not None:
        frequencies = scaling(frequencies, theta)
    return positions_BxL[..., None].astype(jnp.float32) * frequencies


def rotate(x_BxLxNxH: jax.Array, angles_BxLxH2: jax.Array, by: float = 1.0) -> jax.Array:
    """Turns queries or keys by `angles`, times `by`; the dtype of `x` comes back.

    Numbers of a head beyond those that the angles are of stay as they are.
    """
    cos, sin = jnp.cos(angles_BxLxH2)[:, :, None], jnp.sin(angles_BxLxH2)[:, :, None]
    if by != 1.0:
        cos, sin = by * cos, by * sin
    count = 2 * angles_BxLxH2.shape[-1]
    a, b = jnp.split(x_BxLxNxH[..., :count].astype(jnp.float32), 2, axis=-1)
    parts = [a * cos - b * sin, b * cos + a * sin]
    if count < x_BxLxNxH.shape[-1]:
        parts.append(x_BxLxNxH[..., count:].astype(jnp.float32))
    turned = jnp.concatenate(parts, axis=-1)
    return turned.astype(x_BxLxNxH.dtype)
