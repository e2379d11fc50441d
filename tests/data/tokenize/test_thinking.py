"""Chat templates of today's families, by their behaviour: thoughts, channels, rewritten history."""

import functools
import json

import numpy as np
import pytest
import tokenizers
from tokenizers import AddedToken, decoders, models, pre_tokenizers

from zsg_jax.data.by_answer import by_answer
from zsg_jax.data.dataset import from_list
from zsg_jax.data.instance import Instance, Turn
from zsg_jax.data.schemas.read import parse
from zsg_jax.data.tokenize.encode import Form, closing_tokens, encode, encode_prompts
from zsg_jax.data.tokenize.jinja import ChatTemplate, parse_arguments
from zsg_jax.data.tokenize.tokenizer import Tokenizer
from zsg_jax.runtime.errors import UserError

pytestmark = pytest.mark.references

# What all have: a loop, the last answer told apart, and the head of an answer to come.
LOOP = (
    "{%- for m in messages -%}{%- if m.role == 'assistant' -%}ANSWER{%- else -%}ASKED{%- endif -%}"
)
LOOP += "{%- endfor -%}{%- if add_generation_prompt -%}PROMPT{%- endif -%}"


def written(asked, answer, prompt, opening=""):
    return opening + LOOP.replace("ASKED", asked).replace("ANSWER", answer).replace(
        "PROMPT", prompt
    )


CHATML = "{{- '<|im_start|>' + m.role + '\n' + m.content + '<|im_end|>\n' -}}"
OWN = "m.content.split('</think>')[-1].lstrip('\n')"
THOUGHT = "(m.content.split('</think>')[0].split('<think>')[-1].strip('\n')"
THOUGHT += " if '</think>' in m.content else '')"
NO_THOUGHT = "{%- if enable_thinking is defined and enable_thinking is false -%}"
TEMPLATES = {
    # A thought, empty or not, before the last answer alone; without thinking, in the prompt.
    "qwen3": written(
        CHATML,
        "{{- '<|im_start|>assistant\n' -}}{%- if loop.last -%}{{- '<think>\n' + "
        + THOUGHT
        + " + '\n</think>\n\n' -}}{%- endif -%}{{- "
        + OWN
        + " + '<|im_end|>\n' -}}",
        "{{- '<|im_start|>assistant\n' -}}"
        + NO_THOUGHT
        + "{{- '<think>\n\n</think>\n\n' -}}{%- endif -%}",
    ),
    # The prompt begins the thought.
    "qwen3 thinking": written(
        CHATML,
        "{{- '<|im_start|>assistant\n' -}}{%- if loop.last -%}{{- '<think>\n' + "
        + THOUGHT
        + " + '\n</think>\n\n' -}}{%- endif -%}{{- "
        + OWN
        + " + '<|im_end|>\n' -}}",
        "{{- '<|im_start|>assistant\n<think>\n' -}}",
    ),
    # Nothing closes an answer but the next turn.
    "glm4": written(
        "{{- '<|' + m.role + '|>\n' + m.content -}}",
        "{{- '<|assistant|>\n' + m.content -}}",
        "{{- '<|assistant|>' -}}",
        "{{- '[gMASK]<sop>' -}}",
    ),
    "glm4.5": written(
        "{{- '<|' + m.role + '|>\n' + m.content -}}",
        "{{- '<|assistant|>\n<think></think>\n' + " + OWN + " -}}",
        "{{- '<|assistant|>' -}}" + NO_THOUGHT + "{{- '\n<think></think>' -}}{%- endif -%}",
        "{{- '[gMASK]<sop>' -}}",
    ),
    # The last answer ends otherwise than earlier ones.
    "gpt-oss": written(
        "{{- '<|start|>' + m.role + '<|message|>' + m.content + '<|end|>' -}}",
        "{{- '<|start|>assistant<|channel|>final<|message|>' + m.content -}}"
        "{{- '<|return|>' if loop.last else '<|end|>' -}}",
        "{{- '<|start|>assistant' -}}",
    ),
    "deepseek v3.1": written(
        "{{- '<|User|>' + m.content -}}",
        "{{- '<|Assistant|></think>' + " + OWN + " + '<|end|>' -}}",
        "{{- '<|Assistant|>' + ('<think>' if thinking else '</think>') -}}",
        "{{- bos_token -}}",
    ),
    # Its blocks hold the head of the turn too.
    "smollm3": written(
        CHATML,
        "{%- generation -%}{{- '<|im_start|>assistant\n<think>\n\n</think>\n' + m.content"
        " + '<|im_end|>\n' -}}{%- endgeneration -%}",
        "{{- '<|im_start|>assistant\n' -}}"
        + NO_THOUGHT
        + "{{- '<think>\n\n</think>\n' -}}{%- endif -%}",
    ),
    "phi4": written(
        "{{- '<|im_start|>' + m.role + '<|im_sep|>' + m.content + '<|im_end|>' -}}",
        "{{- '<|im_start|>assistant<|im_sep|>' + m.content + '<|im_end|>' -}}",
        "{{- '<|im_start|>assistant<|im_sep|>' -}}",
    ),
}
SPECIAL = "<s> <|im_start|> <|im_end|> <|im_sep|> [gMASK] <sop> <|user|> <|assistant|> <|User|>"
SPECIAL += " <|Assistant|> <|start|> <|end|> <|message|> <|channel|> <|return|>"
# Template, its arguments, what is learned of an answer "é 42" alone, and with thoughts masked.
CASES = [
    ("qwen3", "", "<think>\n\n</think>\n\né 42<|im_end|>", "é 42<|im_end|>"),
    ("qwen3", "enable_thinking=false", "é 42<|im_end|>", None),
    ("qwen3 thinking", "", "\n</think>\n\né 42<|im_end|>", "é 42<|im_end|>"),
    ("glm4", "", "\né 42<|user|>", None),
    ("glm4.5", "", "\n<think></think>\né 42<|user|>", "é 42<|user|>"),
    ("glm4.5", "enable_thinking=false", "\né 42<|user|>", None),
    ("gpt-oss", "", "<|channel|>final<|message|>é 42<|return|>", None),
    ("deepseek v3.1", "", "é 42<|end|>", None),
    ("smollm3", "", "<think>\n\n</think>\né 42<|im_end|>\n", None),
    ("smollm3", "enable_thinking=false", "é 42<|im_end|>\n", None),
    ("phi4", "", "é 42<|im_end|>", None),
]
# Those that write an earlier answer otherwise than the last.
REWRITING = ("qwen3", "qwen3 thinking", "gpt-oss")


@functools.cache
def inner():
    """Bytes and the special tokens of all; those of thoughts are added, not special, as theirs."""
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    made = tokenizers.Tokenizer(models.BPE({one: i for i, one in enumerate(alphabet)}, []))
    made.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    made.decoder = decoders.ByteLevel()
    made.add_special_tokens(SPECIAL.split())
    made.add_tokens([AddedToken("<think>", normalized=False), AddedToken("</think>")])
    return made


NAMES = {"bos_token": "<s>", "eos_token": "<|im_end|>"}


def make(name, arguments="", answers="all", thoughts="learn"):
    template = ChatTemplate(TEMPLATES[name], name, NAMES, parse_arguments(arguments))
    copy = tokenizers.Tokenizer.from_str(inner().to_str())
    ids = [copy.token_to_id(NAMES[key]) for key in ("bos_token", "eos_token")]
    return Tokenizer(copy, *ids, NAMES), Form(template, answers, thoughts=thoughts)


def talk(*contents):
    turns = [Turn(("user", "assistant")[n % 2], text) for n, text in enumerate(contents)]
    return Instance("i", "t", tuple(turns), (contents[-1],))


def theirs(name):
    transformers = pytest.importorskip("transformers")
    return transformers.PreTrainedTokenizerFast(
        tokenizer_object=inner(), chat_template=TEMPLATES[name], **NAMES
    )


def learned(tokenizer, ids, mask):
    return inner().decode(ids[mask].tolist(), skip_special_tokens=False)


@pytest.mark.parametrize(("name", "arguments", "wanted", "masked"), CASES)
def test_an_answer_is_learned_as_inference_asks_for_it(name, arguments, wanted, masked):
    tokenizer, form = make(name, arguments)
    one = talk("So?\n", "é 42")
    messages = [turn._asdict() for turn in one.turns]
    given = parse_arguments(arguments)
    prompt = theirs(name).apply_chat_template(
        messages[:1], add_generation_prompt=True, return_dict=False, **given
    )
    whole = theirs(name).apply_chat_template(
        messages,
        return_dict=True,
        return_assistant_tokens_mask=form.template.marks_answers,
        **given,
    )
    (asked,) = encode_prompts([one], tokenizer, form).ids
    ids, mask = encode([one], tokenizer, 999, form=form)[0]
    assert asked.tolist() == prompt == ids[: len(prompt)].tolist()
    assert (ids == tokenizer.bos_id).sum() == TEMPLATES[name].count("bos_token")
    # Only what closes an answer may come on top.
    assert ids[: len(whole["input_ids"])].tolist() == whole["input_ids"]
    assert learned(tokenizer, ids, mask) == wanted
    if form.template.marks_answers:
        behind = np.arange(len(ids)) >= len(prompt)
        assert mask.tolist() == (np.asarray(whole["assistant_masks"], bool) & behind).tolist()
    _, hidden = make(name, arguments, thoughts="mask")
    ids, mask = encode([one], tokenizer, 999, form=hidden)[0]
    assert learned(tokenizer, ids, mask) == (masked or wanted)
    closing = inner().decode(closing_tokens(tokenizer, form), skip_special_tokens=False)
    assert wanted.endswith(closing)


@pytest.mark.parametrize(("name", "arguments", "wanted", "masked"), CASES)
def test_of_a_history_that_is_rewritten_the_last_answer_alone_is_learned(
    name, arguments, wanted, masked
):
    one = talk("Who?", "<think>\nhm\n</think>\n\nNobody.", "So?\n", "é 42")
    tokenizer, form = make(name, arguments, "last")
    messages = [turn._asdict() for turn in one.turns]
    prompt = theirs(name).apply_chat_template(
        messages[:3],
        add_generation_prompt=True,
        return_dict=False,
        **parse_arguments(arguments),
    )
    ids, mask = encode([one], tokenizer, 999, form=form)[0]
    assert learned(tokenizer, ids, mask) == wanted
    assert ids[: len(prompt)].tolist() == prompt
    assert not mask[: len(prompt)].any()
    plain = talk("Who?", "Nobody.", "So?\n", "é 42")
    every = encode([plain], tokenizer, 999, form=form._replace(answers="all"))
    if name in REWRITING:
        (reason,) = every.refused.values()
        assert "--config.data.answers=last" in reason
        assert "--config.data.answers=each" in reason
    else:
        ids, mask = every[0]
        assert learned(tokenizer, ids, mask) == wanted.replace("é 42", "Nobody.") + wanted


@pytest.mark.parametrize(("name", "arguments", "wanted", "masked"), CASES)
def test_each_answer_is_learned_after_the_history_that_inference_sees(
    name, arguments, wanted, masked
):
    talked = talk("Who?", "é 42", "So?\n", "é 42", "And?", "é 42")
    tokenizer, form = make(name, arguments, "last")
    messages = [turn._asdict() for turn in talked.turns]
    examples = encode(by_answer(from_list([talked]), "test"), tokenizer, 999, form=form)
    assert len(examples) == 3
    for number, (ids, mask) in enumerate(examples):
        prompt = theirs(name).apply_chat_template(
            messages[: 2 * number + 1],
            add_generation_prompt=True,
            return_dict=False,
            **parse_arguments(arguments),
        )
        assert ids[: len(prompt)].tolist() == prompt
        assert not mask[: len(prompt)].any()
        assert learned(tokenizer, ids, mask) == wanted


def test_a_thought_of_a_row_is_learned_and_a_prompt_that_asks_for_none_refuses_it():
    one = talk("So?", "<think>\nhm\n</think>\n\né 42")
    tokenizer, form = make("qwen3")
    ids, mask = encode([one], tokenizer, 999, form=form)[0]
    assert learned(tokenizer, ids, mask) == "<think>\nhm\n</think>\n\né 42<|im_end|>"
    _, form = make("qwen3", "enable_thinking=false")
    assert "is not how the text" in encode([one], tokenizer, 999, form=form).refused[0]


# As the templates of Qwen 3 and gpt-oss read what was thought, where the answer is the last.
REASONED = {
    "qwen3": ("reasoning_content", TEMPLATES["qwen3"].replace(THOUGHT, "m.reasoning_content")),
    "gpt-oss": (
        "thinking",
        TEMPLATES["gpt-oss"].replace(
            "{{- '<|start|>assistant<|channel|>final",
            "{%- if loop.last -%}{{- '<|start|>assistant<|channel|>analysis<|message|>' +"
            " m.thinking + '<|end|>' -}}{%- endif -%}{{- '<|start|>assistant<|channel|>final",
        ),
    ),
}


@pytest.mark.parametrize("name", REASONED)
def test_what_a_row_says_was_thought_is_learned_before_its_answer(name, monkeypatch):
    field, source = REASONED[name]
    monkeypatch.setitem(TEMPLATES, name, source)
    messages = [
        {"role": "user", "content": "Who?"},
        {"role": "assistant", "content": "Nobody.", field: "I know"},
        {"role": "user", "content": "So?"},
        {"role": "assistant", "content": "é 42", field: "\n6 x 7"},
    ]
    one = parse(json.dumps({"messages": messages}).encode(), "i")
    tokenizer, form = make(name, answers="last")
    ids, mask = encode([one], tokenizer, 999, form=form)[0]
    made = theirs(name)
    assert ids.tolist() == made.apply_chat_template(messages, return_dict=False)
    prompt = made.apply_chat_template(messages[:3], add_generation_prompt=True, return_dict=False)
    assert ids[: len(prompt)].tolist() == prompt
    assert not mask[: len(prompt)].any()
    assert mask[len(prompt)]
    text = learned(tokenizer, ids, mask)
    assert "6 x 7" in text
    assert text.endswith(("é 42<|im_end|>", "é 42<|return|>"))
    assert "I know" not in inner().decode(ids, skip_special_tokens=False)
    # One that reads another field would learn answers that come of nothing.
    _, other = make("phi4", answers="last")
    (reason,) = encode([one], tokenizer, 999, form=other).refused.values()
    assert f"does not write the {field} of turn 2" in reason


def test_arguments_of_templates():
    assert parse_arguments("a=false, b=True,c=low,d=3,e=None,f=null") == {
        "a": False,
        "b": True,
        "c": "low",
        "d": 3,
        "e": None,
        "f": None,
    }
    for wrong in ("a", "a=", "a=1,a=2", "1a=2"):
        with pytest.raises(UserError, match="is no NAME=VALUE"):
            parse_arguments(wrong)
    with pytest.raises(UserError, match=r"reads no variable 'enable_thought'.*enable_thinking"):
        make("qwen3", "enable_thought=false")
    prints = {make("qwen3", given)[1].fingerprint for given in ("", "enable_thinking=false")}
    assert len(prints) == 2
