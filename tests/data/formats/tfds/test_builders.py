import json
import os
import subprocess
import sys

import numpy as np
import pytest
import tensorflow_datasets as tfds
from array_record.python.array_record_module import ArrayRecordWriter

from zsg_jax.data.dataset import ReadOptions, open_dataset
from zsg_jax.data.export.examples import Example
from zsg_jax.data.formats.tfds import layout, open_tfds
from zsg_jax.data.formats.tfds.layout import Split, info, shard_name
from zsg_jax.data.schemas.read import read_messages
from zsg_jax.runtime.errors import UserError
from zsg_jax.runtime.files import write_json


def row(number):
    return {
        "ask": f"Frage {number} é",
        "answers": [{"text": f"a{number}", "start": k} for k in range(number % 3)],
        "label": ("no", "yes")[number % 2],
        "count": number,
        "share": 0.5,
        "flag": True,
        "marks": [f"m{k}" for k in range(number % 4)],
        "grid": [[1, 2], [3, number]],
        "parts": [{"name": "n", "size": k} for k in range(2)],
        "page": {"title": f"T{number}"},
        "id": "",
    }


def feature_tree(features):
    return {
        "ask": features.Text(),
        "answers": features.Sequence({"text": features.Text(), "start": np.int32}),
        "label": features.ClassLabel(names=["no", "yes"]),
        "count": np.int64,
        "share": np.float32,
        "flag": np.bool_,
        "marks": features.Sequence(features.Text()),
        "grid": features.Tensor(shape=(2, 2), dtype=np.int32),
        "parts": features.Dataset({"name": features.Text(), "size": np.int32}),
        "page": {"title": features.Text()},
        "id": features.Text(),
    }


def write(path, records):
    writer = ArrayRecordWriter(str(path), "group_size:1")
    for one in records:
        writer.write(one)
    writer.close()


def dataset(folder, tree, **splits):
    """A data set with these records in each split, two shards or, of one record, one."""
    folder.mkdir(parents=True)
    name = folder.parent.name
    told = []
    for split, records in splits.items():
        parts = [
            part for part in (records[: len(records) // 2], records[len(records) // 2 :]) if part
        ]
        for number, part in enumerate(parts):
            write(folder / shard_name(name, split, number, len(parts)), part)
        told.append(Split(split, tuple(map(len, parts)), 0))
    write_json(folder / "dataset_info.json", info(name, "1.0.0", told))
    tree.save_config(str(folder))
    return folder


@pytest.fixture(scope="module")
def quiz(tmp_path_factory):
    """A folder of TFDS with the data set `quiz`, its records written by TFDS's own features."""
    data = tmp_path_factory.mktemp("tfds")
    tree = tfds.features.FeaturesDict(feature_tree(tfds.features))
    records = [tree.serialize_example(tree.encode_example(row(number))) for number in range(34)]
    dataset(data / "quiz" / "1.0.0", tree, train=records[:30], test=records[30:])
    return data


def test_rows_are_those_that_were_written(quiz):
    records = open_tfds(quiz / "quiz:train")
    found = [json.loads(records.raw(number)) for number in range(len(records))]
    # TFDS knows no null: an empty text is none, and a row may lack its id.
    written = [row(number) for number in range(30)]
    assert found == [{k: v for k, v in one.items() if (k, v) != ("id", "")} for one in written]


@pytest.mark.parametrize("split", ["train", "test", "train[5:12]", "train[:10%]+test"])
def test_their_order_is_that_of_the_data_source(quiz, split):
    records = open_tfds(quiz / f"quiz:{split}")
    source = tfds.data_source("quiz", split=split, data_dir=str(quiz), download=False)
    assert len(records) == len(source)
    for number in range(len(source)):
        found = json.loads(records.raw(number))
        assert found["ask"].encode() == source[number]["ask"]
        assert found["marks"] == [mark.decode() for mark in source[number]["marks"]]
    assert [json.loads(one.raw)["count"] for one in records] == [
        int(one["count"]) for one in source
    ]


def test_a_mapping_of_fields_makes_them_instances(quiz, tmp_path):
    fields = {"prompt": "ask", "completion": "label", "task": "page.title", "references": "marks"}
    path = f"tfds:quiz:train@{quiz}"
    with open_dataset(path, ReadOptions(tmp_path / "none", advice="", fields=fields)) as dataset:
        assert dataset.schema == "prompt_completion"
        for one in dataset:
            number = int(one.turns[0].content.split()[1])
            label = ("no", "yes")[number % 2]
            assert one.turns[-1].content == label
            assert one.task == f"T{number}"
            assert one.references == (label, *(f"m{k}" for k in range(number % 4)))
    assert not (tmp_path / "none").exists()


def example(**columns):
    """A record written without TFDS; "__" stands for "/"."""
    message = Example()
    for name, values in columns.items():
        type = "int64_list" if isinstance(values[0], int) else "bytes_list"
        feature = message.features.feature[name.replace("__", "/")]
        getattr(feature, type).value.extend(values)
    return message.SerializeToString()


def asked(tmp_path, *records):
    """A data set of questions and answers."""
    text = tfds.features.Text()
    tree = tfds.features.FeaturesDict({"question": text, "answer": text})
    return dataset(tmp_path / "x" / "1.0.0", tree, train=list(records))


def test_lists_of_lists_of_unlike_lengths_are_read(tmp_path):
    features = tfds.features
    tree = features.FeaturesDict({"rag": features.Sequence(features.Sequence(features.Text()))})
    records = [
        example(rag__ragged_flat_values=[b"a", b"b", b"c"], rag__ragged_row_lengths_0=[2, 1]),
        example(rag__ragged_flat_values=[b"d"], rag__ragged_row_lengths_0=[0, 1, 0]),
    ]
    folder = dataset(tmp_path / "x" / "1.0.0", tree, train=records)
    found = [json.loads(one.raw)["rag"] for one in open_tfds(folder)]
    assert found == [[["a", "b"], ["c"]], [[], ["d"], []]]


def test_bytes_that_are_no_text_are_a_bad_row(tmp_path):
    good = example(question=[b"q"], answer=[b"a"])
    folder = asked(tmp_path, good, example(question=[b"q"], answer=[b"a\xff"]))
    told = r'1\.0\.0:train, row 2: "answer" is not UTF-8 \(byte 1 of a text\)'
    with pytest.raises(UserError, match=told):
        read_messages(folder)
    assert len(read_messages(folder, bad_rows="skip")[0]) == 1


def test_what_tfds_cannot_decode_is_a_bad_row(tmp_path):
    folder = asked(tmp_path, b"\x0a\xffno")
    with pytest.raises(UserError, match=r"row 1: TFDS cannot decode it: "):
        read_messages(folder)


def test_features_are_those_that_tfds_saves(tmp_path):
    features = tfds.features
    text = features.Text()
    tree = {
        "id": text,
        "task": text,
        "messages": features.Sequence({"role": text, "content": text}),
        "references": features.Sequence(text),
    }
    features.FeaturesDict(tree).save_config(str(tmp_path))
    assert json.loads((tmp_path / "features.json").read_text()) == layout.features()


NO_TENSORFLOW = '''
import json, sys
from pathlib import Path

class Hiding:
    """A finder of modules that does not find TensorFlow, where it is installed."""

    def __init__(self, finder):
        self.finder = finder

    def __getattr__(self, name):
        return getattr(self.finder, name)

    def find_spec(self, name, *more):
        hidden = name.partition(".")[0] == "tensorflow"
        return None if hidden else self.finder.find_spec(name, *more)

sys.meta_path[:] = [Hiding(finder) for finder in sys.meta_path]
from zsg_jax.data.schemas.read import read_messages
from zsg_jax.workflows import prepare as command
from zsg_jax.workflows.prepare_options import PrepareOptions

source, output = sys.argv[1], Path(sys.argv[2])
made = command.run(PrepareOptions(source, output, shard_rows=7))
expected, _ = read_messages(source)
assert read_messages(made)[0] == expected
assert "tensorflow_datasets" not in sys.modules

import tensorflow_datasets as tfds

builder = tfds.builder_from_directory(str(made))
named = tfds.data_source(output.name, split="train", data_dir=str(output.parent), download=False)
for found in (builder.as_data_source(split="train"), named):
    assert len(found) == len(expected) == 20
    for number, instance in enumerate(expected):
        one = found[number]
        assert one["id"].decode() == instance.id
        assert one["task"].decode() == instance.task
        roles, contents = one["messages"]["role"], one["messages"]["content"]
        turns = [(r.decode(), c.decode()) for r, c in zip(roles, contents, strict=True)]
        assert turns == [tuple(turn) for turn in instance.turns]
        assert tuple(text.decode() for text in one["references"]) == instance.references
part = read_messages(f"{made}:train[3:9]")[0]
assert part == expected[3:9]
assert "tensorflow" not in sys.modules
'''


def test_what_is_prepared_is_read_by_tfds_without_tensorflow(tmp_path):
    source = tmp_path / "x.jsonl"
    with source.open("w") as file:
        for number in range(20):
            turns = [
                {"role": role, "content": f"{role} {number} é"}
                for role in ("system", "user", "assistant", "user", "assistant")
            ]
            made = {"id": f"i{number}", "task": "t", "messages": turns, "references": ["r"]}
            file.write(json.dumps(made) + "\n")
    child = subprocess.run(
        [sys.executable, "-c", NO_TENSORFLOW, str(source), str(tmp_path / "made")],
        env={**os.environ, "JAX_PLATFORMS": "cpu"},
        capture_output=True,
        text=True,
    )
    assert child.returncode == 0, child.stderr
