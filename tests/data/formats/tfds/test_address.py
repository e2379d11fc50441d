import json
from pathlib import Path

import pytest

from zsg_jax.data.formats.registry import detect
from zsg_jax.data.formats.tfds.address import find, is_tfds
from zsg_jax.runtime.errors import UserError


@pytest.fixture
def data(tmp_path, monkeypatch):
    """A folder of TFDS: one/1.2.0, one/1.10.0, two/small/1.0.0, many/{a,b}/1.0.0."""
    for name in ("one/1.2.0", "one/1.10.0", "two/small/1.0.0", "many/a/1.0.0", "many/b/1.0.0"):
        folder = tmp_path / "data" / name
        folder.mkdir(parents=True)
        for file in ("features.json", "dataset_info.json"):
            (folder / file).write_text(json.dumps({}))
    (tmp_path / "data" / "one" / "incomplete.2.0.0").mkdir()
    (tmp_path / "data" / "one" / "2.0.0").mkdir()
    monkeypatch.setenv("TFDS_DATA_DIR", str(tmp_path / "data"))
    return tmp_path / "data"


@pytest.mark.parametrize(
    ("source", "folder", "split"),
    [
        ("tfds:one", "one/1.10.0", ""),
        ("tfds:one:train", "one/1.10.0", "train"),
        ("tfds:one:1.2.0", "one/1.2.0", ""),
        ("tfds:one:1.2.0:train[10:20]", "one/1.2.0", "train[10:20]"),
        ("tfds:one:train[:10%]+test", "one/1.10.0", "train[:10%]+test"),
        ("tfds:two", "two/small/1.0.0", ""),
        ("tfds:two/small:1.0.0:test", "two/small/1.0.0", "test"),
        ("tfds:many/b:test", "many/b/1.0.0", "test"),
        ("DATA/one", "one/1.10.0", ""),
        ("DATA/one:test", "one/1.10.0", "test"),
        ("DATA/one/1.2.0:train[:5]", "one/1.2.0", "train[:5]"),
        ("DATA/two/small/1.0.0", "two/small/1.0.0", ""),
    ],
)
def test_a_source_names_a_version_and_a_split(data, monkeypatch, source, folder, split):
    path = Path(source.replace("DATA", str(data)))
    assert is_tfds(path)
    assert detect(path) == "tfds"
    assert find(path) == (data / folder, split)
    if source.startswith("tfds:"):
        monkeypatch.setenv("TFDS_DATA_DIR", "/none")
        assert find(Path(f"{source}@{data}")) == (data / folder, split)


@pytest.mark.parametrize(
    ("source", "told"),
    [
        ("tfds:", "names no data set"),
        ("tfds:../x", "names no data set"),
        ("tfds:none:train", r"tfds build none --file_format=array_record --data_dir="),
        ("tfds:one:3.0.0", r"version 3\.0\.0 is not prepared .*; there are 1\.2\.0, 1\.10\.0"),
        ("tfds:many", r"has the configs a, b; name one, as tfds:many/a"),
        ("tfds:one@/nowhere", "is not prepared under /nowhere, and nothing is downloaded"),
    ],
)
def test_what_is_not_there_is_told(data, source, told):
    with pytest.raises(UserError, match=told):
        find(Path(source))


@pytest.mark.parametrize(
    ("above", "named", "kept"),
    [
        ("one", "tfds:one", "tfds:one:1.10.0"),
        ("one", "DATA/one:train", "DATA/one/1.10.0:train"),
        ("two/small", "tfds:two:train", "tfds:two/small:1.0.0:train"),
    ],
)
def test_a_newest_version_that_is_not_whole_is_told(data, above, named, kept):
    for older in ("0.9.0", "11.0.0"):
        (data / above / older).mkdir()
        (data / above / older / "dataset_info.json").write_text("{}")
        named, kept = (one.replace("DATA", str(data)) for one in (named, kept))
        assert is_tfds(Path(named))
        assert find(Path(kept)).folder.parent == data / above
        if older == "0.9.0":
            assert find(Path(named)) == find(Path(kept))
    with pytest.raises(
        UserError, match=r"11\.0\.0, lacks features\.json .*whole one by its folder, .*/1\."
    ):
        find(Path(named))


def test_other_folders_and_files_are_none(data, tmp_path):
    plain = tmp_path / "plain"
    plain.mkdir()
    (plain / "x.jsonl").write_text("{}")
    colon = plain / "a:b.jsonl"
    colon.write_text("{}")
    for path in (plain, colon, plain / "x.jsonl", plain / "none:train", data / "none"):
        assert not is_tfds(path)
