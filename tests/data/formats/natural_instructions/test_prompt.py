import re

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from zsg_jax.data.formats.natural_instructions.options import Form
from zsg_jax.data.formats.natural_instructions.prompt import Parts, fit, parts
from zsg_jax.data.tokenize.tokenizer import ByteTokenizer, Encoding

TASK = {
    "Definition": ["Add the numbers", "second"],
    "Positive Examples": [
        {"input": "2 + 2", "output": "4", "explanation": " The sum. "},
        {"input": " 1 + 5 ", "output": "6\n"},
        {"input": "3 + 0", "output": "3", "explanation": "Nothing added."},
    ],
    "Negative Examples": [
        {"input": "1 + 1", "output": "3", "explanation": "One too many"},
        {"input": "1 + 2", "output": "12", "explanation": None},
    ],
}
INPUT = {"input": "3 + 4\n"}

DEFINITION = "Definition: Add the numbers.\n\n"
ONE = " Positive Example 1 -\nInput: 2 + 2\n Output: 4\n\n"
TWO = " Positive Example 2 -\nInput: 1 + 5\n Output: 6\n\n"
THREE = " Positive Example 3 -\nInput: 3 + 0\n Output: 3\n\n"
WRONG = " Negative Example 1 -\nInput: 1 + 1\n Output: 3\n\n"
WRONG_TWO = " Negative Example 2 -\nInput: 1 + 2\n Output: 12\n\n"
TAIL = "Now complete the following example -\nInput: 3 + 4\nOutput: "

# Written out by hand from the study's rules, a knob each.
BY_HAND = {
    "study": (
        Form(positive=2),
        "Definition: Add the numbers.\n"
        "\n"
        " Positive Example 1 -\n"
        "Input: 2 + 2\n"
        " Output: 4\n"
        "\n"
        " Positive Example 2 -\n"
        "Input: 1 + 5\n"
        " Output: 6\n"
        "\n"
        "Now complete the following example -\n"
        "Input: 3 + 4\n"
        "Output: ",
    ),
    "definition alone": (Form(), DEFINITION + TAIL),
    "nothing": (Form(definition=False), TAIL),
    "examples alone": (Form(definition=False, positive=1), ONE + TAIL),
    "more than there are": (Form(definition=False, positive=5), ONE + TWO + THREE + TAIL),
    "negative": (
        Form(positive=1, negative=2),
        DEFINITION + ONE + WRONG + WRONG_TWO + TAIL,
    ),
    "explanation, where there is one": (
        Form(positive=2, negative=2, explanation=True),
        DEFINITION
        + " Positive Example 1 -\nInput: 2 + 2\n Output: 4\n Explanation: The sum.\n\n"
        + TWO
        + " Negative Example 1 -\nInput: 1 + 1\n Output: 3\n Explanation: One too many\n\n"
        + WRONG_TWO
        + TAIL,
    ),
    "task name": (Form(task_name=True), "task1_adding. " + DEFINITION + TAIL),
}


@pytest.mark.parametrize("name", BY_HAND)
def test_the_prompt_is_the_one_written_by_hand(name):
    form, expected = BY_HAND[name]
    assert parts("task1_adding", TASK, INPUT, form).text == expected


def test_a_definition_is_closed_once():
    for definition in ("Really? ", ["Really?"], ["Really?", "no"]):
        prompt = parts(
            "t", {"Definition": definition}, {"input": "x"}, Form(positive=2, negative=2)
        )
        assert prompt.text == (
            "Definition: Really?\n\nNow complete the following example -\nInput: x\nOutput: "
        )


def test_what_would_pass_the_limit_is_left_out_and_then_cut():
    bytewise = ByteTokenizer().encode
    prompt = parts("t", TASK, INPUT, Form(positive=2))
    whole = len(DEFINITION + ONE + TWO + TAIL)
    assert fit([prompt], whole, bytewise)[0] == (DEFINITION + ONE + TWO + TAIL, 0, False)
    assert fit([prompt], whole - 1, bytewise)[0] == (DEFINITION + ONE + TAIL, 1, False)
    one = len(DEFINITION + ONE + TAIL)
    assert fit([prompt], one, bytewise)[0] == (DEFINITION + ONE + TAIL, 1, False)
    assert fit([prompt], one - 1, bytewise)[0] == (DEFINITION + TAIL, 2, False)
    none = len(DEFINITION + TAIL)
    assert fit([prompt], none - 1, bytewise)[0] == (DEFINITION + TAIL[:-1], 2, True)
    # A short negative example comes in where a long positive one did not.
    long = TASK | {"Positive Examples": [{"input": "2" * 500, "output": "4"}]}
    short = parts("t", long, INPUT, Form(positive=1, negative=1))
    assert fit([short], 300, bytewise)[0] == (DEFINITION + WRONG + TAIL, 1, False)


def words(texts):
    """Every word and every other character but a space is a token, and é is two."""
    encodings = []
    for text in texts:
        spans = [
            match.span()
            for match in re.finditer(r"[a-z]+|\S", text)
            for _ in range(1 + (match[0] == "é"))
        ]
        ids = np.zeros(len(spans), np.int32)
        encodings.append(Encoding(ids, np.asarray(spans, np.int64).reshape(-1, 2)))
    return encodings


def number_of_words(text):
    return len(re.findall(r"[a-z]+|\S", text)) + text.count("é")


PIECE = st.text("ab é.", min_size=1, max_size=12)
EXAMPLES = st.lists(PIECE, max_size=3).map(tuple)


@given(st.lists(st.builds(Parts, PIECE, EXAMPLES, EXAMPLES, PIECE), max_size=4), st.integers(1, 30))
def test_the_limit_is_kept_as_the_rule_says_it(prompts, limit):
    expected = []
    for head, positive, negative, tail in prompts:
        left = 0
        shown = [[], []]
        for side, examples in enumerate((positive, negative)):
            for number, example in enumerate(examples):
                before = head + "".join(shown[0]) + "".join(shown[1])
                if number_of_words(before + example + tail) > limit:
                    left += len(examples) - number
                    break
                shown[side].append(example)
        text = head + "".join(shown[0]) + "".join(shown[1]) + tail
        if number_of_words(head + "".join(positive) + "".join(negative) + tail) <= limit:
            # A word may end where an example is left out: what fits as a whole is shown whole.
            text, left = head + "".join(positive) + "".join(negative) + tail, 0
        expected.append((text, left, number_of_words(text) > limit))
    for prompt, (text, left, cut) in zip(fit(prompts, limit, words), expected, strict=True):
        assert (prompt.examples_left_out, prompt.cut) == (left, cut)
        if not cut:
            assert prompt.text == text
            continue
        # The tail goes, as little as will do, and no character is split.
        assert text.startswith(prompt.text)
        assert number_of_words(prompt.text) <= limit
        end = len(prompt.text)
        longer = text[: end + 1] + re.match(r"[a-z ]*", text[end + 1 :])[0]
        assert number_of_words(longer) > limit or longer[end:].isspace()


def test_bytes_are_cut_between_characters():
    for limit in range(1, 12):
        prompt = fit([Parts("", (), (), "aéb€c😀")], limit, ByteTokenizer().encode)[0]
        expected = b"a\xc3\xa9b\xe2\x82\xacc\xf0\x9f\x98\x80"[:limit].decode(errors="ignore")
        assert prompt == (expected, 0, limit < 12)


def test_what_is_no_unicode_is_left_to_the_check_of_rows():
    prompt = fit([Parts("", (), (), "a\ud800" * 9)], 3, ByteTokenizer().encode)[0]
    assert prompt == ("a\ud800" * 9, 0, False)
