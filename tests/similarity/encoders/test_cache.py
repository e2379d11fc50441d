"""What is embedded once is never embedded again, whoever asks and whatever becomes of it."""

import hashlib
import multiprocessing
import os
import shutil
import time
from functools import partial

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from zsg_jax.runtime.errors import UserError
from zsg_jax.runtime.files import file_digest
from zsg_jax.similarity.encoders.cache import CachedEncoder
from zsg_jax.workflows import study


class Counting:
    """Rows made of a text's digest; keeps the texts it was asked for."""

    name, dimension, prompts, default_prompt = "counting", 6, {}, None
    conversations = False

    def __init__(self, fingerprint="1"):
        self.fingerprint, self.seen = fingerprint, []

    def encode(self, texts, on_progress=None):
        self.seen += texts
        if on_progress:
            on_progress(len(texts))
        told = [hashlib.sha256((self.fingerprint + text).encode()).digest() for text in texts]
        return np.array([list(one[:6]) for one in told], np.float32).reshape(-1, 6) / 255


def asked(folder, *several, fingerprint="1"):
    """The texts that an encoder was asked for, of lists that are embedded one after the other."""
    encoder, finished = Counting(fingerprint), []
    cached = CachedEncoder(encoder, folder)
    for texts in several:
        rows = cached.encode(texts, finished.append)
        np.testing.assert_array_equal(rows, Counting(fingerprint).encode(texts))
    assert sum(finished) == sum(map(len, several))
    return encoder.seen


TEXTS = st.lists(st.sampled_from([f"text {n}" for n in range(9)]), max_size=6)


@settings(max_examples=15)
@given(st.lists(st.lists(TEXTS, max_size=3), min_size=1, max_size=3))
def test_every_text_is_embedded_once(tmp_path_factory, studies):
    folder, known = tmp_path_factory.mktemp("cache"), []
    for lists in studies:
        known += asked(folder, *lists)
    assert sorted(known) == sorted({text for lists in studies for one in lists for text in one})


def test_other_encoders_share_nothing(tmp_path):
    assert asked(tmp_path, ["a"], fingerprint="1") == asked(tmp_path, ["a"], fingerprint="2")


def test_what_is_damaged_or_deleted_is_embedded_again(tmp_path, capsys):
    asked(tmp_path, ["a", "b"], ["c"])
    files = sorted(tmp_path.rglob("*.npy"), key=lambda path: path.stat().st_size)
    content = bytearray(files[-1].read_bytes())
    content[-1] ^= 1
    files[-1].write_bytes(content)
    assert asked(tmp_path, ["a", "b", "c"]) == ["a", "b"]
    assert f"{files[-1]}: is damaged" in capsys.readouterr().err
    assert asked(tmp_path, ["a", "b", "c"]) == []
    cached = CachedEncoder(encoder := Counting(), tmp_path)
    cached.encode(["a", "new"])
    shutil.rmtree(tmp_path)
    np.testing.assert_array_equal(cached.encode(["a", "c"]), Counting().encode(["a", "c"]))
    assert encoder.seen == ["new", "a", "c"]


@pytest.mark.parametrize("spoil", ["cut", "changed"])
def test_what_is_written_over_while_it_is_used_is_embedded_again(tmp_path, spoil):
    asked(tmp_path, ["a", "b"])
    cached = CachedEncoder(encoder := Counting(), tmp_path)
    cached.encode(["b"])
    (path,) = tmp_path.rglob("*.npy")
    content = path.read_bytes()
    kept = content[:-30] if spoil == "cut" else content[:-1] + bytes([content[-1] ^ 1])
    time.sleep(0.05)  # some ticks of the clock of files
    path.write_bytes(kept)
    np.testing.assert_array_equal(cached.encode(["a", "b"]), Counting().encode(["a", "b"]))
    assert encoder.seen == ["a", "b"]


def test_what_a_killed_writer_left_goes_after_a_day_and_files_may_go_at_any_moment(
    tmp_path, monkeypatch
):
    asked(tmp_path, ["a"], ["b"])
    folder = next(tmp_path.rglob("*.npy")).parent
    for name, age in (("old.partial", 100_000), ("new.partial", 100)):
        (folder / name).mkdir()
        (folder / name / "file.npy").touch()
        os.utime(folder / name, (time.time() - age,) * 2)

    def digest_and_delete(path):
        found = file_digest(path)
        if path.parent == folder:
            path.unlink()
        return found

    monkeypatch.setattr("zsg_jax.similarity.encoders.cache.file_digest", digest_and_delete)
    assert asked(tmp_path, ["a", "b"]) == ["a", "b"]
    assert [path.name for path in folder.glob("*.partial")] == ["new.partial"]


def test_a_folder_that_takes_nothing_stops_nobody(tmp_path, capsys):
    (tmp_path / "cache").write_text("a file")
    assert asked(tmp_path / "cache", ["a"], ["a"]) == ["a", "a"]
    assert "takes no embeddings" in capsys.readouterr().err
    with pytest.raises(UserError, match="~nobody-of-this-name/x: no folder is known"):
        CachedEncoder(Counting(), "~nobody-of-this-name/x")


def test_two_processes_at_once_leave_what_each_has_embedded(tmp_path):
    several = [[f"text {n + start}" for n in range(40)] for start in (0, 20)]
    fork = multiprocessing.get_context("fork")
    both = [
        fork.Process(target=asked, args=(tmp_path, *([text] for text in texts)))
        for texts in several
    ]
    for one in both:
        one.start()
    for one in both:
        one.join()
    assert [one.exitcode for one in both] == [0, 0]
    assert asked(tmp_path, *several) == []
    assert not list(tmp_path.rglob("*.partial"))


def test_a_kill_at_any_write_leaves_embeddings_that_are_whole(tmp_path, killed_at):
    lists = [["a", "b"], ["b", "c"], ["d"]]
    # What one list had put there is not asked for again.
    for number, missing in enumerate(["abcd", "cd", "d"], start=1):
        ask = partial(asked, tmp_path / str(number), *lists)
        assert killed_at(number, ask)
        assert [ask(), ask()] == [list(missing), []]
    assert not killed_at(4, partial(asked, tmp_path / "none", *lists))


@pytest.mark.slow
@pytest.mark.ci
def test_a_second_study_embeds_and_tokenizes_nothing(small_config, tmp_path, monkeypatch):
    def run(name, **changes):
        config = small_config(**{"similarity.cache": str(tmp_path / "cache"), **changes})
        study.run(config, tmp_path / name, command="test")
        order = tmp_path / name / "arrangements" / "tmta-nft" / "order.npy"
        return order.read_bytes(), {
            path.relative_to(tmp_path / name): path.read_bytes()
            for path in (tmp_path / name / "tokens").rglob("*.npy")
        }

    first = run("first")
    for name in ("similarity.encoders.hashing.HashingEncoder.encode", "data.tokenize.store.encode"):
        monkeypatch.setattr(f"zsg_jax.{name}", None)
    assert run("second", **{"training.learning_rate": 1e-4}) == first
