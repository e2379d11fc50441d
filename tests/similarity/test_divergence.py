import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from zsg_jax.runtime.errors import UserError
from zsg_jax.similarity.divergence import Divergence

TEXTS = st.lists(st.lists(st.sampled_from("abcD"), max_size=8).map(" ".join), max_size=8)


def shares(texts, n):
    every = []
    for text in texts:
        words = text.split()
        every += ["|".join(words[i : i + n]) for i in range(len(words) - n + 1)]
    return {gram: every.count(gram) / len(every) for gram in every}


def kl(seen, test, n):
    """The sum as it is written, from nothing."""
    p, q = shares(seen, n), shares(test, n)
    if not p:
        return math.nan
    return sum(p[x] * math.log(p[x] / (q.get(x, 0.0) + 1e-10)) for x in p)


@settings(max_examples=30)
@given(st.lists(TEXTS, min_size=1, max_size=6), st.lists(TEXTS, max_size=4), st.integers(1, 3))
def test_it_equals_the_sum_from_nothing_at_every_point(steps, groups, n):
    found, seen = Divergence(groups, n), []
    for step in steps:
        found.add(step)
        seen += step
        expected = [kl(seen, group, n) for group in groups]
        np.testing.assert_allclose(found.values(), expected, rtol=1e-9, atol=1e-9)


def test_words_part_at_white_space_alone_and_stay_in_their_row():
    found = Divergence([["The cat\nsat."]])
    found.add(["The cat sat."])
    assert found.values()[0] == pytest.approx(0, abs=1e-8)
    for other in (["the cat"], ["cat", "sat."], ["cat sat"]):
        alone = Divergence([["The cat\nsat."]])
        alone.add(other)
        expected = math.log(1 / 1e-10) if len(other) == 1 else math.nan
        np.testing.assert_allclose(alone.values(), expected)


def test_an_ngram_of_no_word_is_refused():
    with pytest.raises(UserError, match="n=0: an n-gram has at least 1 word"):
        Divergence([], 0)
