"""The study's form, written down anew with the tokenizers library alone."""

import dataclasses

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from zsg_jax.data.tokenize.encode import Form, encode, encode_choices, encode_prompts
from zsg_jax.data.tokenize.tokenizer import ByteTokenizer, from_folder
from zsg_jax.data.tokenize.truncation import TRUNCATIONS

BYTES = ByteTokenizer()
CONTENTS = st.lists(
    st.text("ab 7é\nyes", min_size=1, max_size=9).filter(str.strip), min_size=1, max_size=3
).map(lambda texts: [part for text in texts for part in (text, text[::-1])])


def naive(plain, bos, eos, contents, join):
    """Ids and loss mask: pieces by themselves, or each prompt with its answer."""
    ids, learned = [bos], [False]
    for number in range(0, len(contents), 2):
        ask, answer = contents[number].strip(), contents[number + 1].strip()
        pieces = ["\n" * (number > 0) + f"User: {ask}", "\nAssistant: ", answer]
        if join:
            whole, head = plain("".join(pieces)), plain("".join(pieces[:2]).removesuffix(" "))
            # No token here joins the colon with the blank behind it.
            assert whole[: len(head)] == head
            pieces = [head, whole[len(head) :]]
        else:
            pieces = [plain(piece) for piece in pieces]
        ids += [*(one for piece in pieces for one in piece), eos]
        learned += [False] * sum(map(len, pieces[:-1])) + [True] * (len(pieces[-1]) + 1)
    return ids, learned


@pytest.mark.parametrize("join", [False, True])
@pytest.mark.parametrize("name", ["bytes", "digits", "mistral", "prepend"])
@settings(max_examples=12)
@given(contents=CONTENTS)
def test_ids_and_loss_are_the_studys(styles, name, contents, join):
    if name == "bytes":
        wanted = naive(lambda text: list(text.encode()), 256, 257, contents, join=False)
    else:
        inner = styles.inner(name)
        wanted = naive(
            lambda text: inner.encode(text, add_special_tokens=False).ids, 0, 1, contents, join
        )
    one = styles.instance(*contents)
    ((ids, mask),) = encode([one], styles.tokenizer(name), 999, form=Form(join=join))
    assert (ids.tolist(), mask.tolist()) == wanted


def test_turns_are_stripped_and_counted(styles):
    examples = encode(
        [styles.instance("Is it so? \n", "\nyes"), styles.instance("a", "b")], BYTES, 99
    )
    assert bytes(examples[0][0][1:-1].tolist()) == b"User: Is it so?\nAssistant: yes"
    assert examples.stripped.tolist() == [1, 0]
    assert examples.select(np.asarray([1])).stripped.tolist() == [0]


def test_prompts_of_a_real_tokenizer_are_the_studys(styles, assets):
    tokenizer = from_folder(assets / "models" / "stories260k")
    pieces = tokenizer.encode(["User: Who?", "\nAssistant: "])
    wanted = [tokenizer.bos_id, *pieces[0].ids.tolist(), *pieces[1].ids.tolist()]
    assert encode_prompts([styles.instance(" Who?", "I")], tokenizer).ids[0].tolist() == wanted


def test_the_tail_is_cut_and_counted(styles):
    both = [styles.instance("question", "answer"), styles.instance("q", "a")]
    whole, cut = encode(both, BYTES, 999), encode(both, BYTES, 27)
    assert cut.cut.tolist() == [whole.lengths[0] - 27, 0]
    assert (cut[0][0] == whole[0][0][:27]).all()
    assert cut.answer_tokens[0] == 0 < cut.answer_tokens[1]
    assert len(encode([], BYTES, 9)) == 0


CHOICES = st.lists(
    st.text("ab 7\nyes", min_size=1, max_size=9).filter(str.strip), min_size=1, max_size=3
)


@pytest.mark.parametrize("style", [None, "qwen", "llama2"])
@settings(max_examples=8)
@given(CONTENTS, CHOICES, st.sampled_from(TRUNCATIONS), st.sampled_from([30, 55, 999]))
def test_a_choice_has_the_ids_of_the_example_it_is_the_answer_of(
    styles, style, contents, choices, truncation, limit
):
    tokenizer = BYTES if style is None else styles.tokenizer(style)
    form = Form(None if style is None else styles.template(style), truncation=truncation)
    one = dataclasses.replace(styles.instance(*contents), choices=tuple(choices))
    (found,) = encode_choices([one], tokenizer, limit, form)
    for choice, text in zip(choices, found, strict=True):
        answered = styles.instance(*contents[:-1], choice)
        ((ids, mask),) = encode([answered], tokenizer, limit, form=form)
        assert text.ids.tolist() == ids.tolist()
        # Of the answers, only the last one is scored, and all of it where it is whole.
        assert text.scored.tolist() == (mask & (np.arange(len(ids)) >= text.prompt)).tolist()
        last = form._replace(answers="last", truncation="tail")
        ((_, learned),) = encode([answered], tokenizer, 999, form=last)
        assert text.whole == (text.scored.sum() == learned.sum())
        if limit == 999:
            prompt = encode_prompts([answered], tokenizer, form).ids[0]
            assert ids[: text.prompt].tolist() == prompt.tolist()


def test_every_form_has_an_empty_prompt(styles):
    for name in styles.STYLES:
        form = Form(None if name == "study" else styles.template(name))
        one = dataclasses.replace(styles.instance("", "yes"), choices=("yes", "so be it"))
        ((yes, other),) = encode_choices([one], styles.tokenizer(name), 99, form)
        asked = dataclasses.replace(one, turns=styles.instance("?", "yes").turns)
        ((longer, _),) = encode_choices([asked], styles.tokenizer(name), 99, form)
        assert yes.ids[: yes.prompt].tolist() == other.ids[: other.prompt].tolist()
        assert yes.ids[yes.scored].tolist() == longer.ids[longer.scored].tolist()
        assert 0 < yes.prompt < longer.prompt
