import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from zsg_jax.data.instance import Instance, Turn
from zsg_jax.data.tokenize.encode import encode
from zsg_jax.data.tokenize.tokenizer import ByteTokenizer, train_bpe
from zsg_jax.data.tokenize.user_assistant import exchanges

BYTES = ByteTokenizer()
# Merges the space before a word with it, so that prompt and answer share tokens' borders.
BPE = train_bpe(["User: hello there\nAssistant: hello you there"] * 9, 320)


def instance(*contents, system=None):
    roles = ["user", "assistant"] * len(contents)
    turns = [Turn(role, text) for role, text in zip(roles, contents, strict=False)]
    if system:
        turns.insert(0, Turn("system", system))
    return Instance("i", "t", tuple(turns), (contents[-1],))


def test_the_form_is_the_studys():
    (row,) = encode([instance("Hi?", "Yo", "And?", "So")], BYTES, 999)
    bos, eos = BYTES.bos_id, BYTES.eos_id
    first, second = b"User: Hi?\nAssistant: Yo", b"\nUser: And?\nAssistant: So"
    assert row[0].tolist() == [bos, *first, eos, *second, eos]
    learned = row[0][row[1]].tolist()
    assert learned == [*b"Yo", eos, *b"So", eos]


def test_a_system_turn_comes_first_and_once():
    one, two = exchanges(instance("a", "b", "c", "d", system="S"))
    assert one.text == "System: S\nUser: a\nAssistant: b"
    assert two.text == "\nUser: c\nAssistant: d"


@pytest.mark.parametrize("tokenizer", [BYTES, BPE], ids=["bytes", "bpe"])
@given(
    contents=st.lists(
        st.text(min_size=1, max_size=12).filter(lambda text: text.strip()), min_size=1, max_size=3
    ).map(lambda some: [part for text in some for part in (text, text[::-1])])
)
def test_the_mask_selects_exactly_the_answers(tokenizer, contents):
    examples = encode([instance(*contents)], tokenizer, 10_000)
    tokens, mask = examples[0]
    assert not mask[0]
    ends = np.flatnonzero(mask & (tokens == tokenizer.eos_id))
    assert len(ends) == len(contents) // 2
    start = 0
    for end, answer in zip(ends, contents[1::2], strict=True):
        part = slice(start, end)
        text = tokenizer.decode(tokens[part][mask[part]].tolist())
        # A token may join the space before the answer with it; nothing else may come along.
        assert text in (answer, " " + answer)
        start = end + 1
    assert examples.answer_tokens[0] == mask.sum()


def test_the_tail_is_cut_and_counted():
    rows = [instance("question", "answer"), instance("q", "a")]
    whole, cut = encode(rows, BYTES, 999), encode(rows, BYTES, 27)
    full = whole.lengths[0]
    assert cut.cut.tolist() == [full - 27, 0]
    assert (cut[0][0] == whole[0][0][:27]).all()
    assert cut.answer_tokens[0] == 0 < cut.answer_tokens[1]
    chosen = cut.select(np.asarray([1]))
    assert len(chosen) == 1
    assert (chosen[0][0] == cut[1][0]).all()
    assert len(encode([], BYTES, 9)) == 0
