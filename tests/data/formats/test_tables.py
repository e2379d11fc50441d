import datetime
import decimal
import json
import random
import sys

import datasets
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from zsg_jax.data.formats.tables import (
    BATCH_ROWS,
    arrow_records,
    as_json,
    parquet_records,
    saved_records,
)
from zsg_jax.runtime.errors import UserError


def rows_of(count):
    return [{"question": f"ask {n}", "answer": "é" * (n % 5 + 1), "n": n} for n in range(count)]


def parquet(folder, count=3000, **options):
    table = pa.Table.from_pylist(rows_of(count))
    pq.write_table(table, folder / "x.parquet", **{"row_group_size": 700, **options})
    return folder / "x.parquet"


def stream(folder, count=3000):
    table = pa.Table.from_pylist(rows_of(count))
    file = pa.OSFile(str(folder / "x.arrow"), "wb")
    with file, pa.ipc.new_stream(file, table.schema) as writer:
        writer.write_table(table, max_chunksize=2 * BATCH_ROWS)
    return folder / "x.arrow"


def saved(folder, count=30, shards=3):
    datasets.disable_progress_bars()
    whole = datasets.Dataset.from_list(rows_of(count))
    whole.save_to_disk(str(folder / "saved"), num_shards=shards)
    return folder / "saved"


READERS = {parquet: parquet_records, stream: arrow_records, saved: saved_records}


@pytest.mark.parametrize("write", READERS)
def test_rows_are_numbered_from_one_across_their_parts(tmp_path, write):
    path = write(tmp_path)
    found = list(READERS[write](path))
    assert [json.loads(row.raw) for row in found] == rows_of(len(found))
    assert [row.number for row in found] == list(range(1, len(found) + 1))
    assert {row.path for row in found} == {path}
    assert {row.unit for row in found} == {"row"}
    assert len(found) in (3000, 30)


@settings(max_examples=25)
@given(
    st.recursive(
        st.one_of(
            st.text(st.characters(exclude_categories=["Cs"])),
            st.integers(),
            st.booleans(),
            st.none(),
            st.floats(allow_nan=False, allow_infinity=False),
        ),
        lambda inner: st.one_of(st.lists(inner), st.dictionaries(st.text("aä"), inner)),
        max_leaves=8,
    )
)
def test_json_values_stay_what_they_are(value):
    assert json.loads(as_json({"x": value})) == {"x": value}


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        (float("nan"), None),
        ([1.5, float("inf"), {"y": float("-inf")}], [1.5, None, {"y": None}]),
        (b"caf\xc3\xa9", "café"),
        (b"\xff\x00", "/wA="),
        (decimal.Decimal(10**30), 10**30),
        (decimal.Decimal("1.50"), "1.50"),
        (datetime.datetime(2024, 1, 2, 3, 4), "2024-01-02T03:04:00"),
        (datetime.date(2024, 1, 2), "2024-01-02"),
        ([("key", 1)], [["key", 1]]),
    ],
)
def test_values_that_json_lacks_are_written_by_a_rule(value, expected):
    assert json.loads(as_json({"x": value})) == {"x": expected}
    assert b"\n" not in as_json({"x": value})


@pytest.mark.parametrize("write", [parquet, stream])
@settings(max_examples=15)
@given(st.floats(0, 1, exclude_max=True))
def test_a_file_cut_anywhere_is_refused(tmp_path_factory, read_source, write, share):
    path = write(tmp_path_factory.mktemp("cut"))
    content = path.read_bytes()
    path.write_bytes(content[: int(share * len(content))])
    for bad_rows in ("refuse", "skip"):
        with pytest.raises(UserError) as caught:
            read_source(path, bad_rows)
        assert str(caught.value).startswith(f"{path}: the ")
        assert "is damaged" in str(caught.value)
        assert "\n" not in str(caught.value)


def test_a_stream_that_stops_between_two_batches_is_refused(tmp_path, read_source):
    """To pyarrow alone it looks like one that ends there."""
    path = stream(tmp_path)
    path.write_bytes(path.read_bytes()[:-8])
    with pa.OSFile(str(path)) as file:
        assert pa.ipc.open_stream(file).read_all().num_rows == 3000
    with pytest.raises(UserError, match=r"x\.arrow: the Arrow file is damaged, .* cut off, or not"):
        read_source(path)


@pytest.mark.parametrize("write", [parquet, stream])
def test_flipped_bytes_end_in_a_refusal_or_in_records(tmp_path, read_source, write):
    path = write(tmp_path, 100, **({"write_page_checksum": True} if write is parquet else {}))
    content, rng = path.read_bytes(), random.Random(0)
    refused = []
    for _ in range(60):
        broken = bytearray(content)
        broken[rng.randrange(len(broken))] ^= 1 << rng.randrange(8)
        path.write_bytes(broken)
        try:
            read_source(path, "skip")
        except UserError as error:
            refused.append(str(error))
    assert len(refused) > 5
    assert all(said.startswith(f"{path}") and "\n" not in said for said in refused)


def test_damage_in_the_middle_tells_the_last_record(tmp_path, read_source):
    path = parquet(tmp_path, write_page_checksum=True, compression="none", use_dictionary=False)
    path.write_bytes(path.read_bytes().replace(b"ask 2222", b"ASK 2222"))
    with pytest.raises(UserError, match=r"the Parquet file is damaged after row 2,100: .*CRC"):
        read_source(path)


def test_a_text_that_is_not_utf8_is_a_bad_record(tmp_path, read_source):
    answers = pa.array([b"fine", b"caf\xe9", b"well"]).view(pa.string())
    # Columns of bytes and of categories are texts.
    questions, tasks = pa.array([b"a", b"b", b"c"]), pa.array(["t", "t", None])
    columns = {"question": questions, "answer": answers, "task": tasks.dictionary_encode()}
    path = tmp_path / "x.parquet"
    pq.write_table(pa.table(columns), path)
    with pytest.raises(UserError, match=r"x\.parquet, row 2: is not UTF-8 \(byte 3 of a text\)"):
        read_source(path)
    found, skipped = read_source(path, "skip")
    assert [(one.text, one.task) for one in found] == [("a fine", "t"), ("c well", "(no task)")]
    assert [one.line for one in skipped] == [2]


@pytest.mark.parametrize("name", ["x.parquet", "x.arrow"])
def test_other_files_are_refused(tmp_path, read_source, name):
    with pytest.raises(UserError, match=rf"{name}: no such file"):
        read_source(tmp_path / name)
    for content in (b"", b"PAR1", b'{"question": "a", "answer": "b"}\n' * 9):
        (tmp_path / name).write_bytes(content)
        with pytest.raises(UserError, match=rf"{name}: the .* file is damaged, or none at all"):
            read_source(tmp_path / name)
    empty = pa.table({"question": pa.array([], pa.string())})
    pq.write_table(empty, tmp_path / "empty.parquet")
    with pytest.raises(UserError, match=r"empty\.parquet: holds no instance"):
        read_source(tmp_path / "empty.parquet")
    columns = [pa.array([text]) for text in ("which?", "this", "that")]
    twice = pa.table(columns, names=["question", "answer", "answer"])
    pq.write_table(twice, tmp_path / "twice.parquet")
    with pytest.raises(UserError, match=r"twice\.parquet: has two columns of one name"):
        read_source(tmp_path / "twice.parquet")


def test_splits_are_named_until_one_is_given(tmp_path, read_source):
    one = datasets.Dataset.from_list(rows_of(2))
    datasets.disable_progress_bars()
    datasets.DatasetDict({"train": one, "dev": one}).save_to_disk(str(tmp_path / "d"))
    with pytest.raises(UserError, match=r"d: holds the splits train, dev; give .*d/train$"):
        read_source(tmp_path / "d")
    assert len(read_source(tmp_path / "d" / "dev")[0]) == 2


def test_a_saved_folder_that_is_not_whole_names_the_file(tmp_path, read_source):
    path = saved(tmp_path)
    second = path / "data-00001-of-00003.arrow"
    content = second.read_bytes()
    second.write_bytes(content[:-20])
    with pytest.raises(UserError, match=r"00001-of-00003\.arrow: the Arrow file is damaged, or"):
        read_source(path)
    second.unlink()
    with pytest.raises(UserError, match=r"00001-of-00003\.arrow: no such file"):
        read_source(path)
    second.write_bytes(content)
    state = json.loads((path / "state.json").read_text())
    for changed, reason in (
        (state | {"_indices_data_files": [{"filename": "i.arrow"}]}, "save it again"),
        (state | {"_data_files": []}, "names no Arrow file"),
        (state | {"_data_files": ["data-00000-of-00003.arrow"]}, "names no Arrow file"),
        (state | {"_data_files": {"filename": None}}, "names no Arrow file"),
        ("{", r"state\.json: (is not JSON|holds no JSON object)"),
        ([], r"state\.json: (is not JSON|holds no JSON object)"),
    ):
        (path / "state.json").write_text(changed if changed == "{" else json.dumps(changed))
        with pytest.raises(UserError, match=reason):
            read_source(path)


@pytest.fixture
def asked(monkeypatch):
    """Puts a hub in the place of the real one; gives what it is asked for."""
    asked = []
    one, two = (datasets.Dataset.from_list(rows_of(count)) for count in (3, 2000))
    there = {
        ("a/b", None): datasets.DatasetDict({"train": one, "test": two}),
        ("a/b", "test"): two,
        ("a/single", None): datasets.DatasetDict({"train": one}),
    }

    def load_dataset(name, *, split=None):
        asked.append((name, split))
        if (name, split) not in there:
            raise ConnectionError("no way to\nreach the hub")
        return there[name, split]

    monkeypatch.setattr(datasets, "load_dataset", load_dataset)
    return asked


def test_a_split_of_the_hub_is_read(asked, read_source):
    instances, _ = read_source("hub:a/b:test")
    assert set(asked) == {("a/b", "test")}
    assert [one.id for one in instances] == [f"b:test:{k}" for k in range(1, 2001)]
    # An only split needs no name.
    assert len(read_source("hub:a/single")[0]) == 3


def test_what_the_hub_does_not_give_is_told(asked, read_source, tmp_path, monkeypatch):
    for path, message in (
        ("hub:a/b", r"splits train, test; name one, as hub:a/b:train$"),
        ("hub:a/none:train", r"^hub:a/none:train: cannot be loaded: no way to$"),
    ):
        with pytest.raises(UserError, match=message):
            read_source(path)
    # Nothing is asked for without the word.
    del asked[:]
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UserError, match="no such file"):
        read_source("a/b")
    assert asked == []
    monkeypatch.setitem(sys.modules, "datasets", None)
    with pytest.raises(UserError, match=r"^hub:a/b: needs datasets: pip install"):
        read_source("hub:a/b")
