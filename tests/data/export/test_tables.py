import json
import math
import os
import subprocess
import sys
from collections import defaultdict

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from zsg_jax.data.export import tables, write
from zsg_jax.runtime.errors import UserError

datasets = pytest.importorskip("datasets")
pq = pytest.importorskip("pyarrow.parquet")

TEXT = st.text(st.characters(exclude_categories=["Cs"]), max_size=5)
KEYS = st.sampled_from(["a", "b", "ü", "", "a.b", "[]"])
ANY = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(10**40), 10**40)
    | st.integers(-5, 5)
    | st.floats(allow_nan=False)
    | TEXT,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(KEYS, inner, max_size=3),
    max_leaves=5,
)


@st.composite
def typed(draw, depth=0):
    """Draws a strategy whose values all have one type, any of them null."""
    kind = draw(st.sampled_from(["text", "bool", "int", "big", "float", "none", "list", "object"]))
    if depth == 3 and kind in ("list", "object"):
        kind = "text"
    if kind == "list":
        return st.none() | st.lists(draw(typed(depth + 1)), max_size=3)
    if kind == "object":
        names = draw(st.lists(KEYS, unique=True, max_size=3))
        return st.none() | st.fixed_dictionaries(
            {}, optional={name: draw(typed(depth + 1)) for name in names}
        )
    simple = {
        "text": TEXT,
        "bool": st.booleans(),
        "int": st.integers(-(2**63), 2**63 - 1),
        "big": st.integers(-(10**60), 10**60),
        "float": st.floats(allow_nan=False) | st.integers(-(2**53), 2**53),
        "none": st.none(),
    }
    return st.none() | simple[kind]


@st.composite
def typed_rows(draw):
    names = draw(st.lists(KEYS, unique=True, max_size=4))
    columns = {name: draw(typed()) for name in names}
    row = st.fixed_dictionaries({"zsg_turn": st.integers(1, 9)}, optional=columns)
    return draw(st.lists(row, min_size=1, max_size=6))


def same(got, given):
    """Whether a value read back is the one given, a key that was not there being null."""
    if isinstance(given, dict):
        if got is None:
            return not given
        return all(same(got.get(key), value) for key, value in given.items()) and all(
            blank(value) for key, value in got.items() if key not in given
        )
    if isinstance(given, list):
        return len(got) == len(given) and all(map(same, got, given))
    if given is None or isinstance(given, (bool, str)):
        return got == given and type(got) is type(given)
    return got == given and not isinstance(got, (bool, str))


def blank(value):
    return value is None or (isinstance(value, dict) and all(map(blank, value.values())))


def kinds_by_path(rows):
    """Every field's kinds of values, by path, found the slow way."""
    kinds = defaultdict(set)

    def walk(path, value):
        if isinstance(value, dict):
            kinds[path].add("object")
            for key, one in value.items():
                walk((*path, key), one)
        elif isinstance(value, list):
            kinds[path].add("list")
            for one in value:
                walk((*path, 0), one)
        elif isinstance(value, bool):
            kinds[path].add("boolean")
        elif isinstance(value, (int, float)):
            kinds[path].add("number")
            if isinstance(value, float):
                kinds[path, "numbers"].add("fraction")
            elif abs(value) > 2**53:
                kinds[path, "numbers"].add("wide")
        elif value is not None:
            kinds[path].add("string")

    for row in rows:
        walk((), row)
    return kinds


def read_parquet(path):
    return pq.read_table(path).to_pylist()


def read_arrow(path):
    return list(datasets.load_from_disk(str(path)))


READERS = {"parquet": read_parquet, "arrow": read_arrow}


def round_trip(folder, rows, format):
    raw = [json.dumps(row, ensure_ascii=False).encode() for row in rows]
    path = write(lambda: iter(raw), folder, format, total=len(raw))
    return READERS[format](path)


@settings(deadline=None, max_examples=60)
@given(typed_rows())
@pytest.mark.parametrize("format", READERS)
def test_rows_of_one_type_a_field_come_back(tmp_path_factory, format, rows):
    got = round_trip(tmp_path_factory.mktemp("export"), rows, format)
    assert len(got) == len(rows)
    for one, given_row in zip(got, rows, strict=True):
        assert same(one, given_row), (one, given_row)


@settings(deadline=None, max_examples=100)
@given(st.lists(st.dictionaries(KEYS, ANY, min_size=1, max_size=3), min_size=1, max_size=4))
def test_any_rows_come_back_or_are_refused_for_a_reason(tmp_path_factory, rows):
    clashes = [path for path, kinds in kinds_by_path(rows).items() if len(kinds) > 1]
    folder = tmp_path_factory.mktemp("export")
    if clashes:
        with pytest.raises(UserError, match=r"parquet: row \d.*give --format jsonl"):
            round_trip(folder, rows, "parquet")
        return
    got = round_trip(folder, rows, "parquet")
    assert all(same(one, given_row) for one, given_row in zip(got, rows, strict=True))


@pytest.mark.parametrize("format", READERS)
def test_types_are_found_over_all_batches(tmp_path, monkeypatch, format):
    monkeypatch.setattr(tables, "BATCH_ROWS", 7)
    rows = [{"id": str(k), "x": None, "messages": [{"role": "user"}]} for k in range(30)]
    rows[29] |= {"x": [1, 2.5], "late": {"deep": [{"q": True}]}}
    rows[28]["messages"] = [{"role": "user", "content": "é"}]
    got = round_trip(tmp_path, rows, format)
    assert [one["id"] for one in got] == [str(k) for k in range(30)]
    assert got[29]["x"] == [1.0, 2.5]
    assert got[29]["late"] == {"deep": [{"q": True}]}
    assert got[0]["late"] is None
    assert got[0]["messages"] == [{"role": "user", "content": None}]
    assert math.isclose(got[29]["x"][1], 2.5)


EDGES = [0, 2**53, 2**63 - 1, 2**63, 10**38 - 1, 10**38, 10**76 - 1]


@pytest.mark.parametrize("largest", [*EDGES, *(-one for one in EDGES), -(2**63) - 1])
def test_integers_come_back_exactly_to_the_edge_of_each_type(tmp_path, largest):
    rows = [{"x": 1}, {"x": largest}, {"x": -1}]
    assert [int(one["x"]) for one in round_trip(tmp_path, rows, "parquet")] == [1, largest, -1]
    if abs(largest) < 2**63:
        column = pq.read_schema(tmp_path / "arranged.parquet").field("x")
        assert str(column.type) == "int64"


CLASHES = {
    "string and list": (["a", ["b"]], "'x' is a list here, but a string in row 1"),
    "deep": ([{"y": [1]}, {"y": [{}]}], r"'x\.y\[\]' is an object here, but a number in row 1"),
    "boolean and number": ([True, 1], "'x' is a number here, but a boolean in row 1"),
    "wide before fraction": ([2**53 + 1, 0.5], r"'x' holds an integer beyond 2\^53 in row 1"),
    "wide after fraction": ([0.5, -(2**60)], r"'x' holds an integer beyond 2\^53 in row 2"),
    "too large": ([0, 10**76], "more than 76 digits"),
    "surrogate": (["a", "\udc80"], r"lone surrogate, \\udc80"),
    "surrogate in a key": ([{}, {"\udc80": 1}], "lone surrogate"),
    "keys without end": ([{}, {str(k): 1 for k in range(5000)}], "different keys"),
    "too deep": ([[], json.loads("[" * 70 + "]" * 70)], "nested more than 64 deep"),
}


@pytest.mark.parametrize("name", CLASHES)
def test_a_field_without_one_type_is_named(tmp_path, name):
    values, reason = CLASHES[name]
    raw = [json.dumps({"id": f"r{k}", "x": value}).encode() for k, value in enumerate(values)]
    for format in READERS:
        with pytest.raises(UserError, match=reason) as caught:
            write(lambda: iter(raw), tmp_path, format, total=2)
        assert str(caught.value).startswith(f"{format}: row 2 (id 'r1'): ")
        assert "--format jsonl" in str(caught.value)
        assert "\n" not in str(caught.value)
        str(caught.value).encode()
    assert list(tmp_path.iterdir()) == []


def test_datasets_writes_nothing_else_and_says_nothing(tmp_path):
    program = (
        "import sys, pathlib\n"
        "from zsg_jax.data.export import write\n"
        "write(lambda: [b'{\"a\": [1]}'] * 9, pathlib.Path(sys.argv[1]), 'arrow', total=9)\n"
    )
    home = tmp_path / "home"
    home.mkdir()
    changed = {"HOME": str(home), "HF_HOME": str(home / "hf"), "HF_HUB_OFFLINE": "1"}
    done = subprocess.run(
        [sys.executable, "-c", program, str(tmp_path / "out")],
        env={**os.environ, **changed, "JAX_PLATFORMS": "cpu"},
        capture_output=True,
        text=True,
        check=True,
    )
    assert (done.stdout, done.stderr) == ("", "")
    assert list(home.iterdir()) == []
    assert [one.name for one in (tmp_path / "out").iterdir()] == ["arranged"]
    assert read_arrow(tmp_path / "out" / "arranged") == [{"a": [1]}] * 9
