"""Shards: what is whole stays, what is damaged or gone is named and alone made again."""

import hashlib
import json
import os

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from zsg_jax.runtime.shards import MANIFEST, Shards, digests

PARTS = [f"part {number}" for number in range(5)]


def made(folder, parts=PARTS, *, of="words", prune=False, **facts):
    """Writes a shard of each part, every second one a folder of two files; those written anew."""
    shards, written = Shards(folder, {"of": of}), []
    for number, part in enumerate(parts):
        entry = {"folder" if number % 2 else "file": f"{number:05d}", "part": part}
        if shards.find(entry) is not None:
            continue
        with shards.writing(entry) as path:
            if number % 2:
                path.mkdir()
                (path / "a").write_text(f"{of} {part}")
            (path / "b" if number % 2 else path).write_text(part)
        written.append(part)
    shards.finish(prune=prune, **facts)
    return written


def contents(folder):
    return {
        str(path.relative_to(folder)): path.read_bytes()
        for path in folder.rglob("*")
        if path.is_file()
    }


def test_the_manifest_tells_every_shard_and_its_digests(tmp_path):
    assert made(tmp_path, rows=7) == PARTS
    manifest = json.loads((tmp_path / MANIFEST).read_text())
    assert (manifest["of"], manifest["rows"]) == ("words", 7)
    assert [entry["part"] for entry in manifest["shards"]] == PARTS
    told = {}
    for entry in manifest["shards"]:
        if "file" in entry:
            told[entry["file"]] = entry["sha256"]
        else:
            told |= {f"{entry['folder']}/{name}": one for name, one in entry["sha256"].items()}
    files = contents(tmp_path)
    del files[MANIFEST]
    assert told == {name: hashlib.sha256(content).hexdigest() for name, content in files.items()}
    assert digests(tmp_path / "00001") == {"a": told["00001/a"], "b": told["00001/b"]}


@settings(max_examples=12)
@given(st.lists(st.lists(st.integers(0, 2), max_size=6), min_size=2, max_size=4))
def test_a_shard_is_written_anew_only_where_it_was_made_of_something_else(tmp_path_factory, runs):
    folder, known = tmp_path_factory.mktemp("shards"), {}
    for run in runs:
        parts = [f"part {one}" for one in run]
        expected = [part for number, part in enumerate(parts) if known.get(number) != part]
        assert made(folder, parts) == expected
        # Those of a longer run stay known.
        known |= dict(enumerate(parts))
        told = json.loads((folder / MANIFEST).read_text())["shards"]
        assert [entry["part"] for entry in told] == [known[number] for number in sorted(known)]


def test_under_another_head_none_counts(tmp_path, capsys):
    made(tmp_path)
    assert made(tmp_path, PARTS[:3], of="bytes", prune=True) == PARTS[:3]
    assert f"{tmp_path / MANIFEST}: was made of something else (of)" in capsys.readouterr().err
    # And what no shard names is gone.
    assert {path.name for path in tmp_path.iterdir()} == {"00000", "00001", "00002", MANIFEST}


def flipped(path):
    content = bytearray(path.read_bytes())
    content[-1] ^= 1
    path.write_bytes(content)


def cut(path):
    path.write_bytes(path.read_bytes()[:-1])


@pytest.mark.parametrize("harm", [flipped, cut, os.unlink])
@pytest.mark.parametrize(("name", "part"), [("00002", 2), ("00003/a", 3), ("00003/b", 3)])
def test_what_is_damaged_is_named_and_alone_made_again(tmp_path, capsys, harm, name, part):
    made(tmp_path)
    before = contents(tmp_path)
    harm(tmp_path / name)
    assert made(tmp_path) == [PARTS[part]]
    assert f"{tmp_path / name} " in capsys.readouterr().err
    assert contents(tmp_path) == before


@pytest.mark.parametrize(
    "content",
    ["", "{", "[]", "{}", '{"shards": [1]}', '{"shards": [{"file": 3}]}',
     '{"shards": [{"file": 3, "sha256": ""}]}', '{"shards": [{"folder": "0", "sha256": []}]}'],
)  # fmt: skip
def test_a_damaged_manifest_is_named_and_all_is_made_again(tmp_path, capsys, content):
    made(tmp_path)
    before = contents(tmp_path)
    (tmp_path / MANIFEST).write_text(content)
    assert made(tmp_path) == PARTS
    assert f"{tmp_path / MANIFEST}: is damaged (" in capsys.readouterr().err
    assert contents(tmp_path) == before


def test_killed_anywhere_it_goes_on_after_the_last_whole_shard(tmp_path, killed_at):
    made(tmp_path / "whole")
    for number in range(1, 100):
        folder = tmp_path / str(number)
        if not killed_at(number, lambda folder=folder: made(folder)):
            break
        manifest = folder / MANIFEST
        done = json.loads(manifest.read_text())["shards"] if manifest.exists() else []
        assert made(folder, prune=True) == PARTS[len(done) :]
        assert contents(folder) == contents(tmp_path / "whole")
    # Five shards of seven files, and as often the manifest.
    assert number == 13
