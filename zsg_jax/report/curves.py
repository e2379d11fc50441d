"""What a single curve of losses shows: its area, when it is near its end, of what kind it is.

Everything here is float64 NumPy on numbers of `metrics.jsonl`.
"""

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

NEAR_FINAL = 0.05  # "within 5 % of its final value"
FLAT = 0.05  # a task's loss that varies by less than this share of its first value does not move
REBOUND = 0.1  # share of its range that a loss must win back to count as rising again
EARLY = 0.25  # share of the steps that counts as early

EARLY_KIND = "falls early and stays"
LATE_KIND = "falls late"
RISING_KIND = "rises again"
FLAT_KIND = "does not move"
KINDS = (EARLY_KIND, LATE_KIND, RISING_KIND, FLAT_KIND)


def area_under_curve(steps: Sequence[int], losses: Sequence[float] | np.ndarray) -> float:
    """Trapezoid area of `losses` (S,) over `steps` (S,) divided by the step span, in loss units.

    NaN for fewer than two evaluations: one point spans no area.
    """
    if len(steps) < 2:
        return math.nan
    return float(np.trapezoid(losses, steps)) / (steps[-1] - steps[0])


def first_step_within(steps: Sequence[int], losses: Sequence[float] | np.ndarray) -> int | None:
    """First of `steps` (S,) whose loss differs from the last by at most 5 % of the last.

    None where the final loss is not finite. The loss may leave that band again later.
    """
    values = np.asarray(losses, np.float64)
    if not values.size or not np.isfinite(values[-1]):
        return None
    # The last value is always within, so there is a first one; NaN compares as not within.
    near = np.abs(values - values[-1]) <= NEAR_FINAL * abs(values[-1])
    return int(steps[int(np.argmax(near))])


def curve_kind(steps: Sequence[int], losses: Sequence[float] | np.ndarray) -> str | None:
    """Names the kind of a loss curve, `losses` (S,) at `steps` (S,).

    Applied in this order, with range = highest − lowest loss:

    1. "does not move": the range is below 5 % of the first loss;
    2. "rises again": the final loss lies above the lowest by more than a tenth of the range
       (a curve that only rises is counted here);
    3. "falls early and stays": after its highest value the loss gets half-way down to its lowest
       no later than the first evaluation at or after a quarter of the steps;
    4. "falls late": it gets there later.

    None for fewer than three evaluations, which cannot tell early from late, or for a loss that
    is not finite.
    """
    values = np.asarray(losses, np.float64)
    if values.size < 3 or not np.isfinite(values).all():
        return None
    lowest, highest = values.min(), values.max()
    spread = highest - lowest
    if spread <= 0 or spread < FLAT * abs(values[0]):
        return FLAT_KIND
    if values[-1] - lowest > REBOUND * spread:
        return RISING_KIND
    top = int(np.argmax(values))
    halved = top + int(np.argmax(values[top:] <= (highest + lowest) / 2))
    at = np.asarray(steps)
    limit = at[at >= at[0] + EARLY * (at[-1] - at[0])][0]
    return EARLY_KIND if at[halved] <= limit else LATE_KIND


def number(value: Any) -> float:
    """`value` as a float; NaN for what is missing, no number or not finite."""
    if isinstance(value, bool) or not isinstance(value, (int, float, np.number)):
        return math.nan
    return float(value) if math.isfinite(value) else math.nan


def json_ready(value: Any) -> Any:
    """`value` with arrays as lists, NumPy numbers as Python's and non-finite numbers as None."""
    if isinstance(value, Mapping):
        return {str(key): json_ready(item) for key, item in value.items()}
    if isinstance(value, (list, tuple, np.ndarray)):
        return [json_ready(item) for item in value]
    if isinstance(value, np.integer):
        return int(value)
    if isinstance(value, (float, np.floating)):
        return float(value) if math.isfinite(value) else None
    return value


def even_places(n: int, count: int) -> np.ndarray:
    """At most `count` of n positions, ascending and evenly spaced, first and last included."""
    return np.linspace(0, n - 1, min(n, count)).round().astype(np.int64)
