"""Tools, calls, results, and answers of weight 0: as transformers writes and marks them."""

import itertools
import json

import numpy as np
import pytest
import tokenizers
from tokenizers import decoders, models, pre_tokenizers

from zsg_jax.data.dataset import as_record
from zsg_jax.data.instance import Instance, instances_digest
from zsg_jax.data.schemas.read import parse
from zsg_jax.data.tokenize.encode import STUDY_FORM, Form, encode, encode_prompts
from zsg_jax.data.tokenize.jinja import ChatTemplate
from zsg_jax.data.tokenize.tokenizer import Tokenizer

pytestmark = pytest.mark.references

# In the manner of Hermes and Qwen: tools in the system turn, calls in an answer, results of several
# tools in one user's turn. CALL stands for how a call is written.
TEMPLATE = """
{%- if tools -%}
{{- '<|im_start|>system\n' -}}
{%- if messages[0].role == 'system' -%}{{- messages[0].content + '\n\n' -}}{%- endif -%}
{%- for tool in tools -%}{{- tool | tojson + '\n' -}}{%- endfor -%}{{- '<|im_end|>\n' -}}
{%- elif messages[0].role == 'system' -%}
{{- '<|im_start|>system\n' + messages[0].content + '<|im_end|>\n' -}}
{%- endif -%}
{%- for m in messages -%}
{%- if m.role == 'user' -%}{{- '<|im_start|>user\n' + m.content + '<|im_end|>\n' -}}
{%- elif m.role == 'assistant' -%}
{{- '<|im_start|>assistant\n' -}}{%- generation -%}{{- m.content -}}
{%- for call in m.tool_calls or [] -%}
{%- if call.function -%}{%- set call = call.function -%}{%- endif -%}CALL{%- endfor -%}
{{- '<|im_end|>' -}}{%- endgeneration -%}{{- '\n' -}}
{%- elif m.role == 'tool' -%}
{%- if messages[loop.index0 - 1].role != 'tool' -%}{{- '<|im_start|>user' -}}{%- endif -%}
{{- '\n<result>' + m.content + '</result>' -}}
{%- if loop.last or messages[loop.index0 + 1].role != 'tool' -%}{{- '<|im_end|>\n' -}}{%- endif -%}
{%- endif -%}
{%- endfor -%}
{%- if add_generation_prompt -%}{{- '<|im_start|>assistant\n' -}}{%- endif -%}
"""
CALL = """{{- '\n<call>' + call.name + ' ' + call.arguments | tojson + '</call>' -}}"""
# Without blocks, and such as lose something.
UNMARKED = TEMPLATE.replace("{%- generation -%}", "").replace("{%- endgeneration -%}", "")
NAMES = {"bos_token": "<s>", "eos_token": "<|im_end|>"}
TOOLS = [
    {"type": "function", "function": {"name": name, "description": "é", "parameters": {"x": 1}}}
    for name in ("add", "look")
]


def call(name, arguments):
    return {"id": name, "type": "function", "function": {"name": name, "arguments": arguments}}


MESSAGES = [
    {"role": "system", "content": "Be kind."},
    {"role": "user", "content": "How much?"},
    {
        "role": "assistant",
        "content": "I look.",
        "tool_calls": [call("look", {"at": "日本"}), call("add", {"a": 1, "b": [2]})],
    },
    {"role": "tool", "tool_call_id": "look", "content": "3"},
    {"role": "tool", "name": "add", "content": "4"},
    {"role": "assistant", "content": "", "tool_calls": [call("add", {})]},
    {"role": "tool", "content": "7"},
    {"role": "assistant", "content": "Seven."},
    {"role": "user", "content": "Thanks"},
    {"role": "assistant", "content": "Gladly."},
]


# In the manner of GLM-4.5, which closes nothing: what a turn begins with closes the one before.
UNCLOSED = """
{%- for m in messages -%}
{%- if m.role == 'user' -%}{{- '<|user|>\n' + m.content -}}
{%- elif m.role == 'assistant' -%}{{- '<|assistant|>\n' + m.content -}}
{%- for call in m.tool_calls or [] -%}
{%- if call.function -%}{%- set call = call.function -%}{%- endif -%}CALL{%- endfor -%}
{%- elif m.role == 'tool' -%}{{- '<|observation|>\n' + m.content -}}{%- endif -%}
{%- endfor -%}
{%- if add_generation_prompt -%}{{- '<|assistant|>\n' -}}{%- endif -%}
"""


def inner():
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    made = tokenizers.Tokenizer(models.BPE({one: i for i, one in enumerate(alphabet)}, []))
    made.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    made.decoder = decoders.ByteLevel()
    made.add_special_tokens(["<s>", "<|im_start|>", "<|im_end|>"])
    return made


def tokenizer():
    made = inner()
    return Tokenizer(made, *map(made.token_to_id, NAMES.values()), NAMES)


def form(template, **options):
    return Form(ChatTemplate(template.replace("CALL", CALL), "t", NAMES), **options)


def read(messages, tools=None):
    row = {"messages": messages} | ({"tools": tools} if tools else {})
    return parse(json.dumps(row).encode(), "i")


def theirs(template, messages, tools, **options):
    transformers = pytest.importorskip("transformers")
    made = transformers.PreTrainedTokenizerFast(
        tokenizer_object=inner(), chat_template=template.replace("CALL", CALL), **NAMES
    )
    return made.apply_chat_template(messages, tools=tools, return_dict=True, **options)


def learned(ids, mask):
    """The runs of tokens that carry loss, as texts."""
    borders = [0, *(np.flatnonzero(np.diff(mask)) + 1), len(ids)]
    runs = [ids[a:b] for a, b in itertools.pairwise(borders) if mask[a]]
    return [inner().decode(run.tolist(), skip_special_tokens=False) for run in runs]


@pytest.mark.parametrize("turns", [4, 2], ids=["whole", "call"])
def test_a_call_that_nothing_closes_is_closed_by_what_the_tools_turn_begins_with(turns):
    messages = [MESSAGES[1], MESSAGES[2], {"role": "tool", "content": "3"}, MESSAGES[7]][:turns]
    made = inner()
    made.add_special_tokens(["<|user|>", "<|assistant|>", "<|observation|>"])
    known = Tokenizer(made, *map(made.token_to_id, NAMES.values()), NAMES)
    examples = encode([read(messages)], known, 9999, form=form(UNCLOSED))
    assert not examples.refused
    ids, mask = examples[0]
    borders = [0, *(np.flatnonzero(np.diff(mask)) + 1), len(ids)]
    runs = [ids[a:b].tolist() for a, b in itertools.pairwise(borders) if mask[a]]
    found = [made.decode(run, skip_special_tokens=False) for run in runs]
    calls = '<call>look {"at": "日本"}</call>\n<call>add {"a": 1, "b": [2]}</call>'
    expected = [f"I look.\n{calls}<|observation|>", "Seven.<|user|>"]
    assert found == expected[: turns // 2]


@pytest.mark.parametrize("template", [TEMPLATE, UNMARKED], ids=["marked", "unmarked"])
@pytest.mark.parametrize("tools", [TOOLS, None], ids=["tools", "none"])
def test_ids_and_masks_are_those_of_transformers(template, tools):
    one = read(MESSAGES, tools)
    examples = encode([one], tokenizer(), 9999, form=form(template))
    assert not examples.refused
    ids, mask = examples[0]
    marked = theirs(TEMPLATE, MESSAGES, tools, return_assistant_tokens_mask=True)
    assert ids.tolist() == marked["input_ids"]
    assert mask.tolist() == [bool(held) for held in marked["assistant_masks"]]
    # What a model is asked to go on from ends in a tool's turn.
    until = Instance("i", "t", (*one.turns[: len(one.turns) - 3], one.turns[-1]), ("Gladly.",))
    asked = theirs(TEMPLATE, MESSAGES[:7], tools, add_generation_prompt=True)
    assert (
        encode_prompts([until], tokenizer(), form(template)).ids[0].tolist() == asked["input_ids"]
    )


def test_arguments_as_text_and_tools_as_text_are_read_as_objects():
    texts = json.loads(json.dumps(MESSAGES))
    for message in texts:
        for one in message.get("tool_calls", []):
            one["function"]["arguments"] = json.dumps(one["function"]["arguments"])
        # As tables have them.
        message.setdefault("tool_calls", None)
    texts[5]["content"] = None
    one = read(texts, json.dumps(TOOLS))
    assert one == read(MESSAGES, TOOLS)
    again = parse(as_record(one), "i")
    assert again == one
    assert instances_digest([again]) == instances_digest([one])
    assert instances_digest([read(MESSAGES)]) != instances_digest([one])
    other = [*MESSAGES[:5], {**MESSAGES[5], "tool_calls": [call("add", {"a": 2})]}, *MESSAGES[6:]]
    assert instances_digest([read(other, TOOLS)]) != instances_digest([one])
    assert '"at": "日本"' in one.text


@pytest.mark.parametrize(
    ("template", "reason"),
    [
        (TEMPLATE.replace("tools", "no_tools"), "does not write tool 1"),
        (TEMPLATE.replace("in tools", "in tools[:1]"), "does not write tool 2"),
        (TEMPLATE.replace("m.tool_calls or []", "m.calls or []"), "does not write call 1 of turn"),
        (
            TEMPLATE.replace("m.tool_calls or []", "(m.tool_calls or [])[:1]"),
            "does not write call 2",
        ),
        (TEMPLATE.replace("CALL", "{{- call.name -}}"), "does not write call 1"),
        (TEMPLATE.replace("m.role == 'tool'", "false"), "does not write the tool's turn"),
    ],
)
def test_a_template_that_leaves_something_out_is_refused(template, reason):
    refused = encode([read(MESSAGES, TOOLS)], tokenizer(), 9999, form=form(template)).refused
    assert reason in refused[0]
    plain = [*MESSAGES[:2], MESSAGES[-1]]
    assert not encode([read(plain)], tokenizer(), 9999, form=form(template)).refused


def test_a_turn_that_is_left_out_and_a_spelled_special_token_are_refused():
    template = "{% for m in messages %}{% if m.role != 'system' %}{{ m.role + m.content }}"
    template += "{% generation %}{{ eos_token }}{% endgeneration %}{% endif %}{% endfor %}"
    refused = encode([read([*MESSAGES[:2], MESSAGES[-1]])], tokenizer(), 99, form=form(template))
    assert "leaves out the system turn 'Be kind.'" in refused.refused[0]
    spelled = [MESSAGES[1], {**MESSAGES[5], "tool_calls": [call("add", {"a": "<|im_end|>"})]}]
    refused = encode([read(spelled)], tokenizer(), 9999, form=form(TEMPLATE)).refused
    assert "spells the special token '<|im_end|>'" in refused[0]
    assert (
        "no place for tools, calls"
        in encode([read(spelled)], tokenizer(), 99, form=STUDY_FORM).refused[0]
    )


def test_a_call_that_nothing_closes_is_refused():
    open_ended = UNMARKED.replace("{{- '<|im_end|>' -}}{{- '\n' -}}", "{{- '\n' -}}", 1)
    assert open_ended != UNMARKED
    begins = "{{- '<|im_start|>user' -}}{%- endif -%}"
    assert begins in open_ended
    open_ended = open_ended.replace(begins, "{%- endif -%}")
    refused = encode([read(MESSAGES[:3])], tokenizer(), 9999, form=form(open_ended)).refused
    assert "no token to stop at" in refused[0]


@pytest.mark.parametrize("template", [TEMPLATE, UNMARKED], ids=["marked", "unmarked"])
@pytest.mark.parametrize("field", [{"weight": 0}, {"train": False}])
def test_an_answer_of_weight_0_carries_no_loss(template, field):
    turns = [{"role": ("user", "assistant")[n % 2], "content": f"say {n}"} for n in range(6)]
    whole = theirs(TEMPLATE, turns, None, return_assistant_tokens_mask=True)
    for left_out in ((1,), (3,), (1, 3), (5,)):
        given = [one | (field if n in left_out else {}) for n, one in enumerate(turns)]
        ids, mask = encode([read(given)], tokenizer(), 9999, form=form(template))[0]
        assert ids.tolist() == whole["input_ids"]
        kept = [f"say {n}<|im_end|>" for n in (1, 3, 5) if n not in left_out]
        assert learned(ids, mask) == kept
        study = encode([read(given)], tokenizer(), 9999)[0]
        assert learned(*study) == kept
    last = encode([read(given)], tokenizer(), 9999, form=form(template, answers="last"))
    assert "weight 0" in last.refused[0]


@pytest.mark.parametrize("given", [TEMPLATE, UNMARKED, None], ids=["marked", "unmarked", "study"])
def test_a_system_turn_alone_may_stand_before_an_answer(given):
    messages = [MESSAGES[0], {"role": "assistant", "content": "Hello."}, *MESSAGES[-2:]]
    made = form(given) if given else STUDY_FORM
    one = read(messages)
    ids, mask = encode([one], tokenizer(), 9999, form=made)[0]
    assert learned(ids, mask) == ["Hello.<|im_end|>", "Gladly.<|im_end|>"]
    (asked,) = encode_prompts([read(messages[:2])], tokenizer(), made).ids
    assert asked.tolist() == ids[: len(asked)].tolist()
    assert mask[len(asked)]
    if given:
        assert ids.tolist() == theirs(TEMPLATE, messages, None)["input_ids"]
        wanted = theirs(TEMPLATE, messages[:1], None, add_generation_prompt=True)
        assert asked.tolist() == wanted["input_ids"]


def test_parts_of_texts_are_one_text():
    parts = [{"type": "text", "text": "How "}, {"type": "text", "text": "much?"}]
    given = [{**MESSAGES[1], "content": parts}, MESSAGES[-1]]
    assert read(given) == read([MESSAGES[1], MESSAGES[-1]])
