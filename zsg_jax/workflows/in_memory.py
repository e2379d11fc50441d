"""Arrangements from Python: rows that are in memory, by the way that the command takes."""

import dataclasses
import hashlib
import json
import os
import tempfile
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from numbers import Integral, Real
from pathlib import Path
from typing import Any

import jax
import numpy as np
from jax.sharding import Mesh

from zsg_jax.arrangement.embedded import EmbeddedPair, embed_pair
from zsg_jax.arrangement.make import Compared, LeakSearch, Made, MethodOptions, compare, make
from zsg_jax.arrangement.methods import example_distance, parse
from zsg_jax.arrangement.scores import check_scores
from zsg_jax.arrangement.target_sets import sets_facts
from zsg_jax.data import export
from zsg_jax.data.dataset import Dataset, from_list
from zsg_jax.data.formats.fields import parse_fields
from zsg_jax.data.formats.jsonl import MAX_ROW_BYTES
from zsg_jax.data.instance import Instance, Turn
from zsg_jax.data.reading import ReadOptions
from zsg_jax.data.schemas.read import NO_TASK, way_out
from zsg_jax.data.sources import open_source, together
from zsg_jax.data.views import BOTH, view_words
from zsg_jax.leakage.options import LeakageOptions, near_in
from zsg_jax.runtime.errors import UserError, check
from zsg_jax.runtime.settings import named_by
from zsg_jax.similarity.embeddings import check_finite, refuse_masked
from zsg_jax.similarity.encoders.address import read_encoder
from zsg_jax.similarity.names import check_cosine
from zsg_jax.similarity.search.options import Search

# Rows: a file's name or address, as the command takes it; JSON objects, as a list or as a Dataset
# of `datasets`; or (N, D) embeddings alone.
Rows = str | os.PathLike[str] | Iterable[Mapping[str, Any]] | np.ndarray
# The keys of a config that are arguments here.
_NAMES = {
    "data.format": "data_format",
    "data.fields": "data_fields",
    "data.max_row_bytes": "max_row_bytes",
    "similarity.encoder": "encoder",
    "arrangement.budget": "budget",
    "arrangement.methods": "method",
    "arrangement.drop_leaks": "drop_leaks",
}


class Arranged:
    """An order of training rows, from the row to be trained on first.

    Attributes:
        order: (n,) int64 numbers of the training rows, from 0.
        turn: (n,) int32, the turn in which each was chosen, from 1.
        distance: (n,) float32, how far each is from the test rows, by the method's own measure.
        method: that made it.
        facts: how it was made, what of rows was embedded, and the leaks that were found, as JSON
            values.
    """

    def __init__(
        self, pair: EmbeddedPair, compared: Compared, made: Made, method: str, folder: Any
    ) -> None:
        """Takes what `make` gives, and what removes the folder that `pair` lies in."""
        self._pair, self._compared, self._folder = pair, compared, folder
        self.order, self.turn = made.arrangement.order, made.arrangement.turn
        distance, self._meaning = example_distance(method, compared.comparison)
        self.distance = distance[made.chosen].astype(np.float32)
        self.method = method
        leaks = compared.leakage
        self.facts: dict[str, Any] = {
            "method": method,
            "zsg_distance": self._meaning,
            **pair.encoder_facts,
            **made.facts,
            "leakage": None if leaks is None else leaks.summary(),
        }
        if len(compared.dropped):
            self.facts["rows_left_out_as_leaks"] = len(compared.dropped)
        if twins := compared.deduplicated:
            self.facts |= {**twins.facts, "duplicates": list(twins.pairs())}
        self._arrangement = made.arrangement

    def __len__(self) -> int:
        return len(self.order)

    def __repr__(self) -> str:
        return (
            f"<{self.method}: {len(self):,} of {len(self._pair.train):,} rows in "
            f"{int(self.turn.max(initial=0)):,} turns, toward {len(self._compared.pair.test):,}>"
        )

    def select(self, rows: Any) -> Any:
        """`rows` in this order: a Dataset of `datasets`, an array, or any sequence (as a list).

        Raises:
            UserError: they are not the rows that were arranged, as their number or an id tells.
        """
        _refuse_frame("select", rows)
        check(
            hasattr(rows, "__len__") and hasattr(rows, "__getitem__"),
            "select: a stream cannot be put in order, nor what has no numbers; give a list",
        )
        check(
            len(rows) == len(self._pair.train),
            f"select: {len(rows):,} rows, but {len(self._pair.train):,} were arranged; give those",
        )
        if isinstance(rows, np.ndarray):
            return rows[self.order]
        if hasattr(rows, "select"):
            chosen = rows.select(self.order)
            ids = chosen["id"] if "id" in chosen.column_names else []
        else:
            chosen = [rows[i] for i in self.order]
            ids = [one.get("id") if isinstance(one, Mapping) else None for one in chosen]
        if "embedded_of_rows" in self.facts:
            for index, there in zip(self.order, ids, strict=False):
                known = json.loads(self._pair.train.own(int(index))).get("id")
                check(
                    known is None or there is None or str(there) == str(known),
                    f"select: row {index} is {there!r}, but {known!r} was arranged; give those "
                    "rows, in the order that they had",
                )
        return chosen

    def records(self) -> Iterator[bytes]:
        """The rows in this order as JSON objects, with "zsg_turn" and "zsg_distance"."""
        return export.arranged(self._pair.train.raw, self.order, self.turn, self.distance)

    def to_jsonl(self, path: str | os.PathLike[str]) -> Path:
        """Writes `records` to a file, a line each.

        Raises:
            UserError: its name promises compression.
        """
        check(
            Path(path).suffix not in (".gz", ".bz2", ".xz", ".zst"),
            f"{path}: what is written is plain JSON lines; leave out {Path(path).suffix}",
        )
        return self._write(Path(path), "jsonl")

    def to_parquet(self, path: str | os.PathLike[str]) -> Path:
        """Writes `records` to a Parquet file."""
        return self._write(Path(path), "parquet")

    def explain(self, path: str | os.PathLike[str]) -> Path:
        """Writes a page that shows what the order does with the training rows; returns its path."""
        from zsg_jax.report.explain import explain

        aimed = self._compared.pair.test
        shown = {
            "Method": self.method,
            "Training rows": f"{len(self._pair.train):,}",
            "Arranged toward": f"{len(aimed):,} test rows",
            "Encoder": str(self.facts["encoder"]),
            "zsg_distance": self._meaning,
        }
        shown |= sets_facts(self.facts)
        return explain(
            Path(path),
            self._arrangement,
            self._pair,
            leakage=self.facts["leakage"],
            facts=shown,
            title=f"{self.method}: {len(self):,} rows",
            leaks_left_out=len(self._compared.dropped) > 0,
        )

    def _write(self, path: Path, format: str) -> Path:
        check(not path.is_dir(), f"{path}: is a folder; give the name of a file")
        path.parent.mkdir(parents=True, exist_ok=True)
        schema = self._pair.train.schema
        with tempfile.TemporaryDirectory(dir=path.parent) as folder:
            made = export.write(self.records, Path(folder), format, total=len(self), schema=schema)
            return made.replace(path)


def arrange_data(
    train: Rows,
    test: Rows,
    *,
    method: str = "tmta-min",
    encoder: Any = "hashing",
    budget: int | None = None,
    seed: int = 0,
    distance: str = "cosine",
    w_min: float = 1.0,
    w_avg: float | None = None,
    drop_leaks: bool = False,
    deduplicate: float | None = None,
    data_format: str = "auto",
    data_fields: str = "",
    max_row_bytes: int = MAX_ROW_BYTES,
    cache: str | os.PathLike[str] | None = None,
) -> Arranged:
    """Arranges training rows by their similarity to test rows.

    Args:
        train: rows as `python -m zsg_jax.arrange` reads them: a file name, a list of dicts or a
            Dataset of `datasets`; or (N, D) floats, their embeddings.
        test: likewise; (T, D) floats where `train` is an array.
        method: of docs/methods.md. This and what follows, but for `encoder`, are flags of the
            command, of the same names.
        encoder: "hashing", the folder of a sentence encoder, on disk or as "hub:OWNER/NAME",
            "states:…" for the hidden states of a decoder, "gradients:…" for those of its loss, or
            any object whose `encode(list of N texts)` gives an (N, D) array, as a
            SentenceTransformer.
        budget: rows at most, or at least with turns; None: all.
        seed: of methods that shuffle.
        distance: "cosine" or "euclidean".
        w_min: weight of the distance to the nearest test row, for methods by WSD.
        w_avg: weight of the average distance; None: the study's own.
        drop_leaks: whether training rows that are too much like test rows are left out.
        deduplicate: the cosine from which a row is left out for an earlier one; None: none is.
        data_format: of both sides, "auto" to tell it by the rows.
        data_fields: other names of fields, as "prompt=question".
        max_row_bytes: of a row as JSON.
        cache: a folder in which embeddings are kept by content, for encoders by name.

    Returns:
        The order, with ways to use and to read it.

    Raises:
        UserError: for every mistake that a user can mend; a row is named by its number.
    """
    with named_by(_NAMES):
        texts = {
            "method": method,
            "distance": distance,
            "data_format": data_format,
            "data_fields": data_fields,
        }
        numbers = {"w_min": w_min, "w_avg": w_avg, "deduplicate": deduplicate}
        _check_types(texts, numbers)
        _check_whole("budget", budget, 1, optional=True)
        _check_whole("seed", seed, 0)
        _check_whole("max_row_bytes", max_row_bytes, 1)
        check_cosine(f"deduplicate={deduplicate}", deduplicate)
        parse(method, seed)
        # What is read and embedded lies here as long as the result.
        folder = tempfile.TemporaryDirectory(prefix="zsg_jax-")
        if isinstance(train, np.ndarray) and isinstance(test, np.ndarray):
            check(not drop_leaks, "drop_leaks: embeddings alone do not tell leaks; give rows")
            _refuse_beside_embeddings(encoder, cache, data_format, data_fields)
            pair, leaks = _of_arrays(train, test), None
        else:
            read = ReadOptions(
                Path(folder.name),
                format=data_format,
                fields=parse_fields(data_fields),
                answers=False,
                max_row_bytes=max_row_bytes,
            )
            pair = _of_rows(train, test, read, method, encoder, cache)
            advice = "they are left out" if drop_leaks else "drop_leaks=True leaves them out"
            near = LeakageOptions(near_in(encoder if isinstance(encoder, str) else ""))
            leaks = LeakSearch(Path(folder.name), near, advice, drop=drop_leaks)
        search = Search(Mesh(np.asarray(jax.local_devices()), ("rows",)))
        options = MethodOptions((method,), seed, budget, distance, w_min, w_avg, deduplicate)
        compared = compare(pair, options, leaks=leaks, search=search)
        return Arranged(pair, compared, make(method, compared, seed), method, folder)


def _check_types(texts: Mapping[str, Any], numbers: Mapping[str, Any]) -> None:
    for name, text in texts.items():
        check(isinstance(text, str), f"{name}={text!r}: give a text")
    for name, number in numbers.items():
        check(number is None or isinstance(number, Real), f"{name}={number!r}: give a number")


def _refuse_beside_embeddings(encoder: Any, cache: Any, data_format: str, data_fields: str) -> None:
    check(
        isinstance(encoder, str) and encoder == "hashing" and cache is None,
        "encoder and cache are for rows that are embedded here; leave them out beside embeddings",
    )
    check(
        data_format == "auto" and not data_fields,
        "data_format and data_fields are of rows; leave them out beside embeddings",
    )


def _check_whole(name: str, value: Any, least: int, *, optional: bool = False) -> None:
    whole = isinstance(value, Integral) and not isinstance(value, bool) and int(value) >= least
    check(
        whole or (optional and value is None),
        f"{name}={value!r}: give a whole number, {least} or more",
    )


def _opened(rows: Rows, side: str, options: ReadOptions) -> Dataset:
    try:
        return _read(rows, side, options)
    except UserError as error:
        # A study may leave bad rows out; here all are counted.
        raise UserError(str(error).replace(way_out(), "mend it, or leave it out")) from None


def _read(rows: Rows, side: str, options: ReadOptions) -> Dataset:
    if isinstance(rows, str | os.PathLike):
        return open_source(os.fspath(rows), options, side)
    _refuse_frame(side, rows)
    try:
        every = iter(rows)
    except TypeError:
        raise UserError(
            f"{side}={rows!r}: give rows, the name of a file of them, or an array of embeddings"
        ) from None
    check(
        not isinstance(rows, np.ndarray),
        f"{side}: is an array, but the other side is rows; give both as rows or both as arrays",
    )
    check(
        not hasattr(rows, "__array__"),
        f"{side}: is a {type(rows).__name__}; give rows, or numpy.asarray of it where it is "
        "embeddings",
    )
    path = _file(side, options)
    with path.open("w", encoding="utf-8") as file:
        for number, row in enumerate(every):
            try:
                file.write(json.dumps(row, ensure_ascii=False) + "\n")
            except (TypeError, ValueError, RecursionError) as error:
                raise UserError(f"{side}: row {number}: {error}; give texts and numbers") from None
    with _named(side, options):
        return open_source(path, options, side)


def _refuse_frame(told: str, rows: Any) -> None:
    check(
        not hasattr(rows, "iloc"),
        f'{told}: is a data frame, which goes by its columns; give frame.to_dict("records")',
    )


def _file(side: str, options: ReadOptions) -> Path:
    """Where rows that are in memory are written."""
    return options.scratch / f"{side}.jsonl"


@contextmanager
def _named(side: str, options: ReadOptions) -> Iterator[None]:
    """Messages inside name rows that are in memory by their side and number."""
    try:
        yield
    except UserError as error:
        # Rows count from 0 in Python, lines from 1 in a file: the name of the side tells which.
        told = str(error).replace(str(_file(side, options)), f"{side}, line")
        raise UserError(told) from None


def _embedded(
    train: Dataset, test: Dataset, encoder: Any, folder: Path, cache: str | os.PathLike[str] | None
) -> EmbeddedPair:
    if isinstance(encoder, str | os.PathLike):
        read_encoder(os.fspath(encoder))
        kept = Path(cache) if cache else None
        return embed_pair(train, test, os.fspath(encoder), folder / "embeddings", cache=kept)
    check(not cache, "cache: is for encoders by name or folder; leave it out beside an object")
    check(
        hasattr(encoder, "encode"),
        f"encoder={encoder!r}: give hashing, a folder, or an object with .encode(texts)",
    )
    given = [encoder.encode(dataset.texts[:]) for dataset in (train, test)]
    try:
        arrays = tuple(map(np.asarray, given))
    except (ValueError, TypeError, RuntimeError) as error:  # the latter of tensors of PyTorch
        raise UserError(
            f"encoder: {error}; encode is to give an array, a vector of the same length for each "
            "text"
        ) from None
    return _pair((train, test), arrays, type(encoder).__name__)


def _of_rows(
    train: Rows, test: Rows, read: ReadOptions, method: str, encoder: Any, cache: Any
) -> EmbeddedPair:
    with _named("train", read), _named("test", read), together(read) as both:
        sides = {"train": _opened(train, "train", both), "test": _opened(test, "test", both)}
    with _named("train", read):
        check_scores((method,), sides["train"])
    pair = _embedded(sides["train"], sides["test"], encoder, read.scratch, cache)
    shown = {side: view_words(BOTH, of) for side, of in sides.items()}
    return dataclasses.replace(pair, encoder_facts=pair.encoder_facts | {"embedded_of_rows": shown})


def _of_arrays(train: np.ndarray, test: np.ndarray) -> EmbeddedPair:
    numbered = (
        [Instance(str(i), NO_TASK, (Turn("user", str(i)),), ()) for i in range(count)]
        for count in (len(one) if one.ndim else 0 for one in (train, test))
    )
    return _pair((*map(from_list, numbered),), (train, test), "given embeddings")


def _pair(
    sides: tuple[Dataset, ...], embeddings: tuple[np.ndarray, ...], encoder: str
) -> EmbeddedPair:
    digests = {}
    for name, dataset, array in zip(("train", "test"), sides, embeddings, strict=True):
        check(len(dataset) > 0, f"{name}: holds no row; give one or more")
        check(
            array.ndim == 2 and len(array) == len(dataset),
            f"{name}: embeddings of shape {array.shape} for {len(dataset):,} rows; each row needs "
            "its own",
        )
        refuse_masked(array, f"{name}: embeddings")
        check_finite(array, f"{name}: embeddings")
        digests[name] = hashlib.sha256(array.tobytes()).hexdigest()
    facts = {"encoder": encoder, "encoder_digest": digests}
    train, test = sides
    indices = np.arange(len(train)), np.arange(len(test))
    return EmbeddedPair(train, test, embeddings[0], embeddings[1], *indices, facts)
