import json
import shutil
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
from array_record.python.array_record_module import ArrayRecordWriter

from zsg_jax.data.dataset import ReadOptions, open_dataset
from zsg_jax.data.export.examples import Example
from zsg_jax.data.formats.tfds import open_tfds
from zsg_jax.data.formats.tfds.layout import Split, features, info, shard_name
from zsg_jax.data.formats.tfds.shards import Part, Shards
from zsg_jax.data.instance import instances_digest
from zsg_jax.data.schemas.read import read_messages
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
    return message.SerializeToString()


def write(path, records):
    writer = ArrayRecordWriter(str(path), "group_size:1")
    for one in records:
        writer.write(one)
    writer.close()


def dataset(folder, *shards, **told):
    """A data set `x` of one split whose shards hold these records."""
    folder.mkdir(parents=True)
    lengths = tuple(len(shard) for shard in shards)
    for number, shard in enumerate(shards):
        write(folder / shard_name("x", "train", number, len(shards)), shard)
    facts = info("x", "1.0.0", [Split("train", lengths, 0)]) | told
    (folder / "dataset_info.json").write_text(json.dumps(facts))
    (folder / "features.json").write_text(json.dumps(features()))
    return folder


@pytest.fixture
def three(tmp_path):
    """300, 0 and 40 records in three shards."""
    records = [record(number) for number in range(340)]
    return dataset(tmp_path / "x" / "1.0.0", records[:300], [], records[300:])


def test_rows_are_numbered_through_all_shards(three):
    records = open_tfds(three)
    rows = list(records)
    assert [row.number for row in rows] == list(range(1, 341))
    assert {row.location for row in rows[6:7]} == {f"{three}:train, row 7"}
    assert [json.loads(row.raw)["id"] for row in rows] == [f"i{k}" for k in range(340)]
    assert len(records) == 340
    for number in np.random.default_rng(0).permutation(340):
        assert records.raw(int(number)) == rows[number].raw
    with pytest.raises(IndexError):
        records.raw(340)


def test_threads_read_what_they_ask_for(three):
    records = open_tfds(three)

    def read(seed):
        numbers = np.random.default_rng(seed).integers(0, 340, 400)
        return [json.loads(records.raw(int(k)))["id"] == f"i{k}" for k in numbers]

    with ThreadPoolExecutor(4) as threads:
        assert all(all(found) for found in threads.map(read, range(4)))


@pytest.mark.parametrize("skip", [0, 3, 299])
def test_parts_of_files_join(three, skip):
    first, _, last = sorted(three.glob("x-train*"))
    parts = [Part(last, 5, 20, 40), Part(first, skip, 1, 300), Part(first, 0, 0, 300)]
    shards = Shards(parts)
    expected = [record(300 + k) for k in range(5, 25)] + [record(skip)]
    assert list(shards) == [shards[k] for k in range(21)] == expected


def test_many_files_are_not_all_open_at_once(tmp_path, monkeypatch):
    monkeypatch.setattr("zsg_jax.data.formats.tfds.shards.OPEN", 2)
    shards = Shards(
        [
            Part(path, 0, 3, 3)
            for number in range(5)
            for path in [tmp_path / str(number)]
            if not write(path, [b"%d-%d" % (number, k) for k in range(3)])
        ]
    )
    for number in np.random.default_rng(0).permutation(15):
        assert shards[int(number)] == b"%d-%d" % divmod(int(number), 3)
        assert len(shards._readers) <= 2
    shards.close()
    assert shards[14] == b"4-2"


@pytest.mark.parametrize(
    ("changed", "told"),
    [
        ({"id": [b"\xff"]}, r'"id" is not UTF-8 \(byte 0 of a text\)'),
        ({"messages/content": [b"a", b"b\xc3"]}, r'"messages/content" is not UTF-8 \(byte 1'),
        ({"messages/role": [b"user"]}, '"messages" has 1 roles for 2 contents'),
        ({"messages/role": [b"user", b"user"]}, r'"messages\[1\].role" is'),
    ],
)
def test_a_bad_row_is_told_with_set_split_and_row(tmp_path, changed, told):
    records = [record(0), record(1, **changed), record(2)]
    folder = dataset(tmp_path / "x" / "1.0.0", records[:1], records[1:])
    with pytest.raises(UserError, match=rf"1\.0\.0:train, row 2: .*{told}"):
        read_messages(folder)
    found, skipped = read_messages(folder, bad_rows="skip")
    assert [one.id for one in found] == ["i0", "i2"]
    assert [(one.path, one.line) for one in skipped] == [(f"{folder}:train", 2)]


def test_what_is_no_example_is_a_bad_row(tmp_path):
    folder = dataset(tmp_path / "x" / "1.0.0", [record(0), b"\x0a\xffno"])
    with pytest.raises(UserError, match=r"row 2: is no tf\.train\.Example"):
        read_messages(folder)


def test_rows_without_an_id_have_one_by_their_place(tmp_path):
    folder = dataset(tmp_path / "x" / "1.0.0", [record(0, id=[]), record(1, id=[], task=[])])
    by_folder, _ = read_messages(folder)
    by_name, _ = read_messages(f"tfds:x@{tmp_path}")
    assert [one.id for one in by_folder] == ["1.0.0:train:1", "1.0.0:train:2"]
    assert by_folder == by_name


def test_damage_is_named_by_its_file(three):
    first, _, last = sorted(three.glob("x-train*"))
    content = first.read_bytes()
    for changed, told in (
        (content[: len(content) // 2], "is damaged"),
        (b"", "is damaged"),
        (last.read_bytes(), "it holds 40 records where 300 must be"),
    ):
        first.write_bytes(changed)
        with pytest.raises(UserError, match=f"{first.name}: .*{told}.*; prepare"):
            read_messages(three)
    flipped = bytearray(content)
    flipped[len(content) // 3] ^= 1
    first.write_bytes(flipped)
    with pytest.raises(UserError, match=f"{first.name}: is damaged: .*hash mismatch"):
        read_messages(three)
    records = open_tfds(three)

    def read(number):
        try:
            return json.loads(records.raw(number))["id"]
        except UserError as error:
            return str(error).partition(first.name)[2][:13]

    found = [read(number) for number in range(340)]
    (bad,) = (number for number in range(340) if found[number] != f"i{number}")
    assert found[bad] == ": is damaged:"
    first.unlink()
    with pytest.raises(UserError, match=f"{first.name}: cannot be read: No such file"):
        read_messages(three)


def test_a_file_that_changes_under_a_dataset_is_told(three, tmp_path):
    with open_dataset(three, ReadOptions(tmp_path, advice="")) as dataset:
        assert dataset.digest == instances_digest(dataset)
        _, _, last = sorted(three.glob("x-train*"))
        shutil.copy(last, tmp_path / "copy")
        (tmp_path / "copy").replace(last)
        assert dataset[0].id == "i0"
        with pytest.raises(UserError, match=f"{last.name}: changed while it was in use"):
            dataset[339]


@pytest.mark.parametrize(
    ("told_as", "told"),
    [
        ({"fileFormat": "tfrecord"}, "holds tfrecord files.*--file_format=array_record"),
        ({"splits": []}, "names no split"),
        ({"splits": [{"name": "train"}]}, "its shards are not named"),
        ({"splits": [{"name": "a"}, {"name": "b"}]}, "has the splits a, b; name one, as .*:a$"),
        ({"splits": [{"name": "train", "shardLengths": ["x"]}]}, "its shards are not named"),
    ],
)
def test_a_folder_that_cannot_be_read_is_told(tmp_path, told_as, told):
    folder = dataset(tmp_path / "x" / "1.0.0", [record(0)], **told_as)
    with pytest.raises(UserError, match=told):
        read_messages(folder)


def test_a_split_that_is_not_there_is_told(three):
    with pytest.raises(UserError, match="has no split 'test'; there are train"):
        read_messages(f"{three}:test")
