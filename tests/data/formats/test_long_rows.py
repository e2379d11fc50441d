"""A row is bounded wherever it is packed, and memory never holds one that is longer."""

import gzip
import json
import subprocess
import sys
from pathlib import Path

import datasets
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from zsg_jax.data.formats.tfds.example import to_record
from zsg_jax.data.instance import Instance, Turn
from zsg_jax.runtime.errors import UserError

ROWS = [{"question": f"ask {n}", "answer": "x" * (5000 if n == 1 else 5)} for n in range(3)]
LINES = "".join(json.dumps(row) + "\n" for row in ROWS).encode()


def arrow(path, table):
    with pa.OSFile(str(path), "wb") as file, pa.ipc.new_stream(file, table.schema) as writer:
        writer.write_table(table)


def saved(path):
    datasets.disable_progress_bars()
    datasets.Dataset.from_list(ROWS).save_to_disk(str(path))


WRITERS = {
    "x.jsonl": lambda path: path.write_bytes(LINES),
    "x.jsonl.gz": lambda path: path.write_bytes(gzip.compress(LINES)),
    "x.parquet": lambda path: pq.write_table(pa.Table.from_pylist(ROWS), path),
    "x.arrow": lambda path: arrow(path, pa.Table.from_pylist(ROWS)),
    "saved": saved,
}
TOLD = "is longer than 1,000 bytes, which no row is meant to be; .*max_row_bytes"


@pytest.mark.parametrize("name", WRITERS)
def test_a_long_row_is_a_bad_row_in_every_container(tmp_path, read_source, name):
    WRITERS[name](tmp_path / name)
    with pytest.raises(UserError, match=rf"{name}(:|, row )2: {TOLD}; pass .*bad_rows=skip"):
        read_source(tmp_path / name, max_row_bytes=1000)
    found, skipped = read_source(tmp_path / name, "skip", max_row_bytes=1000)
    assert [one.turns[0].content for one in found] == ["ask 0", "ask 2"]
    assert [(one.line, one.reason[:27]) for one in skipped] == [(2, "is longer than 1,000 bytes,")]
    assert len(read_source(tmp_path / name)[0]) == 3


def test_so_it_is_in_a_data_set_of_tfds(tmp_path, read_source, write_dataset):
    records = [
        to_record(Instance(str(n), "t", (Turn("user", "q"), Turn("assistant", "a" * n)), ()))
        for n in (1, 2000, 3)
    ]
    folder = write_dataset(tmp_path / "quiz" / "1.0.0", {"train": [records]})
    with pytest.raises(UserError, match=rf", row 2: {TOLD}"):
        read_source(folder, max_row_bytes=1000)
    assert [one.id for one in read_source(folder, "skip", max_row_bytes=1000)[0]] == ["1", "3"]


@pytest.mark.parametrize("name", ["x.json", "x.json.gz"])
def test_a_long_element_ends_the_reading_of_an_array(tmp_path, read_source, name):
    content = json.dumps(ROWS).encode()
    (tmp_path / name).write_bytes(gzip.compress(content) if name.endswith("gz") else content)
    for bad_rows in ("refuse", "skip"):
        with pytest.raises(UserError, match=rf"{name}, row 2: {TOLD}"):
            read_source(tmp_path / name, bad_rows, max_row_bytes=1000)
    assert len(read_source(tmp_path / name)[0]) == 3


def test_what_rows_share_is_not_counted_as_each_ones(tmp_path, read_source):
    texts = pa.array([f"{n:0600}" for n in range(4)]).dictionary_encode()
    arrow(tmp_path / "x.arrow", pa.table({"question": list("abcd"), "answer": texts}))
    assert len(read_source(tmp_path / "x.arrow", max_row_bytes=1000)[0]) == 4


_READ = """
import sys
from pathlib import Path
from zsg_jax.data.reading import ReadOptions, open_dataset
from zsg_jax.runtime.errors import UserError
try:
    open_dataset(sys.argv[1], ReadOptions(Path(sys.argv[2]), max_row_bytes=16 << 20))
except UserError as error:
    print(error)
# Not what getrusage tells: its maximum is one of the process that began this one, too.
status = Path("/proc/self/status").read_text()
print(status.split("VmHWM:")[1].split()[0])
"""


@pytest.mark.slow
@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="memory is read from /proc")
@pytest.mark.parametrize("name", ["x.jsonl.gz", "x.json.gz", "x.parquet"])
def test_a_small_file_of_one_immense_row_fills_no_memory(tmp_path, name):
    path, immense = tmp_path / name, 1_500_000_000
    if name == "x.parquet":
        pq.write_table(pa.table({"question": ["a"], "answer": ["x" * immense]}), path)
    else:
        with gzip.open(path, "wb", compresslevel=1) as file:
            file.write(b'[{"question": "' if ".json." in name else b'{"question": "')
            for _ in range(immense // 1_000_000):
                file.write(b"x" * 1_000_000)
    assert path.stat().st_size < 80_000_000
    done = subprocess.run(
        [sys.executable, "-c", _READ, path, tmp_path], capture_output=True, text=True, check=True
    )
    assert "is longer than 16,777,216 bytes" in done.stdout
    used = int(done.stdout.split()[-1]) << 10
    # pyarrow holds a value of a Parquet file three times while it reads it.
    assert used < (3 * immense if name == "x.parquet" else 0) + 600_000_000
