import gzip
import hashlib
import json
import os
import random
import re
import threading
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from zsg_jax.data.dataset import SKIPPED_KEPT, open_corpus
from zsg_jax.data.instance import instances_digest
from zsg_jax.data.schemas.read import read_messages
from zsg_jax.runtime.errors import UserError
from zsg_jax.similarity.embeddings import embed
from zsg_jax.similarity.encoders.hashing import HashingEncoder

ADVICE = "pass --bad-rows=skip to go on"


def row(**fields):
    turns = [{"role": "user", "content": "Capital?"}, {"role": "assistant", "content": "Paris"}]
    return {"messages": turns, **fields}


def corpus_of(path, bad_rows="refuse"):
    return open_corpus(path, scratch=path.parent / "scratch", bad_rows=bad_rows, advice=ADVICE)


LINES = st.lists(
    st.one_of(
        st.sampled_from([b"", b"  ", b"{", b"[]", json.dumps(row(messages=[])).encode()]),
        st.builds(
            lambda identity, task, note, space: (
                space
                + json.dumps(
                    row(**identity, **task, note=note, references=[note or "x"]),
                    ensure_ascii=False,
                ).encode()
                + space
            ),
            st.sampled_from([{}, {"id": "a"}, {"id": "ü"}, {"id": 7}]),
            st.sampled_from([{}, {"task": "t"}, {"task": "β"}]),
            st.sampled_from(["", "naïve", "  x ", "\u2028"]),
            st.sampled_from([b"", b" ", b"\t"]),
        ),
    ),
    max_size=12,
)


@settings(deadline=None)
@given(LINES, st.sampled_from([".jsonl", ".jsonl.gz"]), st.sampled_from([b"\n", b"\r\n"]))
def test_a_corpus_holds_what_read_messages_reads(tmp_path_factory, texts, suffix, end):
    folder = tmp_path_factory.mktemp("corpus")
    path = folder / f"x{suffix}"
    content = end.join(texts)
    path.write_bytes(gzip.compress(content) if suffix.endswith("gz") else content)
    for bad_rows in ("refuse", "skip"):
        try:
            instances, skipped = read_messages(path, bad_rows, ADVICE)
        except UserError as error:
            with pytest.raises(UserError, match=f"^{re.escape(str(error))}$"):
                corpus_of(path, bad_rows)
            continue
        with corpus_of(path, bad_rows) as corpus:
            assert len(corpus) == len(instances)
            assert list(corpus.instances()) == instances
            assert list(corpus.texts()) == [one.text for one in instances]
            assert [corpus.tasks[k] for k in corpus.task] == [one.task for one in instances]
            assert corpus.task.dtype == np.int32
            assert len(corpus.tasks) == len({one.task for one in instances})
            assert corpus.digest == instances_digest(instances)
            assert (corpus.skipped, corpus.skipped_count) == (skipped, len(skipped))
            left_out = {one.line for one in skipped}
            kept = [
                text.strip()
                for number, text in enumerate(texts, start=1)
                if text.strip() and number not in left_out
            ]
            assert [corpus.raw(k) for k in range(len(corpus))] == kept


def test_rows_are_read_in_any_order_and_by_slice(tmp_path):
    path = tmp_path / "x.jsonl"
    rows = [row(id=str(k), task=f"t{k % 3}", note="é" * (k % 50)) for k in range(500)]
    path.write_text("\n".join(json.dumps(one, ensure_ascii=False) for one in rows))
    order = list(range(500))
    random.Random(0).shuffle(order)
    with corpus_of(path) as corpus:
        assert [json.loads(corpus.raw(k)) for k in order] == [rows[k] for k in order]
        assert [one.id for one in corpus.instances(np.array(order))] == [str(k) for k in order]
        texts = corpus.texts(np.array(order))
        assert len(texts) == 500
        assert texts[3:5] == [texts[3], texts[4]] == ["Capital? Paris"] * 2
        embedded = embed(corpus.texts(), HashingEncoder(), tmp_path / "embeddings", shard_rows=64)
        assert embedded.shape[0] == 500
        for wrong in (-1, 500):
            with pytest.raises(IndexError):
                corpus.raw(wrong)


def test_an_id_used_twice_names_both_lines(tmp_path):
    path = tmp_path / "x.jsonl"
    path.write_text("\n".join(json.dumps(row(id=one)) for one in ("a", "b", "a", "b")))
    with pytest.raises(UserError) as caught:
        corpus_of(path)
    assert str(caught.value) == f"{path}:3: \"id\" 'a' was already used on line 1; {ADVICE}"


def test_the_digest_is_over_lengths_and_texts(tmp_path):
    path = tmp_path / "x.jsonl"
    path.write_text(json.dumps(row(id="é", task="t", references=["París"])))
    content = b""
    for text in ("é", "t", "user", "Capital?", "assistant", "Paris", "Paris", "París"):
        content += len(text.encode()).to_bytes(8, "little") + text.encode()
    with corpus_of(path) as corpus:
        assert corpus.digest == hashlib.sha256(content + b"\xff").hexdigest()


def test_bad_rows_are_all_counted_and_some_kept(tmp_path):
    path = tmp_path / "x.jsonl"
    path.write_text(json.dumps(row()) + "\n" + "{\n" * (SKIPPED_KEPT + 5))
    with corpus_of(path, "skip") as corpus:
        assert corpus.skipped_count == SKIPPED_KEPT + 5
        assert [one.line for one in corpus.skipped] == list(range(2, SKIPPED_KEPT + 2))


@pytest.mark.parametrize("change", ["touched", "longer", "cut"])
def test_a_file_that_changes_is_noticed(tmp_path, change):
    path = tmp_path / "x.jsonl"
    path.write_text(json.dumps(row()) + "\n")
    with corpus_of(path) as corpus:
        assert corpus.instance(0).id == "x.jsonl:1"
        if change == "touched":
            os.utime(path, ns=(1, 1))
        else:
            os.truncate(path, 1000 if change == "longer" else 5)
        with pytest.raises(UserError, match=r"x\.jsonl: changed while it was in use"):
            corpus.raw(0)


def test_a_file_replaced_by_another_goes_on_as_it_was(tmp_path):
    path = tmp_path / "x.jsonl"
    path.write_text(json.dumps(row(id="old")) + "\n")
    with corpus_of(path) as corpus:
        (tmp_path / "new").write_text(json.dumps(row(id="new")) + "\n")
        (tmp_path / "new").replace(path)
        assert corpus.instance(0).id == "old"


def test_what_is_unpacked_leaves_nothing_behind(tmp_path):
    path = tmp_path / "x.jsonl.gz"
    path.write_bytes(gzip.compress(json.dumps(row()).encode()))
    with corpus_of(path) as corpus:
        # A file without a name goes with the process, however that ends.
        assert list((tmp_path / "scratch").iterdir()) == []
        path.write_bytes(b"the source may go once it is unpacked")
        assert corpus.instance(0).id == "x.jsonl.gz:1"
    plain = tmp_path / "x.jsonl"
    plain.write_text(json.dumps(row()))
    with open_corpus(plain, scratch=tmp_path / "unused", advice=ADVICE):
        assert not (tmp_path / "unused").exists()


def test_a_pipe_is_a_source(tmp_path):
    path = tmp_path / "pipe"
    os.mkfifo(path)
    content = "\n".join(json.dumps(row(id=k)) for k in range(2500))
    writer = threading.Thread(target=path.write_text, args=(content,))
    writer.start()
    with corpus_of(path) as corpus:
        writer.join()
        assert [one.id for one in corpus.instances([2499, 0])] == ["2499", "0"]


def test_files_that_cannot_be_read_are_refused(tmp_path):
    for path, reason in ((tmp_path / "nope.jsonl", "no such file"), (tmp_path, "is a folder")):
        with pytest.raises(UserError, match=reason):
            corpus_of(path)
    packed = tmp_path / "x.jsonl.gz"
    packed.write_bytes(gzip.compress(json.dumps(row()).encode()))
    taken = tmp_path / "taken"
    taken.write_text("a file, not a folder")
    with pytest.raises(UserError, match="taken: cannot be opened"):
        open_corpus(packed, scratch=taken, advice=ADVICE)


def test_a_full_disk_is_told(tmp_path, monkeypatch):
    packed = tmp_path / "x.jsonl.gz"
    packed.write_bytes(gzip.compress(json.dumps(row()).encode()))
    full = Path("/dev/full").open("wb")  # noqa: SIM115, the corpus closes it
    monkeypatch.setattr("zsg_jax.data.stored._unnamed_file", lambda _: full)
    with pytest.raises(UserError, match=r"cannot hold the rows of .*No space left"):
        corpus_of(packed)


def test_natural_instructions_are_a_corpus(tmp_path):
    (tmp_path / "tasks").mkdir()
    for name in ("a", "b"):
        instances = [{"id": f"{name}{k}", "input": str(k), "output": ["y", "z"]} for k in (1, 2)]
        task = {"Definition": ["Do it"], "Positive Examples": [], "Instances": instances}
        (tmp_path / "tasks" / f"{name}.json").write_text(json.dumps(task))
    listed = tmp_path / "train.txt"
    listed.write_text("a\nb\n")
    with corpus_of(listed) as corpus:
        assert corpus.tasks == ["a", "b"]
        assert corpus.task.tolist() == [0, 0, 1, 1]
        assert list(corpus.instances()) == read_messages(listed)[0]
        assert json.loads(corpus.raw(3))["references"] == ["y", "z"]


def test_a_full_account_keeps_ids_and_every_row_left_out(tmp_path):
    path = tmp_path / "x.jsonl"
    rows = [json.dumps(row(id=str(k), task=f"t{k % 2}")) for k in range(5)]
    path.write_text("\n".join([*rows, *["{"] * (SKIPPED_KEPT + 5)]))
    with open_corpus(
        path, scratch=tmp_path, bad_rows="skip", advice=ADVICE, full_account=True
    ) as corpus:
        assert corpus.ids == ["0", "1", "2", "3", "4"]
        assert len(corpus.skipped) == corpus.skipped_count == SKIPPED_KEPT + 5
    with corpus_of(path, "skip") as corpus:
        assert corpus.ids == []


def test_a_json_file_of_lines_is_read_in_place(tmp_path):
    path = tmp_path / "x.json"
    path.write_text("\n" + json.dumps(row(id="a")) + "\n" + json.dumps(row(id="b")))
    with open_corpus(path, scratch=tmp_path / "unused", advice=ADVICE) as corpus:
        assert [one.id for one in corpus.instances([1, 0])] == ["b", "a"]
        assert corpus.number.tolist() == [2, 3]
    assert not (tmp_path / "unused").exists()
