"""Rows as an Arrow table: a Parquet file, or a folder that `datasets.load_from_disk` opens."""

import json
import sys
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from zsg_jax.data.export.schema import infer
from zsg_jax.runtime.errors import UserError
from zsg_jax.runtime.files import replacing
from zsg_jax.runtime.progress import track

BATCH_ROWS = 8192
BATCH_BYTES = 32 * 2**20


def write_parquet(rows: Callable[[], Iterable[bytes]], path: Path, total: int) -> Path:
    """Writes one Parquet file, a row group every 8,192 rows or 32 MB of JSON."""
    schema, batches = _table(rows, path.name, "parquet", total)
    with replacing(path) as partial, pq.ParquetWriter(partial, schema) as writer:
        for batch in batches:
            writer.write_batch(batch)
    return path


def write_arrow(rows: Callable[[], Iterable[bytes]], path: Path, total: int) -> Path:
    """Writes the folder of a Hugging Face data set; needs twice its size on disk meanwhile."""
    import datasets

    if path.exists() and not (path / "dataset_info.json").exists():
        raise UserError(f"{path}: is in the way and no data set; move it or give another folder")
    schema, batches = _table(rows, path.name, "arrow", total)
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


def _table(
    rows: Callable[[], Iterable[bytes]], name: str, format: str, total: int
) -> tuple[pa.Schema, Iterator[pa.RecordBatch]]:
    root = infer(track(rows(), f"types for {name}", total), format)
    schema = pa.schema([(name, field.arrow_type()) for name, field in root.fields.items()])
    bare = {name: field for name, field in root.fields.items() if field.has_bare_object()}

    def batches() -> Iterator[pa.RecordBatch]:
        for chunk in _chunks(track(rows(), f"writing {name}", total)):
            for row in chunk:
                for key in bare.keys() & row.keys():
                    row[key] = bare[key].fitted(row[key])
            yield pa.RecordBatch.from_pylist(chunk, schema=schema)

    return schema, batches()


def _chunks(rows: Iterable[bytes]) -> Iterator[list[dict[str, Any]]]:
    chunk: list[dict[str, Any]] = []
    size = 0
    for raw in rows:
        chunk.append(json.loads(raw))
        size += len(raw)
        if len(chunk) == BATCH_ROWS or size >= BATCH_BYTES:
            yield chunk
            chunk, size = [], 0
    if chunk:
        yield chunk


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
