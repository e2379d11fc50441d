import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from zsg_jax.data.instance import Instance, Turn
from zsg_jax.data.tokenize.encode import Form, encode, encode_prompts
from zsg_jax.data.tokenize.jinja import ChatTemplate
from zsg_jax.data.tokenize.tokenizer import ByteTokenizer
from zsg_jax.data.tokenize.truncation import holds_words

BYTES = ByteTokenizer()
TEMPLATE = ChatTemplate(
    "{{ bos_token }}{% for t in messages %}<{{ t.role[0] }}>{{ t.content }}"
    "{{ eos_token if t.role == 'assistant' }}\n{% endfor %}"
    "{% if add_generation_prompt %}<a>{% endif %}",
    "short.jinja",
    BYTES.special_tokens,
)
FORMS = {"study": None, "chat": TEMPLATE}


def instance(*contents, system=None):
    turns = [Turn(("user", "assistant")[n % 2], text) for n, text in enumerate(contents)]
    if system:
        turns.insert(0, Turn("system", system))
    return Instance("i", "t", tuple(turns), (contents[-1],))


def shown(tokens):
    """Bytes as text, bos as ^ and eos as $."""
    return "".join({256: "^", 257: "$"}.get(t, chr(t)) for t in tokens)


def cut(one, length, **form):
    ((tokens, mask),) = encode([one], BYTES, length, form=Form(**form))
    return shown(tokens), shown(tokens[mask])


TWO = instance("abcdefgh", "first", "ABCDEFGH", "second", system="system")


def test_an_answer_is_cut_to_its_own_limit_and_an_earlier_one_keeps_its_end():
    text, learned = cut(TWO, 999, max_answer=3)
    assert text.endswith("Assistant: fir$\nUser: ABCDEFGH\nAssistant: sec")
    assert learned == "firsec"
    text, learned = cut(TWO, 999, max_answer=3, answers="last")
    assert text.endswith("Assistant: first$\nUser: ABCDEFGH\nAssistant: sec")
    assert learned == "sec"
    # Nothing follows an answer that breaks off, though the template goes on after one.
    text, _ = cut(TWO, 999, template=TEMPLATE, max_answer=3)
    assert text == "^<s>system\n<u>abcdefgh\n<a>fir$\n<u>ABCDEFGH\n<a>sec"
    assert cut(TWO, 999, max_answer=6)[1] == "first$second"
    assert cut(TWO, 999, max_answer=7) == cut(TWO, 999)


@pytest.mark.parametrize("template", [None, TEMPLATE])
@pytest.mark.parametrize("truncation", ["tail", "head", "middle"])
def test_a_row_of_which_nothing_is_learned_is_cut_too(template, truncation):
    turns = (Turn("user", "abc"), Turn("assistant", "d", learned=False))
    one = Instance("i", "t", turns, ("d",))
    text, learned = cut(one, 999, template=template)
    assert text.count("abc") == text.count("d$") == 1
    assert learned == ""
    short, learned = cut(one, 5, template=template, truncation=truncation)
    assert len(short) == 5
    assert learned == ""


WHOLE = "^<s>system\n<u>abcdefgh\n<a>first$\n<u>ABCDEFGH\n<a>second$\n"


@pytest.mark.parametrize(
    ("answers", "less", "text"),
    [
        ("all", 0, WHOLE),
        # What stands after the last answer goes first, then the oldest prompt.
        ("all", 1, "^<s>system\n<u>abcdefgh\n<a>first$\n<u>ABCDEFGH\n<a>second$"),
        ("all", 4, "^<s>system\n<u>defgh\n<a>first$\n<u>ABCDEFGH\n<a>second$"),
        ("all", 11, "^<s>stem\n<u>\n<a>first$\n<u>ABCDEFGH\n<a>second$"),
        ("all", 17, "^<s>\n<u>\n<a>first$\n<u>CDEFGH\n<a>second$"),
        ("all", 23, "^<s>\n<u>\n<a>first$\n<u>\n<a>second$"),
        ("all", 25, "^<s>\n<u>\n<a>first$\n<u>\n<a>secon"),
        # An earlier answer that is not learned is prompt.
        ("last", 12, "^<s>system\n<u>\n<a>st$\n<u>ABCDEFGH\n<a>second$"),
    ],
)
def test_older_prompts_go_first_and_the_form_stays(answers, less, text):
    length = len(WHOLE) - less
    found, learned = cut(TWO, length, template=TEMPLATE, truncation="head", answers=answers)
    assert found == text
    first = "first$" if answers == "all" else ""
    assert learned == first + text[text.rindex("<a>") :].removeprefix("<a>").strip()


def test_white_space_of_a_turn_is_its_own_unless_the_template_trims_it():
    spaced = instance("  abc  ", "yes")
    text = "^<u>  \n<a>yes$"
    assert cut(spaced, len(text), template=TEMPLATE, truncation="head") == (text, "yes$")
    trimming = ChatTemplate(
        "<{% for t in messages %} {{ t.content | trim }}{{ eos_token }} {% endfor %}",
        "trimming.jinja",
        BYTES.special_tokens,
    )
    # The spaces around the words are the template's, though they look like the turn's.
    text = "< c$  yes$"
    assert cut(spaced, len(text), template=trimming, truncation="head") == (text, " yes$")


CONTENTS = st.lists(
    st.text("abc é", min_size=1, max_size=9).filter(str.strip), min_size=1, max_size=3
).map(lambda texts: [part for text in texts for part in (text, text[::-1])])


@pytest.mark.parametrize("name", FORMS)
@given(
    contents=CONTENTS,
    system=st.none() | st.just("be so"),
    length=st.integers(1, 120),
    truncation=st.sampled_from(["tail", "head", "middle"]),
    answers=st.sampled_from(["all", "last"]),
    max_answer=st.none() | st.integers(1, 12),
)
def test_what_a_cut_keeps_and_counts(
    name, contents, system, length, truncation, answers, max_answer
):
    one = instance(*contents, system=system)
    form = Form(FORMS[name], answers, truncation, max_answer)
    whole = encode([one], BYTES, 9999, form=form._replace(max_answer=None))
    made = encode([one], BYTES, length, form=form)
    tokens, mask = made[0]
    full, full_mask = whole[0]
    assert len(tokens) <= length
    # Every learned token is counted: it still is learned, or it was cut.
    assert made.answer_tokens[0] + made.answer_cut[0] == full_mask.sum()
    kept_unlearned = len(tokens) - mask.sum()
    prompt_cut = int(made.cut[0] - made.answer_cut[0])
    closings = kept_unlearned - ((~full_mask).sum() - prompt_cut)
    # Kept without loss are only closings of earlier answers that were cut to their limit.
    assert 0 <= closings <= (0 if max_answer is None else len(contents) // 2 - 1)
    if max_answer is None and len(full) <= length:
        np.testing.assert_array_equal(tokens, full)
        np.testing.assert_array_equal(mask, full_mask)
    # What is left is a subsequence, and learned tokens are the beginning of each answer.
    rest = iter(full.tolist())
    assert all(token in rest for token in tokens.tolist())
    # The study's form strips turns; the template leaves them as they are.
    own = str.strip if name == "study" else str
    wanted = [[*own(answer).encode(), 257] for answer in contents[1::2]]
    learned = "".join(chr(t) if m else "\n" for t, m in zip(tokens, mask, strict=True)).split("\n")
    for run in filter(None, learned):
        while wanted and "".join(map(chr, wanted[0]))[: len(run)] != run:
            wanted.pop(0)
        assert wanted
        wanted.pop(0)
    if truncation == "tail" and max_answer is None:
        np.testing.assert_array_equal(tokens, full[:length])
    if truncation != "tail" and max_answer is None and made.answer_cut[0]:
        # Words of prompts that are not learned have all gone before an answer is touched.
        form_only = len(full) - sum(
            len(turn.content.strip().encode())
            for number, turn in enumerate(one.turns)
            if turn.role != "assistant" or (answers == "last" and number < len(one.turns) - 1)
        )
        assert form_only > length
    # A generation prompt is cut as the prompt of training, to leave as much room for an answer.
    asked = length
    if truncation != "tail" and len(tokens) < len(full):
        asked -= len(own(contents[-1]).encode()) + 1
    asked_for = encode_prompts([one], BYTES, form, max_length=asked)
    prompt = asked_for.ids[0]
    if asked_for.cut[0] and asked > 0:
        assert len(prompt) == asked
    if not made.answer_cut[0] or (truncation == "tail" and not asked_for.cut[0]):
        np.testing.assert_array_equal(prompt[: len(tokens)], tokens[: len(prompt)])
        # After it comes the answer at once, and what the template writes behind that.
        assert (np.diff(mask[len(prompt) :].astype(int)) <= 0).all()


@given(contents=CONTENTS, over=st.integers(0, 30))
def test_a_prompt_cut_at_the_tail_still_asks_for_an_answer(contents, over):
    one = instance(*contents)
    (whole,), _ = encode_prompts([one], BYTES)
    (cut,), counts = encode_prompts([one], BYTES, max_length=max(1, len(whole) - over))
    assert counts.tolist() == [len(whole) - len(cut)]
    if len(contents[-2].strip().encode()) > over:
        end = len(whole) - len(b"\nAssistant: ")
        assert cut.tolist() == [*whole[: end - over], *whole[end:]]


def naive_words(contents, over, truncation):
    """Cuts `over` characters out of the contents, one after another."""
    left = []
    for text in contents:
        gone = min(over, len(text))
        over -= gone
        if truncation == "head":
            left.append(text[gone:])
        else:
            front = -(-(len(text) - gone) // 2)
            left.append(text[:front] + text[front + gone :])
    return left, over


@given(
    prompts=st.lists(st.text("xyz", min_size=1, max_size=8), min_size=1, max_size=3),
    over=st.integers(0, 30),
    truncation=st.sampled_from(["head", "middle"]),
)
def test_words_are_cut_as_a_loop_over_the_turns_would(prompts, over, truncation):
    contents = [part for text in prompts for part in (text, "answer")]
    full = len(encode([instance(*contents)], BYTES, 9999)[0][0])
    left, beyond = naive_words(prompts, over, truncation)
    wanted = "^" + "\n".join(f"User: {text}\nAssistant: answer$" for text in left)
    wanted = wanted[: len(wanted) - beyond]
    assert cut(instance(*contents), full - over, truncation=truncation)[0] == wanted


def test_words_may_take_the_space_before_them_and_nothing_else_of_the_form():
    #  "as:  no way.\nX": the words are "no way.", characters 5 to 12, after two spaces.
    spans = np.array(
        [[0, 3], [3, 4], [4, 7], [7, 11], [11, 12], [11, 13], [3, 7], [12, 13], [2, 6]]
    )
    found = holds_words(spans, 5, 12, lead=2)
    #  "as:"  " "    " no"  " way"  "."   ".\n"  "  no"  "\n"   ":  n"
    assert found.tolist() == [False, False, True, True, True, False, True, False, False]
