import bz2
import gzip
import json
import lzma

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from zsg_jax.data.formats import jsonl
from zsg_jax.data.formats.jsonl import array_records, begins_array, lines
from zsg_jax.runtime.errors import UserError

LINES = st.lists(st.sampled_from([b"", b" ", b"\t", b"x", b" y z ", b"{}"]), max_size=30)
TEXTS = st.text(st.sampled_from('a"\\[]{},: \n\r\tü\u2028'), max_size=8)
VALUES = st.recursive(
    st.one_of(TEXTS, st.integers(), st.booleans(), st.none(), st.floats(allow_nan=False)),
    lambda inner: st.one_of(st.lists(inner, max_size=3), st.dictionaries(TEXTS, inner, max_size=3)),
    max_leaves=12,
)
MARK = b"\xef\xbb\xbf"


def write(path, content):
    content = content if isinstance(content, bytes) else content.encode()
    path.write_bytes(gzip.compress(content) if path.suffix == ".gz" else content)
    return path


@given(LINES, st.booleans(), st.booleans())
def test_lines_have_their_number_and_offset(tmp_path_factory, texts, marked, zipped):
    content = MARK * marked + b"\n".join(texts)
    path = write(tmp_path_factory.mktemp("lines") / ("x.gz" if zipped else "x"), content)
    records = list(lines(path))
    kept = [(number, text) for number, text in enumerate(texts, start=1) if text.strip()]
    assert [(record.number, record.raw.removesuffix(b"\n")) for record in records] == kept
    for record in records:
        assert content[record.offset : record.offset + len(record.raw)] == record.raw
        assert record.location == f"{path}:{record.number}"


@settings(max_examples=25)
@given(
    st.lists(VALUES, max_size=8),
    st.sampled_from([None, 0, 2, "\t"]),
    st.booleans(),
    st.sampled_from(["x.json", "x.json.gz"]),
    st.sampled_from([b"", MARK, b" \n"]),
)
def test_an_arrays_elements_are_its_records(
    tmp_path_factory, values, indent, ascii_only, name, before
):
    content = before + json.dumps(values, indent=indent, ensure_ascii=ascii_only).encode() + b"\r\n"
    path = write(tmp_path_factory.mktemp("array") / name, content)
    assert begins_array(path)
    records = list(array_records(path))
    assert [json.loads(record.raw) for record in records] == values
    assert [record.location for record in records] == [
        f"{path}, row {number}" for number in range(1, len(values) + 1)
    ]
    assert not any(b"\n" in record.raw or b"\r" in record.raw for record in records)


def test_elements_keep_their_bytes_but_for_line_breaks(tmp_path):
    digits = "9" * 5000
    text = f'[ {{"a":  1.50,\n   "b": "x\\n y"}} ,\n{{"é": 1e999, "é": {digits}}}]'
    records = [record.raw.decode() for record in array_records(write(tmp_path / "x.json", text))]
    assert records == ['{"a":  1.50, "b": "x\\n y"}', f'{{"é": 1e999, "é": {digits}}}']


@settings(max_examples=25)
@given(st.lists(st.dictionaries(TEXTS, VALUES, max_size=3), min_size=1, max_size=5), st.data())
def test_every_cut_of_an_array_is_noticed(tmp_path_factory, values, data):
    text = json.dumps(values)
    cut = data.draw(st.integers(1, len(text) - 1))
    path = write(tmp_path_factory.mktemp("cut") / "x.json", text[:cut])
    whole = sum(cut >= len(json.dumps(values[:n])) for n in range(1, len(values) + 1))
    with pytest.raises(UserError, match=rf"x\.json, row [{whole}{whole + 1}]: is not JSON"):
        list(array_records(path))


@pytest.mark.parametrize(
    ("text", "number"), [('[{"a": 1}, {"a": }, {}]', 2), ("[{},\n]", 2), ("[{} {}]", 1), ("[,]", 1)]
)
def test_a_broken_element_is_named_by_its_number(tmp_path, text, number):
    with pytest.raises(UserError, match=rf"x\.json, row {number}: is not JSON"):
        list(array_records(write(tmp_path / "x.json", text)))


def test_elements_that_are_no_objects_or_no_utf8_are_bad_records(tmp_path, read_source):
    good = {"question": "q", "answer": "a"}
    text = json.dumps([good, 3, good | {"answer": "caf?"}]).encode().replace(b"?", b"\xe9")
    path = write(tmp_path / "x.json", text)
    found, skipped = read_source(path, "skip")
    assert len(found) == 1
    assert [(one.line, one.reason.partition(" (")[0]) for one in skipped] == [
        (2, "is a JSON number, not an object"),
        (3, "is not UTF-8"),
    ]


@pytest.mark.parametrize("text", ["[] []", '[{"a": 1}]\n{"a": 2}', "[1]]"])
def test_what_follows_the_array_is_refused(tmp_path, text):
    with pytest.raises(UserError, match="follows the array"):
        list(array_records(write(tmp_path / "x.json", text)))


def test_damaged_gzip_is_named(tmp_path):
    packed = gzip.compress(json.dumps([{"a": str(hash(str(n)))} for n in range(9000)]).encode())
    (tmp_path / "x.json.gz").write_bytes(packed[:-500])
    with pytest.raises(UserError, match=r"x\.json\.gz: damaged gzip"):
        list(array_records(tmp_path / "x.json.gz"))
    (tmp_path / "x.json").write_bytes(packed)
    with pytest.raises(UserError, match=r"is gzip; give it a name that ends in \.gz"):
        begins_array(tmp_path / "x.json")


@pytest.mark.parametrize("text", ["", " \n", '{"a": 1}', ' "x"', "\ufeff{}"])
def test_other_files_are_no_arrays(tmp_path, text):
    assert not begins_array(write(tmp_path / "x.json", text))


def test_one_object_over_many_lines_is_no_source(tmp_path):
    path = write(tmp_path / "x.json", json.dumps({"data": [{"question": "x"}]}, indent=2))
    with pytest.raises(UserError, match="holds one object over several lines"):
        begins_array(path)


ROW = b'{"a": 1}\n'


@pytest.mark.parametrize(
    ("content", "told"),
    [
        (bz2.compress(ROW), "is bzip2; unpack it"),
        (lzma.compress(ROW), "is xz; unpack it"),
        (b"\x28\xb5\x2f\xfd\x00", "is Zstandard; unpack it"),
        (b"PK\x03\x04\x00", "is a zip archive"),
        (b"PAR1\x00", r"is Parquet; .*\.parquet"),
        (ROW.decode().encode("utf-16"), "is UTF-16; make it UTF-8"),
    ],
)
def test_what_is_packed_otherwise_is_named(tmp_path, content, told):
    path = tmp_path / "a.jsonl"
    path.write_bytes(content)
    with pytest.raises(UserError, match=rf"a\.jsonl: {told}"):
        list(lines(path))


def test_a_plain_file_of_a_packed_ones_name_is_told(tmp_path):
    (tmp_path / "a.jsonl.gz").write_bytes(ROW)
    with pytest.raises(UserError, match=r"if it is plain, take \.gz from its name"):
        list(lines(tmp_path / "a.jsonl.gz"))


@given(LINES, st.integers(1, 8), st.booleans())
def test_lines_behind_one_that_is_too_long_keep_their_number_and_offset(
    tmp_path_factory, texts, most, zipped
):
    content = b"\n".join(texts)
    path = write(tmp_path_factory.mktemp("long") / ("x.gz" if zipped else "x"), content)
    whole = content.splitlines(keepends=True)
    told = {one.number: one for one in lines(path, most)}
    assert set(told) == {n for n, one in enumerate(whole, 1) if one.strip() or len(one) > most}
    for number, one in told.items():
        assert one.offset == len(b"".join(whole[: number - 1]))
        assert bool(one.refusal) == (len(whole[number - 1]) > most)
        assert one.raw == (b"" if one.refusal else whole[number - 1])


def test_a_long_array_is_read_piece_by_piece(tmp_path, monkeypatch):
    monkeypatch.setattr(jsonl, "_PIECE", 7)
    values = [
        12345678901234567890,
        {"é" * 20: ['\\"' * 9, -1.5e300, None]},
        "x" * 50,
        [],
        "€😀" * 9,
    ]
    text = json.dumps(values, ensure_ascii=False, indent=3)
    path = write(tmp_path / "x.json", text)
    assert [json.loads(one.raw) for one in array_records(path)] == values
    with pytest.raises(UserError, match=r"x\.json, row 2: is longer than 40 bytes"):
        list(array_records(path, 40))
    with pytest.raises(UserError, match=r"row 3: is not JSON: .* \(line 10\)"):
        list(array_records(write(path, text.replace('"xxx', 'xxx"'))))
