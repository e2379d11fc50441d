import itertools
import json
import tempfile
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from zsg_jax.data.instance import Instance, Turn
from zsg_jax.leakage import find as leakage
from zsg_jax.leakage.find import FILE, KINDS, find_leaks
from zsg_jax.leakage.options import LeakageOptions, near_in
from zsg_jax.runtime.errors import UserError
from zsg_jax.similarity.encoders.hashing import HashingEncoder
from zsg_jax.similarity.search.options import Search

LONG = "one two three four five six seven eight nine ten eleven twelve thirteen fourteen"
STANDARD = LeakageOptions()


def made(number, prompt, answer="yes", task="t"):
    turns = (Turn("user", prompt), Turn("assistant", answer))
    return Instance(f"id {number}", task, turns, (answer,))


def one_of_each():
    test = [made("a", "Is it so?"), made("b", f"Tell: {LONG}"), made("c", "unlike")]
    train = [
        made(0, "is  it SO?"),
        made(1, "is it so?", "no"),
        made(2, "something near"),
        made(3, f"{LONG} and on"),
        made(4, "nothing"),
    ]
    return train, test, np.eye(6)[[0, 4, 2, 4, 4]] + 0.1 * np.eye(6)[5], np.eye(6)[:3]


def lines(folder):
    return [json.loads(line) for line in (folder / FILE).read_text("utf-8").splitlines()]


def found_in(train, test, folder, options=STANDARD):
    encoder = HashingEncoder()
    embeddings = (encoder.encode([one.text for one in side]) for side in (train, test))
    return find_leaks(train, test, *embeddings, options, folder=folder)


def test_a_space_in_which_most_rows_are_near_is_told(tmp_path):
    train, test, embeddings, others = one_of_each()
    away = find_leaks(train, test, embeddings, others, STANDARD, folder=tmp_path)
    assert "higher cosine" not in away.sentence()
    crowded = [np.asarray(one) + 100 for one in (embeddings, others)]
    near = find_leaks(train, test, *crowded, STANDARD, folder=tmp_path)
    assert "5 near" in near.sentence()
    assert "higher cosine" in near.sentence()
    assert (away.summary()["crowded"], near.summary()["crowded"]) == (False, True)


def test_so_is_one_in_which_a_few_rows_are_near_to_most(tmp_path):
    train = [made(i, f"row {i}") for i in range(9)]
    test = [made(i, f"target {i}") for i in range(4)]
    # One training row amid all test rows, the others apart.
    embeddings = np.eye(12)[:9]
    others = np.eye(12)[[0] * 4] + 0.1 * np.eye(12)[8:]
    found = find_leaks(train, test, embeddings, others, STANDARD, folder=tmp_path)
    assert found.counts["near_train_rows"] == 1
    assert "higher cosine" in found.sentence()
    # Of test rows that are copied word for word it is no wonder.
    copied = [*test[:3], *train[3:]]
    found = find_leaks(copied, test, embeddings, others, STANDARD, folder=tmp_path)
    assert (found.counts["near_test_rows"], found.counts["exact_test_rows"]) == (4, 3)
    assert not found.crowded


def test_hidden_states_are_near_from_a_higher_cosine_on():
    assert near_in("states:model,layer=2") == 0.999
    assert {near_in(name) for name in ("hashing", "gradients:run", "")} == {STANDARD.threshold}


def test_one_of_each_kind(tmp_path):
    told = []
    search = Search(on_progress=lambda *some: told.append(some))
    found = find_leaks(*one_of_each(), STANDARD, folder=tmp_path, search=search)
    assert told == [(5, 5)]
    *pairs, end = lines(tmp_path)
    assert [one.pop("cosine") for one in pairs if "cosine" in one] == pytest.approx(
        [1 / np.sqrt(1.01)] * 2, abs=1e-6
    )

    def pair(kind, train, test, **more):
        ids = {"train_id": f"id {train}", "test_id": f"id {'abc'[test]}"}
        return {"kind": kind, "train_row": train, "test_row": test} | ids | more

    assert pairs == [
        pair("exact", 0, 0),
        pair("prompt", 1, 0),
        pair("ngram", 3, 1, shared=2, text=LONG.rpartition(" ")[0]),
        pair("near", 0, 0),
        pair("near", 2, 2),
    ]
    assert end == {"kind": "counts", **found.counts}
    assert found.leaking.tolist() == [True, True, True, True, False]
    sentence = found.sentence("leave them out")
    for part in (
        "4 of 5",
        "1 exact",
        "1 same prompt",
        "2 near",
        "1 sharing 13",
        "3 of 3",
        "2 of 3 test rows hold no such",
    ):
        assert part in sentence
    assert sentence.endswith("; leave them out")
    summary = json.loads(json.dumps(found.summary(), allow_nan=False))
    assert set(summary["rules"]) == set(KINDS)
    assert (summary["threshold"], summary["words"]) == (0.95, 13)
    assert summary["test_rows_without_ngrams"] == 2
    assert set(summary["ngrams_most_shared"].values()) == {1}


# Texts and directions from a few, so that examples meet in many ways.
SIDES = st.lists(
    st.tuples(
        st.sampled_from(["a b c", "a b d", "x a b", "", "q"]),
        st.sampled_from(["y", "n"]),
        st.integers(0, 4),
    ),
    min_size=1,
    max_size=10,
)


@settings(max_examples=20)
@given(SIDES, SIDES, st.integers(0, 5), st.integers(1, 12))
def test_counts_are_exact_and_the_file_holds_the_first_of_each_kind(train, test, limit, batch):
    directions = np.eye(5)
    directions[1] = [0.99, 0.1, 0, 0, 0]
    sides = [
        [made(i, prompt, answer, str(i)) for i, (prompt, answer, _) in enumerate(side)]
        for side in (train, test)
    ]
    embeddings = [directions[[direction for *_, direction in side]] for side in (train, test)]
    options = LeakageOptions(words=2, max_test_rows=10**6, limit=limit)
    with pytest.MonkeyPatch.context() as patch, tempfile.TemporaryDirectory() as folder:
        patch.setattr(leakage, "BATCH", batch)
        found = find_leaks(iter(sides[0]), sides[1], *embeddings, options, folder=Path(folder))
        *pairs, end = lines(Path(folder))
    expected = {kind: [] for kind in KINDS}
    for i, (prompt, answer, direction) in enumerate(train):
        for j, (other_prompt, other_answer, other_direction) in enumerate(test):
            words, others = (f"{p} {a}".split() for p, a in ((prompt, answer), test[j][:2]))
            if prompt == other_prompt:
                expected["exact" if answer == other_answer else "prompt"].append((i, j))
            if {*itertools.pairwise(words)} & {*itertools.pairwise(others)}:
                expected["ngram"].append((i, j))
            if direction == other_direction or {direction, other_direction} == {0, 1}:
                expected["near"].append((i, j))
    for kind, all_pairs in expected.items():
        assert found.pairs[kind] == len(all_pairs)
        assert sorted({i for i, _ in all_pairs}) == np.flatnonzero(found.of_kind(kind)).tolist()
        assert found.counts[f"{kind}_test_rows"] == len({j for _, j in all_pairs})
        written = [(one["train_row"], one["test_row"]) for one in pairs if one["kind"] == kind]
        assert written == all_pairs[:limit]
        assert found.written[kind] == end[f"{kind}_pairs_written"] == len(written)
    every = [pair for all_pairs in expected.values() for pair in all_pairs]
    assert sorted({i for i, _ in every}) == np.flatnonzero(found.leaking).tolist()
    assert found.counts["touched_test_rows"] == len({j for _, j in every})


def test_a_killed_search_leaves_the_old_file(tmp_path):
    train, *others = one_of_each()
    (tmp_path / FILE).write_text("old")

    def broken():
        yield train[0]
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        find_leaks(broken(), *others, STANDARD, folder=tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == [FILE]
    assert (tmp_path / FILE).read_text() == "old"


@pytest.mark.parametrize(
    ("train_count", "test_count", "message"),
    [
        (4, 3, "more training rows than their 4"),
        (6, 3, "5 training rows, but 6 embeddings"),
        (5, 2, "3 test rows, but 2 embeddings"),
    ],
)
def test_embeddings_of_other_examples_are_refused(train_count, test_count, message, tmp_path):
    train, test, *_ = one_of_each()
    embeddings = np.eye(6)[:train_count], np.eye(6)[:test_count]
    with pytest.raises(UserError, match=message):
        find_leaks(train, test, *embeddings, STANDARD, folder=tmp_path)
    assert not (tmp_path / FILE).exists()


@pytest.mark.parametrize(
    "setting",
    [
        {"limit": -1},
        {"threshold": 2.0},
        {"threshold": 0.0},
        {"words": 0},
        {"words": 10**12},
        {"max_test_rows": 0},
        {"task_share": 1.5},
    ],
)
def test_settings_out_of_range_are_refused(setting):
    ((name, value),) = setting.items()
    with pytest.raises(UserError, match=f"{name}={value}"):
        LeakageOptions(**setting)


def test_half_a_surrogate_pair_in_an_id_is_written_as_it_was(tmp_path):
    one = Instance("\ud83d", "t", (Turn("user", "日本"), Turn("assistant", "y")), ("y",))
    find_leaks([one], [one], np.eye(1), np.eye(1), STANDARD, folder=tmp_path)
    assert lines(tmp_path)[0]["train_id"] == "\ud83d"


def test_planted_examples_are_all_that_is_found_in_real_p3(assets, tmp_path, read_source):
    train, test = (
        read_source(assets / "data" / "p3" / f"{side}.jsonl.gz")[0] for side in ("train", "test")
    )
    # No prompt of test is in train, and no line of 60 characters or more.
    train = train[::20]
    train[100:100] = [
        test[7],
        Instance("other answer", "t", (test[9].turns[0], Turn("assistant", "?!")), ("?!",)),
        made("lines", "About this: " + max(test[120].turns[0].content.splitlines(), key=len)),
    ]
    found = found_in(train, test, tmp_path)
    pairs = {kind: set() for kind in (*KINDS, "counts")}
    for one in lines(tmp_path):
        pairs[one["kind"]].add((one.get("train_row"), one.get("test_row")))
    assert pairs["exact"] == {(100, 7)}
    assert pairs["prompt"] == {(101, 9)}
    assert {(100, 7), (101, 9), (102, 120)} <= pairs["ngram"]
    assert {i for i, _ in pairs["ngram"]} == {100, 101, 102}
    assert {100, 101} <= set(np.flatnonzero(found.of_kind("near")).tolist())


def test_what_is_taken_for_a_template_is_told(tmp_path):
    """A passage under all questions of a small task looks like its template: nobody is misled."""
    passage = " ".join(f"word{n}" for n in range(20))
    test = [made(f"t{n}", f"{passage} question {n}", str(n)) for n in range(3)]
    train = [made("a", f"other words and {passage}"), made("b", "nothing of the kind")]
    found = found_in(train, test, tmp_path, LeakageOptions(threshold=1.0))
    assert found.template.tolist() == [True, False]
    assert not found.leaking.any()
    assert "1 more share 13 words" in found.sentence()
