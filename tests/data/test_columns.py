import gzip
import json

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from zsg_jax.data.by_answer import by_answer
from zsg_jax.data.columns import numbers
from zsg_jax.data.reading import ReadOptions
from zsg_jax.data.sources import open_source
from zsg_jax.runtime.errors import UserError


def rows(*values, name="quality"):
    return [
        {"id": str(i), "prompt": f"say {i}", "completion": "yes"}
        | ({} if value is None else {name: value})
        for i, value in enumerate(values)
    ]


def opened(path, tmp_path, **options):
    return open_source(str(path), ReadOptions(tmp_path / "scratch", **options), "train")


def lines(path, records):
    path.write_text("".join(json.dumps(record) + "\n" for record in records))
    return path


def test_numbers_of_every_row_in_any_selection(tmp_path):
    path = lines(tmp_path / "a.jsonl", rows(3, -0.5, 10**30, 1e-300))
    with opened(path, tmp_path) as dataset:
        assert numbers(dataset, "quality").tolist() == [3.0, -0.5, 1e30, 1e-300]
        assert numbers(dataset.select(np.array([2, 0])), "quality").tolist() == [1e30, 3.0]


def test_whole_numbers_that_float64_would_make_equal_are_refused(tmp_path):
    path = lines(tmp_path / "a.jsonl", rows(2**60, -(2**60), 2**60, 2**60 + 1))
    with (
        opened(path, tmp_path) as dataset,
        pytest.raises(UserError, match=r"a\.jsonl:4: .*too long to be told apart"),
    ):
        numbers(dataset, "quality")
    near = lines(tmp_path / "c.jsonl", rows(2**53, 2**53 + 1))
    with opened(near, tmp_path) as dataset, pytest.raises(UserError, match="too long"):
        numbers(dataset, "quality")
    whole = lines(tmp_path / "b.jsonl", rows(2**60, 2**61, 2**60, 2**53, 2**53 - 1))
    with opened(whole, tmp_path) as dataset:
        assert len(set(numbers(dataset, "quality"))) == 4


def test_fields_lie_deeper_and_under_other_names(tmp_path):
    path = lines(tmp_path / "a.jsonl", rows({"by": [1, {"judge": 7}]}, name="scores"))
    with opened(path, tmp_path) as dataset:
        assert numbers(dataset, "scores.by.1.judge").tolist() == [7]
    with opened(path, tmp_path, fields={"quality": "scores.by.0"}) as dataset:
        assert numbers(dataset, "quality").tolist() == [1]


@pytest.mark.parametrize(
    ("value", "message"),
    [
        (None, r"has no 'quality' to be ordered by \(there are: 'id', 'prompt', 'completion'\)"),
        ("3", "'quality' is a JSON string"),
        (True, "'quality' is a JSON"),
        ([1], "'quality' is a JSON"),
        (float("nan"), "no number that is finite"),
        (float("inf"), "no number that is finite"),
        (10**400, "no number that is finite"),
    ],
)
def test_a_row_without_a_number_is_refused_by_file_and_line(tmp_path, value, message):
    content = "\n" + "".join(json.dumps(record) + "\n" for record in rows(1, value, 2))
    (tmp_path / "a.jsonl").write_text(content)
    with gzip.open(tmp_path / "b.jsonl.gz", "wt") as file:
        file.write(content)
    for name in ("a.jsonl", "b.jsonl.gz"):
        with (
            opened(tmp_path / name, tmp_path) as dataset,
            pytest.raises(UserError, match=f"{name}:3: .*{message}") as caught,
        ):
            numbers(dataset, "quality")
        assert "\n" not in str(caught.value)


def test_the_row_is_named_wherever_it_stands(tmp_path):
    (tmp_path / "folder").mkdir()
    lines(tmp_path / "folder" / "1.jsonl", rows(1))
    records = [record | {"id": f"other {record['id']}"} for record in rows(1, None)]
    lines(tmp_path / "folder" / "2.jsonl", records)
    pq.write_table(pa.Table.from_pylist(rows(1.5, 2, None)), tmp_path / "c.parquet")
    sources = {"sources": [{"path": "folder", "name": "f"}, {"path": "c.parquet", "name": "c"}]}
    (tmp_path / "all.mix.json").write_text(json.dumps(sources))
    with opened(tmp_path / "folder", tmp_path) as dataset, pytest.raises(UserError) as caught:
        numbers(dataset, "quality")
    assert f"{tmp_path / 'folder' / '2.jsonl'}:2: " in str(caught.value)
    with opened(tmp_path / "c.parquet", tmp_path) as dataset, pytest.raises(UserError) as caught:
        numbers(dataset, "quality")
    assert f"{tmp_path / 'c.parquet'}, row 3: " in str(caught.value)
    with opened(tmp_path / "all.mix.json", tmp_path) as dataset:
        whole = {"f/0": 1, "f/other 0": 1, "c/0": 1.5, "c/1": 2}
        chosen = [index for index, name in enumerate(dataset.ids) if name in whole]
        found = numbers(dataset.select(chosen), "quality").tolist()
        assert found == [whole[dataset.ids[index]] for index in chosen]
        rest = [index for index, name in enumerate(dataset.ids) if name == "f/other 1"]
        with pytest.raises(UserError, match=r"2\.jsonl:2: "):
            numbers(dataset.select(rest), "quality")


def test_answers_that_became_rows_have_the_number_of_their_conversation(tmp_path):
    turns = [{"role": role, "content": "a"} for role in ("user", "assistant") * 2]
    records = [{"id": str(i), "messages": turns, "quality": 3 - i} for i in range(2)]
    path = lines(tmp_path / "a.jsonl", [*records, {"id": "2", "messages": turns}])
    with opened(path, tmp_path) as dataset:
        several = by_answer(dataset, "training")
        assert numbers(several.select(np.arange(4)), "quality").tolist() == [3, 3, 2, 2]
        with pytest.raises(UserError, match=r"a\.jsonl:3: "):
            numbers(several, "quality")
