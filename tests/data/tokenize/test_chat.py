"""Conversations as tokens, in the study's form and five chat styles: prompts, answers, doubts."""

import functools
import itertools
import re

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from zsg_jax.data.instance import Turn
from zsg_jax.data.tokenize.chat import tokenized, tokenized_whole
from zsg_jax.data.tokenize.encode import Form, encode, encode_prompts
from zsg_jax.data.tokenize.jinja import ChatTemplate
from zsg_jax.data.tokenize.tokenizer import ByteTokenizer, train_bpe
from zsg_jax.data.tokenize.truncation import Unfit
from zsg_jax.runtime.errors import UserError

pytestmark = pytest.mark.references

CHAT = ("llama2", "llama3", "qwen", "mistral", "gemma")
# Styles, and tokenizers for the study's form, each with its pieces apart and joined.
CASES = [(style, style, False) for style in CHAT] + [("study", "bytes", False)]
CASES += itertools.product(["study"], ["digits", "mistral", "prepend"], [False, True])
TALK = ("Who wrote it?", "Nobody.", " And why? ", "é 42")
RESERVED = "\ufdd0\ufdd1\ufdd2\ufdd3\ufdd4"
SPELLED = ["hello ", "user", "assistant", "\n", "\n\n", "{{ x }}", "[INST]", " [/INST]", "</s>"]
SPELLED += ["<s>", "<bos>", "▁", "<end_of_turn>", "<|im_end|>", "<|eot_id|>", "7", "yes"]
# Words, white space, code that templates could take for their own, and special tokens spelled out.
CONTENT = (
    st.lists(
        st.text(st.characters(codec="utf-8", exclude_characters=RESERVED), max_size=6)
        | st.sampled_from(SPELLED),
        min_size=1,
        max_size=5,
    )
    .map("".join)
    .filter(str.strip)
)


def form_of(styles, style, marked=False, answers="all", join=False):
    template = None if style == "study" else styles.template(style, marked)
    return Form(template, answers, join=join)


def merged(pieces):
    """Neighbouring (text, learned) pieces as one."""
    grouped = itertools.groupby(pieces, lambda piece: piece[1])
    return [("".join(text for text, _ in group), learned) for learned, group in grouped]


def check_runs(styles, style, name, ids, mask, turns, answers, join):
    """Compares tokens and mask of a conversation with what is written out by hand."""
    wanted = styles.expected(style, turns)
    if join:
        # The blank before an answer is learned with it.
        wanted = [(" " + t if learned else t.removesuffix(" "), learned) for t, learned in wanted]
    if answers == "last":
        last = max(number for number, (_, learned) in enumerate(wanted) if learned)
        wanted = [(text, number == last) for number, (text, _) in enumerate(wanted)]
    borders = [0, *(np.flatnonzero(np.diff(mask)) + 1).tolist(), len(ids)]
    found = [
        (styles.shown(name, ids[a:b].tolist()), bool(mask[a]))
        for a, b in itertools.pairwise(borders)
    ]
    assert found == [(styles.plain(name, text), learned) for text, learned in merged(wanted)]
    # Each special token is one id, and one that a turn spells is text.
    form = styles.expected(style, [(turn.role, "x") for turn in turns])
    written = "".join(text for text, _ in form)
    for text, token in styles.special_ids(style, name).items():
        assert (ids == token).sum() == written.count(text)


@pytest.mark.parametrize(("style", "name", "join"), CASES)
@settings(max_examples=10)
@given(
    contents=st.lists(CONTENT, min_size=1, max_size=3),
    system=st.none() | CONTENT,
    marked=st.booleans(),
    answers=st.sampled_from(["all", "last"]),
)
def test_answers_alone_are_learned_and_training_begins_as_a_prompt_does(
    styles, style, name, join, contents, system, marked, answers
):
    contents = [text for content in contents for text in (content[::-1], content)]
    if style == "gemma" or (style == "mistral" and answers == "all" and len(contents) > 2):
        system = None
    tokenizer, form = styles.tokenizer(name), form_of(styles, style, marked, answers, join)
    one = styles.instance(*contents, system=system)
    examples = encode([one], tokenizer, 9999, form=form)
    assert not examples.refused
    ids, mask = examples[0]
    check_runs(styles, style, name, ids, mask, one.turns, answers, join)
    for count in range(1 if answers == "all" else len(contents) - 1, len(contents), 2):
        asked = styles.instance(*contents[:count], "another answer", system=system)
        prompt = encode_prompts([asked], tokenizer, form).ids[0]
        assert ids[: len(prompt)].tolist() == prompt.tolist()
        assert mask[len(prompt)]
        assert not mask[len(prompt) - 1]


@pytest.mark.parametrize("style", CHAT)
@settings(max_examples=6)
@given(
    contents=st.lists(st.sampled_from(["Hello you", "12 + 30", "\n\ny", " é\n"]), min_size=1),
    marked=st.booleans(),
)
def test_ids_and_masks_are_those_of_transformers(styles, style, contents, marked):
    theirs = transformers_tokenizer(styles, style, marked)
    turns = [turn for text in contents for turn in (f"So {text}", text)]
    one = styles.instance(*turns)
    messages = [turn._asdict() for turn in one.turns]
    made = theirs.apply_chat_template(
        messages, return_dict=True, return_assistant_tokens_mask=marked
    )
    prompts = [
        theirs.apply_chat_template(messages[:count], add_generation_prompt=True, return_dict=False)
        for count in range(1, len(turns), 2)
    ]
    form = form_of(styles, style, marked)
    ours = encode_prompts([one], styles.tokenizer(style), form).ids[0]
    ids, mask = encode([one], styles.tokenizer(style), 9999, form=form)[0]
    whole = made["input_ids"]
    # What is only to be judged is tokenized as they do, whatever is joined.
    (judged,) = tokenized_whole([one.turns], styles.tokenizer(style), form.template)
    assert judged.ids.tolist() == whole
    assert (np.diff(judged.answer) >= 0).all()
    words = theirs.decode(judged.ids[judged.turn == len(turns) - 1])
    assert words.strip() in turns[-1].strip()
    assert (judged.answer[judged.turn == len(turns) - 1] == 0).all()
    assert not (judged.answer[judged.turn == len(turns) - 2] == 0).any()
    if all(whole[: len(prompt)] == prompt for prompt in prompts):
        assert ids.tolist() == whole
        assert ours.tolist() == prompts[-1]
        if marked:
            assert mask.tolist() == [bool(learned) for learned in made["assistant_masks"]]
        return
    # Their tokens join a prompt with its answer, so that training would not begin as a prompt does.
    assert style == "qwen"
    assert theirs.decode(ids) == theirs.decode(whole)
    first = encode([styles.instance(*turns[:2])], styles.tokenizer(style), 9999, form=form)[0][0]
    assert first[: len(prompts[0])].tolist() == prompts[0]


@functools.cache
def transformers_tokenizer(styles, style, marked):
    names = styles.tokenizer(style).special_tokens | {"chat_template": styles.source(style, marked)}
    transformers = pytest.importorskip("transformers")
    return transformers.PreTrainedTokenizerFast(tokenizer_object=styles.inner(style), **names)


def test_a_template_that_says_no_is_quoted(styles):
    talk, tokenizer = styles.instance(*TALK), styles.tokenizer("gemma")
    told = styles.instance(*TALK, system="Be kind.")
    form = form_of(styles, "gemma")
    examples = encode([told, talk], tokenizer, 99, form=form)
    assert examples.refused == {0: "it says: a system turn is not supported"}
    assert examples.answer_tokens.tolist()[0] == 0 < examples.answer_tokens.tolist()[1]
    assert examples.select(np.asarray([1, 0])).refused == {1: examples.refused[0]}
    with pytest.raises(UserError, match="example 'i': the chat template does not fit: it says"):
        encode_prompts([told], tokenizer, form)


def test_a_system_turn_that_moves_leaves_only_the_last_answer_sure(styles):
    one, tokenizer = styles.instance(*TALK, system="Be kind."), styles.tokenizer("mistral")
    for marked in (False, True):
        form = form_of(styles, "mistral", marked)
        (reason,) = encode([one], tokenizer, 99, form=form).refused.values()
        assert "--config.data.answers=last" in reason
        assert not encode([one], tokenizer, 99, form=form._replace(answers="last")).refused


CHATML = """\
{%- for turn in messages -%}
<|{{ turn.role }}|>{{ CONTENT }}{{ eos_token }}
{% endfor -%}
{%- if add_generation_prompt -%}<|assistant|>{%- endif -%}"""


def example(source, *contents, answers="all", tokenizer=None):
    """The tokens of a conversation, by default `TALK`, under a template, or why there are none."""
    tokenizer = tokenizer or ByteTokenizer()
    made = ChatTemplate(source, "mine.jinja", tokenizer.special_tokens)
    turns = [Turn(("user", "assistant")[n % 2], text) for n, text in enumerate(contents or TALK)]
    (one,) = tokenized([turns], tokenizer, made, answers)
    return one


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        # Thinking is taken out of earlier answers only.
        (
            ("CONTENT", "turn.content if loop.last else turn.content | replace('Nobody', '')"),
            "otherwise once more turns follow",
        ),
        (("CONTENT", "turn.content | upper"), "changes words of the user turn 'Who wrote it"),
        (("CONTENT", "turn.content[:5]"), "changes words of the user turn 'Who wrote it"),
        (
            ("CONTENT", "turn.content | upper if turn.role == 'assistant' else turn.content"),
            "it writes 'NOBODY.<|eos|>', of which nobody says",
        ),
        (("CONTENT", "turn.content ~ strftime_now('%Y')"), "asks for today's date"),
        (("CONTENT", "turn.contents.x"), "it fails: 'dict object' has no attribute"),
        (("CONTENT", "turn.content + 1"), "it fails: TypeError"),
        (("CONTENT", "turn.content | random"), "it fails|No filter named"),
        (("{{ eos_token }}", ""), "no token to stop at"),
        (("add_generation_prompt", "false"), r"it writes '<\|assistant\|>é 42"),
        (("%}<|assistant|>{%", "%}<|bot|>{%"), "is not how the text with that answer begins"),
        (("{{ CONTENT", "{{ turn.content.__class__.__mro__ }}{{ CONTENT"), "it fails: access to"),
    ],
)
def test_what_leaves_the_mask_in_doubt_is_refused(change, reason):
    source = CHATML.replace(*change).replace("CONTENT", "turn.content")
    assert source != CHATML.replace("CONTENT", "turn.content")
    try:
        one = example(source)
    except UserError as error:
        one = error
    else:
        assert isinstance(one, Unfit)
    assert re.search(reason, str(one)), one
    assert "\n" not in str(one)


def test_a_token_that_would_join_prompt_and_answer_is_cut_apart():
    source = "{% for t in messages %}{{ t.role }}>{{ t.content }}{{ eos_token }}{% endfor %}"
    source += "{% if add_generation_prompt %}assistant>{% endif %}"
    joining = train_bpe(["assistant>> assistant>>"] * 9, 300)
    text = "user>aassistant>> b"
    whole = joining.encode([text])[0].ids.tolist()
    one = example(source, "a", "> b", tokenizer=joining)
    assert one.ids[:-1].tolist() != whole
    assert joining.decode(one.ids.tolist()) == joining.decode(whole) == text
    assert joining.decode(one.ids[one.answer < 0].tolist()) == "user>aassistant>"


def test_a_token_that_joins_an_answers_end_with_the_next_turn_is_refused():
    source = "{% for t in messages %}>{{ t.content }}#{% endfor %}"
    source += "{% if add_generation_prompt %}>{% endif %}"
    joining = train_bpe(["#> #>"] * 9, 300)
    reason = "a token joins the end of an answer with what follows"
    assert reason in str(example(source, tokenizer=joining))
    assert not isinstance(example(source, *TALK[:2], tokenizer=joining), Unfit)
    assert not isinstance(example(source), Unfit)


def test_blocks_that_do_not_pair_with_answers():
    source = (
        "{% for t in messages %}{% if t.role == 'user' %}{{ t.content }}{% else %} "
        "{% generation %}A{% endgeneration %}, {% generation %}{{ t.content }}{{ eos_token }}"
        "{% endgeneration %}{% endif %}{% endfor %}"
    )
    for answers, learned in (("all", " ANobody. Aé 42"), ("last", " Aé 42")):
        one = example(source, answers=answers)
        assert ByteTokenizer().decode(one.ids[one.answer >= 0].tolist()) == learned
    late = source.replace("{% else %} ", "{% else %}So ")
    assert "what it marks of answer 2 it writes 'So '" in str(example(late))
    empty = "{% for t in messages %}{{ t.content }}{% generation %}{% endgeneration %}{% endfor %}"
    assert "hold nothing of answer 2" in str(example(empty))
    asked = "{% for t in messages %}{% generation %}{{ t.content }}{% endgeneration %}{% endfor %}"
    assert "mark what is no answer" in str(example(asked))


def test_what_a_turn_holds_of_the_programs_or_the_forms_own_signs_is_refused():
    assert "U+FDD0" in str(example(CHATML, "a\ufdd2", "b"))
    source = CHATML.replace("CONTENT", "turn.content if turn.content[0] == 'a' else '<|eos|>'")
    assert "spells the special token '<|eos|>'" in str(example(source, "a<|eos|>", "a b"))


BLOCKS = """\
{%- for turn in messages -%}
<|{{ turn.role }}|>
{%- if turn.role == 'assistant' -%}
{%- generation -%}{{ ANSWER }}{{ eos_token }}{%- endgeneration -%}
{%- else -%}{{ ASKED }}{%- endif -%}
{%- endfor -%}
{%- if add_generation_prompt -%}<|assistant|>{%- endif -%}"""
# White space, switches and thoughts are no words that a template owes.
KEPT = [
    "turn.content",
    "turn.content | trim",
    "turn.content.strip().replace('\n\n', '\n')",
    "turn.content.replace('/no_think', '').replace('/think', '').rstrip()",
    "turn.content.split('</think>')[-1].lstrip()",
]
LOST = [
    "turn.contnt",
    "''",
    "turn.content | upper",
    "turn.content[:4]",
    "turn.content | truncate(8)",
    "turn.content.split()[-1]",
    "turn.content | length",
]
WORDS = "A longer\n\nthing to\n say /no_think"


@pytest.mark.parametrize("asked", ["turn.content", "turn.content if turn.content[0] == 'A' else 1"])
def test_words_that_blocks_or_prompts_lose_are_refused_and_no_others(asked):
    source = BLOCKS.replace("ASKED", asked)
    for kept in KEPT:
        for said in (WORDS, f"<think>\nhm\n</think>\n\n{WORDS}"):
            one = example(source.replace("ANSWER", kept), WORDS, said)
            assert not isinstance(one, Unfit), (kept, said, one)
    for lost in LOST:
        one = example(source.replace("ANSWER", lost), WORDS, WORDS)
        assert "words of answer 1, 'A longer" in str(one), lost


@pytest.mark.parametrize("looks", ["", "{% if messages[0].content[0] == 'A' %}-{% endif %}"])
def test_words_of_prompts_that_a_template_loses_are_refused_and_no_others(looks):
    source = looks + BLOCKS.replace("ANSWER", "turn.content")
    for kept in KEPT:
        one = example(source.replace("ASKED", kept), WORDS, "So.")
        assert not isinstance(one, Unfit), (kept, one)
    for lost in LOST:
        one = example(source.replace("ASKED", lost), WORDS, "So.")
        assert re.search("leaves out .*the user turn 'A longer", str(one)), lost
