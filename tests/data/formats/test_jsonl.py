import gzip
from pathlib import Path

from hypothesis import given
from hypothesis import strategies as st

from zsg_jax.data.formats.jsonl import Row, SeenIds, lines

TEXTS = st.lists(st.sampled_from([b"", b" ", b"\t", b"x", b" y z ", b"{}"]), max_size=30)


@given(st.lists(st.text(max_size=3), max_size=200))
def test_an_id_is_known_from_its_first_row_on(ids):
    seen, first = SeenIds(), {}
    for number, identity in enumerate(ids, start=1):
        path = Path(f"{number // 7}.json")
        expected = first.get(identity)
        assert seen.add(identity, Row(path, number, b"")) == expected
        first.setdefault(identity, (path, number))


def test_many_ids_are_told_apart():
    seen = SeenIds()
    path = Path("x")
    for number in range(5000):
        assert seen.add(str(number), Row(path, number, b"")) is None
    for number in range(0, 5000, 7):
        assert seen.add(str(number), Row(path, -1, b"")) == (path, number)


@given(TEXTS, st.booleans(), st.booleans())
def test_lines_tell_number_and_offset(tmp_path_factory, texts, marked, zipped):
    mark = b"\xef\xbb\xbf" if marked else b""
    content = mark + b"\n".join(texts)
    path = tmp_path_factory.mktemp("lines") / ("x.gz" if zipped else "x")
    path.write_bytes(gzip.compress(content) if zipped else content)
    rows = list(lines(path))
    kept = [(number, text) for number, text in enumerate(texts, start=1) if text.strip()]
    assert [(row.number, row.raw.removesuffix(b"\n")) for row in rows] == kept
    for row in rows:
        assert content[row.offset : row.offset + len(row.raw)] == row.raw
        assert row.place == f"{path}:{row.number}"
