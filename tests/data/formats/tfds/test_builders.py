import json
import os
import subprocess
import sys

import numpy as np
import pytest
import tensorflow_datasets as tfds

from zsg_jax.data.export.examples import Example
from zsg_jax.data.formats.tfds import open_tfds
from zsg_jax.data.reading import ReadOptions, open_dataset
from zsg_jax.runtime.errors import UserError

features = tfds.features
TEXT = features.Text()


def fields(number):
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


QUIZ = features.FeaturesDict(
    {
        "ask": TEXT,
        "answers": features.Sequence({"text": TEXT, "start": np.int32}),
        "label": features.ClassLabel(names=["no", "yes"]),
        "count": np.int64,
        "share": np.float32,
        "flag": np.bool_,
        "marks": features.Sequence(TEXT),
        "grid": features.Tensor(shape=(2, 2), dtype=np.int32),
        "parts": features.Dataset({"name": TEXT, "size": np.int32}),
        "page": {"title": TEXT},
        "id": TEXT,
    }
)


@pytest.fixture(scope="module")
def written(write_dataset):
    """A data set with these features."""

    def write(folder, tree, **splits):
        folder = write_dataset(folder, splits)
        tree.save_config(str(folder))
        return folder

    return write


@pytest.fixture(scope="module")
def quiz(tmp_path_factory, written):
    """A folder of TFDS with the data set `quiz`, its records written by TFDS's own features."""
    data = tmp_path_factory.mktemp("tfds")
    records = [QUIZ.serialize_example(QUIZ.encode_example(fields(k))) for k in range(34)]
    splits = {"train": (records[:15], records[15:30]), "test": (records[30:32], records[32:])}
    written(data / "quiz" / "1.0.0", QUIZ, **splits)
    return data


def test_records_are_those_that_were_written(quiz):
    records = open_tfds(quiz / "quiz:train")
    found = [json.loads(records.raw(number)) for number in range(len(records))]
    # TFDS knows no null: an empty text is none, and a record may lack its id.
    expected = [fields(number) for number in range(30)]
    assert found == [{k: v for k, v in one.items() if (k, v) != ("id", "")} for one in expected]


@pytest.mark.parametrize("split", ["train", "train[:10%]+test[1:]"])
def test_their_order_is_that_of_the_data_source(quiz, split):
    records = open_tfds(quiz / f"quiz:{split}")
    source = tfds.data_source("quiz", split=split, data_dir=str(quiz), download=False)
    found = [json.loads(records.raw(number)) for number in range(len(records))]
    assert [one["ask"].encode() for one in found] == [one["ask"] for one in source]
    assert [json.loads(one.raw) for one in records] == found


def test_a_mapping_of_fields_makes_them_instances(quiz, tmp_path):
    names = {"prompt": "ask", "completion": "label", "task": "page.title", "references": "marks"}
    options = ReadOptions(tmp_path / "none", fields=names)
    with open_dataset(f"tfds:quiz:train@{quiz}", options) as dataset:
        assert dataset.schema == "prompt_completion"
        for number, one in enumerate(dataset):
            expected = fields(number)
            assert [turn.content for turn in one.turns] == [expected["ask"], expected["label"]]
            assert one.task == expected["page"]["title"]
            assert one.references == (expected["label"], *expected["marks"])
    assert not (tmp_path / "none").exists()


def example(**columns):
    """A record written without TFDS; "__" stands for "/"."""
    message = Example()
    for name, values in columns.items():
        type = "int64_list" if isinstance(values[0], int) else "bytes_list"
        feature = message.features.feature[name.replace("__", "/")]
        getattr(feature, type).value.extend(values)
    return message.SerializeToString(deterministic=True)


def test_lists_of_lists_of_unlike_lengths_are_read(tmp_path, written):
    tree = features.FeaturesDict({"rag": features.Sequence(features.Sequence(TEXT))})
    records = [
        example(rag__ragged_flat_values=[b"a", b"b", b"c"], rag__ragged_row_lengths_0=[2, 1]),
        example(rag__ragged_flat_values=[b"d"], rag__ragged_row_lengths_0=[0, 1, 0]),
    ]
    folder = written(tmp_path / "x" / "1.0.0", tree, train=[records])
    found = [json.loads(one.raw)["rag"] for one in open_tfds(folder)]
    assert found == [[["a", "b"], ["c"]], [[], ["d"], []]]


@pytest.mark.parametrize(
    ("bad", "told"),
    [
        (
            example(question=[b"q"], answer=[b"a\xff"]),
            r'"answer" is not UTF-8 \(byte 1 of a text\)',
        ),
        (b"\x0a\xffno", "TFDS cannot decode it: "),
    ],
)
def test_what_is_no_text_or_no_example_is_a_bad_record(tmp_path, written, read_source, bad, told):
    tree = features.FeaturesDict({"question": TEXT, "answer": TEXT})
    good = example(question=[b"q"], answer=[b"a"])
    folder = written(tmp_path / "x" / "1.0.0", tree, train=[[good, bad]])
    with pytest.raises(UserError, match=rf"1\.0\.0:train, row 2: {told}"):
        read_source(folder)
    assert len(read_source(folder, bad_rows="skip")[0]) == 1


NO_TENSORFLOW = '''
import sys
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
from zsg_jax.data.reading import ReadOptions, open_dataset
from zsg_jax.workflows import prepare as command
from zsg_jax.workflows.prepare_options import PrepareOptions

def read(path):
    with open_dataset(path, ReadOptions(Path("unused"))) as dataset:
        return list(dataset)

source, output = sys.argv[1], Path(sys.argv[2])
made = command.run(PrepareOptions(source, output, shard_rows=7))
expected = read(source)
assert read(made) == expected
assert "tensorflow_datasets" not in sys.modules

import tensorflow_datasets as tfds

builder = tfds.builder_from_directory(str(made))
named = tfds.data_source(output.name, split="train", data_dir=str(output.parent), download=False)
for found in (builder.as_data_source(split="train"), named):
    assert len(found) == len(expected) == 20
    for one, instance in zip(found, expected):
        assert (one["id"].decode(), one["task"].decode()) == (instance.id, instance.task)
        turns = zip(one["messages"]["role"], one["messages"]["content"], strict=True)
        assert [(r.decode(), c.decode()) for r, c in turns] == [turn[:2] for turn in instance.turns]
        assert tuple(text.decode() for text in one["references"]) == instance.references
assert read(f"{made}:train[3:9]") == expected[3:9]
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
