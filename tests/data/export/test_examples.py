import json

import grain
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tensorflow_datasets.proto import tf_example_pb2

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


def decode(record):
    """A record by TFDS's copy of TensorFlow's protocol: name to (type, values)."""
    features = tf_example_pb2.Example.FromString(record).features.feature
    types = {name: feature.WhichOneof("kind") for name, feature in features.items()}
    return {name: (type, list(getattr(features[name], type).value)) for name, type in types.items()}


def export(folder, rows):
    raw = [json.dumps(row).encode() for row in rows]
    path = write(lambda: iter(raw), folder, "arrayrecord", total=len(raw))
    source = grain.sources.ArrayRecordDataSource([str(path)])
    assert len(source) == len(rows)
    return [source[k] for k in range(len(source))]


def exported(folder, rows):
    return list(map(decode, export(folder, rows)))


def says(feature, value):
    type, got = feature
    values = value if isinstance(value, list) else [value]
    if type == "int64_list":
        return got == values
    if type == "float_list":
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


@settings(max_examples=30)
@given(many_rows())
def test_every_field_comes_back_by_the_public_protocol(tmp_path_factory, rows):
    got = exported(tmp_path_factory.mktemp("export"), rows)
    types = {}
    for features, row in zip(got, rows, strict=True):
        assert features.keys() == {name for name, value in row.items() if value is not None}
        for name, feature in features.items():
            assert says(feature, row[name]), (name, feature, row[name])
            # MaxText asks for one type a column.
            assert types.setdefault(name, feature[0]) == feature[0]


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
    "no answer": ({"messages": turns("Hi")}, "Hi", None, "Hi"),
}


@pytest.mark.parametrize("name", ADDED)
def test_prompt_completion_and_text_are_added(tmp_path, name):
    row, *expected = ADDED[name]
    (features,) = exported(tmp_path, [row])
    for key, value in zip(("prompt", "completion", "text"), expected, strict=True):
        assert features.get(key) == (value and ("bytes_list", [value.encode()]))
    assert json.loads(features["messages"][1][0]) == row["messages"]


def test_columns_have_one_type_over_all_rows(tmp_path):
    rows = [
        {"x": 1, "y": [], "z": "a", "big": 1, "flag": True, "far": 0.5},
        {"x": 0.5, "y": [2], "z": ["b"], "big": 2**63, "flag": False, "far": 1e300},
        {"x": True, "y": None, "z": [], "big": 0, "flag": 3, "far": 2},
    ]
    expected = {
        "x": ("float_list", [1.0], [0.5], [1.0]),
        "z": ("bytes_list", [b"a"], [b"b"], []),
        "big": ("bytes_list", [b"1"], [b"9223372036854775808"], [b"0"]),
        "flag": ("int64_list", [1], [0], [3]),
        "far": ("bytes_list", [b"0.5"], [b"1e+300"], [b"2"]),
    }
    got = exported(tmp_path, rows)
    for name, (type, *values) in expected.items():
        assert [one[name] for one in got] == [(type, value) for value in values]
    assert [one.get("y") for one in got] == [("int64_list", []), ("int64_list", [2]), None]


@pytest.mark.parametrize("other", [0.5, 7, [0.5, 7], [7, 8]])
def test_no_integer_is_rounded_beside_fractions(tmp_path, other):
    large = 2**53 + 1
    first, second = exported(tmp_path, [{"n": large}, {"n": other}])
    if 0.5 in (other if isinstance(other, list) else [other]):
        assert first["n"] == ("bytes_list", [str(large).encode()])
        assert json.loads(second["n"][1][0]) == other
    else:
        assert first["n"] == ("int64_list", [large])
        assert second["n"] == ("int64_list", other if isinstance(other, list) else [other])


def test_a_name_that_is_no_text_is_refused(tmp_path):
    with pytest.raises(UserError, match=r"row 2: the field '\\ud800'"):
        export(tmp_path, [{"a": 1}, {"\ud800": 1}])
    assert list(tmp_path.iterdir()) == []


def test_the_same_rows_are_the_same_bytes(tmp_path):
    """Features stand in the order of their names, not in a map's, which changes by process."""
    names = ["zebra", "boat", "messages", "apple", "text", "queen", "prompt", "cat"]
    (record,) = export(tmp_path, [dict.fromkeys(names, "")])
    assert sorted(names, key=lambda name: record.index(name.encode())) == sorted(names)
