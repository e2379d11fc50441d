import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.feature_extraction.text import HashingVectorizer

from zsg_jax.runtime.errors import UserError
from zsg_jax.similarity.encoders.hashing import HashingEncoder


def test_rows_are_unit_rows_of_float32():
    rows = HashingEncoder(64).encode(["one text", "", "  \n", "日本語", "a"])
    assert (rows.shape, rows.dtype) == ((5, 64), np.float32)
    np.testing.assert_allclose(np.linalg.norm(rows, axis=1), [1, 0, 0, 1, 1], atol=1e-6)


@settings(max_examples=12)
@given(st.lists(st.text(max_size=30), max_size=6), st.randoms())
def test_a_row_depends_on_its_own_text_only(texts, random):
    encoder = HashingEncoder(32)
    # More than one batch of other texts in front.
    crowd = [*["something else"] * 1100, *texts]
    order = list(range(len(crowd)))
    random.shuffle(order)
    rows = encoder.encode([crowd[i] for i in order])
    alone = [encoder.encode([text])[0] for text in texts]
    for place, i in enumerate(order):
        if i >= 1100:
            np.testing.assert_array_equal(rows[place], alone[i - 1100])


def test_like_texts_are_near_and_short_strings_are_told_apart():
    rows = HashingEncoder().encode(
        [
            "Replace aaabbb by xyz in: qqaaabbbzz",
            "Replace aaabbb by xyz in: ppaaabbbkk",
            "Replace abcabc by xyz in: qqabcabczz",
            "Is the review below positive or negative?",
            "a",
            "b",
        ]
    )
    cosines = rows @ rows.T
    assert cosines[0, 1] > cosines[0, 2] > cosines[0, 3]
    assert abs(cosines[4, 5]) < 0.5


def test_counts_are_those_of_one_vectorizer_over_all_n_grams():
    characters = HashingVectorizer(analyzer="char_wb", ngram_range=(2, 4)).build_analyzer()
    words = HashingVectorizer(ngram_range=(1, 2), token_pattern=r"(?u)\b\w+\b").build_analyzer()
    plain = HashingVectorizer(
        analyzer=lambda text: characters(text) + ["w:" + gram for gram in words(text)],
        n_features=64,
        norm=None,
    )
    texts = ["To be, or not to be: a b a b!", "", "ÅNGSTRÖM  ångström\n\tÅngström", "bebebebe be"]
    counts = plain.transform(texts).toarray()
    damped = np.sign(counts) * np.log1p(np.abs(counts))
    lengths = np.linalg.norm(damped, axis=1, keepdims=True)
    expected = damped / np.where(lengths > 0, lengths, 1)
    np.testing.assert_allclose(HashingEncoder(64).encode(texts), expected, atol=1e-7)


def test_the_scheme_is_what_its_fingerprint_says():
    # Embeddings on disk are reused by fingerprint: when this row changes, `SCHEME` has to.
    encoder = HashingEncoder(8)
    assert encoder.fingerprint == (
        "hashing-1;dimension=8;characters=(2, 4);words=(1, 2);lowercase;murmur3;signed;log1p"
    )
    expected = [0.313196, -0.510801, -0.197605, 0.458824, -0.39521, -0.313196, 0.197605, 0.313196]
    np.testing.assert_allclose(encoder.encode(["Turn ab into cd."])[0], expected, atol=1e-6)


def test_the_fingerprint_tells_dimensions_apart():
    assert HashingEncoder(8).fingerprint != HashingEncoder(16).fingerprint
    with pytest.raises(UserError, match="dimension=0"):
        HashingEncoder(0)


def test_progress_counts_every_text_once():
    counts = []
    HashingEncoder(8).encode(["text"] * 1500, counts.append)
    assert sum(counts) == 1500
    assert len(counts) > 1


def test_half_a_surrogate_pair_is_embedded():
    assert HashingEncoder(8).encode(["broken \ud83d json"]).any()
