import itertools
import re

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from zsg_jax.data.instance import Instance, Turn
from zsg_jax.data.tokenize.chat import tokenized
from zsg_jax.data.tokenize.encode import Form, encode, prompt_tokens
from zsg_jax.data.tokenize.jinja import ChatTemplate
from zsg_jax.data.tokenize.tokenizer import ByteTokenizer, train_bpe
from zsg_jax.data.tokenize.truncation import Unfit
from zsg_jax.runtime.errors import UserError

pytestmark = pytest.mark.references

STYLES = ("llama2", "llama3", "qwen", "mistral", "gemma")
WITH_SYSTEM = ("llama2", "llama3", "qwen")
TALK = [
    ("user", "Who wrote it?"),
    ("assistant", "Nobody."),
    ("user", " And why? "),
    ("assistant", "é 42"),
]
RESERVED = "\ufdd0\ufdd1\ufdd2\ufdd3\ufdd4"
# Words, white space, code that templates could take for their own, and special tokens spelled out.
WORDS = st.lists(
    st.one_of(
        st.text(st.characters(codec="utf-8", exclude_characters=RESERVED), max_size=6),
        st.sampled_from(
            "hello |user|assistant|\n|\n\n|{{ x }}|[INST]| [/INST]|</s>|<s>|<bos>|▁|"
            "<end_of_turn>|<#im_end#>|<#eot_id#>".replace("|", "\0")
            .replace("#", "|")
            .split("\0")
        ),
    ),
    min_size=1,
    max_size=5,
).map("".join)
CONTENT = WORDS.filter(lambda text: text.strip())


def instance(turns):
    made = tuple(Turn(role, content) for role, content in turns)
    return Instance("i", "t", made, (made[-1].content,))


def template(styles, style, marked=False):
    special = styles.tokenizer(style).special_tokens
    return ChatTemplate(styles.source(style, marked), f"{style}.jinja", special)


def row_of(styles, style, turns, marked=False, answers="all"):
    made = template(styles, style, marked)
    (row,) = tokenized([instance(turns)], styles.tokenizer(style), made, answers)
    return row


def runs(styles, style, row):
    """Decodes each run of tokens with and without loss."""
    learned = row.answer >= 0
    borders = [0, *(np.flatnonzero(np.diff(row.answer)) + 1).tolist(), len(learned)]
    decode = styles.inner(style).decode
    return [
        (decode(row.ids[a:b].tolist(), skip_special_tokens=False), bool(learned[a]))
        for a, b in itertools.pairwise(borders)
    ]


def joined(pieces):
    """Neighbouring pieces of the form as one."""
    out = []
    for text, learned in pieces:
        if out and not learned and not out[-1][1]:
            text = out.pop()[0] + text
        out.append((text, learned))
    return out


def plain(style, text):
    # "▁" stands for a space in these tokenizers, and one may be put before a text's first word.
    return text if style in ("llama3", "qwen") else text.replace("▁", " ").strip(" ")


def check_runs(styles, style, row, turns):
    found = runs(styles, style, row)
    wanted = joined(styles.expected(style, turns))
    assert [(plain(style, text), learned) for text, learned in found] == [
        (plain(style, text), learned) for text, learned in wanted
    ]


@pytest.mark.parametrize("marked", [False, True])
@pytest.mark.parametrize("style", STYLES)
def test_masks_of_five_styles_select_what_was_written_out_by_hand(styles, style, marked):
    row = row_of(styles, style, TALK, marked)
    check_runs(styles, style, row, TALK)
    if style in WITH_SYSTEM:
        turns = [("system", "Be kind."), *TALK]
        check_runs(styles, style, row_of(styles, style, turns, marked), turns)


@pytest.mark.parametrize("style", STYLES)
def test_special_tokens_are_single_ids_and_bos_stands_once(styles, style):
    row = row_of(styles, style, TALK[:2])
    text = "".join(piece.text for piece in styles.expected(style, TALK[:2]))
    for special in styles.SPECIAL[style]:
        token = styles.inner(style).token_to_id(special)
        assert (row.ids == token).sum() == text.count(special)
    bos = styles.BOS[style]
    if bos is not None:
        first = styles.inner(style).token_to_id(styles.SPECIAL[style][bos])
        assert row.ids[0] == first
        assert (row.ids == first).sum() == 1


@pytest.mark.parametrize("style", STYLES)
@settings(max_examples=60, deadline=None)
@given(
    contents=st.lists(st.tuples(CONTENT, CONTENT), min_size=1, max_size=3),
    system=st.none() | CONTENT,
    marked=st.booleans(),
)
def test_masks_of_random_talks_select_exactly_the_answers(styles, style, contents, system, marked):
    turns = [turn for u, a in contents for turn in (("user", u), ("assistant", a))]
    if system is not None and style in WITH_SYSTEM:
        turns.insert(0, ("system", system))
    if isinstance(found := row_of(styles, style, turns), Unfit):
        # The one style here that takes contents as they are, line breaks at the front included.
        assert "a token joins the end of its prompt with the answer" in str(found)
        assert style == "qwen"
        assert any(answer != answer.lstrip() for _, answer in contents)
        return
    row = row_of(styles, style, turns, marked)
    check_runs(styles, style, row, turns)
    # What is spelled in a turn is text: as many special ids as the form writes by itself.
    form = styles.expected(style, [(role, "x") for role, _ in turns])
    for special in styles.SPECIAL[style]:
        token = styles.inner(style).token_to_id(special)
        assert (row.ids == token).sum() == "".join(one.text for one in form).count(special)


@pytest.mark.parametrize("marked", [False, True])
@pytest.mark.parametrize("style", STYLES)
@given(contents=st.lists(st.sampled_from(["Hello you", "12 + 30", "x\n\ny", " é\n"]), min_size=1))
@settings(max_examples=10, deadline=None)
def test_ids_and_masks_are_those_of_transformers(styles, style, marked, contents):
    transformers = pytest.importorskip("transformers")
    names = styles.tokenizer(style).special_tokens
    theirs = transformers.PreTrainedTokenizerFast(
        tokenizer_object=styles.inner(style), chat_template=styles.source(style, marked), **names
    )
    turns = [turn for text in contents for turn in (("user", text), ("assistant", f"So {text}"))]
    messages = [{"role": role, "content": content} for role, content in turns]
    made = theirs.apply_chat_template(
        messages, tokenize=True, return_dict=True, return_assistant_tokens_mask=marked
    )
    row = row_of(styles, style, turns, marked)
    assert row.ids.tolist() == made["input_ids"]
    if marked:
        assert (row.answer >= 0).tolist() == [bool(x) for x in made["assistant_masks"]]
    asked = theirs.apply_chat_template(messages[:-1], add_generation_prompt=True, return_dict=False)
    ours = prompt_tokens(
        instance(turns), styles.tokenizer(style), Form(template(styles, style, marked))
    )
    assert ours.tolist() == asked


@pytest.mark.parametrize("marked", [False, True])
@pytest.mark.parametrize("style", STYLES)
def test_the_last_answer_alone(styles, style, marked):
    whole = row_of(styles, style, TALK, marked)
    last = row_of(styles, style, TALK, marked, answers="last")
    np.testing.assert_array_equal(last.ids, whole.ids)
    np.testing.assert_array_equal(last.answer >= 0, whole.answer == 1)


def test_a_template_that_says_no_is_quoted(styles):
    turns = [("system", "Be kind."), *TALK]
    assert str(row_of(styles, "gemma", turns)) == "it says: a system turn is not supported"
    form = Form(template(styles, "gemma"))
    examples = encode([instance(turns), instance(TALK)], styles.tokenizer("gemma"), 99, form=form)
    assert examples.refused == {0: "it says: a system turn is not supported"}
    assert examples.answer_tokens.tolist()[0] == 0 < examples.answer_tokens.tolist()[1]
    assert examples.select(np.asarray([1, 0])).refused == {1: examples.refused[0]}
    with pytest.raises(UserError, match="row 'i': the chat template does not fit: it says"):
        prompt_tokens(instance(turns), styles.tokenizer("gemma"), form)
    twice = [("user", "a"), ("user", "b"), ("assistant", "c")]
    assert "must alternate" in str(row_of(styles, "mistral", twice))
    assert "must alternate" in str(row_of(styles, "llama2", twice))


def test_a_system_turn_that_moves_leaves_only_the_last_answer_sure(styles):
    turns = [("system", "Be kind."), *TALK]
    assert "otherwise once more turns follow" in str(row_of(styles, "mistral", turns))
    check_runs(styles, "mistral", row_of(styles, "mistral", turns[:3]), turns[:3])
    last = row_of(styles, "mistral", turns, answers="last")
    assert (
        runs(styles, "mistral", last)[-1] == ("é 42</s>", True)
        or plain("mistral", runs(styles, "mistral", last)[-1][0]) == "é 42</s>"
    )


CHATML = """\
{%- for turn in messages -%}
<|{{ turn.role }}|>{{ CONTENT }}{{ eos_token }}
{% endfor -%}
{%- if add_generation_prompt -%}<|assistant|>{%- endif -%}"""


def bytes_row(source, turns=TALK, answers="all", tokenizer=None):
    tokenizer = tokenizer or ByteTokenizer()
    made = ChatTemplate(source, "mine.jinja", tokenizer.special_tokens)
    (row,) = tokenized([instance(turns)], tokenizer, made, answers)
    return row


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        # Thinking is taken out of earlier answers only.
        (
            ("CONTENT", "turn.content if loop.last else turn.content | replace('Nobody', '')"),
            "otherwise once more turns follow",
        ),
        (("CONTENT", "turn.content | upper"), "it writes 'NOBODY.<|eos|>', of which nobody says"),
        (("CONTENT", "turn.content ~ strftime_now('%Y')"), "asks for today's date"),
        (("CONTENT", "turn.contents.x"), "it fails: 'dict object' has no attribute"),
        (("CONTENT", "turn.content + 1"), "it fails: TypeError"),
        (("CONTENT", "turn.content | random"), "it fails|No filter named"),
        (("{{ eos_token }}", ""), "no token to stop at"),
        (("add_generation_prompt", "false"), r"it writes '<\|assistant\|>Nobody"),
        (("%}<|assistant|>{%", "%}<|bot|>{%"), "is not how the text with that answer begins"),
        (("{{ CONTENT", "{{ turn.content.__class__.__mro__ }}{{ CONTENT"), "it fails: access to"),
    ],
)
def test_what_leaves_the_mask_in_doubt_is_refused(change, reason):
    source = CHATML.replace(*change).replace("CONTENT", "turn.content")
    assert source != CHATML.replace("CONTENT", "turn.content")
    try:
        row = bytes_row(source)
    except UserError as error:
        row = error
    else:
        assert isinstance(row, Unfit)
    assert re.search(reason, str(row)), row
    assert "\n" not in str(row)


def test_a_token_that_joins_prompt_and_answer_is_refused():
    source = "{% for t in messages %}{{ t.role }}>{{ t.content }}{{ eos_token }}{% endfor %}"
    source += "{% if add_generation_prompt %}assistant>{% endif %}"
    joining = train_bpe(["assistant>> assistant>>"] * 9, 300)
    assert not isinstance(bytes_row(source, tokenizer=joining), Unfit)
    row = bytes_row(source, [("user", "a"), ("assistant", "> b")], tokenizer=joining)
    assert "a token joins the end of its prompt with the answer" in str(row)
    # Nothing is joined where every byte is a token.
    assert not isinstance(bytes_row(source, [("user", "a"), ("assistant", "> b")]), Unfit)


def test_a_token_that_joins_an_answers_end_with_the_next_turn_is_refused():
    source = "{% for t in messages %}>{{ t.content }}#{% endfor %}"
    source += "{% if add_generation_prompt %}>{% endif %}"
    joining = train_bpe(["#> #>"] * 9, 300)
    reason = "a token joins the end of an answer with what follows"
    assert reason in str(bytes_row(source, tokenizer=joining))
    assert not isinstance(bytes_row(source, TALK[:2], tokenizer=joining), Unfit)
    assert not isinstance(bytes_row(source), Unfit)


def test_blocks_that_do_not_pair_with_answers():
    source = (
        "{% for t in messages %}{% if t.role == 'user' %}{{ t.content }}{% else %}"
        "{% generation %}A{% endgeneration %}, {% generation %}{{ t.content }}{{ eos_token }}"
        "{% endgeneration %}{% endif %}{% endfor %}"
    )
    row = bytes_row(source)
    learned = ByteTokenizer().decode(row.ids[row.answer >= 0].tolist())
    assert learned == "ANobody.Aé 42"
    assert "4 {% generation %} blocks for 2 answers" in str(bytes_row(source, answers="last"))
    empty = "{% for t in messages %}{{ t.content }}{% generation %}{% endgeneration %}{% endfor %}"
    assert "hold nothing of this row" in str(bytes_row(empty))


def test_characters_that_the_program_needs_are_refused():
    assert "U+FDD0" in str(bytes_row(CHATML, [("user", "a\ufdd2"), ("assistant", "b")]))


def test_special_tokens_in_turns_are_refused_where_they_cannot_be_told_from_the_forms():
    source = CHATML.replace("CONTENT", "turn.content if turn.content[0] == 'a' else '<|eos|>'")
    turns = [("user", "a<|eos|>"), ("assistant", "a b")]
    assert "spells the special token '<|eos|>'" in str(bytes_row(source, turns))
    kept = bytes_row(CHATML.replace("CONTENT", "turn.content"), turns)
    assert (kept.ids == ByteTokenizer.eos_id).sum() == 2
