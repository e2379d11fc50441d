import unicodedata

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from zsg_jax.data.instance import Instance, Turn
from zsg_jax.leakage.text import EXACT, NGRAM, PROMPT, TestTexts, fold
from zsg_jax.runtime.errors import UserError


def row(prompt, answer, task="t", others=()):
    turns = (Turn("user", prompt), Turn("assistant", answer))
    return Instance(f"{prompt}|{answer}", task, turns, (answer, *others))


def naive_fold(text):
    text = unicodedata.normalize("NFKC", unicodedata.normalize("NFKC", text).casefold())
    return " ".join(text.split())


def naive_words(text):
    """Runs of letters, digits and underscores, letter by letter."""
    words, word = [], ""
    for letter in naive_fold(text) + " ":
        if letter.isalnum() or letter == "_":
            word += letter
        elif word:
            words.append(word)
            word = ""
    return words


def naive_ngrams(instance, n):
    words = naive_words(instance.text)
    return {tuple(words[i : i + n]) for i in range(len(words) - n + 1)}


def naive_common(test, n, max_test_rows, task_share):
    common = set()
    for gram in set().union(*(naive_ngrams(one, n) for one in test)):
        tasks = [one.task for one in test if gram in naive_ngrams(one, n)]
        if len(tasks) > max_test_rows:
            common.add(gram)
        for task in set(tasks):
            share = tasks.count(task) / [one.task for one in test].count(task)
            if tasks.count(task) >= 3 and share > task_share:
                common.add(gram)
    return common


def naive_kept(test, n, max_test_rows, task_share):
    """For each test row, its n-grams that no common n-gram reaches into."""
    common = naive_common(test, n, max_test_rows, task_share)
    kept = []
    for one in test:
        words = naive_words(one.text)
        template = set()
        for i in range(len(words) - n + 1):
            if tuple(words[i : i + n]) in common:
                template |= set(range(i, i + n))
        starts = range(len(words) - n + 1)
        kept.append({tuple(words[i : i + n]) for i in starts if not {*range(i, i + n)} & template})
    return kept


def naive_pairs(train, test, n, max_test_rows, task_share):
    kept = naive_kept(test, n, max_test_rows, task_share)
    expected = {}
    for i, one in enumerate(train):
        for j, other in enumerate(test):
            prompts = [naive_fold(" ".join(t.content for t in x.turns[:-1])) for x in (one, other)]
            if prompts[0] == prompts[1]:
                accepted = [naive_fold(text) for text in other.references]
                kind = EXACT if naive_fold(one.turns[-1].content) in accepted else PROMPT
                expected[kind, i, j] = 1
            shared = naive_ngrams(one, n) & kept[j]
            if shared:
                expected[NGRAM, i, j] = len(shared)
    return expected


def found_pairs(texts, train, batch):
    found = {}
    for start in range(0, len(train), batch):
        last = {}
        for pairs in texts.compare(train[start : start + batch], start):
            assert (np.diff(pairs.train) >= 0).all()
            assert pairs.train[0] >= last.get(pairs.kind, 0)
            last[pairs.kind] = pairs.train[-1]
            for i, j, m in zip(*(column.tolist() for column in pairs[1:]), strict=True):
                assert (pairs.kind, i, j) not in found
                found[pairs.kind, i, j] = m
    return found


# Few words, so that runs of them meet often; some fold to others, some vanish.
WORDS = st.sampled_from(
    ["a", "b", "A", "ａ", "b.", "c-a", "ß", "SS", "ﬁ", "_", "…", "\u0301", "日"]
)
TEXTS = st.lists(WORDS, max_size=8).map(" ".join)
ROWS = st.builds(
    row, TEXTS, TEXTS, st.sampled_from(["t", "u"]), st.lists(TEXTS, max_size=1).map(tuple)
)


@settings(max_examples=300, deadline=None)
@given(
    st.lists(ROWS, max_size=8),
    st.lists(ROWS, max_size=8),
    st.integers(1, 4),
    st.integers(1, 4),
    st.sampled_from([0.0, 0.5, 1.0]),
    st.integers(1, 3),
)
@example([row("a", "b"), row("A  a", "b")], [row("ａ", "B"), row("a", "c")], 1, 1, 1.0, 2)
def test_pairs_are_those_of_sets_of_tuples(train, test, n, max_test_rows, task_share, batch):
    texts = TestTexts(test, words=n, max_test_rows=max_test_rows, task_share=task_share)
    expected = naive_pairs(train, test, n, max_test_rows, task_share)
    assert found_pairs(texts, train, batch) == expected
    common = naive_common(test, n, max_test_rows, task_share)
    kept = naive_kept(test, n, max_test_rows, task_share)
    assert texts.ngrams.common.sum() == len(common)
    assert texts.ngrams.content.sum() == len(set().union(*kept))
    assert texts.unchecked == sum(not grams for grams in kept)
    holders = {}
    for one in train:
        for gram in naive_ngrams(one, n) & set().union(*kept):
            holders[" ".join(gram)] = holders.get(" ".join(gram), 0) + 1
    assert texts.most_shared(10**6) == holders
    assert list(texts.most_shared(2).values()) == sorted(holders.values(), reverse=True)[:2]
    for (kind, i, j), _ in expected.items():
        if kind == NGRAM:
            text = texts.first_shared(train[i], j)
            assert tuple(text.split(" ")) in (naive_ngrams(train[i], n) & kept[j])


@given(st.text())
def test_folding_is_idempotent_and_the_short_cut_is_none(text):
    assert fold(text) == naive_fold(text)
    assert naive_fold(fold(text)) == fold(text)


def test_definitions_are_left_out_and_passages_stay():
    definition = "Definition: tell in one word what the following text is about, nothing else."
    passage = "The ferry to the island leaves twice a day except on the day of the fair."
    test = [
        row(f"{definition} {passage if i < 4 else f'text {i}'} Question {i}?", "x", f"task {i % 2}")
        for i in range(20)
    ]
    texts = TestTexts(test)
    train = [row(definition, "y"), row(passage, "y"), row(f"{definition} other text", "y")]
    found = found_pairs(texts, train, 3)
    assert {pair[1:] for pair in found} == {(1, j) for j in range(4)}
    assert len(naive_words(passage)) - 13 + 1 == found[NGRAM, 1, 0]
    assert texts.ngrams.common.any()
    # As many rows as the definition has, and more than any task has.
    kept = found_pairs(TestTexts(test, max_test_rows=20, task_share=1), train, 3)
    assert {pair[1] for pair in kept} == {0, 1, 2}


def test_a_small_tasks_definition_is_left_out_by_its_share():
    definition = " ".join(f"word{i}" for i in range(13))
    others = [row(f"question {i}", "x", "other") for i in range(40)]
    for rows, found in ((2, 1), (3, 0)):
        test = [row(f"{definition} {i}", "x", "small") for i in range(rows)]
        pairs = found_pairs(TestTexts(test + others), [row(definition, "y")], 1)
        assert len(pairs) == rows * found


def test_pairs_come_in_blocks_and_all_of_them_come(monkeypatch):
    monkeypatch.setattr("zsg_jax.leakage.text.PAIRS", 5)
    test = [row("a b c d", str(j)) for j in range(7)]
    train = [row("b c" if i % 3 else "a b c", str(i)) for i in range(10)]
    texts = TestTexts(test, words=2, max_test_rows=7, task_share=1)
    expected = naive_pairs(train, test, 2, 7, 1)
    assert len(expected) == 70
    assert found_pairs(texts, train, 10) == expected
    # A block ends with the training row that fills it.
    assert all(len(pairs.train) < 5 + 7 for pairs in texts.compare(train))


def test_turns_before_the_answer_are_the_prompt_whoever_spoke():
    turns = (Turn("system", "Be brief."), Turn("user", "Hi"), Turn("assistant", "Yo"))
    one = Instance("1", "t", turns, ("Yo",))
    assert set(found_pairs(TestTexts([one]), [row("be brief. hi", "YO")], 1)) == {(EXACT, 0, 0)}


@pytest.mark.parametrize(
    ("setting", "message"),
    [
        ({"words": 0}, "words=0"),
        ({"max_test_rows": 0}, "max_test_rows=0"),
        ({"task_share": 1.5}, "task_share=1.5"),
    ],
)
def test_settings_out_of_range_are_refused(setting, message):
    with pytest.raises(UserError, match=message):
        TestTexts([], **setting)


def test_no_test_rows_share_nothing():
    assert found_pairs(TestTexts([]), [row("a", "b")], 1) == {}
    with pytest.raises(ValueError, match="no n-gram"):
        TestTexts([row("x", "y")]).first_shared(row("a", "b"), 0)


@pytest.mark.parametrize(
    "shared",
    [
        "机器学习是人工智能的一个分支领域它研究算法",
        "これはとてもながいぶんしょうです",
        "ภาษาไทยไม่มีช่องว่างระหว่างคำ",
    ],
)
def test_scripts_without_spaces_are_compared_by_character(shared):
    test = [row(f"请问 {shared}？", "甲")]
    texts = TestTexts(test, words=13)
    found = {pair.kind: pair for pair in texts.compare([row(f"so {shared} and", "b")], 0)}
    assert found[NGRAM].train.tolist() == [0]
    other = shared[:6] + "x" + shared[7:12] + "y" + shared[13:]
    assert not [
        p for p in TestTexts(test, words=13).compare([row(other[:14], "b")], 0) if len(p.train)
    ]
