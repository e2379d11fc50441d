"""The distances and the dtypes that there are, by name: known before anything is computed."""

from zsg_jax.runtime.errors import check, did_you_mean

DISTANCES = ("cosine", "euclidean")
# What embeddings may be kept in.
DTYPES = ("float32", "bfloat16")


def check_cosine(told: str, value: float | None) -> None:
    """Refuses a number from which on two rows could not be alike; None, no such number, may be.

    Args:
        told: the key and its value, as the user gives them.
        value: what it is.
    """
    check(value is None or 0 < value <= 1, f"{told}: it must be a cosine above 0, at most 1")


def check_distance(distance: str) -> None:
    """Refuses what is not one of `DISTANCES`."""
    check(
        distance in DISTANCES,
        f"distance={distance!r} is unknown; choose one of {', '.join(DISTANCES)}"
        f"{did_you_mean(distance, DISTANCES)}",
    )
