from contextlib import contextmanager

import numpy as np
import pytest

from zsg_jax.runtime import files
from zsg_jax.runtime.errors import UserError


def test_a_file_takes_the_place_of_no_folder(tmp_path):
    (tmp_path / "folder").mkdir()
    (tmp_path / "folder" / "thesis.txt").write_text("years of work")
    with pytest.raises(UserError, match="is a folder; give the name of a file"):
        files.write_bytes(tmp_path / "folder", b"a page")
    assert [path.name for path in tmp_path.iterdir()] == ["folder"]
    assert (tmp_path / "folder" / "thesis.txt").read_text() == "years of work"


def test_a_file_is_replaced_whole_and_nothing_is_left_beside(tmp_path):
    path = tmp_path / "new" / "a.json"
    files.write_json(path, {"a": 1})
    files.write_json(path, {"b": "ü"})
    assert files.read_json(path) == {"b": "ü"}
    assert [one.name for one in path.parent.iterdir()] == ["a.json"]


def test_a_write_that_fails_leaves_the_old_file(tmp_path, monkeypatch):
    path = tmp_path / "a.json"
    files.write_json(path, {"a": 1})

    def full(_):
        raise OSError("No space left on device")

    monkeypatch.setattr(files.os, "fsync", full)
    with pytest.raises(OSError, match="No space"):
        files.write_json(path, {"a": 2})
    assert files.read_json(path) == {"a": 1}
    assert [one.name for one in tmp_path.iterdir()] == ["a.json"]


def test_two_at_work_are_told_of_files_until_each_ends(tmp_path):
    told = {"first": [], "second": []}

    def placing(name):
        @contextmanager
        def tell(path, partial):
            told[name].append(path.name)
            yield

        return files.recording(tell)

    first, second = placing("first"), placing("second")
    for number, step in enumerate(
        (first.__enter__, second.__enter__, lambda: first.__exit__(None, None, None), None)
    ):
        if step:
            step()
        files.write_bytes(tmp_path / str(number), b"x")
    second.__exit__(None, None, None)
    files.write_bytes(tmp_path / "4", b"x")
    assert told == {"first": ["0", "1"], "second": ["1", "2", "3"]}


def test_numbers_that_json_lacks_are_not_written(tmp_path):
    with pytest.raises(ValueError, match="JSON"):
        files.write_json(tmp_path / "a.json", float("nan"))
    assert files.read_json(tmp_path / "a.json") is None
    (tmp_path / "a.json").write_bytes(b"\xff")
    with pytest.raises(UserError, match=r"a\.json: is damaged"):
        files.read_json(tmp_path / "a.json")


@pytest.mark.filterwarnings("ignore:Data type alias")
def test_a_damaged_array_is_no_error_of_python_s_grammar(tmp_path):
    path = tmp_path / "a.npy"
    np.save(path, np.arange(5))
    whole = path.read_bytes()
    assert files.load_npy(path).tolist() == list(range(5))
    assert isinstance(files.load_npy(path), np.memmap)
    told = 0
    for bit in range(8 * 128):  # of the header
        content = bytearray(whole)
        content[bit // 8] ^= 1 << bit % 8
        path.write_bytes(content)
        try:
            files.load_npy(path, mapped=False)
        except (OSError, EOFError, ValueError):
            told += 1
    assert told > 900
