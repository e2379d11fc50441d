import gzip
import json
import re

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from zsg_jax.data.formats import json_arrays
from zsg_jax.data.formats.json_arrays import array_rows, begins_array
from zsg_jax.runtime.errors import UserError

TEXTS = st.text(st.sampled_from('a"\\[]{},: \n\r\tü\u2028'), max_size=8)
VALUES = st.recursive(
    st.one_of(TEXTS, st.integers(), st.booleans(), st.none(), st.floats(allow_nan=False)),
    lambda inner: st.one_of(st.lists(inner, max_size=3), st.dictionaries(TEXTS, inner, max_size=3)),
    max_leaves=12,
)


@settings(deadline=None)
@given(
    st.lists(VALUES, max_size=8),
    st.sampled_from([None, 0, 2, "\t"]),
    st.booleans(),
    st.sampled_from(["x.json", "x.json.gz"]),
    st.sampled_from([b"", b"\xef\xbb\xbf", b" \n"]),
    st.integers(1, 40),
)
def test_an_array_s_elements_are_its_rows(
    tmp_path_factory, values, indent, ascii, name, before, chunk
):
    path = tmp_path_factory.mktemp("array") / name
    content = before + json.dumps(values, indent=indent, ensure_ascii=ascii).encode() + b"\r\n "
    path.write_bytes(gzip.compress(content) if name.endswith("gz") else content)
    assert begins_array(path)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(json_arrays, "CHUNK", chunk)
        rows = list(array_rows(path))
    assert [json.loads(row.raw) for row in rows] == values
    assert [row.number for row in rows] == list(range(1, len(values) + 1))
    assert not any(b"\n" in row.raw or b"\r" in row.raw for row in rows)
    assert all(row.place == f"{path}, row {row.number}" for row in rows)


def write(path, text):
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    return path


def test_a_broken_row_stays_alone(tmp_path):
    text = '[{"a": 1}, {"a": }, {"a" 2}, , {"b": "x\ny"},\n3, {"c" "}", {"d": 4]}, {"e": 5}}, 6]'
    rows = list(array_rows(write(tmp_path / "x.json", text)))
    assert [row.raw for row in rows] == [
        b'{"a": 1}',
        b'{"a": }',
        b'{"a" 2}',
        b"",
        b'{"b": "x\ny"}',
        b"3",
        b'{"c" "}", {"d": 4]}',
        b'{"e": 5}}',
        b"6",
    ]


def test_rows_keep_their_bytes_but_for_line_breaks(tmp_path):
    text = '[ {"a":  1.50,\n   "b": "x\\n y"} ,\n{"é": 1e5, "é": 2}]'
    rows = [row.raw.decode() for row in array_rows(write(tmp_path / "x.json", text))]
    assert rows == ['{"a":  1.50, "b": "x\\n y"}', '{"é": 1e5, "é": 2}']


CUT = {
    "[": 1,
    '[{"a": 1}': 1,
    '[{"a": 1},': 2,
    '[{"a": 1}, {"b": "x': 2,
    '[{"a": 1}, {"b": "x\\': 2,
    '[{"a": 1}, {"b": 2': 2,
    '[{"a": 1}, {"b": [2}, {"c": 3}]': 2,
    '[{"a": 1}, {"b: 2}, {"c": 3}]': 2,
}


@pytest.mark.parametrize("text", CUT)
def test_an_array_that_is_cut_off_or_not_closed_is_told_with_its_row(tmp_path, text):
    path = write(tmp_path / "x.json", text)
    with pytest.raises(UserError, match=re.escape(f"{path}, row {CUT[text]}: the file ends in it")):
        list(array_rows(path))


@settings(deadline=None)
@given(st.lists(st.dictionaries(TEXTS, VALUES, max_size=3), min_size=1, max_size=5), st.data())
def test_every_cut_is_noticed(tmp_path_factory, values, data):
    text = json.dumps(values).encode()
    cut = data.draw(st.integers(1, len(text) - 1))
    path = write(tmp_path_factory.mktemp("cut") / "x.json", text[:cut])
    with pytest.raises(UserError, match="it was cut off"):
        list(array_rows(path))


@pytest.mark.parametrize("text", ["[] []", '[{"a": 1}]\n{"a": 2}', "[1]]"])
def test_what_follows_the_array_is_refused(tmp_path, text):
    with pytest.raises(UserError, match="something follows the array's closing bracket"):
        list(array_rows(write(tmp_path / "x.json", text)))


def test_a_comma_before_the_end_is_a_row_that_is_none(tmp_path):
    rows = list(array_rows(write(tmp_path / "x.json", '[{"a": 1},\n]')))
    assert [row.raw for row in rows] == [b'{"a": 1}', b""]
    assert list(array_rows(write(tmp_path / "x.json", "[\n]"))) == []


def test_a_row_without_end_does_not_fill_the_memory(tmp_path, monkeypatch):
    monkeypatch.setattr(json_arrays, "CHUNK", 64)
    monkeypatch.setattr(json_arrays, "MOST", 1000)
    path = write(tmp_path / "x.json", '[{"a": 1}, {"b": "' + "x" * 5000)
    with pytest.raises(UserError, match=r"x\.json, row 2: goes on for more than .* not closed"):
        list(array_rows(path))


def test_damaged_gzip_is_told_with_its_last_row(tmp_path):
    rows = [{"a": str(hash(str(number)))} for number in range(90_000)]
    packed = gzip.compress(json.dumps(rows).encode())
    path = write(tmp_path / "x.json.gz", packed[:-500])
    with pytest.raises(UserError, match=r"x\.json\.gz: damaged gzip after row \d+"):
        list(array_rows(path))
    path = write(tmp_path / "x.json", packed)
    with pytest.raises(UserError, match=r"is gzip; give it a name that ends in \.gz"):
        begins_array(path)


@pytest.mark.parametrize("text", ["", " \n", '{"a": 1}', ' "x"', "\ufeff{}"])
def test_other_files_are_no_arrays(tmp_path, text):
    assert not begins_array(write(tmp_path / "x.json", text))


def test_one_object_over_many_lines_is_no_source(tmp_path):
    path = write(tmp_path / "x.json", json.dumps({"data": [{"question": "x"}]}, indent=2))
    with pytest.raises(UserError, match=r"x\.json: holds one object over several lines; give an "):
        begins_array(path)
