import hashlib
import json

import jax.numpy as jnp
import numpy as np
import pytest

from zsg_jax.arrangement import tmta
from zsg_jax.runtime.errors import UserError
from zsg_jax.similarity.encoders.embed import embed

TEXTS = [f"text {i}" for i in range(23)]


class Counting:
    """Rows made of a text's digest; keeps the texts it was asked for."""

    name, dimension = "counting", 6

    def __init__(self, fingerprint="counting-1"):
        self.fingerprint = fingerprint
        self.seen = []

    def encode(self, texts, on_progress=None):
        self.seen += texts
        digests = [hashlib.sha256((self.fingerprint + text).encode()).digest() for text in texts]
        if on_progress is not None:
            on_progress(len(texts))
        return np.array([list(d[:6]) for d in digests], np.float32).reshape(-1, 6) / 255


def embedded(folder, texts=TEXTS, fingerprint="counting-1", shard_rows=5):
    encoder = Counting(fingerprint)
    rows = embed(texts, encoder, folder, shard_rows=shard_rows)
    np.testing.assert_array_equal(rows, Counting(fingerprint).encode(texts))
    assert (rows.shape, rows.dtype) == ((len(texts), 6), np.float32)
    return encoder.seen


def contents(folder):
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def test_shards_and_manifest_agree(tmp_path):
    assert embedded(tmp_path) == TEXTS
    manifest = json.loads((tmp_path / "manifest.json").read_text())
    told = {key: manifest[key] for key in ("encoder", "fingerprint", "dimension", "dtype")}
    assert told == {
        "encoder": "counting", "fingerprint": "counting-1", "dimension": 6, "dtype": "float32"
    }  # fmt: skip
    ranges = [(s["file"], s["start"], s["stop"]) for s in manifest["shards"]]
    assert ranges == [(f"0000{i}.npy", 5 * i, min(5 * i + 5, 23)) for i in range(5)]
    for shard in manifest["shards"]:
        content = (tmp_path / shard["file"]).read_bytes()
        assert hashlib.sha256(content).hexdigest() == shard["sha256"]
    assert len(contents(tmp_path)) == 6


def test_what_is_there_is_not_computed_again(tmp_path):
    embedded(tmp_path)
    before = contents(tmp_path)
    assert embedded(tmp_path) == []
    assert contents(tmp_path) == before


def test_rows_added_at_the_end_leave_full_shards_alone(tmp_path):
    embedded(tmp_path)
    more = [*TEXTS, "new 1", "new 2", "new 3"]
    assert embedded(tmp_path, more) == more[20:]
    assert embedded(tmp_path, TEXTS[:10]) == []
    assert embedded(tmp_path, more) == []


def test_changed_texts_and_encoders_are_computed_again(tmp_path, capsys):
    embedded(tmp_path)
    changed = [*TEXTS[:7], "other", *TEXTS[8:]]
    assert embedded(tmp_path, changed) == changed[5:10]
    assert embedded(tmp_path, changed, shard_rows=4) == changed
    assert capsys.readouterr().err == ""
    assert embedded(tmp_path, changed, fingerprint="counting-2", shard_rows=4) == changed
    assert "manifest.json: was made of something else (fingerprint)" in capsys.readouterr().err


def test_where_texts_end_matters(tmp_path):
    embedded(tmp_path, ["ab", "c"])
    assert embedded(tmp_path, ["a", "bc"]) == ["a", "bc"]


def test_a_damaged_shard_is_named_and_mended(tmp_path, capsys):
    embedded(tmp_path)
    before = contents(tmp_path)
    content = bytearray(before["00002.npy"])
    content[-1] ^= 4
    (tmp_path / "00002.npy").write_bytes(content)
    assert embedded(tmp_path) == TEXTS[10:15]
    assert "00002.npy " in capsys.readouterr().err
    assert contents(tmp_path) == before


def test_half_the_disk_holds_the_rounded_rows(tmp_path, capsys):
    rounded = Counting().encode(TEXTS).astype(jnp.bfloat16)
    rows = embed(TEXTS, Counting(), tmp_path, shard_rows=5, dtype="bfloat16")
    assert (rows.shape, rows.dtype) == ((23, 6), jnp.bfloat16)
    np.testing.assert_array_equal(rows[3:17], rounded[3:17])
    np.testing.assert_array_equal(rows[np.array([22, 0, 9])], rounded[[22, 0, 9]])
    assert (tmp_path / "00000.npy").stat().st_size == 128 + 5 * 6 * 2
    test = np.random.default_rng(0).normal(size=(4, 6)).astype(np.float32)
    # An order is decided in float32 on what is stored.
    np.testing.assert_array_equal(
        tmta(rows, test).order, tmta(rounded.astype(np.float32), test).order
    )
    again = Counting()
    embed(TEXTS, again, tmp_path, shard_rows=5, dtype="bfloat16")
    assert again.seen == []
    embedded(tmp_path)
    assert "manifest.json: was made of something else (dtype)" in capsys.readouterr().err
    with pytest.raises(UserError, match="dtype='float16': embeddings are kept in float32 or bfl"):
        embed(TEXTS, Counting(), tmp_path, dtype="float16")


@pytest.mark.parametrize(("first", "then"), [(4, 10), (10, 4), (5, 7), (3, 6)])
def test_shards_of_another_size_are_no_rows_of_these(tmp_path, first, then):
    embedded(tmp_path, shard_rows=first)
    embedded(tmp_path, shard_rows=then)
    embedded(tmp_path, TEXTS[:8], shard_rows=then)


def test_no_texts(tmp_path):
    assert embedded(tmp_path / "new", []) == []


def test_an_encoder_that_fails_is_named(tmp_path):
    class Failing(Counting):
        def encode(self, texts, on_progress=None):
            rows = super().encode(texts)
            if "text 12" in texts:
                rows[texts.index("text 12"), 1] = np.nan
            return rows

    with pytest.raises(UserError, match="counting: row 12 holds a NaN"):
        embed(TEXTS, Failing(), tmp_path, shard_rows=5)
    # What was good before it is kept.
    assert embedded(tmp_path) == TEXTS[10:]
    wide = Counting("wide")
    wide.dimension = 7
    with pytest.raises(UserError, match=r"gave \(5, 6\) instead of \(5, 7\)"):
        embed(TEXTS, wide, tmp_path, shard_rows=5)


def test_a_killed_run_goes_on_where_it_stopped(tmp_path, killed_at):
    # The third shard, and the manifest that tells of it.
    for number in (5, 6):
        folder = tmp_path / str(number)
        assert killed_at(
            number, lambda folder=folder: embed(TEXTS, Counting(), folder, shard_rows=5)
        )
        assert embedded(folder) == TEXTS[10:]
        assert len(contents(folder)) == 6
