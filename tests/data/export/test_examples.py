import json
import struct

import grain
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from zsg_jax.data.export import write
from zsg_jax.runtime.errors import UserError

KEYS = st.sampled_from(["a", "b", "ü", "", "messages", "prompt", "text"])
ANY = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(2**70), 2**70)
    | st.floats(allow_nan=False)
    | st.text(max_size=4),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(KEYS, inner, max_size=2),
    max_leaves=4,
)
COLUMN = st.one_of(
    st.just(ANY),
    st.just(st.text(max_size=4)),
    st.just(st.integers(-9, 9) | st.floats(width=32)),
    st.just(st.lists(st.integers(-(2**63), 2**63 - 1), max_size=3)),
    st.just(st.lists(st.floats(width=32), max_size=3)),
    st.just(st.lists(st.text(max_size=3), max_size=3)),
)


@st.composite
def many_rows(draw):
    columns = {name: draw(COLUMN) for name in draw(st.lists(KEYS, unique=True, max_size=4))}
    row = st.fixed_dictionaries({"n": st.integers(1, 9)}, optional=columns)
    return draw(st.lists(row, min_size=1, max_size=5))


def varint(data, at):
    value = shift = 0
    while True:
        byte = data[at]
        value |= (byte & 127) << shift
        at, shift = at + 1, shift + 7
        if byte < 128:
            return value, at


def fields(data):
    """(field number, value) of a message on the wire: varints and length-delimited values."""
    at, out = 0, []
    while at < len(data):
        tag, at = varint(data, at)
        value, at = varint(data, at)
        assert tag & 7 in (0, 2)
        if tag & 7 == 2:
            value, at = data[at : at + value], at + value
        out.append((tag >> 3, value))
    return out


def decode(record):
    """A record by TensorFlow's field numbers: name to (kind, values), as they stand."""
    out = {}
    ((number, features),) = fields(record) or [(1, b"")]
    assert number == 1
    for number, entry in fields(features):
        assert number == 1
        pair = dict(fields(entry))
        ((kind, content),) = fields(pair[2])
        if kind == 1:
            values = [value for number, value in fields(content) if number == 1]
        elif kind == 2:
            values = [
                x for _, packed in fields(content) for (x,) in struct.iter_unpack("<f", packed)
            ]
        else:
            values, packed, at = [], b"".join(value for _, value in fields(content)), 0
            while at < len(packed):
                value, at = varint(packed, at)
                values.append(value - 2**64 if value >= 2**63 else value)
        out[pair.get(1, b"").decode()] = ({1: "bytes", 2: "float", 3: "int64"}[kind], values)
    return out


def export(folder, rows):
    raw = [json.dumps(row).encode() for row in rows]
    path = write(lambda: iter(raw), folder, "arrayrecord", total=len(raw))
    source = grain.sources.ArrayRecordDataSource([str(path)])
    assert len(source) == len(rows)
    return [decode(source[k]) for k in range(len(source))]


def says(feature, value):
    kind, got = feature
    values = value if isinstance(value, list) else [value]
    if kind == "int64":
        return got == values
    if kind == "float":
        return np.array_equal(got, np.array(values, np.float32), equal_nan=True)
    if all(isinstance(one, str) for one in values) and len(got) == len(values):
        try:
            if got == [one.encode() for one in values]:
                return True
        except UnicodeEncodeError:
            pass
    (text,) = got
    # NaN is not equal to itself, its text is.
    return json.dumps(json.loads(text)) == json.dumps(value)


@settings(deadline=None, max_examples=150)
@given(many_rows())
def test_every_field_comes_back_by_the_public_field_numbers(tmp_path_factory, rows):
    got = export(tmp_path_factory.mktemp("export"), rows)
    kinds = {}
    for features, row in zip(got, rows, strict=True):
        assert features.keys() == {name for name, value in row.items() if value is not None}
        for name, feature in features.items():
            assert says(feature, row[name]), (name, feature, row[name])
            # MaxText asks for one kind a column.
            assert kinds.setdefault(name, feature[0]) == feature[0]


def turns(*contents):
    roles = ["user", "assistant"] * 3
    if contents[0].startswith("Be"):
        roles.insert(0, "system")
    return [{"role": r, "content": c} for r, c in zip(roles, contents, strict=False)]


ADDED = {
    "one turn": ({"messages": turns("Hi", "Ho")}, "Hi", "Ho", "Hi Ho"),
    "system": ({"messages": turns("Be", "Hi", "Ho")}, "Be\n\nHi", "Ho", "Be\n\nHi Ho"),
    "two turns": ({"messages": turns("a", "b", "c", "d")}, None, None, "a b c d"),
    "own text": ({"messages": turns("Hi", "Ho"), "text": "mine"}, "Hi", "Ho", "mine"),
    "own prompt": ({"messages": turns("Hi", "Ho"), "prompt": "mine"}, "mine", None, "Hi Ho"),
    "no messages": ({"messages": turns("Hi")}, None, None, None),
}


@pytest.mark.parametrize("name", ADDED)
def test_prompt_completion_and_text_are_added(tmp_path, name):
    row, *expected = ADDED[name]
    (features,) = export(tmp_path, [row])
    for key, value in zip(("prompt", "completion", "text"), expected, strict=True):
        assert features.get(key) == (value and ("bytes", [value.encode()]))
    assert json.loads(features["messages"][1][0]) == row["messages"]


def test_columns_have_one_kind_over_all_rows(tmp_path):
    rows = [
        {"x": 1, "y": [], "z": "a", "big": 1, "flag": True, "far": 0.5},
        {"x": 0.5, "y": [2], "z": ["b"], "big": 2**63, "flag": False, "far": 1e300},
        {"x": True, "y": None, "z": [], "big": 0, "flag": 3, "far": 2},
    ]
    got = export(tmp_path, rows)
    assert [one["x"] for one in got] == [("float", [1.0]), ("float", [0.5]), ("float", [1.0])]
    assert [one.get("y") for one in got] == [("int64", []), ("int64", [2]), None]
    assert [one["z"] for one in got] == [("bytes", [b"a"]), ("bytes", [b"b"]), ("bytes", [])]
    assert [one["big"] for one in got] == [
        ("bytes", [str(k).encode()]) for k in (1, 9223372036854775808, 0)
    ]
    assert [one["flag"] for one in got] == [("int64", [1]), ("int64", [0]), ("int64", [3])]
    assert [one["far"][0] for one in got] == ["bytes"] * 3


def test_a_name_that_is_no_text_is_refused(tmp_path):
    with pytest.raises(UserError, match=r"row 2: the field '\\ud800'"):
        export(tmp_path, [{"a": 1}, {"\ud800": 1}])
    assert list(tmp_path.iterdir()) == []


def test_the_same_rows_are_the_same_bytes(tmp_path):
    """Features stand in the order of their names, not in a map's, which changes by process."""
    row = {name: name for name in ("zebra", "b", "messages", "a", "text", "q", "prompt", "c")}
    (record,) = export(tmp_path, [row])
    assert list(record) == sorted(row)
