"""Parquet files, Arrow files and the folders of `datasets`: every row as a JSON object."""

import base64
import json
import math
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from decimal import Decimal
from pathlib import Path
from typing import Any

from zsg_jax.data.formats.jsonl import MAX_ROW_BYTES, Record, json_file, too_long
from zsg_jax.runtime.errors import UserError, check, first_line
from zsg_jax.runtime.progress import track

BATCH_ROWS = 1024
HUB = "hub:"
# Fields that a record may lack; a table has null for them then.
OPTIONAL = (
    *("id", "task", "task_name", "task_id", "source", "references", "system", "history"),
    *("choices", "answer_choices"),
)
STATE, INFO, SPLITS = "state.json", "dataset_info.json", "dataset_dict.json"

_END_OF_STREAM = b"\xff\xff\xff\xff\x00\x00\x00\x00"
_MAGIC = b"ARROW1"


def parquet_records(path: Path, most: int = MAX_ROW_BYTES) -> Iterator[Record]:
    """The rows of a Parquet file, some 1,000 of a row group in memory at a time.

    Args:
        path: the file.
        most: bytes that a row may take; one that takes more is refused.

    Raises:
        UserError: for a missing or damaged file.
    """
    import pyarrow.parquet as pq

    def batches() -> Iterator[Any]:
        with pq.ParquetFile(path, page_checksum_verification=True) as file:
            groups = range(file.num_row_groups)
            for group in track(groups, f"reading {path.name}", len(groups)):
                size = max(file.metadata.row_group(group).total_byte_size, 1)
                rows = min(max(BATCH_ROWS * most // size, 1), BATCH_ROWS)
                yield from file.iter_batches(rows, row_groups=[group])

    yield from _records(path, batches, "Parquet file", most)


def arrow_records(path: Path, most: int = MAX_ROW_BYTES) -> Iterator[Record]:
    """The rows of one Arrow file, a stream or a file with a footer, as `parquet_records`."""
    yield from _records(path, lambda: _arrow_batches(path), "Arrow file", most)


def is_saved(path: Path) -> bool:
    """Whether a folder is one that `datasets` saved."""
    return (path / SPLITS).exists() or ((path / STATE).exists() and (path / INFO).exists())


def saved_records(path: Path, most: int = MAX_ROW_BYTES) -> Iterator[Record]:
    """The rows of a folder that `datasets` saved, numbered through all of its Arrow files.

    Raises:
        UserError: for a folder of several splits, naming them; for a missing or damaged file in
            it.
    """
    if (path / SPLITS).exists():
        names = list(_read_json(path / SPLITS).get("splits") or [])
        raise UserError(
            f"{path}: holds the splits {', '.join(map(str, names))}; give the folder of one, as "
            f"{path / str(names[0] if names else 'train')}"
        )
    state = _read_json(path / STATE)
    check(
        not state.get("_indices_data_files"),
        f"{path}: keeps its rows' order in a file of its own, as old versions of datasets did; "
        "load it with datasets and save it again",
    )
    listed = state.get("_data_files")
    files = [
        one.get("filename") if isinstance(one, dict) else None
        for one in (listed if isinstance(listed, list) else ())
    ]
    check(
        bool(files) and all(isinstance(name, str) and Path(name).name == name for name in files),
        f"{path / STATE}: names no Arrow file beside it; save the folder again",
    )
    number = 0
    for name in files:
        for record in arrow_records(path / str(name), most):
            number += 1
            yield record._replace(path=path, number=number)


def hub_records(path: Path, most: int = MAX_ROW_BYTES) -> Iterator[Record]:
    """The rows of `hub:OWNER/NAME[:SPLIT]`, which `datasets` fetches unless it has them already.

    Raises:
        UserError: where `datasets` is not installed or cannot load it; for several splits of which
            none is named.
    """
    name = str(path)
    try:
        import datasets
    except ImportError:
        raise UserError(f"{name}: needs datasets: pip install 'zsg_jax[export]'") from None

    dataset_name, _, split = name.removeprefix(HUB).partition(":")
    try:
        loaded = datasets.load_dataset(dataset_name, split=split or None)
    # Whatever goes wrong between here and the hub comes in types of many libraries.
    except Exception as error:
        raise UserError(f"{name}: cannot be loaded: {first_line(error)}") from None
    if isinstance(loaded, dict):
        if len(loaded) != 1:
            first = next(iter(loaded), "train")
            raise UserError(
                f"{name}: has the splits {', '.join(loaded)}; name one, as {name}:{first}"
            )
        loaded = next(iter(loaded.values()))

    def batches() -> Iterator[Any]:
        yield from loaded.with_format("arrow").iter(BATCH_ROWS)

    yield from _records(path, batches, "data set", most)


def _arrow_batches(path: Path) -> Iterator[Any]:
    import pyarrow as pa

    with pa.memory_map(str(path)) as source:
        if source.read(len(_MAGIC)) == _MAGIC:
            reader = pa.ipc.open_file(source)
            batches = map(reader.get_batch, range(reader.num_record_batches))
        else:
            # A stream that stops between two batches looks like one that ends there.
            source.seek(max(source.size() - len(_END_OF_STREAM), 0))
            if source.read() != _END_OF_STREAM:
                raise pa.ArrowInvalid("it was cut off, or not written to its end")
            source.seek(0)
            batches = iter(pa.ipc.open_stream(source))
        for batch in batches:
            # Damage must not lead outside the memory that the file is mapped to.
            batch.validate(full=True)
            for start in range(0, len(batch), BATCH_ROWS):
                yield batch.slice(start, BATCH_ROWS)


def _records(
    path: Path, batches: Callable[[], Iterator[Any]], what: str, most: int
) -> Iterator[Record]:
    number = 0
    with _damage_named(path, lambda: number, what):
        for batch in batches():
            names = batch.schema.names
            check(
                len(set(names)) == len(names),
                f"{path}: has two columns of one name, of {', '.join(sorted(names))[:200]}; leave "
                "one of them",
            )
            for row in _bounded_rows(batch, most):
                number += 1
                record = Record(path, number, b"", unit="row")
                if isinstance(row, str):
                    yield record._replace(refusal=row)
                else:
                    yield record._replace(raw=as_json(row))


def _bounded_rows(batch: Any, most: int) -> Iterator[dict[str, Any] | str]:
    """The rows of a batch, of which no more than some `most` bytes become objects at once."""
    rows = batch.num_rows
    if rows > 1 and batch.nbytes > most:
        for part in (batch.slice(0, rows // 2), batch.slice(rows // 2)):
            yield from _bounded_rows(part, most)
    elif batch.nbytes > most and not _shares(batch):
        yield too_long(most)
    else:
        yield from _python_rows(batch)


def _shares(batch: Any) -> bool:
    """Whether what belongs to other rows as well counts as a row's own."""
    from pyarrow import types

    return any(types.is_dictionary(field.type) for field in batch.schema)


def _python_rows(batch: Any) -> Iterator[dict[str, Any] | str]:
    """The rows of a batch, or why one of them is none."""
    try:
        yield from batch.to_pylist()
        return
    except UnicodeDecodeError:
        pass
    for number in range(batch.num_rows):
        try:
            yield batch.slice(number, 1).to_pylist()[0]
        except UnicodeDecodeError as error:
            yield f"is not UTF-8 (byte {error.start} of a text)"


def as_json(row: dict[str, Any]) -> bytes:
    """A row of a table as a JSON object on one line.

    Times are written as ISO 8601 has them, integers of any size as such and other decimals as
    texts, bytes as the text they hold or else in base64, and numbers that are none as null. Fields
    that a row may lack are left out where they are null.
    """
    row = {key: one for key, one in row.items() if one is not None or key not in OPTIONAL}
    try:
        return json.dumps(row, ensure_ascii=False, allow_nan=False, default=_plain).encode()
    except ValueError:
        return json.dumps(_finite(row), ensure_ascii=False, default=_plain).encode()


def _plain(value: Any) -> Any:
    if isinstance(value, bytes):
        try:
            return value.decode()
        except UnicodeDecodeError:
            return base64.b64encode(value).decode()
    if isinstance(value, Decimal):
        whole = value.is_finite() and value == value.to_integral_value()
        return int(value) if whole else str(value)
    return value.isoformat() if hasattr(value, "isoformat") else str(value)


def _finite(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _finite(one) for key, one in value.items()}
    if isinstance(value, list | tuple):
        return [_finite(one) for one in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


@contextmanager
def _damage_named(path: Path, reached: Callable[[], int], what: str) -> Iterator[None]:
    import pyarrow as pa

    try:
        yield
    except FileNotFoundError:
        raise UserError(f"{path}: no such file") from None
    except (pa.ArrowException, OSError, ValueError, KeyError) as error:
        after = f"is damaged after row {reached():,}" if reached() else "is damaged, or none at all"
        raise UserError(f"{path}: the {what} {after}: {first_line(error)}") from None


def _read_json(path: Path) -> dict[str, Any]:
    found = json_file(path, "save the folder again")
    check(isinstance(found, dict), f"{path}: holds no JSON object; save the folder again")
    return found
