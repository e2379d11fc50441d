"""The distances and the dtypes that there are, by name: known before anything is computed."""

from zsg_jax.runtime.errors import check, did_you_mean

DISTANCES = ("cosine", "euclidean")
# What embeddings may be kept in.
DTYPES = ("float32", "bfloat16")


def check_distance(distance: str) -> None:
    """Refuses what is not one of `DISTANCES`."""
    check(
        distance in DISTANCES,
        f"distance={distance!r} is unknown; choose one of {', '.join(DISTANCES)}"
        f"{did_you_mean(distance, DISTANCES)}",
    )
