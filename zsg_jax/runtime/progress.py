"""Progress bars and one-line messages: process 0 only, and no bars where no terminal is."""

import sys
from collections.abc import Callable, Iterable, Iterator
from contextlib import suppress
from typing import TypeVar

import jax
from tqdm import tqdm

T = TypeVar("T")


def say(message: str) -> None:
    """Prints one line to standard error, on process 0, without tearing a running bar.

    Where nobody reads what is said, as at a pipe that is gone, the work goes on all the same.
    """
    if jax.process_index() == 0:
        with suppress(OSError, ValueError):
            tqdm.write(message, file=sys.stderr)
            sys.stderr.flush()


def count(number: int, noun: str) -> str:
    """ "1 row", "2,000 rows"."""
    return f"{number:,} {noun}{'' if number == 1 else 's'}"


def bar(total: int | None, description: str, unit: str = "row", initial: int = 0) -> tqdm:
    """A bar with the time left; silent off process 0 and when standard error is no terminal."""
    hidden = jax.process_index() != 0 or not sys.stderr.isatty()
    return tqdm(
        total=total,
        initial=initial,
        desc=description,
        unit=unit,
        disable=hidden,
        leave=False,
        dynamic_ncols=True,
    )


def passes(progress: tqdm) -> Callable[[int, int], None]:
    """A callback for work in passes: takes how many rows are done, and how many a pass has."""

    def done(rows: int, of: int) -> None:
        if progress.total is None or progress.n >= progress.total:
            progress.reset(of)
        progress.update(rows)

    return done


def track(items: Iterable[T], description: str, total: int | None = None) -> Iterator[T]:
    """Yields `items`, drawing a bar while they pass."""
    with bar(total, description) as progress:
        for item in items:
            yield item
            progress.update()
