"""What stands behind a name as KEY=VALUE, in the addresses of sources and encoders."""

from collections.abc import Collection, Iterable, Iterator

from zsg_jax.runtime.errors import check, did_you_mean


def pairs(address: str, parts: Iterable[str], known: Collection[str]) -> Iterator[tuple[str, str]]:
    """The keys and values of an address, one at a time.

    Args:
        address: all of it, for messages.
        parts: each a KEY=VALUE.
        known: keys that there are.

    Raises:
        UserError: a part is no KEY=VALUE, or its key is none of `known` or comes twice.
    """
    seen = set()
    for part in parts:
        key, equals, value = part.partition("=")
        check(bool(equals), f"{address}: {part!r} must be KEY=VALUE")
        check(
            key in known,
            f"{address}: {key!r} is a key that nothing reads{did_you_mean(key, known)}; there are "
            f"{', '.join(known)}",
        )
        check(key not in seen, f"{address}: names {key} twice")
        seen.add(key)
        yield key, value
