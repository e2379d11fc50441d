"""The kinds of one prompt and one answer: alpaca, prompt_completion, question_answer, inputs_…"""

import pytest

from zsg_jax.data.formats.jsonl import Refused
from zsg_jax.data.instance import Turn
from zsg_jax.data.schemas.registry import SCHEMAS

HI, HO = {"role": "user", "content": "Hi"}, {"role": "assistant", "content": "Ho"}


def pair(prompt, answer):
    return Turn("user", prompt), Turn("assistant", answer)


GOOD = [
    ("alpaca", {"instruction": "Do", "input": "this", "output": "ok"}, pair("Do\n\nthis", "ok")),
    ("alpaca", {"instruction": "Do ", "input": " x\n", "output": "ok"}, pair("Do \n\n x\n", "ok")),
    ("alpaca", {"instruction": "Do", "input": "", "output": "ok"}, pair("Do", "ok")),
    ("alpaca", {"instruction": "Do", "input": " \n", "output": "ok"}, pair("Do", "ok")),
    ("alpaca", {"instruction": "Do", "input": None, "output": "ok"}, pair("Do", "ok")),
    ("alpaca", {"instruction": "Do", "output": "ok", "history": []}, pair("Do", "ok")),
    (
        "alpaca",
        {"instruction": "Do", "output": "ok", "system": "s"},
        (Turn("system", "s"), *pair("Do", "ok")),
    ),
    ("prompt_completion", {"prompt": "a ", "completion": " b"}, pair("a ", " b")),
    ("prompt_completion", {"prompt": [HI], "completion": [HO]}, pair("Hi", "Ho")),
    (
        "prompt_completion",
        {"prompt": [{"role": "system", "content": "s"}, HI, HO, HI], "completion": [HO]},
        (Turn("system", "s"), *pair("Hi", "Ho"), *pair("Hi", "Ho")),
    ),
    ("question_answer", {"question": "a?", "answer": "b"}, pair("a?", "b")),
    ("inputs_targets", {"inputs": "a", "targets": "\nb"}, pair("a", "\nb")),
    (
        "inputs_targets",
        {
            "inputs": [1],
            "inputs_pretokenized": "a",
            "targets": [2],
            "targets_pretokenized": "b",
        },
        pair("a", "b"),
    ),
]


@pytest.mark.parametrize(("kind", "row", "expected"), GOOD)
def test_a_row_becomes_its_turns(kind, row, expected):
    assert SCHEMAS[kind].turns(row) == expected


PAIRS = [
    ("alpaca", "instruction", "output"),
    ("prompt_completion", "prompt", "completion"),
    ("question_answer", "question", "answer"),
    ("inputs_targets", "inputs", "targets"),
    ("inputs_targets", "inputs_pretokenized", "targets_pretokenized"),
]


@pytest.mark.parametrize(("kind", "prompt", "answer"), PAIRS)
@pytest.mark.parametrize(
    ("value", "reason"),
    [
        (..., "is missing (there are: "),
        (None, "is a JSON null, not a string"),
        (3, "is a JSON number, not a string"),
        (True, "is a JSON boolean, not a string"),
        ({}, "is a JSON object, not a string"),
        ("", "is empty"),
        (" \n", "is empty"),
        ("\ud800", "lone surrogate"),
    ],
)
def test_what_is_no_text_is_refused_by_its_name(kind, prompt, answer, value, reason):
    for name in (prompt, answer):
        row = {prompt: "x", answer: "y"} | {name: value}
        if value is ...:
            del row[name]
        with pytest.raises(Refused) as caught:
            SCHEMAS[kind].turns(row)
        assert str(caught.value).startswith(f'"{name}" ')
        assert reason in str(caught.value)


BAD = [
    ("alpaca", {"instruction": "x", "output": "y", "input": 3}, '"input" is a JSON number'),
    ("alpaca", {"instruction": "x", "output": "y", "input": ["z"]}, '"input" is a JSON list'),
    ("alpaca", {"instruction": "x", "output": "y", "system": 3}, '"system" is a JSON number'),
    (
        "alpaca",
        {"instruction": "x", "output": "y", "history": [["a", "b"]]},
        '"history" is not read; give the row as messages',
    ),
    (
        "prompt_completion",
        {"prompt": "x", "completion": [HO]},
        '"prompt" is a JSON string and "completion" a list; both must be',
    ),
    ("prompt_completion", {"prompt": [], "completion": [HO]}, '"prompt" is empty'),
    ("prompt_completion", {"prompt": ["x"], "completion": [HO]}, '"prompt[0]" is a JSON string'),
    (
        "prompt_completion",
        {"prompt": [HI], "completion": [{"role": "assistant"}]},
        '"completion[0].content" is missing',
    ),
    (
        "prompt_completion",
        {"prompt": [HI], "completion": [HI]},
        "\"completion[0].role\" is 'user' where 'assistant' must stand",
    ),
    ("prompt_completion", {"prompt": [HI], "completion": [HO, HI]}, "no answer to learn"),
]


@pytest.mark.parametrize(("kind", "row", "reason"), BAD)
def test_other_faults_are_told(kind, row, reason):
    with pytest.raises(Refused) as caught:
        SCHEMAS[kind].turns(row)
    assert reason in str(caught.value)
