import json
import math
import re

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from zsg_jax.data.export import tables, write
from zsg_jax.data.reading import ReadOptions, open_dataset
from zsg_jax.runtime.errors import UserError

datasets = pytest.importorskip("datasets")
pq = pytest.importorskip("pyarrow.parquet")

TEXT = st.text(st.characters(exclude_categories=["Cs"]), max_size=5)
KEYS = st.sampled_from(["a", "b", "ü", "", "a.b", "[]"])


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
    # Integers that do not fit 64 bits, and those in one field with them, come back as text.
    return got == (str(given) if isinstance(got, str) else given) and not isinstance(got, bool)


def blank(value):
    return value is None or (isinstance(value, dict) and all(map(blank, value.values())))


def read_parquet(path):
    return pq.read_table(path).to_pylist()


def read_arrow(path):
    return list(datasets.load_from_disk(str(path)))


READERS = {"parquet": read_parquet, "arrow": read_arrow}


def round_trip(folder, rows, format):
    raw = [json.dumps(row, ensure_ascii=False).encode() for row in rows]
    path = write(lambda: iter(raw), folder, format, total=len(raw))
    return READERS[format](path)


@settings(max_examples=15)
@given(typed_rows())
@pytest.mark.parametrize("format", READERS)
def test_rows_of_one_type_a_field_come_back(tmp_path_factory, format, rows):
    got = round_trip(tmp_path_factory.mktemp("export"), rows, format)
    assert len(got) == len(rows)
    for one, given_row in zip(got, rows, strict=True):
        assert same(one, given_row), (one, given_row)


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


def function(name, call, **arguments):
    asked = {"id": name, "messages": [{"role": "user", "content": "?"}]}
    calls = [call | {"function": {"name": name} | ({"arguments": arguments} if arguments else {})}]
    asked["messages"] += [
        {"role": "assistant", "content": "", "tool_calls": calls},
        {"role": "tool", "content": "3"},
        {"role": "assistant", "content": "so"},
    ]
    properties = {key: {"type": "integer"} for key in arguments}
    tool = {"type": "function", "function": {"name": name, "parameters": properties}}
    return asked | {"tools": [tool] if arguments else []}


@pytest.mark.parametrize("format", READERS)
def test_tools_and_calls_come_back_without_the_keys_of_others(tmp_path, format):
    rows = [
        function("weather", {"type": "function"}, city="Ulm", days=[1, 2**70, None]),
        function("add", {"type": "function", "id": "c1"}, a=1, b={"c": "é"}),
        function("now", {"id": "c2"}),
    ]
    raw = [json.dumps(row).encode() for row in rows]
    (tmp_path / "rows.jsonl").write_bytes(b"\n".join(raw))
    path = write(lambda: iter(raw), tmp_path, format, total=len(raw))
    options = ReadOptions(tmp_path / "scratch")
    with (
        open_dataset(tmp_path / "rows.jsonl", options) as before,
        open_dataset(path, options) as now,
    ):
        assert list(now) == list(before)
        assert now.digest == before.digest


@pytest.mark.parametrize("format", READERS)
@pytest.mark.parametrize(
    ("tools", "empty"),
    [(["saw", "axe"], []), ([{"name": "f"}], "[]"), ('[{"name": "f"}]', "[]"), ([], "[]")],
)
def test_an_empty_list_of_tools_is_what_the_other_rows_make_of_theirs(
    tmp_path, monkeypatch, format, tools, empty
):
    monkeypatch.setattr(tables, "BATCH_ROWS", 2)
    rows = [{"id": str(k), "tools": [] if k in (0, 1, 3) else tools} for k in range(6)]
    got = [one["tools"] for one in round_trip(tmp_path, rows, format)]
    text = tools and (json.dumps(tools) if empty == "[]" and isinstance(tools, list) else tools)
    assert got == [empty if k in (0, 1, 3) else text or empty for k in range(6)]


EDGES = [0, 2**53, 2**63 - 1, 2**63, 10**76]


@pytest.mark.parametrize("largest", [*EDGES, *(-one for one in EDGES), -(2**63) - 1])
def test_integers_come_back_exactly_as_text_beyond_64_bits(tmp_path, capsys, largest):
    rows = [{"x": [{"y": 1}]}, {"x": [{"y": largest}]}, {"x": [{"y": -1}]}]
    got = [one["x"][0]["y"] for one in round_trip(tmp_path, rows, "parquet")]
    if -(2**63) <= largest < 2**63:
        assert got == [1, largest, -1]
        assert capsys.readouterr().err == ""
    else:
        assert got == ["1", str(largest), "-1"]
        assert "integers in field 'x' become text" in capsys.readouterr().err


CLASHES = {
    "string and list": ["a", ["b"]],
    "deep": [{"y": [1]}, {"y": [{}]}],
    "boolean and number": [True, 1],
    "boolean and fraction": [0.5, True],
    "wide before fraction": [2**53 + 1, 0.5],
    "wide after fraction": [0.5, -(2**60)],
    "surrogate": ["a", "\udc80"],
    "surrogate in a key": [{}, {"\udc80": 1}],
}


@pytest.mark.parametrize("batch", [1, 8192])
@pytest.mark.parametrize("name", CLASHES)
def test_a_field_without_one_type_is_named(tmp_path, monkeypatch, name, batch):
    monkeypatch.setattr(tables, "BATCH_ROWS", batch)
    values = CLASHES[name]
    raw = [json.dumps({"id": f"r{k}", "x": value}).encode() for k, value in enumerate(values)]
    for format in READERS:
        with pytest.raises(UserError, match=r"(?i)field '?x") as caught:
            write(lambda: iter(raw), tmp_path, format, total=2)
        assert re.match(rf"{format}: row [12] \(id 'r[01]'\): ", str(caught.value))
        assert str(caught.value).endswith("give --format jsonl")
        assert "\n" not in str(caught.value)
        str(caught.value).encode()
    assert list(tmp_path.iterdir()) == []


def test_lists_too_deep_for_readers_are_refused(tmp_path):
    for depth in (tables.DEEPEST, tables.DEEPEST + 1):
        raw = b'{"x": ' + b"[" * depth + b"1" + b"]" * depth + b"}"
        for format in READERS:
            if depth > tables.DEEPEST:
                with pytest.raises(UserError, match="deep"):
                    write(lambda raw=raw: [raw], tmp_path, format, total=1)
            else:
                assert READERS[format](write(lambda raw=raw: [raw], tmp_path, format, total=1))


def test_datasets_writes_nothing_else_and_says_nothing(tmp_path, capfd):
    path = write(lambda: [b'{"a": [1]}'] * 9, tmp_path / "out", "arrow", total=9)
    assert capfd.readouterr() == ("", "")
    assert list(tmp_path.iterdir()) == [path.parent]
    assert list(path.parent.iterdir()) == [path]
    assert read_arrow(path) == [{"a": [1]}] * 9
