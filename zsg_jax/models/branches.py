"""Several ways to go on from one prompt, which is computed once.

A segment of a sequence holds a prompt and, after it, one branch after the other. A branch sees the
prompt and itself, and its positions go on from the prompt's: so what is computed for it is what
would be if it stood behind the prompt alone.
"""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from zsg_jax.models.attention import Mix
from zsg_jax.models.attention.xla import attend_under


def mixing(
    segment_ids_BxL: jax.Array, branch_ids_BxL: jax.Array, positions_BxL: jax.Array
) -> Callable[[Any], Mix]:
    """Mixes prompts and branches; for `model.hidden_with`, by plain XLA whatever the kernel is.

    Args:
        segment_ids_BxL: int32, from 1; 0 is padding, which sees and is seen by nothing.
        branch_ids_BxL: int32, from 1 in each segment; 0 is the prompt.
        positions_BxL: int32, of each token from the start of its prompt.
    """
    L = segment_ids_BxL.shape[1]
    same = segment_ids_BxL[:, :, None] == segment_ids_BxL[:, None, :]
    of_key, of_query = branch_ids_BxL[:, None, :], branch_ids_BxL[:, :, None]
    seen_BxLxL = jnp.tri(L, dtype=bool) & same & (segment_ids_BxL != 0)[:, None, :]
    seen_BxLxL &= (of_key == 0) | (of_key == of_query)
    behind_BxLxL = positions_BxL[:, :, None] - positions_BxL[:, None, :]

    def mix(
        q: jax.Array,
        k: jax.Array,
        v: jax.Array,
        window: int | None,
        memory: Any,
        **more: Any,
    ) -> tuple[jax.Array, Any]:
        mask = seen_BxLxL if window is None else seen_BxLxL & (behind_BxLxL < window)
        return attend_under(q, k, v, mask, **more), memory

    return lambda kernel: mix
