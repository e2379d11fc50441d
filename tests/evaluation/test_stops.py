"""Words that end a text against a search of the text, written out."""

from hypothesis import given
from hypothesis import strategies as st

from zsg_jax.data.tokenize.tokenizer import ByteTokenizer, from_folder
from zsg_jax.evaluation.generation import Written
from zsg_jax.evaluation.stops import Stops, forms

PIECES = ["a", "b", "ab", ".", " .", "..", "\n", "\n\n", "b.", " "]
pieces = st.lists(st.sampled_from(range(len(PIECES))), max_size=12)


def decode(tokens):
    return "".join(PIECES[token] for token in tokens)


@given(pieces, pieces, st.lists(st.sampled_from([".", "\n", "ab", "\n\n", "b."]), max_size=2))
def test_a_text_ends_before_the_first_of_the_words(tokens, end, words):
    text, cut = Stops(tuple(words)).cut(Written(tokens, "length", end), decode)
    whole = decode([*tokens, *end])
    places = [whole.index(one) for one in words if one in whole]
    if not places:
        assert (text, cut.tokens, cut.ended) == (decode(tokens), tokens, "length")
        return
    assert (text, cut.ended) == (whole[: min(places)], "stop")
    n = len(cut.tokens)
    assert cut.tokens == [*tokens, *end][:n]
    assert decode(cut.tokens) == text[: len(decode(cut.tokens))]
    assert n == len([*tokens, *end]) or len(decode([*tokens, *end][: n + 1])) > len(text)


@given(pieces, st.integers(0, 12))
def test_none_ends_it_among_its_least_tokens(tokens, least):
    text, cut = Stops((".",), least).cut(Written(tokens, "length"), decode)
    behind = decode(tokens).find(".", len(decode(tokens[:least])))
    assert text == decode(tokens)[: behind if behind >= 0 else None]
    assert cut.ended == ("stop" if behind >= 0 else "length")


def test_a_stop_has_tokens_by_itself_and_behind_a_letter(assets):
    tokenizer = from_folder(assets / "models" / "stories260k")
    found = forms(".", tokenizer)
    assert len(found) == 2
    assert [tokenizer.decode([1, *form]).strip() for form in found] == [".", "."]


def test_a_special_token_that_is_spelled_is_that_one():
    tokenizer = ByteTokenizer()
    (bos, *_) = tokenizer.special_texts
    assert forms(bos, tokenizer) == [(tokenizer.bos_id,)]
    assert forms("a", tokenizer) == [tuple(tokenizer.encode(["a"])[0].ids.tolist())]
