import json
import pickle
import shutil
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from zsg_jax.data.dataset import from_list
from zsg_jax.data.instance import Instance, Turn
from zsg_jax.data.pool import make_pool
from zsg_jax.data.tokenize.encode import Form, encode
from zsg_jax.data.tokenize.examples import MANIFEST, StoredExamples
from zsg_jax.data.tokenize.jinja import ChatTemplate
from zsg_jax.data.tokenize.store import store
from zsg_jax.data.tokenize.tokenizer import ByteTokenizer
from zsg_jax.runtime.errors import UserError


def instances(count, seed=0):
    rng = np.random.default_rng(seed)
    made = []
    for number in range(count):
        ask, answer = "x" * int(rng.integers(0, 30)), " " + "é" * int(rng.integers(1, 9))
        ask += str(number)
        turns = (Turn("user", ask), Turn("assistant", answer))
        if rng.random() < 0.2:
            turns = (Turn("system", "s"), *turns)
        made.append(Instance(f"row {number}", "t", turns, (answer,)))
    return from_list(made)


class Counting(ByteTokenizer):
    """Bytes, counting the conversations by the words of their users, all of which differ."""

    def __init__(self):
        super().__init__()
        self.count = 0

    def encode(self, texts):
        self.count += sum("User: " in text for text in texts)
        return super().encode(texts)

    def encode_rendered(self, texts, plain):
        self.count += len(texts)
        return super().encode_rendered(texts, plain)


NO_SYSTEM = ChatTemplate(
    "{% for t in messages %}{% if t.role == 'system' %}{{ raise_exception('no system') }}"
    "{% endif %}<{{ t.role }}>{{ t.content }}{{ eos_token }}{% endfor %}"
    "{% if add_generation_prompt %}<assistant>{% endif %}",
    "mine.jinja",
    ByteTokenizer().special_tokens,
)


def same(stored, held):
    assert len(stored) == len(held)
    for row in range(len(held)):
        tokens, mask = stored[row]
        assert (tokens.dtype, mask.dtype) == (np.int32, bool)
        assert tokens.tolist() == held[row][0].tolist()
        assert mask.tolist() == held[row][1].tolist()
    np.testing.assert_array_equal(stored.counts, held.counts)
    assert stored.lengths.dtype == np.int64
    assert dict(stored.refused) == dict(held.refused)


@settings(max_examples=15)
@given(
    count=st.integers(1, 30),
    shard_rows=st.integers(1, 12),
    limit=st.integers(2, 60),
    template=st.sampled_from([None, NO_SYSTEM]),
    big=st.booleans(),
    seed=st.integers(0, 999),
)
def test_what_is_stored_is_what_is_encoded(
    tmp_path_factory, count, shard_rows, limit, template, big, seed
):
    folder = tmp_path_factory.mktemp("tokens")
    rows, form = instances(count, seed), Form(template)
    tokenizer = ByteTokenizer()
    if big:
        tokenizer.vocab_size = 70_000
    told = []
    store(rows, tokenizer, limit, folder, told.append, form, shard_rows)
    assert sum(told) == count
    kinds = {np.load(path).dtype for path in folder.glob("*/tokens.npy")}
    assert kinds == {np.dtype(np.int32 if big else np.uint16)}
    held = encode(rows, ByteTokenizer(), limit, form=form)
    stored = StoredExamples(folder)
    same(stored, held)
    same(pickle.loads(pickle.dumps(stored)), held)
    chosen = np.random.default_rng(seed).permutation(count)[: count // 2 + 1]
    same(stored.select(chosen), held.select(chosen))
    same(stored.select(chosen).select(np.asarray([0])), held.select(chosen[:1]))
    same(pickle.loads(pickle.dumps(stored.select(chosen))), held.select(chosen))


def other_rows(rows):
    last = rows[len(rows) - 1]
    turns = (*last.turns[:-1], Turn("assistant", "other"))
    return from_list([*rows[: len(rows) - 1], replace(last, turns=turns)])


class Other(Counting):
    def __init__(self):
        super().__init__()
        self.fingerprint = "other"


@pytest.mark.parametrize(
    "change",
    [
        {"rows": other_rows},
        {"rows": lambda rows: rows.select(np.arange(19))},
        {"rows": lambda rows: from_list([*rows, replace(rows[0], id="more")])},
        {"tokenizer": Other},
        {"limit": 20},
        {"form": Form(NO_SYSTEM)},
        {"form": Form(answers="last")},
        {"form": Form(truncation="head")},
        {"form": Form(max_answer=3)},
        {"form": Form(join=True)},
    ],
)
def test_whatever_decides_the_tokens_has_them_computed_again(tmp_path, change):
    rows = instances(20)
    store(rows, Counting(), 24, tmp_path, shard_rows=6)
    tokenizer = change.get("tokenizer", Counting)()
    rows = change.get("rows", lambda rows: rows)(rows)
    limit, form = change.get("limit", 24), change.get("form", Form())
    store(rows, tokenizer, limit, tmp_path, form=form, shard_rows=6)
    assert tokenizer.count
    same(StoredExamples(tmp_path), encode(rows, ByteTokenizer(), limit, form=form))
    # What the other rows had more is gone.
    assert len([path for path in tmp_path.iterdir() if path.is_dir()]) == -(-len(rows) // 6)


def test_nothing_is_tokenized_twice_but_a_damaged_shard_which_is_named(tmp_path, capsys):
    rows, tokenizer, told = instances(20), Counting(), []
    store(rows, tokenizer, 64, tmp_path, shard_rows=6)
    store(rows, tokenizer, 64, tmp_path, told.append, shard_rows=6)
    assert (tokenizer.count, sum(told)) == (20, 20)
    for number, name in enumerate(("tokens", "mask", "counts"), 1):
        path = tmp_path / "00001" / f"{name}.npy"
        content = path.read_bytes()
        path.write_bytes(content[:-1] + bytes([content[-1] ^ 1]))
        store(rows, tokenizer, 64, tmp_path, shard_rows=6)
        assert tokenizer.count == 20 + 6 * number
        assert f"{path} " in capsys.readouterr().err
    same(StoredExamples(tmp_path), encode(rows, ByteTokenizer(), 64))


def test_what_is_not_all_there_is_not_opened(tmp_path):
    store(instances(20), ByteTokenizer(), 64, tmp_path, shard_rows=6)
    content = json.loads((tmp_path / MANIFEST).read_text())
    (tmp_path / MANIFEST).write_text(json.dumps({**content, "shards": content["shards"][:-1]}))
    with pytest.raises(UserError, match="does not hold all rows"):
        StoredExamples(tmp_path)
    (tmp_path / MANIFEST).write_text(json.dumps(content))
    shutil.rmtree(tmp_path / "00002")
    with pytest.raises(UserError, match=r"00002/counts.npy: cannot be read"):
        StoredExamples(tmp_path)


def test_a_killed_run_goes_on_after_the_last_whole_shard(tmp_path, killed_at):
    # Each shard has three files; then comes the manifest.
    for number, kept in ((3, 0), (12, 12)):
        folder, tokenizer = tmp_path / str(number), Counting()
        assert killed_at(
            number,
            lambda folder=folder: store(instances(20), Counting(), 64, folder, shard_rows=6),
        )
        store(instances(20), tokenizer, 64, folder, shard_rows=6)
        assert tokenizer.count == 20 - kept
        same(StoredExamples(folder), encode(instances(20), ByteTokenizer(), 64))
        assert not list(folder.glob("*.partial"))


def test_what_is_pickled_does_not_grow_with_the_tokens(tmp_path):
    store(instances(50), ByteTokenizer(), 2000, tmp_path)
    assert len(pickle.dumps(StoredExamples(tmp_path))) < 500


def test_a_pool_on_disk_is_the_pool_in_memory(tmp_path):
    train, test = instances(30, 1), instances(25, 2)
    limits = {"train_length": 40, "test_length": 26, "report_fraction": 0.4, "bad_rows": "skip"}
    limits["form"] = Form(NO_SYSTEM)
    held = make_pool(train, test, ByteTokenizer(), **limits)
    made = make_pool(train, test, ByteTokenizer(), folder=tmp_path, **limits)
    assert made.facts == held.facts
    same(made.train_examples, held.train_examples)
    same(made.test_examples, held.test_examples)
    np.testing.assert_array_equal(made.usable, held.usable)
    np.testing.assert_array_equal(made.answered, held.answered)
