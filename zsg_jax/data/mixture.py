"""Several sources as one: a `.mix.json` file says how many examples of each, and a seed which."""

from collections.abc import Collection, Sequence
from decimal import Decimal
from fractions import Fraction
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from zsg_jax.data.formats.jsonl import json_file, named_once
from zsg_jax.data.formats.tables import HUB
from zsg_jax.data.formats.tfds import PREFIX
from zsg_jax.data.rewriting import address
from zsg_jax.data.sampling import draw, sample
from zsg_jax.runtime.errors import check, did_you_mean

SUFFIX = ".mix.json"
_MOST = Decimal(10) ** 15  # of weights and shares


class Entry(NamedTuple):
    """One source of a mixture.

    Attributes:
        name: what its examples' ids begin with; different from the other entries'.
        path: the source.
        weight: its share of the examples, in proportion to the other weights; None: it has none.
        cap: examples at most; None: all.
        format: as `data.format` takes it.
        label: for messages.
        share: of a target set, of the training examples that its examples choose, in proportion to
            the other shares; None: it has none.
        budget: of a target set, training examples that its examples choose at most; None: any.
    """

    name: str
    path: Path
    weight: Fraction | None
    cap: int | None
    format: str
    label: str
    share: Fraction | None = None
    budget: int | None = None


class TargetSet(NamedTuple):
    """Test examples of one source, which choose training examples for themselves.

    Attributes:
        name: the source's.
        share: of what is chosen, in proportion to the other sets' shares.
        budget: training examples at most; None: any number.
    """

    name: str
    share: Fraction
    budget: int | None


class Mixture(NamedTuple):
    """What a `.mix.json` file says; `rows`: examples in all, None: as many as fit."""

    path: Path
    entries: tuple[Entry, ...]
    rows: int | None
    seed: int


def is_mixture(path: str | Path) -> bool:
    """Whether a path names a mixture."""
    return str(path).endswith(SUFFIX)


def read_mixture(path: str | Path) -> Mixture:
    """Reads `{"sources": [{"path", "name", "weight", "cap", "format"}, …], "rows", "seed"}`.

    A source needs "path", from the file's own folder, "hub:…", "tfds:…" or "rewrites:…"; its name
    is by default the path's without suffixes. Either every source has a weight or none has. Those
    of test examples may have "share" and "budget" besides; either all have a share or none has.

    Raises:
        UserError: naming the file, the entry and what is wrong with it.
    """
    path = Path(path)
    # Weights as they are written: 0.1 and 0.3 are one to three, exactly.
    once = {"object_pairs_hook": named_once}
    content = json_file(path, 'give an object with "sources"', parse_float=Decimal, **once)
    check(isinstance(content, dict), f'{path}: must be an object with "sources"')
    _check_keys(str(path), content, ("sources", "rows", "seed"))
    listed = content.get("sources")
    check(
        isinstance(listed, list) and bool(listed),
        f'{path}: "sources" must be a list of {{"path": …}}, at least one',
    )
    entries = tuple(_entry(path, number, one) for number, one in enumerate(listed))
    for number, entry in enumerate(entries):
        check(
            entry.name not in {other.name for other in entries[:number]},
            f"{entry.label}: goes by the name of another source, which ids begin with; give it a "
            '"name" of its own',
        )
        for key in ("weight", "share"):
            check(
                (getattr(entry, key) is None) == (getattr(entries[0], key) is None),
                f'{entry.label}: either every source has a "{key}" or none has; give every one '
                f"a {key}",
            )
    return Mixture(
        path,
        entries,
        _whole(str(path), "rows", content.get("rows"), 1),
        _whole(str(path), "seed", content.get("seed"), 0) or 0,
    )


def target_sets(mixture: Mixture) -> tuple[TargetSet, ...]:
    """The sources as sets of test examples, in their order; none where none is told to be one."""
    if all(entry.share is None and entry.budget is None for entry in mixture.entries):
        return ()
    return tuple(
        TargetSet(entry.name, entry.share or Fraction(1), entry.budget) for entry in mixture.entries
    )


def shares(mixture: Mixture, counts: Sequence[int]) -> list[int]:
    """How many examples each source gives.

    With weights the examples stand in their proportion: `rows` of them in all, shared out by
    largest remainders, or as many as the scarcest source allows. Without weights every source gives
    all its examples up to its cap, or where `rows` is given, its share of these by its size.

    Args:
        mixture: what is wanted.
        counts: examples of each source.

    Raises:
        UserError: naming the source that has too few examples, or would give none.
    """
    entries = mixture.entries
    caps = [
        count if entry.cap is None else min(entry.cap, count)
        for entry, count in zip(entries, counts, strict=True)
    ]
    for entry, cap in zip(entries, caps, strict=True):
        check(cap > 0, f"{entry.label}: has no row")
    weights = [entry.weight or Fraction(cap) for entry, cap in zip(entries, caps, strict=True)]
    if mixture.rows is None:
        scale = min(cap / weight for cap, weight in zip(caps, weights, strict=True))
        sizes = [int(weight * scale) for weight in weights]
    else:
        quotas = [weight * mixture.rows / sum(weights) for weight in weights]
        sizes = [int(quota) for quota in quotas]
        by_remainder = sorted(range(len(quotas)), key=lambda one: sizes[one] - quotas[one])
        for one in by_remainder[: mixture.rows - sum(sizes)]:
            sizes[one] += 1
    for entry, size, cap in zip(entries, sizes, caps, strict=True):
        check(
            size <= cap,
            f"{entry.label}: would give {size:,} rows but has {cap:,}; give it a smaller weight, "
            'or the mixture fewer "rows"',
        )
        check(
            size > 0,
            f"{entry.label}: would give no row; give it a larger weight, or the mixture more rows",
        )
    return sizes


def mix(mixture: Mixture, counts: Sequence[int]) -> tuple[np.ndarray, np.ndarray]:
    """A mixture's examples: each source's in its own order, spread evenly among the others'.

    Args:
        mixture: what is wanted.
        counts: examples of each source.

    Returns:
        (n,) int32 source and (n,) int64 index in it, of each example. Among the first m of n, a
        source of k has m·k/n, give or take 1 + S·k/n, where S sources are mixed.

    Raises:
        UserError: as `shares` does.
    """
    sizes = shares(mixture, counts)
    source = np.repeat(np.arange(len(sizes), dtype=np.int32), sizes)
    index, position = [], []
    for entry, size, count in zip(mixture.entries, sizes, counts, strict=True):
        index += sample(range(count), size, mixture.seed, "mixture", entry.name)
        # Every source starts at an offset of its own, or small ones would meet again and again.
        start = draw(mixture.seed, "place", entry.name) / 2**64
        position.append((np.arange(size) + start) / size)
    order = np.argsort(np.concatenate(position), kind="stable")
    return source[order], np.array(index, np.int64)[order]


def _entry(path: Path, number: int, given: Any) -> Entry:
    label = f"{path}: sources[{number}]"
    check(isinstance(given, dict), f'{label}: must be an object with "path"')
    _check_keys(label, given, ("path", "name", "weight", "cap", "format", "share", "budget"))
    for key in ("path", "name", "format"):
        value = given.get(key, "" if key == "path" else "one")
        check(isinstance(value, str) and bool(value.strip()), f'{label}: "{key}" must be a string')
    named = given["path"]
    elsewhere = named.startswith((HUB, PREFIX, address.PREFIX))
    source = Path(named) if elsewhere else path.parent / named
    check(not is_mixture(source), f"{label}: {source} is a mixture itself; list its sources here")
    plain = source.name.partition(".")[0] or source.name
    name = given.get("name", "rewrites" if address.is_address(source) else plain)
    label = f"{label} ({name!r})"
    check("/" not in name and name.isprintable(), f'{label}: "name" must be plain, without "/"')
    return Entry(
        name,
        source,
        _positive(label, "weight", given.get("weight")),
        _whole(label, "cap", given.get("cap"), 1),
        given.get("format", "auto"),
        label,
        _positive(label, "share", given.get("share")),
        _whole(label, "budget", given.get("budget"), 1),
    )


def _positive(label: str, key: str, value: Any) -> Fraction | None:
    # Fractions of what lies far beyond take hours.
    check(
        value is None or (type(value) in (int, Decimal) and 1 / _MOST <= value <= _MOST),
        f'{label}: "{key}" must be a number above 0, from 1e-15 to 1e15',
    )
    return None if value is None else Fraction(value)


def _whole(label: str, key: str, value: Any, least: int) -> int | None:
    check(
        value is None or (type(value) is int and value >= least),
        f'{label}: "{key}" must be a whole number from {least}',
    )
    return value


def _check_keys(label: str, given: dict[str, Any], known: Collection[str]) -> None:
    for key in given:
        check(
            key in known,
            f"{label}: {key!r} is a key that nothing reads; there are {', '.join(known)}"
            + did_you_mean(key, known),
        )
