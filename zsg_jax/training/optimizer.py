"""AdamW with a learning-rate schedule and clipping, as the arrangement study sets them."""

from typing import Any

import jax
import optax

from zsg_jax.runtime.errors import UserError
from zsg_jax.runtime.settings import setting

SCHEDULES = ("cosine", "constant")
FINAL_SHARE = 0.1
# β₂ and ε are the arrangement study's.
B1, B2, EPS = 0.9, 0.95, 1e-5


def schedule(name: str, peak: float, steps: int, warmup_steps: int = 0) -> optax.Schedule:
    """Learning rate by step, from 0: linear warm-up to `peak`, then the named course.

    "cosine" falls to a tenth of `peak` at `steps`, as in arXiv 2406.11721; "constant" stays.

    Raises:
        UserError: for an unknown name, or a warm-up as long as the run.
    """
    if name not in SCHEDULES:
        given = setting("training.schedule", repr(name))
        raise UserError(f"{given} is unknown; choose one of {SCHEDULES}")
    if not 0 <= warmup_steps < max(steps, 1):
        raise UserError(
            f"{setting('training.warmup_steps', warmup_steps)} must be at least 0 and under the "
            f"{steps} steps of the run"
        )
    if name == "constant":
        course = optax.constant_schedule(peak)
    else:
        course = optax.cosine_decay_schedule(peak, max(steps - warmup_steps, 1), FINAL_SHARE)
    if not warmup_steps:
        return course
    # The first step already moves: warm-up ends, not starts, at a full division of the peak.
    warmup = optax.linear_schedule(peak / warmup_steps, peak, warmup_steps - 1)
    return optax.join_schedules([warmup, course], [warmup_steps])


def adamw(
    learning_rate: optax.Schedule,
    *,
    clip_norm: float,
    weight_decay: float = 0.0,
    b2: float = B2,
    eps: float = EPS,
) -> optax.GradientTransformation:
    """AdamW, β₁ `B1`, after clipping the gradients' global norm to `clip_norm`.

    `clip_norm` 0 leaves gradients as they are.
    """
    clip = optax.clip_by_global_norm(clip_norm) if clip_norm else optax.identity()
    update = optax.adamw(learning_rate, b1=B1, b2=b2, eps=eps, weight_decay=weight_decay)
    return optax.chain(clip, update)


def moments(opt_state: Any) -> optax.ScaleByAdamState:
    """Adam's count and moments within the state of an `adamw`."""
    every = jax.tree.leaves(opt_state, is_leaf=lambda x: isinstance(x, optax.ScaleByAdamState))
    (found,) = [one for one in every if isinstance(one, optax.ScaleByAdamState)]
    return found


def adam_direction(gradients: Any, moments: optax.ScaleByAdamState) -> Any:
    """What Adam's next step would go along, up to its learning rate, on these gradients alone.

    Γ of LESS (arXiv 2402.04333, section 3.1), with the β₁, β₂ and ε of `adamw`; neither clipping
    nor weight decay has a part in it.

    Args:
        gradients: nested dict of arrays.
        moments: of the steps before, of the same shapes.
    """
    return optax.scale_by_adam(b1=B1, b2=B2, eps=EPS).update(gradients, moments)[0]
