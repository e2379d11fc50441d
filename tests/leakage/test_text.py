import unicodedata

import numpy as np
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from zsg_jax.data.instance import Instance, Turn
from zsg_jax.leakage.options import LeakageOptions
from zsg_jax.leakage.text import EXACT, NGRAM, PROMPT, TestTexts, fold


def made(prompt, answer, task="t", others=()):
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
    """For each test example, its n-grams that no common n-gram reaches into."""
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
EXAMPLES = st.builds(
    made, TEXTS, TEXTS, st.sampled_from(["t", "u"]), st.lists(TEXTS, max_size=1).map(tuple)
)


@given(
    st.lists(EXAMPLES, max_size=6),
    st.lists(EXAMPLES, max_size=6),
    st.builds(
        LeakageOptions,
        words=st.integers(1, 4),
        max_test_rows=st.integers(1, 4),
        task_share=st.sampled_from([0.0, 0.5, 1.0]),
    ),
    st.integers(1, 3),
    st.sampled_from([1, 1 << 20]),
)
@example(
    [made("a", "b"), made("A  a", "b")],
    [made("ａ", "B"), made("a", "c")],
    LeakageOptions(words=1, max_test_rows=1, task_share=1.0),
    2,
    5,
)
def test_pairs_are_those_of_sets_of_tuples(train, test, options, batch, at_once):
    rule = options.words, options.max_test_rows, options.task_share
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("zsg_jax.leakage.text.PAIRS", at_once)
        texts = TestTexts(test, options)
        expected = naive_pairs(train, test, *rule)
        assert found_pairs(texts, train, batch) == expected
    kept = naive_kept(test, *rule)
    assert texts.ngrams.common.sum() == len(naive_common(test, *rule))
    assert texts.ngrams.content.sum() == len(set().union(*kept))
    assert texts.unchecked == sum(not grams for grams in kept)
    holders = {}
    for one in train:
        for gram in naive_ngrams(one, options.words) & set().union(*kept):
            holders[" ".join(gram)] = holders.get(" ".join(gram), 0) + 1
    assert texts.most_shared(10**6) == holders
    assert list(texts.most_shared(2).values()) == sorted(holders.values(), reverse=True)[:2]
    for kind, i, j in expected:
        if kind == NGRAM:
            words = tuple(texts.first_shared(train[i], j).split(" "))
            assert words in naive_ngrams(train[i], options.words) & kept[j]


@given(st.text())
def test_folding_is_idempotent_and_the_short_cut_is_none(text):
    assert fold(text) == naive_fold(text)
    assert naive_fold(fold(text)) == fold(text)


@pytest.mark.parametrize(("holders", "found"), [(2, 1), (3, 0)])
def test_a_small_tasks_definition_is_left_out_by_its_share(holders, found):
    definition = " ".join(f"word{i}" for i in range(13))
    test = [made(f"{definition} {i}", "x", "small") for i in range(holders)]
    test += [made(f"question {i}", "x", "other") for i in range(40)]
    pairs = found_pairs(TestTexts(test, LeakageOptions()), [made(definition, "y")], 1)
    assert len(pairs) == holders * found


def test_turns_before_the_answer_are_the_prompt_whoever_spoke():
    turns = (Turn("system", "Be brief."), Turn("user", "Hi"), Turn("assistant", "Yo"))
    texts = TestTexts([Instance("1", "t", turns, ("Yo",))], LeakageOptions())
    assert set(found_pairs(texts, [made("be brief. hi", "YO")], 1)) == {(EXACT, 0, 0)}
    with pytest.raises(ValueError, match="no n-gram"):
        texts.first_shared(made("a", "b"), 0)


@pytest.mark.parametrize(
    "shared",
    [
        "机器学习是人工智能的一个分支领域它研究算法",
        "これはとてもながいぶんしょうです",
        "ภาษาไทยไม่มีช่องว่างระหว่างคำ",
    ],
)
def test_scripts_without_spaces_are_compared_by_character(shared):
    texts = TestTexts([made(f"请问 {shared}？", "甲")], LeakageOptions())
    other = shared[:6] + "x" + shared[7:12] + "y" + shared[13:14]
    train = [made(f"so {shared} and", "b"), made(other, "b")]
    assert {pair[:2] for pair in found_pairs(texts, train, 2)} == {(NGRAM, 0)}
