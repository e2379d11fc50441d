import json

import jax.numpy as jnp
import numpy as np
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import zsg_jax
from zsg_jax.arrangement import tmta
from zsg_jax.runtime.errors import UserError
from zsg_jax.workflows import arrange
from zsg_jax.workflows.arrange_options import ArrangeOptions


def rows(count, word):
    return [
        {
            "id": f"{word}{i}",
            "task": f"t{i % 2}",
            "prompt": f"{word} {i} {i * i}",
            "completion": "x",
        }
        for i in range(count)
    ]


@pytest.fixture(scope="module")
def arranged():
    return zsg_jax.arrange_data(rows(12, "say"), rows(3, "tell"), budget=5)


def test_rows_come_in_the_order_that_the_command_writes(arranged, tmp_path):
    for name, given_rows in (("train", rows(12, "say")), ("test", rows(3, "tell"))):
        lines = "".join(json.dumps(row) + "\n" for row in given_rows)
        (tmp_path / f"{name}.jsonl").write_text(lines)
    sides = {name: str(tmp_path / f"{name}.jsonl") for name in ("train", "test")}
    written = arrange.run(ArrangeOptions(**sides, output=tmp_path / "out", budget=5))
    assert np.array_equal(np.load(tmp_path / "out" / "order.npy"), arranged.order)
    assert np.array_equal(np.load(tmp_path / "out" / "turn.npy"), arranged.turn)
    assert arranged.to_jsonl(tmp_path / "mine.jsonl").read_bytes() == written.read_bytes()
    table = pq.read_table(arranged.to_parquet(tmp_path / "new" / "mine.parquet"))
    assert table["id"].to_pylist() == [f"say{i}" for i in arranged.order]
    assert (tmp_path / "new").is_dir()
    with pytest.raises(UserError, match="plain JSON lines"):
        arranged.to_jsonl(tmp_path / "mine.jsonl.gz")
    for write in (arranged.to_jsonl, arranged.to_parquet, arranged.explain):
        with pytest.raises(UserError, match="new: is a folder; give the name of a file"):
            write(tmp_path / "new")
    assert [p.name for p in (tmp_path / "new").iterdir()] == ["mine.parquet"]


def test_what_was_arranged_is_selected_in_order(arranged):
    assert [row["id"] for row in arranged.select(rows(12, "say"))] == [
        f"say{i}" for i in arranged.order
    ]
    assert np.array_equal(arranged.select(np.arange(12)), arranged.order)
    with pytest.raises(UserError, match="12"):
        arranged.select(rows(11, "say"))
    for without_numbers in (iter(rows(12, "say")), set(range(12)), None):
        with pytest.raises(UserError, match="a stream cannot be put in order"):
            arranged.select(without_numbers)
    with pytest.raises(UserError, match=r"select: row \d+ is 'say\d+', but 'say\d+' was arranged"):
        arranged.select(rows(12, "say")[::-1])


def test_rows_need_no_answer_and_what_is_embedded_is_told(capfd):
    pairs = [{"prompt": f"say {i}", "chosen": "x", "rejected": "y"} for i in range(12)]
    asked = [{"prompt": [{"role": "user", "content": f"tell {i}"}]} for i in range(3)]
    found = zsg_jax.arrange_data(pairs, asked)
    told = {"train": "prompt and chosen answer", "test": "prompt"}
    assert found.facts["embedded_of_rows"] == told
    said = capfd.readouterr().err.splitlines()
    assert said[:2] == ["train: read as rows of preference", "test: read as rows of prompt"]
    assert found.select(pairs)[0] == pairs[found.order[0]]
    answered = zsg_jax.arrange_data(
        [{"prompt": one["prompt"], "completion": one["chosen"]} for one in pairs], asked
    )
    assert found.order.tolist() == answered.order.tolist()


def test_a_dataset_of_datasets_keeps_its_columns(arranged):
    datasets = pytest.importorskip("datasets")
    train = datasets.Dataset.from_list(rows(12, "say"))
    found = zsg_jax.arrange_data(train, datasets.Dataset.from_list(rows(3, "tell")), budget=5)
    assert np.array_equal(found.order, arranged.order)
    assert found.select(train)["id"] == [f"say{i}" for i in found.order]
    with pytest.raises(UserError, match=r"select: row \d+ is"):
        found.select(train.select(range(11, -1, -1)))
    # Of embeddings alone nobody knows ids.
    array = np.eye(12, 3, dtype=np.float32)
    assert len(zsg_jax.arrange_data(array, array[:3]).select(train)) == 12


@settings(max_examples=20)
@given(seed=st.integers(0, 99), budget=st.integers(1, 9))
def test_embeddings_alone_are_arranged_as_by_the_algorithm(seed, budget):
    generator = np.random.default_rng(seed)
    train, test = generator.standard_normal((9, 4)), generator.standard_normal((2, 4))
    found = zsg_jax.arrange_data(train, test, budget=budget)
    assert np.array_equal(found.order, tmta(train, test, budget=budget).order)


def test_any_encoder_may_embed():
    class Letters:
        def encode(self, texts):
            return np.array([[text.count(c) + 1.0 for c in "0123"] for text in texts], np.float32)

    train, test = rows(12, "say"), rows(3, "tell")
    texts = [[f"{row['prompt']} {row['completion']}" for row in side] for side in (train, test)]
    found = zsg_jax.arrange_data(train, test, encoder=Letters())
    assert np.array_equal(found.order, tmta(*map(Letters().encode, texts)).order)


def test_the_page_is_written_where_asked(arranged, tmp_path):
    page = arranged.explain(tmp_path / "page.html")
    assert "tmta-min" in page.read_text()


def nested():
    inner = row = {}
    for _ in range(100_000):
        row["a"] = row = {}
    return inner


class Ragged:
    def encode(self, texts):
        return [[1.0] * (1 + n % 2) for n in range(len(texts))]


class NoArray:
    """As a tensor that asks for its gradient, or is of a type that NumPy does not know."""

    def encode(self, texts):
        return self

    def __array__(self, *arguments, **named):
        raise RuntimeError("call detach first")


def test_masked_embeddings_are_refused():
    masked = np.ma.masked_array(np.eye(3, dtype=np.float32), np.eye(3) > 0)
    with pytest.raises(UserError, match="test: embeddings: some are masked"):
        zsg_jax.arrange_data(np.eye(3, dtype=np.float32), masked)


def test_an_array_of_no_rows_or_of_another_library_is_told():
    vectors = np.eye(3, dtype=np.float32)
    with pytest.raises(UserError, match="train: holds no row"):
        zsg_jax.arrange_data(np.array(3.0), vectors)
    given = jnp.asarray(vectors)
    with pytest.raises(UserError, match=r"train: is a .*; give rows, or numpy.asarray of it"):
        zsg_jax.arrange_data(given, given)


def test_a_data_frame_is_told_what_to_give_instead(arranged):
    frame = pytest.importorskip("pandas").DataFrame(rows(12, "say"))
    for give in (arranged.select, lambda rows: zsg_jax.arrange_data(rows, rows)):
        with pytest.raises(UserError, match=r"is a data frame.*to_dict"):
            give(frame)
    assert len(arranged.select(frame.to_dict("records"))) == len(arranged)


def test_arrays_without_rows_are_refused():
    some, none = np.ones((2, 3)), np.ones((0, 3))
    for sides, name in (((none, some), "train"), ((some, none), "test")):
        with pytest.raises(UserError, match=f"{name}: holds no row"):
            zsg_jax.arrange_data(*sides)


@pytest.mark.parametrize(
    ("train", "options", "match"),
    [
        ([{"prompt": " "}], {}, "train, line:1"),
        ([{"prompt": "a", "completion": object()}], {}, "row 0"),
        (rows(3, "a"), {"method": "tmta-mim"}, "tmta-min"),
        (rows(3, "a"), {"encoder": 3}, "encode"),
        (np.zeros((3, 2)), {}, "array"),
        (np.ones((3, 2)), {"encoder": "e", "test": np.ones((1, 2))}, "encoder and cache are for"),
        (np.ones((3, 2)), {"data_fields": "a=b", "test": np.ones((1, 2))}, "are of rows"),
        (5, {}, "train=5: give rows"),
        ([], {}, "train.*no instance"),
        (["a"], {}, "mend it, or leave it out$"),
        ([{"prompt": "a", "more": nested()}], {}, "row 0: maximum recursion"),
        (rows(3, "a"), {"method": None}, "method=None: give a text"),
        (rows(3, "a"), {"deduplicate": 2}, "deduplicate=2"),
        *[
            (rows(3, "a"), {"budget": one}, "budget=.*: give a whole")
            for one in (0, 2.5, "2", True)
        ],
        (rows(3, "a"), {"seed": "x"}, "seed='x': give a whole number, 0 or more"),
        (rows(3, "a"), {"w_min": "a", "method": "wsd-nft"}, "w_min='a': give a number"),
        (rows(3, "a"), {"max_row_bytes": None}, "max_row_bytes=None: give a whole number"),
        (rows(3, "a"), {"distance": None}, "distance=None: give a text"),
        (rows(3, "a"), {"data_fields": {}}, "data_fields={}: give a text"),
        (rows(3, "a"), {"encoder": Ragged()}, "encoder: .*a vector of the same length"),
        (rows(3, "a"), {"encoder": NoArray()}, "encoder: .*is to give an array"),
    ],
)
def test_a_mistake_is_told_in_a_line(train, options, match):
    with pytest.raises(UserError, match=match):
        zsg_jax.arrange_data(train, **{"test": rows(2, "b")} | options)


def test_rows_are_ordered_by_a_number_of_their_own():
    train = [
        row | {"quality": value} for row, value in zip(rows(4, "say"), [2, 0.5, 3, 2], strict=True)
    ]
    test = rows(2, "tell")
    found = zsg_jax.arrange_data(train, test, method="score-descending:quality")
    assert found.order.tolist() == [2, 0, 3, 1]
    assert found.distance.tolist() == [3, 2, 2, 0.5]
    del train[1]["quality"]
    with pytest.raises(UserError, match="train, line:2: has no 'quality'"):
        zsg_jax.arrange_data(train, test, method="score-ascending:quality")
