import json
import shutil
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest

from zsg_jax.data.export.examples import Example
from zsg_jax.data.formats.tfds import open_tfds
from zsg_jax.data.formats.tfds.files import ArrayRecords, Part
from zsg_jax.data.instance import instances_digest
from zsg_jax.data.reading import ReadOptions, open_dataset
from zsg_jax.runtime.errors import UserError


def record(number, **changed):
    columns = {
        "id": [b"i%d" % number],
        "task": [b"t"],
        "messages/role": [b"user", b"assistant"],
        "messages/content": [b"ask %d" % number, "é".encode()],
        "references": ["é".encode()],
    }
    message = Example()
    for name, values in (columns | changed).items():
        message.features.feature[name].bytes_list.value.extend(values)
    return message.SerializeToString(deterministic=True)


@pytest.fixture
def written(tmp_path, write_dataset):
    """A data set `x` of one split whose shards hold these records."""
    return lambda *shards, **changed: write_dataset(
        tmp_path / "x" / "1.0.0", {"train": shards}, changed
    )


@pytest.fixture
def three(written):
    """300, 0 and 40 records in three shards."""
    records = [record(number) for number in range(340)]
    return written(records[:300], [], records[300:])


def test_records_are_numbered_through_all_shards(three):
    records = open_tfds(three)
    found = list(records)
    assert [one.number for one in found] == list(range(1, 341))
    assert found[6].location == f"{three}:train, row 7"
    assert [json.loads(one.raw)["id"] for one in found] == [f"i{k}" for k in range(340)]
    assert len(records) == 340
    with pytest.raises(IndexError):
        records.raw(340)

    def same(seed):
        numbers = np.random.default_rng(seed).integers(0, 340, 400).tolist()
        return all(records.raw(number) == found[number].raw for number in numbers)

    with ThreadPoolExecutor(4) as threads:
        assert all(threads.map(same, range(4)))


@pytest.mark.parametrize("skip", [0, 3, 299])
def test_parts_of_files_join(three, monkeypatch, skip):
    monkeypatch.setattr("zsg_jax.data.formats.tfds.files.OPEN", 1)
    first, _, last = sorted(three.glob("x-train*"))
    parts = [Part(last, 5, 20, 40), Part(first, skip, 1, 300), Part(first, 0, 0, 300)]
    records = ArrayRecords(parts)
    expected = [record(300 + k) for k in range(5, 25)] + [record(skip)]
    assert list(records) == [records[k] for k in range(21)] == expected
    records.close()
    assert records[20] == expected[20]


@pytest.mark.parametrize(
    ("bad", "told"),
    [
        ({"id": [b"\xff"]}, r'"id" is not UTF-8 \(byte 0 of a text\)'),
        ({"messages/content": [b"a", b"b\xc3"]}, r'"messages/content" is not UTF-8 \(byte 1'),
        ({"messages/role": [b"user"]}, '"messages" has 1 roles for 2 contents'),
        ({"messages/role": [b"user", b"user"]}, r'"messages\[1\].role" is'),
        (b"\x0a\xffno", r"is no tf\.train\.Example"),
    ],
)
def test_a_bad_record_is_told_with_set_split_and_number(written, read_source, bad, told):
    bad = bad if isinstance(bad, bytes) else record(1, **bad)
    folder = written([record(0)], [bad, record(2)])
    with pytest.raises(UserError, match=rf"1\.0\.0:train, row 2: .*{told}"):
        read_source(folder)
    found, skipped = read_source(folder, bad_rows="skip")
    assert [one.id for one in found] == ["i0", "i2"]
    assert [(one.path, one.line) for one in skipped] == [(f"{folder}:train", 2)]


def test_records_without_an_id_have_one_by_their_place(written, tmp_path, read_source):
    folder = written([record(0, id=[]), record(1, id=[], task=[])])
    by_folder, _ = read_source(folder)
    assert [one.id for one in by_folder] == ["1.0.0:train:1", "1.0.0:train:2"]
    assert by_folder == read_source(f"tfds:x@{tmp_path}")[0]


def test_damage_is_named_by_its_file(three, read_source):
    first, _, last = sorted(three.glob("x-train*"))
    content = first.read_bytes()
    flipped = bytearray(content)
    flipped[len(content) // 3] ^= 1
    for changed, told in (
        (content[: len(content) // 2], "is damaged"),
        (b"", "is damaged"),
        (last.read_bytes(), "it holds 40 records where 300 must be"),
        (flipped, "is damaged: .*hash mismatch"),
    ):
        first.write_bytes(changed)
        with pytest.raises(UserError, match=f"{first.name}: .*{told}.*; prepare"):
            read_source(three)
    # Of a flipped byte the other records are sound.
    records, bad = open_tfds(three), []
    for number in range(340):
        try:
            assert json.loads(records.raw(number))["id"] == f"i{number}"
        except UserError as error:
            bad.append(str(error))
    assert len(bad) == 1
    assert f"{first.name}: is damaged:" in bad[0]
    first.unlink()
    with pytest.raises(UserError, match=f"{first.name}: cannot be read: No such file"):
        read_source(three)


def test_a_file_that_changes_under_a_dataset_is_told(three, tmp_path):
    with open_dataset(three, ReadOptions(tmp_path)) as dataset:
        assert dataset.digest == instances_digest(dataset)
        _, _, last = sorted(three.glob("x-train*"))
        shutil.copy(last, tmp_path / "copy")
        (tmp_path / "copy").replace(last)
        assert dataset[0].id == "i0"
        with pytest.raises(UserError, match=f"{last.name}: changed while it was in use"):
            dataset[339]


@pytest.mark.parametrize(
    ("changed", "told"),
    [
        ({"fileFormat": "tfrecord"}, "holds tfrecord files.*--file_format=array_record"),
        ({"splits": []}, "names no split"),
        ({"splits": [{"name": "train"}]}, "its shards are not named"),
        ({"splits": [{"name": "a"}, {"name": "b"}]}, "has the splits a, b; name one, as .*:a$"),
        ({"splits": [{"name": "train", "shardLengths": ["x"]}]}, "its shards are not named"),
    ],
)
def test_a_folder_that_cannot_be_read_is_told(written, read_source, changed, told):
    folder = written([record(0)], **changed)
    with pytest.raises(UserError, match=told):
        read_source(folder)


def test_a_split_that_is_not_there_is_told(three, read_source):
    with pytest.raises(UserError, match="has no split 'test'; there are train"):
        read_source(f"{three}:test")
