"""Rotary positions (arXiv 2104.09864), plain and scaled, which all families but GPT-2 share.

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

    def __call__(self, frequencies: jax.Array) -> jax.Array:
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

    def __call__(self, frequencies: jax.Array) -> jax.Array:
        """The frequencies that are used instead of these."""
        waves = self.original_max_positions * frequencies / (2 * math.pi)
        share = (waves - self.low_freq_factor) / (self.high_freq_factor - self.low_freq_factor)
        share = jnp.clip(share, 0.0, 1.0)
        return share * frequencies + (1 - share) * frequencies / self.factor


RopeScaling = LinearScaling | Llama3Scaling


def angles(
    positions_BxL: jax.Array, head_dim: int, theta: float, scaling: RopeScaling | None = None
) -> jax.Array:
    """How far each pair of numbers of a head is turned at each position, (B, L, H/2) float32."""
    frequencies = theta ** (-jnp.arange(0, head_dim, 2, jnp.float32) / head_dim)
    if scaling is not None:
        frequencies = scaling(frequencies)
    return positions_BxL[..., None].astype(jnp.float32) * frequencies


def rotate(x_BxLxNxH: jax.Array, angles_BxLxH2: jax.Array) -> jax.Array:
    """Turns queries or keys by `angles`; the dtype of `x` comes back."""
    cos, sin = jnp.cos(angles_BxLxH2)[:, :, None], jnp.sin(angles_BxLxH2)[:, :, None]
    a, b = jnp.split(x_BxLxNxH.astype(jnp.float32), 2, axis=-1)
    turned = jnp.concatenate([a * cos - b * sin, b * cos + a * sin], axis=-1)
    return turned.astype(x_BxLxNxH.dtype)
