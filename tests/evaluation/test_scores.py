"""Scores against rouge-score itself, the official rules written out, and what they must hold."""

import string

import numpy as np
import pytest
import tokenizers
from hypothesis import given
from hypothesis import strategies as st
from rouge_score import rouge_scorer

from zsg_jax.data.tokenize.tokenizer import ByteTokenizer, from_folder, train_bpe
from zsg_jax.evaluation.scores import METRICS, ROUGE, score
from zsg_jax.runtime.errors import UserError

WORDS = st.sampled_from(
    ["The", "running", "runs", "cats", "-1", "3.5", "?", "да", "don't", "a", "naïve", "学习"]
)
TEXT = st.lists(WORDS, max_size=8).map(" ".join)
ANY = st.text(st.characters(exclude_categories=["Cs"]), max_size=12)


def unicode_match(text, reference):
    return score(text, [reference], ["exact_match_unicode"])["exact_match_unicode"]


@given(TEXT, st.lists(TEXT, min_size=1, max_size=3))
def test_rouge_is_that_of_the_package(text, references):
    package = rouge_scorer.RougeScorer(ROUGE, use_stemmer=True)
    each = [package.score(reference, text) for reference in references]
    best = {name: 100 * max(one[name].fmeasure for one in each) for name in ROUGE}
    assert score(text, references, ["rouge"]) == pytest.approx(best)


def test_rouge_of_long_texts_is_that_of_the_package():
    rng = np.random.default_rng(0)
    package = rouge_scorer.RougeScorer(ROUGE, use_stemmer=True)
    for length, other, words in ((300, 90, 20), (64, 64, 3), (63, 200, 9)):
        text, reference = (
            " ".join(f"w{word}" for word in rng.integers(words, size=size))
            for size in (length, other)
        )
        each = package.score(reference, text)
        expected = {name: 100 * each[name].fmeasure for name in ROUGE}
        assert score(text, [reference], ["rouge"]) == pytest.approx(expected)


@given(TEXT, TEXT)
def test_exact_match_is_the_official_one(text, reference):
    def plain(told):
        return " ".join("".join(c for c in told.lower() if c not in string.punctuation).split())

    found = score(text, ["nothing", reference], ["exact_match"])["exact_match"]
    assert found == 100 * (plain(text) in (plain(reference), "nothing"))


def test_articles_count_and_punctuation_does_not():
    assert score("The  Cat.", ["the cat"], ["exact_match"]) == {"exact_match": 100}
    assert score("cat", ["the cat"], ["exact_match"]) == {"exact_match": 0}


def test_tokens_are_counted_as_they_are_spelled(tmp_path):
    """Super-NaturalInstructions' cross-lingual track: case and endings count, blanks do not."""
    tokenizer = train_bpe(["the cat runs, the cat ran"] * 50, 400)
    tokenizer.save(tmp_path)
    library = tokenizers.Tokenizer.from_file(str(tmp_path / "tokenizer.json"))

    class Spelled:
        def tokenize(self, text):
            return [one.lstrip("Ġ") for one in library.encode(text).tokens]

    package = rouge_scorer.RougeScorer(ROUGE, tokenizer=Spelled())
    for text, reference in (("cat runs", "the cat ran"), ("да", "да"), ("?", "?"), ("", "a")):
        found = score(text, [reference], ["rouge"], tokenizer)
        each = package.score(reference, text)
        assert found == pytest.approx({name: 100 * each[name].fmeasure for name in ROUGE})
    assert score("the cat", [" the cat"], ["rouge"], tokenizer)["rougeL"] == 100
    assert score("The cat", ["the cat"], ["rouge"], tokenizer)["rougeL"] < 100
    assert score("да", ["да"], ["rouge"], ByteTokenizer())["rougeL"] == 100


def test_a_folder_gives_the_tokens(assets):
    tokenizer = from_folder(assets / "models" / "stories260k")
    found = score("Once upon a time", ["upon a time"], ["rouge"], tokenizer)
    assert 80 < found["rougeL"] < 100


def test_the_official_scores_see_ascii_alone_and_the_others_do_not():
    for text in ("да", "?", "学习", "नमस्ते"):
        both = score(text, [text], ["rouge", "rouge_unicode", "exact_match_unicode"])
        assert [both[name] for name in ROUGE] == [0, 0, 0]
        assert {both[f"{name}_unicode"] for name in ROUGE} == {100}
        assert both["exact_match_unicode"] == 100
    for text, other in (("-1", "1"), ("3.5", "35"), ("?", "!")):
        assert score(text, [other], ["exact_match"])["exact_match"] == 100
        assert unicode_match(text, other) == 0


@pytest.mark.parametrize(
    ("text", "other", "same"),
    [
        ("Straße.", "STRASSE", True),
        ("caf\u00e9", "cafe\u0301", True),
        ("«Да», сказал", "да сказал", True),
        ("don't", "don’t", True),
        ("\u22121", "-1", True),
        ("It is -1.", "it is -1", True),
        ("(3.5)", "3.5", True),
        ("5%", "5", False),
        ("10:30", "1030", False),
        ("1/2", "12", False),
        ("c++", "c", False),
        ("covid-19", "covid19", True),
        ("-.5", ".5", False),
        ("??", "?", False),
        ("", "?", False),
    ],
)
def test_unicode_matches(text, other, same):
    assert unicode_match(text, other) == 100 * same == unicode_match(other, text)


def test_letters_are_words_where_no_space_is():
    found = score("我喜欢猫", ["我喜欢狗"], ["rouge_unicode"])
    assert found["rouge1_unicode"] == pytest.approx(75)
    assert score("हिन्दी भाषा", ["हिन्दी"], ["rouge_unicode"])["rouge1_unicode"] == pytest.approx(
        200 / 3
    )


@given(ANY, st.lists(ANY, min_size=1, max_size=3))
def test_scores_stay_in_bounds_and_more_references_never_cost(text, references):
    some = score(text, references[:1], METRICS)
    every = score(text, references, METRICS)
    assert list(every) == [field for metric in METRICS.values() for field in metric.fields]
    assert all(0 <= some[name] <= every[name] <= 100 for name in every)
    if text.strip():
        own = score(text, [text], ["rouge_unicode", "exact_match_unicode"])
        assert set(own.values()) == {100}


def test_a_score_that_is_not_there_is_refused():
    with pytest.raises(UserError, match="did you mean rouge"):
        score("a", ["a"], ["rogue"])
    with pytest.raises(UserError, match="reference"):
        score("a", [], ["rouge"])
