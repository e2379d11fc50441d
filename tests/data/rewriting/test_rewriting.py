"""Rows against a plain interpreter of Markov algorithms, over all options."""

import hashlib
import re

import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from zsg_jax.data.rewriting.forms import Writer
from zsg_jax.data.rewriting.rows import CHUNK, Draws, Rewrites
from zsg_jax.data.rewriting.rules import LETTERS, Language, check_unseen, draw_rules
from zsg_jax.runtime.errors import UserError


def markov(rules, text, limit):
    """The words of the paper, one string at a time; the answer and how often a rule applied."""
    for applied in range(limit):
        for x, y in rules:
            if x in text:
                text = text.replace(x, y, 1)
                break
        else:
            return text, applied
    return text, limit


def occurrences(x, text):
    return sum(text.startswith(x, i) for i in range(len(text)))


def read(text, language, form):
    """A row's cipher, rules, string and answer, from its text alone."""
    assert text.endswith("$")
    text = text[:-1]
    cipher, lines = None, []
    if language.encrypted:
        cipher, text = text.split("#")
    if form == "compact":
        *lines, rest = text.split("|")
        z, answer = rest.split("=")
        rules = [tuple(line.split(">")) for line in lines]
    else:
        *lines, z, answer = text.split("\n")
        rules = [tuple(line.split(" -> ")) for line in lines]
    return cipher, rules, z, answer


MIXES = ["free", "repeat:1-4", "period:2+mirror:2", "free+repeat:2-3", "mirror:1-12+period:1-12"]


@st.composite
def studies(draw):
    language = Language(
        x=draw(st.integers(1, 6)),
        y=draw(st.integers(2, 6)),
        z=draw(st.integers(12, 24)),
        letters=draw(st.integers(6, 40)),
        rules=draw(st.integers(1, 3)),
        limit=draw(st.integers(1, 4)),
        encrypted=draw(st.booleans()),
    )
    draws = Draws(
        no_ops=draw(st.sampled_from([0, 0.3, 1])),
        occurrences=draw(st.sampled_from([(1,), (2,), (1, 3)])),
        exponent=draw(st.sampled_from([None, 1.0, 0.3])),
    )
    return (
        language,
        draws,
        draw(st.sampled_from(MIXES)),
        draw(st.sampled_from(["compact", "lines"])),
    )


@settings(max_examples=50)
@given(studies(), st.integers(0, 99))
def test_rows_are_what_a_plain_interpreter_makes_of_them(study, seed):
    language, draws, mix, form = study
    rng = np.random.default_rng(seed)
    try:
        test = draw_rules(language, mix, 3, rng)
        rules = draw_rules(language, mix, 9, rng, unlike=test)
        stream = Rewrites(language, rules, draws, rows=60, seed=(seed,))
        encoded = Writer(form, language).encode(rows := stream.chunk(0))
    except UserError as error:
        # Not all of these have room, or rules enough.
        assume(not re.search("no room|has only|hardly|divides", str(error)))
        raise
    writer = Writer(form, language)
    texts = writer.texts(encoded.tokens, encoded.lengths)
    assert len(texts) == 60
    for i, text in enumerate(texts):
        cipher, listed, z, answer = read(text, language, form)
        assert [len(z), len(text)] == [language.z, encoded.lengths[i]]
        assert {len(x) for x, _ in listed} == {language.x}
        assert markov(listed, z, language.limit) == (answer, rows.applied[i])
        plain = str.maketrans(cipher, LETTERS[: language.letters]) if cipher else {}
        own = rules.x[rows.instruction[i]]
        assert [x.translate(plain) for x, _ in listed] == [spelled(one) for one in own]
        held = [occurrences(x, z) for x, _ in listed]
        assert held == [0] * language.rules or set(held) <= set(draws.occurrences)
        assert (held == [0] * language.rules) == (rows.applied[i] == 0)
        inside = encoded.answer_mask[i].nonzero()[0]
        assert text[inside[0] :] == f"{answer}$"
        assert len(inside) == len(answer) + 1
    if draws.no_ops in (0, 1):
        assert (rows.applied == 0).all() == bool(draws.no_ops)


def built(family, k, base):
    """The words of the paper for a left side."""
    if family == "repeat":
        return "".join(letter * k for letter in base)
    if family == "mirror":
        return "".join((base, base[::-1])[i % 2] for i in range(k))
    return base * (k or 1)


def spelled(ids):
    return "".join(LETTERS[i] for i in ids)


@settings(max_examples=25)
@given(st.integers(0, 99), st.sampled_from(MIXES), st.sampled_from([6, 12]), st.integers(8, 30))
def test_families_are_built_and_shared_as_named_and_tests_are_unseen(seed, mix, X, letters):
    language = Language(x=X, y=4, z=30, letters=letters)
    rng = np.random.default_rng(seed)
    test = draw_rules(language, mix, 8, rng)
    train = draw_rules(language, mix, 40, rng, unlike=test)
    check_unseen(train, test)
    for rules in (train, test):
        x = [spelled(one[0]) for one in rules.x]
        assert len(set(x)) == len(x)
        for text, kind in zip(x, rules.kind, strict=True):
            family, k = rules.kinds[kind]
            base = text[:: k or 1] if family == "repeat" else text[: X // (k or 1)]
            assert text == built(family, k, base)
    families = np.array([train.kinds[i].family for i in train.kind])
    parts = [(families == name.split(":")[0]).sum() for name in mix.split("+")]
    assert min(parts) >= 40 // len(parts) - 6 * ("1-12" in mix)


def test_shares_are_within_binomial_error():
    language = Language(x=3, y=3, z=12)
    rng = np.random.default_rng(0)
    rules = draw_rules(language, "free", 50, rng)
    N = 30_000
    draws = Draws(no_ops=0.3, occurrences=(1, 2, 3), exponent=0.2)
    rows = Rewrites(language, rules, draws, rows=N, seed=(1,)).chunk(0)
    held = np.array(
        [occurrences(spelled(x[0]), spelled(z)) for x, z in zip(rows.x, rows.z, strict=True)]
    )
    place = np.arange(51) / 50
    shares = {"none": ((held == 0).mean(), 0.3)}
    shares |= {f"{n} of x": ((held == n).mean(), 0.7 / 3) for n in (1, 2, 3)}
    counts = np.bincount(rows.instruction, minlength=50) / N
    shares |= {
        f"rule {i}": (counts[i], share) for i, share in enumerate(np.diff(place**0.2).tolist())
    }
    for name, (got, share) in shares.items():
        assert abs(got - share) < 4.5 * np.sqrt(share * (1 - share) / N) + 1e-9, name
    even = Rewrites(language, rules, Draws(), rows=N, seed=(1,)).instruction
    assert (np.bincount(even) == N // 50).all()


def test_rows_hang_on_the_seed_and_the_chunk_alone():
    language = Language(encrypted=True)
    rules = draw_rules(language, "free", 64, np.random.default_rng(5))
    writer = Writer("compact", language)

    def digest(seed, chunk, rows):
        stream = Rewrites(language, rules, Draws(no_ops=0.2), rows=rows, seed=(seed,))
        return hashlib.sha256(writer.encode(stream.chunk(chunk)).tokens.tobytes()).hexdigest()[:16]

    assert digest(7, 1, CHUNK + 9) == digest(7, 1, CHUNK + 9) != digest(8, 1, CHUNK + 9)
    assert digest(7, 0, 99) == "e88f35660bb91547"


def test_lengths_of_answers_may_differ_from_their_strings():
    language = Language(x=2, y=5, z=8, limit=3, rules=2)
    rules = draw_rules(language, "free", 30, np.random.default_rng(0))
    rows = Rewrites(language, rules, Draws(no_ops=0.2), rows=500, seed=(0,)).chunk(0)
    assert set(rows.length - 3 * rows.applied) == {8}
    assert (rows.replaced.sum(axis=1) >= 3 * (rows.applied > 0)).all()


@pytest.mark.parametrize(
    ("language", "mix", "draws", "message"),
    [
        ({}, "repeet:3", {}, "'repeet:3' is no family"),
        ({}, "repeat:2", {}, "divides the 3 letters of x; give one of 1, 3"),
        ({}, "repeat:1+repeat:3", {}, "names a family twice"),
        ({}, "repeat:3", {}, "has only 26 instructions"),
        ({"z": 2}, "free", {}, "z=2 of a language must be at least 3"),
        ({"letters": 99}, "free", {}, "there are 62"),
        ({}, "free", {"occurrences": (4,)}, "no room in a string of 10"),
        ({}, "free", {"occurrences": (0,)}, "at least 1"),
        ({}, "free", {"no_ops": 2}, "is a share"),
        ({}, "free", {"exponent": 0.0}, "must be above 0"),
        ({"x": 1, "letters": 2, "z": 60}, "free", {}, "has only 2 instructions"),
    ],
)
def test_what_cannot_be_made_is_refused(language, mix, draws, message):
    def make(language):
        rules = draw_rules(language, mix, 40, np.random.default_rng(0))
        Rewrites(language, rules, Draws(**draws), rows=9, seed=(0,)).chunk(0)

    with pytest.raises(UserError, match=message):
        make(Language(**language))


def test_an_unknown_form_is_refused():
    with pytest.raises(UserError, match="did you mean lines"):
        Writer("line", Language())
