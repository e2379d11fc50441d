import pytest
from hypothesis import given
from hypothesis import strategies as st

from zsg_jax.data.formats.jsonl import Refused
from zsg_jax.data.instance import Turn
from zsg_jax.data.schemas.conversations import sharegpt as turns
from zsg_jax.data.schemas.conversations import sharegpt_left_out as left_out


def said(*pairs, keys=("from", "value")):
    return [dict(zip(keys, pair, strict=True)) for pair in pairs]


@pytest.mark.parametrize("keys", [("from", "value"), ("role", "content")])
def test_speakers_become_roles(keys):
    pairs = [("system", "s"), ("human", "a"), ("gpt", "b"), ("user", "c"), ("chatgpt", "d")]
    row = {"conversations": said(*pairs, keys=keys)}
    assert turns(row) == (
        Turn("system", "s"),
        Turn("user", "a"),
        Turn("assistant", "b"),
        Turn("user", "c"),
        Turn("assistant", "d"),
    )
    assert left_out(row, turns(row)) == 0


def test_a_system_field_is_a_system_turn():
    row = {"conversations": said(("human", "a"), ("gpt", "b")), "system": "s"}
    assert turns(row)[0] == Turn("system", "s")
    assert left_out(row, turns(row)) == 0
    assert len(turns(row | {"system": ""})) == 2
    row["conversations"].insert(0, {"from": "system", "value": "t"})
    with pytest.raises(Refused, match="beside a system turn"):
        turns(row)


@given(
    st.booleans(),
    st.integers(0, 3),
    st.integers(1, 3),
    st.integers(0, 3),
)
def test_answers_at_the_start_and_questions_at_the_end_are_left_out(system, before, pairs, after):
    middle = [
        (who, f"{who}{number}") for number in range(pairs) for who in ("human", "gpt")
    ]  # fmt: skip
    head = [("system", "be brief")] if system else []
    # What is left out need not even be a text.
    row = {
        "conversations": said(*head, *[("gpt", "")] * before, *middle, *[("human", None)] * after)
    }
    roles = {"system": "system", "human": "user", "gpt": "assistant"}
    assert turns(row) == tuple(Turn(roles[who], text) for who, text in head + middle)
    assert left_out(row, turns(row)) == before + after


BAD = {
    "missing": ({}, '"conversations" is missing'),
    "null": ({"conversations": None}, "JSON null, not a list"),
    "no list": ({"conversations": "hi"}, "JSON string, not a list"),
    "empty": ({"conversations": []}, '"conversations" is empty'),
    "turn no object": ({"conversations": ["hi"]}, '"conversations[0]" is a JSON string'),
    "no speaker": ({"conversations": [{"value": "x"}]}, '"conversations[0].from" is missing'),
    "no text": ({"conversations": [{"from": "human"}]}, '"conversations[0].value" is missing'),
    "unknown speaker": ({"conversations": said(("tool", "x"))}, "'tool', which is none of human"),
    "speaker a number": ({"conversations": said((3, "x"))}, "is 3, which is none"),
    "speaker a list": ({"conversations": said((["gpt"], "x"))}, "which is none"),
    "empty text": (
        {"conversations": said(("human", "x"), ("gpt", " "))},
        '"conversations[1].value" is empty',
    ),
    "text a number": (
        {"conversations": said(("human", 3), ("gpt", "y"))},
        '"conversations[0].value" is a JSON number',
    ),
    "twice human": (
        {"conversations": said(("human", "x"), ("human", "y"), ("gpt", "z"))},
        "\"conversations[1].from\" is 'user' where 'assistant' must stand",
    ),
    "only questions": ({"conversations": said(("human", "x"))}, "no answer to learn"),
    "only answers": ({"conversations": said(("gpt", "x"))}, "no answer to learn"),
    "only a system turn": ({"conversations": said(("system", "x"))}, "no answer to learn"),
    "system later": (
        {"conversations": said(("human", "x"), ("system", "y"), ("gpt", "z"))},
        "'system' where 'assistant'",
    ),
    "system a number": (
        {"conversations": said(("human", "x"), ("gpt", "y")), "system": 3},
        '"system" is a JSON number',
    ),
}


@pytest.mark.parametrize("name", BAD)
def test_a_bad_row_is_refused_with_its_reason(name):
    row, reason = BAD[name]
    with pytest.raises(Refused) as caught:
        turns(row)
    assert reason in str(caught.value)
