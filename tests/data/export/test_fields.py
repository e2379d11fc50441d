import json

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from zsg_jax.data.export import with_fields

KEYS = st.one_of(st.text(max_size=4), st.sampled_from(["zsg_turn", "zsg_distance", "zsg_other"]))
VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(KEYS, inner, max_size=3),
    max_leaves=6,
)
FINITE = st.floats(allow_nan=False, allow_infinity=False)


def escaped(raw, letter):
    """Spells one letter of every string by its escape."""
    return raw.replace(letter, f"\\u{ord(letter):04x}".encode().decode())


@settings(max_examples=30)
@given(
    st.dictionaries(KEYS, VALUES, max_size=4),
    st.integers(1, 2**31 - 1),
    FINITE,
    st.booleans(),
    st.sampled_from([None, 0, 2]),
    st.sampled_from(["", "z", "_", "t"]),
)
def test_two_fields_are_added_and_the_others_stay(row, turn, distance, ascii_only, indent, letter):
    text = json.dumps(row, ensure_ascii=ascii_only, indent=indent).replace("\n", " ")
    if letter and not any(word in text for word in ("true", "null", "Infinity", "\\")):
        text = escaped(text, letter)
    assert json.loads(text) == row
    raw = text.encode("utf-8")
    got = with_fields(raw, turn, distance)
    pairs = json.loads(got, object_pairs_hook=list)
    assert [key for key, _ in pairs].count("zsg_turn") == 1
    assert [key for key, _ in pairs].count("zsg_distance") == 1
    assert json.loads(got) == {**row, "zsg_turn": turn, "zsg_distance": distance}
    if not {"zsg_turn", "zsg_distance"} & row.keys():
        assert got.startswith(raw[:-1])
        assert got.endswith(b"}")


def test_odd_objects_keep_their_bytes():
    raw = b'{ "a" : 1e400, "b":"\\ud800","a":2 , "c":{"zsg_turn":1} \t}'
    assert with_fields(raw, 3, -0.5) == raw[:-1] + b', "zsg_turn": 3, "zsg_distance": -0.5}'
    assert with_fields(b"{ }", 3, 1) == b'{ "zsg_turn": 3, "zsg_distance": 1.0}'


def test_arranged_again_no_byte_changes_but_ours():
    raw = b'{"a": 1e999 , "v":1.10,"n":12345678901234567890123, "b":"\\u00e9"}'
    once = with_fields(raw, 3, 0.5)
    for turn in (9, 10):
        assert with_fields(once, turn, -2) == with_fields(raw, turn, -2)
    moved = b'{"zsg_turn": 1, "a": 1e999, "zsg_distance" : {"a": [1]}, "v":1.10}'
    assert with_fields(moved, 2, 1) == (
        b'{"a": 1e999, "v":1.10, "zsg_turn": 2, "zsg_distance": 1.0}'
    )
    assert with_fields(b'{"zsg_turn":1}', 2, 1) == b'{"zsg_turn": 2, "zsg_distance": 1.0}'


def test_a_distance_that_json_lacks_is_a_defect():
    with pytest.raises(ValueError, match="JSON"):
        with_fields(b"{}", 1, float("nan"))
