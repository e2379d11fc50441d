"""Records as an Arrow table: a Parquet file, or a folder that `datasets.load_from_disk` opens."""

import json
import sys
from collections.abc import Callable, Collection, Iterable, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from zsg_jax.runtime.errors import UserError, first_line
from zsg_jax.runtime.files import replacing
from zsg_jax.runtime.progress import say, track

BATCH_ROWS = 8192
BATCH_BYTES = 32 * 2**20

DEEPEST = 40  # lists in lists that every reader of Parquet and Arrow opens

# Digits as nines, so that a number which may not fit 64 bits is found by one quick search.
_NINES, _PERHAPS_WIDE = bytes.maketrans(b"0123456789", b"9" * 10), b"9" * 19


def write_parquet(records: Callable[[], Iterable[bytes]], path: Path, total: int) -> Path:
    """Writes one Parquet file, a row group every 8,192 records or 32 MB of JSON."""
    schema, batches = _table(records, path, "parquet", total)
    with replacing(path) as partial, pq.ParquetWriter(partial, schema) as writer:
        for batch in batches:
            writer.write_batch(batch)
    return path


def write_arrow(records: Callable[[], Iterable[bytes]], path: Path, total: int) -> Path:
    """Writes the folder of a Hugging Face data set; needs twice its size on disk meanwhile."""
    import datasets

    if path.exists() and not (path / "dataset_info.json").exists():
        raise UserError(f"{path}: is in the way and no data set; move it or give another folder")
    schema, batches = _table(records, path, "arrow", total)
    stream = path.with_name(f"{path.name}.stream")
    with replacing(path) as partial:
        try:
            with pa.OSFile(str(stream), "wb") as file, pa.ipc.new_stream(file, schema) as writer:
                for batch in batches:
                    writer.write_batch(batch)
            with _progress_bars_for_terminals(datasets):
                datasets.Dataset.from_file(str(stream)).save_to_disk(str(partial))
        finally:
            stream.unlink(missing_ok=True)
    return path


class _Clash(Exception):
    """Why a field cannot be a column."""


def _table(
    records: Callable[[], Iterable[bytes]], path: Path, format: str, total: int
) -> tuple[pa.Schema, Iterator[pa.RecordBatch]]:
    """The columns that hold all records, found in one pass, and their batches, made in another.

    Integers are int64; where one in a field is larger, all in this field become text, which is
    said. With fractions among them they are float64. A key that a record lacks is null, and so is
    an object if no record has a key in it. Tools, and the arguments of calls, are JSON text.

    Raises:
        UserError: naming field and record, where a field has no one type; in either pass.
    """
    inferred, wide, order = pa.schema([]), set[str](), list[str]()
    for first, text in _chunks(track(records(), f"types for {path.name}", total)):
        parsed = _records(text, order, None)
        inferred = _attempt(_widened, inferred, parsed, first, format)
        if _PERHAPS_WIDE in text.translate(_NINES):
            wide.update(
                key for record in parsed for key, value in record.items() if _is_wide(value)
            )
    at = inferred.get_field_index("tools")
    if at >= 0 and pa.types.is_null(inferred.field(at).type):
        inferred = inferred.set(at, pa.field("tools", pa.string()))
    no_tools = [] if at >= 0 and pa.types.is_list(inferred.field(at).type) else "[]"
    for key in sorted(wide):
        say(f"{format}: integers in field {key!a} become text, for some do not fit 64 bits")
    try:
        schema = pa.schema(
            [(one.name, _storable(one.type, one.name in wide, order)) for one in inferred]
        )
    except _Clash as clash:
        raise UserError(f"{format}: {clash}; mend the rows or give --format jsonl") from None
    # pyarrow takes booleans for fractions, and no object for null.
    adjusted = [
        column.name
        for column, before in zip(schema, inferred, strict=True)
        if column.type != before.type or "double" in str(column.type)
    ]
    to_batch = partial(_batch, adjusted=adjusted)

    def batches() -> Iterator[pa.RecordBatch]:
        for first, text in _chunks(track(records(), f"writing {path.name}", total)):
            yield _attempt(to_batch, schema, _records(text, order, no_tools), first, format)

    return schema, batches()


def _records(text: bytes, order: list[str], no_tools: Any) -> list[dict[str, Any]]:
    """The records of a JSON array, what each tool has keys of its own for as JSON text.

    As objects of one column all tools would have the parameters, and all calls the arguments, of
    all others, as null. `order` takes the keys of calls, so that each comes back with its own in
    its own order. An empty list of tools becomes `no_tools`, as it is told by the others whether
    tools are objects.
    """
    records: list[dict[str, Any]] = json.loads(text)
    for record in records:
        tools = record.get("tools")
        if tools == []:
            record["tools"] = no_tools
        elif _is_objects(tools):
            record["tools"] = json.dumps(tools, ensure_ascii=False)
        for messages in filter(_is_objects, record.values()):
            for calls in filter(_is_objects, (one.get("tool_calls") for one in messages)):
                for call in calls:
                    _spell_arguments(call.get("function", call))
                    _merge(order, call)
    return records


def _spell_arguments(function: Any) -> None:
    if isinstance(function, dict) and isinstance(function.get("name"), str):
        given = function.get("arguments", {})
        if isinstance(given, dict):
            function["arguments"] = json.dumps(given, ensure_ascii=False)


def _merge(order: list[str], keys: Iterable[str]) -> None:
    """Puts new keys into an order behind those that they stand behind."""
    at = 0
    for key in keys:
        if key not in order:
            order.insert(at, key)
        at = order.index(key) + 1


def _is_objects(value: Any) -> bool:
    return isinstance(value, list) and all(isinstance(one, dict) for one in value)


def _attempt(
    attempt: Callable[[pa.Schema, list[dict[str, Any]]], Any],
    schema: pa.Schema,
    records: list[dict[str, Any]],
    first: int,
    format: str,
) -> Any:
    """`attempt(schema, records)`; where it fails, a UserError names the record, `first` on."""
    try:
        return attempt(schema, records)
    except _Clash:
        pass
    for number, record in enumerate(records, start=first):
        try:
            made = attempt(schema, [record])
            schema = made if isinstance(made, pa.Schema) else schema
        except _Clash as clash:
            identity = f" (id {record['id']!a})" if isinstance(record.get("id"), str) else ""
            raise UserError(
                f"{format}: row {number}{identity}: {clash}; mend the rows or give --format jsonl"
            ) from None
    raise UserError(
        f"{format}: fields of the {len(records)} rows from {first} on have no one type; give "
        "--format jsonl"
    )


def _widened(schema: pa.Schema, records: list[dict[str, Any]]) -> pa.Schema:
    """The columns of `schema`, widened to hold `records` as well; raises _Clash."""
    values: dict[str, list[Any]] = {}
    for record in records:
        for key, value in record.items():
            values.setdefault(key, []).append(value)
    found = []
    for key, column in values.items():
        with _naming(key):
            found.append(pa.field(key, pa.infer_type(column)))
    try:
        return pa.unify_schemas([schema, pa.schema(found)], promote_options="permissive")
    except pa.ArrowException as error:
        raise _Clash(first_line(error).removeprefix("Unable to merge: ")) from None


def _batch(
    schema: pa.Schema, records: list[dict[str, Any]], adjusted: Collection[str]
) -> pa.RecordBatch:
    columns = []
    for column in schema:
        with _naming(column.name):
            values = [record.get(column.name) for record in records]
            if column.name in adjusted:
                values = [_fitted(value, column.type) for value in values]
            columns.append(pa.array(values, column.type))
    return pa.RecordBatch.from_arrays(columns, schema=schema)


@contextmanager
def _naming(key: str) -> Iterator[None]:
    """Names a field in whatever pyarrow raises where its values have no one type."""
    try:
        yield
    except (pa.ArrowException, OverflowError, UnicodeEncodeError, _Clash) as error:
        raise _Clash(f"field {key!a}: {first_line(error)}") from None


def _is_wide(value: Any) -> bool:
    """Whether a value is or holds an integer that does not fit 64 bits."""
    if isinstance(value, dict | list):
        return any(map(_is_wide, value.values() if isinstance(value, dict) else value))
    return isinstance(value, int) and not -(2**63) <= value < 2**63


def _storable(type: pa.DataType, wide: bool, order: list[str], depth: int = 0) -> pa.DataType:
    """A type with text for integers if they are `wide`, and null for objects without keys.

    Objects that have the keys of `order` have them in that order.
    """
    if depth > DEEPEST:
        raise _Clash(f"a field is nested more than {DEEPEST} deep")
    if pa.types.is_struct(type):
        # Parquet has no objects without keys.
        fields = [(one.name, _storable(one.type, wide, order, depth + 1)) for one in type]
        if {name for name, _ in fields} == {*order}:
            fields.sort(key=lambda one: order.index(one[0]))
        return pa.struct(fields) if fields else pa.null()
    if pa.types.is_list(type):
        return pa.list_(_storable(type.value_type, wide, order, depth + 1))
    return pa.string() if wide and pa.types.is_integer(type) else type


def _fitted(value: Any, type: pa.DataType) -> Any:
    """A value as pyarrow wants it for a type that `_storable` gave."""
    if pa.types.is_null(type) and value == {}:
        return None
    if isinstance(value, dict) and pa.types.is_struct(type):
        return {one.name: _fitted(value.get(one.name), one.type) for one in type}
    if isinstance(value, list) and pa.types.is_list(type):
        return [_fitted(one, type.value_type) for one in value]
    if isinstance(value, bool) and pa.types.is_floating(type):
        raise _Clash("is a boolean here, and a number in other rows")
    if isinstance(value, int) and not isinstance(value, bool) and pa.types.is_string(type):
        return str(value)
    return value


def _chunks(records: Iterable[bytes]) -> Iterator[tuple[int, bytes]]:
    """Records to hold at once, as a JSON array, and the number of the first of them, from 1."""
    chunk: list[bytes] = []
    first, size = 1, 0
    for raw in records:
        chunk.append(raw)
        size += len(raw)
        if len(chunk) == BATCH_ROWS or size >= BATCH_BYTES:
            yield first, b"[%b]" % b",".join(chunk)
            first, chunk, size = first + len(chunk), [], 0
    if chunk:
        yield first, b"[%b]" % b",".join(chunk)


@contextmanager
def _progress_bars_for_terminals(datasets: Any) -> Iterator[None]:
    if sys.stderr.isatty() or datasets.are_progress_bars_disabled():
        yield
        return
    datasets.disable_progress_bars()
    try:
        yield
    finally:
        datasets.enable_progress_bars()
