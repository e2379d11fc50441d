import itertools
import json
import re
import tempfile
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from zsg_jax.data.instance import Instance, Turn
from zsg_jax.data.schemas.read import read_messages
from zsg_jax.leakage import find as leakage
from zsg_jax.leakage.find import FILE, KINDS, LeakageOptions, find_leaks
from zsg_jax.runtime.errors import UserError
from zsg_jax.similarity.encoders.hashing import HashingEncoder
from zsg_jax.similarity.search.options import Search

WAY_OUT = "pass --drop-leaks to leave them out"
LONG = "one two three four five six seven eight nine ten eleven twelve thirteen fourteen"


def row(number, prompt, answer="yes", task="t"):
    return Instance(
        f"id {number}", task, (Turn("user", prompt), Turn("assistant", answer)), (answer,)
    )


def one_of_each():
    test = [row("a", "Is it so?"), row("b", f"Tell: {LONG}"), row("c", "unlike")]
    train = [
        row(0, "is  it SO?"),
        row(1, "is it so?", "no"),
        row(2, "something near"),
        row(3, f"{LONG} and on"),
        row(4, "nothing"),
    ]
    test_rows = np.eye(6)[:3]
    train_rows = np.eye(6)[[0, 4, 2, 4, 4]] + 0.1 * np.eye(6)[5]
    return train, test, train_rows, test_rows


def lines(folder):
    return [json.loads(line) for line in (folder / FILE).read_text("utf-8").splitlines()]


def encoded(train, test):
    encoder = HashingEncoder()
    return tuple(encoder.encode([one.text for one in rows]) for rows in (train, test))


def test_one_of_each_kind(tmp_path):
    found = find_leaks(*one_of_each(), folder=tmp_path)
    cosine = float(str(np.float32(1 / np.sqrt(1.01))))
    ids = {"train_row": 0, "train_id": "id 0", "test_row": 0, "test_id": "id a"}
    third = {"train_row": 2, "train_id": "id 2", "test_row": 2, "test_id": "id c"}
    *pairs, end = lines(tmp_path)
    words = LONG.split(" ")
    for line in pairs:
        if "cosine" in line:
            assert line.pop("cosine") == pytest.approx(cosine, abs=1e-6)
    assert pairs == [
        {"kind": "exact", **ids},
        {"kind": "prompt", **ids, "train_row": 1, "train_id": "id 1"},
        {
            "kind": "ngram",
            "train_row": 3,
            "train_id": "id 3",
            "test_row": 1,
            "test_id": "id b",
            "shared": 2,
            "text": " ".join(words[:13]),
        },
        {"kind": "near", **ids},
        {"kind": "near", **third},
    ]
    assert end == {"kind": "counts", **found.counts}
    assert found.leaking.tolist() == [True, True, True, True, False]
    assert found.of_kind("near").tolist() == [True, False, True, False, False]
    assert found.sentence(WAY_OUT) == (
        "leakage: 4 of 5 training rows (1 exact, 1 same prompt, 2 near (cosine ≥ 0.95), "
        "1 sharing 13 words) touch 3 of 3 test rows; pass --drop-leaks to leave them out"
    )
    summary = json.loads(json.dumps(found.summary(), allow_nan=False))
    assert set(summary["rules"]) == set(KINDS)
    assert (summary["threshold"], summary["words"]) == (0.95, 13)
    assert summary["test_rows_without_ngrams"] == 2
    assert set(summary["ngrams_most_shared"].values()) == {1}


# Texts and directions from a few, so that rows meet in many ways.
SIDES = st.lists(
    st.tuples(
        st.sampled_from(["a b c", "a b d", "x a b", "", "q"]),
        st.sampled_from(["y", "n"]),
        st.integers(0, 4),
    ),
    min_size=1,
    max_size=14,
)


@settings(max_examples=80, deadline=None)
@given(SIDES, SIDES, st.integers(0, 5), st.integers(1, 20))
def test_counts_are_exact_and_the_file_holds_the_first_of_each_kind(train, test, limit, batch):
    directions = np.eye(5)
    directions[1] = [0.99, 0.1, 0, 0, 0]
    sides = [
        [row(i, prompt, answer, str(i)) for i, (prompt, answer, _) in enumerate(side)]
        for side in (train, test)
    ]
    embeddings = [directions[[direction for *_, direction in side]] for side in (train, test)]
    with pytest.MonkeyPatch.context() as patch, tempfile.TemporaryDirectory() as folder:
        patch.setattr(leakage, "BATCH", batch)
        found = find_leaks(
            iter(sides[0]),
            sides[1],
            *embeddings,
            LeakageOptions(words=2, max_test_rows=10**6, limit=limit),
            folder=Path(folder),
        )
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
    for kind, rows in expected.items():
        assert found.pairs[kind] == len(rows)
        assert sorted({i for i, _ in rows}) == np.flatnonzero(found.of_kind(kind)).tolist()
        assert found.counts[f"{kind}_test_rows"] == len({j for _, j in rows})
        written = [(one["train_row"], one["test_row"]) for one in pairs if one["kind"] == kind]
        assert written == rows[:limit]
        assert found.written[kind] == end[f"{kind}_pairs_written"] == len(written)
    every = [pair for rows in expected.values() for pair in rows]
    assert sorted({i for i, _ in every}) == np.flatnonzero(found.leaking).tolist()
    assert found.counts["touched_test_rows"] == len({j for _, j in every})


def test_progress_counts_every_row_once(tmp_path, monkeypatch):
    monkeypatch.setattr(leakage, "BATCH", 2)
    told = []
    find_leaks(
        *one_of_each(), folder=tmp_path, search=Search(on_progress=lambda *some: told.append(some))
    )
    assert told == [(2, 5), (2, 5), (1, 5)]


def test_a_killed_search_leaves_the_old_file(tmp_path):
    train, test, train_rows, test_rows = one_of_each()
    (tmp_path / FILE).write_text("old")

    def broken():
        yield train[0]
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        find_leaks(broken(), test, train_rows, test_rows, folder=tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == [FILE]
    assert (tmp_path / FILE).read_text() == "old"


@pytest.mark.parametrize(
    ("rows", "tests", "setting", "message"),
    [
        (4, 3, {}, "more training rows than their 4"),
        (6, 3, {}, "5 training rows, but 6 embeddings"),
        (5, 2, {}, "3 test rows, but 2 embeddings"),
        (5, 3, {"limit": -1}, "limit=-1"),
        (5, 3, {"threshold": 2.0}, "threshold=2.0"),
        (5, 3, {"words": 0}, "words=0"),
    ],
)
def test_what_does_not_fit_is_refused(rows, tests, setting, message, tmp_path):
    train, test, *_ = one_of_each()
    options = LeakageOptions(**setting)
    with pytest.raises(UserError, match=message):
        find_leaks(train, test, np.eye(6)[:rows], np.eye(6)[:tests], options, folder=tmp_path)
    assert not (tmp_path / FILE).exists()


def test_half_a_surrogate_pair_in_an_id_is_written_as_it_was(tmp_path):
    one = Instance("\ud83d", "t", (Turn("user", "日本"), Turn("assistant", "y")), ("y",))
    find_leaks([one], [one], np.eye(1), np.eye(1), folder=tmp_path)
    assert lines(tmp_path)[0]["train_id"] == "\ud83d"
    assert "日本" not in (tmp_path / FILE).read_text("utf-8")


def real(assets, name):
    return [
        read_messages(assets / "data" / name / f"{side}.jsonl.gz")[0] for side in ("train", "test")
    ]


def test_real_p3_is_clean_as_its_readme_says_and_planted_rows_are_found(assets, tmp_path):
    train, test = real(assets, "p3")
    train = train[::5]
    found = find_leaks(train, test, *encoded(train, test), folder=tmp_path)
    # No prompt of test is in train, and no line of 60 characters or more.
    assert found.counts["exact_pairs"] == found.counts["prompt_pairs"] == 0
    assert found.counts["ngram_pairs"] == 0
    planted = [
        test[7],
        Instance("other answer", "t", (test[9].turns[0], Turn("assistant", "?!")), ("?!",)),
        row("lines", "About this: " + max(test[120].turns[0].content.splitlines(), key=len)),
    ]
    train[100:100] = planted
    again = find_leaks(train, test, *encoded(train, test), folder=tmp_path)
    gained = {kind: again.pairs[kind] - found.pairs[kind] for kind in ("exact", "prompt")}
    assert gained == {"exact": 1, "prompt": 1}
    assert np.flatnonzero(again.of_kind("exact")).tolist() == [100]
    assert np.flatnonzero(again.of_kind("prompt")).tolist() == [101]
    assert {100, 101} <= set(np.flatnonzero(again.of_kind("near")).tolist())
    pairs = [(x["train_row"], x["test_row"]) for x in lines(tmp_path) if x["kind"] == "ngram"]
    assert {(100, 7), (101, 9), (102, 120)} <= set(pairs)


def natural_instructions(folder, name):
    """Rows with definition and two examples in every prompt, as the study words them, uncut."""
    rows = []
    for task in (folder / "splits" / "default" / f"{name}_tasks.txt").read_text().split():
        content = json.loads((folder / "tasks" / f"{task}.json").read_text())
        head = f"Definition: {content['Definition'][0]}\n\n"
        for k, shown in enumerate(content["Positive Examples"][:2], 1):
            head += (
                f" Positive Example {k} -\nInput: {shown['input']}\n Output: {shown['output']}\n\n"
            )
        for one in content["Instances"]:
            prompt = f"{head}Now complete the following example -\nInput: {one['input']}\nOutput: "
            turns = (Turn("user", prompt), Turn("assistant", one["output"][0]))
            rows.append(Instance(one["id"], task, turns, tuple(one["output"])))
    return rows


def test_real_definitions_do_not_flood(assets, tmp_path):
    folder = assets / "data" / "superni"
    test = natural_instructions(folder, "test")
    train = natural_instructions(folder, "train")[::4]
    # Half of each test task's rows in the pool: the other half has their definition and examples.
    moved, test = test[1::2], test[::2]
    both = train + moved
    embeddings = encoded(both, test)
    find_leaks(both, test, *embeddings, folder=tmp_path)
    pairs = {(x["train_row"], x["test_row"]) for x in lines(tmp_path) if x["kind"] == "ngram"}
    runs = []
    for rows in (both, test):
        words = [x.turns[0].content.split("following example")[-1].lower() for x in rows]
        words = [re.findall(r"\w+", text) for text in words]
        runs.append([{tuple(w[i : i + 13]) for i in range(len(w) - 12)} for w in words])
    expected = {
        (i, j) for i, some in enumerate(runs[0]) for j, other in enumerate(runs[1]) if some & other
    }
    assert len(expected) > 0
    assert pairs == expected
    # Without the rule every row of the task would touch every other one.
    every = LeakageOptions(max_test_rows=10**6, task_share=1.0, limit=10)
    kept = find_leaks(both, test, *embeddings, every, folder=tmp_path)
    assert kept.pairs["ngram"] >= len(moved) * len(test) / 2


def test_what_is_taken_for_a_template_is_told(tmp_path):
    """A passage under all questions of a small task looks like its template: nobody is misled."""
    passage = " ".join(f"word{n}" for n in range(20))
    test = [row(f"t{n}", f"{passage} question {n}", str(n)) for n in range(3)]
    train = [row("a", f"other words and {passage}"), row("b", "nothing of the kind")]
    options = LeakageOptions(threshold=1.0)
    found = find_leaks(train, test, *encoded(train, test), options, folder=tmp_path)
    assert found.counts["template_only_train_rows"] == 1
    assert found.template.tolist() == [True, False]
    assert found.counts["leaking_train_rows"] == 0
    assert "1 more share 13 words that several test rows have" in found.sentence()
