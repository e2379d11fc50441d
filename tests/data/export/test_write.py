import json
import random
import resource
import sys

import pytest

from zsg_jax.data.export import FORMATS, write
from zsg_jax.runtime.errors import UserError

ROWS = [b'{"id": "a", "n": 1.50}', b'{ "id":"\xc3\xbc" }']


def test_jsonl_is_the_records_byte_for_byte(tmp_path):
    odd = b'{"a": NaN, "b": 123456789012345678901234567890, "c": "\\ud800"}'
    path = write(lambda: iter([*ROWS, odd]), tmp_path / "new", "jsonl", total=3)
    assert path == tmp_path / "new" / "arranged.jsonl"
    assert path.read_bytes() == b"\n".join([*ROWS, odd, b""])
    assert [one.name for one in path.parent.iterdir()] == ["arranged.jsonl"]


@pytest.mark.parametrize("format", FORMATS)
def test_an_error_on_the_way_leaves_what_was_there(tmp_path, format):
    path = write(lambda: iter(ROWS), tmp_path, format, total=2)

    def content():
        files = [path] if path.is_file() else sorted(path.iterdir())
        return [(one.name, one.read_bytes()) for one in files]

    before = content()
    passes = []

    def broken():
        passes.append(1)
        yield ROWS[1]
        if len(passes) > (format != "jsonl"):
            raise UserError("the source has changed")

    with pytest.raises(UserError, match="has changed"):
        write(broken, tmp_path, format, total=2)
    assert content() == before
    assert list(tmp_path.iterdir()) == [path]
    write(lambda: iter(ROWS[:1]), tmp_path, format, total=1)
    assert content() != before


def test_a_library_that_is_not_installed_is_named(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "datasets", None)
    with pytest.raises(UserError, match=r"needs datasets.*pip install 'zsg_jax\[export\]'"):
        write(lambda: iter(ROWS), tmp_path, "arrow", total=2)
    assert write(lambda: iter(ROWS), tmp_path, "jsonl", total=2).is_file()


def test_what_cannot_be_written_is_refused(tmp_path):
    with pytest.raises(UserError, match=r"none of jsonl, .*did you mean parquet"):
        write(lambda: iter(ROWS), tmp_path, "parket", total=2)
    (tmp_path / "file").write_text("x")
    for format in FORMATS:
        with pytest.raises(UserError, match="file: cannot be written"):
            write(lambda: iter(ROWS), tmp_path / "file", format, total=2)
    (tmp_path / "arranged").mkdir()
    (tmp_path / "arranged" / "mine").write_text("dear")
    with pytest.raises(UserError, match="is in the way"):
        write(lambda: iter(ROWS), tmp_path, "arrow", total=2)
    assert (tmp_path / "arranged" / "mine").read_text() == "dear"


@pytest.mark.parametrize("format", FORMATS)
def test_a_full_disk_is_told_and_leaves_nothing(tmp_path, format):
    words = random.Random(0)
    rows = [json.dumps({"x": words.randbytes(1000).hex()}).encode() for _ in range(300)]
    write(lambda: iter(rows[:1]), tmp_path / "loaded", format, total=1)
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (2**16, limits[1]))
    try:
        with pytest.raises(UserError, match=r"out: cannot be written: .*File too large"):
            write(lambda: iter(rows), tmp_path / "out", format, total=300)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert list((tmp_path / "out").iterdir()) == []
