import pytest
from hypothesis import given
from hypothesis import strategies as st

from zsg_jax.data.formats.jsonl import Refused
from zsg_jax.data.instance import Turn
from zsg_jax.data.schemas.conversations import messages
from zsg_jax.data.schemas.conversations import sharegpt as turns
from zsg_jax.data.schemas.conversations import sharegpt_left_out as left_out


def said(*pairs, keys=("from", "value")):
    return {"conversations": [dict(zip(keys, pair, strict=True)) for pair in pairs]}


ROLES = {"human": "user", "user": "user", "gpt": "assistant", "chatgpt": "assistant"}


@pytest.mark.parametrize("keys", [("from", "value"), ("role", "content")])
def test_speakers_become_roles(keys):
    pairs = [("human", "a"), ("gpt", "b"), ("user", "c"), ("chatgpt", "d")]
    record = said(("system", "s"), *pairs, keys=keys)
    expected = [Turn("system", "s"), *(Turn(ROLES[who], what) for who, what in pairs)]
    assert turns(record) == tuple(expected)
    field = said(*pairs, keys=keys) | {"system": "s"}
    assert turns(field) == turns(record)
    assert left_out(record, turns(record)) == left_out(field, turns(field)) == 0
    assert turns(field | {"system": ""}) == turns(record)[1:]
    assert turns(record | {"system": " s"}) == tuple(expected)
    assert left_out(record | {"system": "s"}, turns(record)) == 0


@given(st.booleans(), st.integers(0, 3), st.integers(1, 3), st.integers(0, 3))
def test_answers_at_the_start_and_questions_at_the_end_are_left_out(system, before, pairs, after):
    middle = [(who, f"{who}{number}") for number in range(pairs) for who in ("human", "gpt")]
    head = [("system", "be brief")] if system else []
    # What is left out need not even be a text.
    record = said(*head, *[("gpt", "")] * before, *middle, *[("human", None)] * after)
    expected = [Turn(ROLES.get(who, who), text) for who, text in head + middle]
    assert turns(record) == tuple(expected)
    assert left_out(record, turns(record)) == before + after


GOOD = (("human", "x"), ("gpt", "y"))
BAD = {
    "missing": ({}, '"conversations" is missing'),
    "null": ({"conversations": None}, "JSON null, not a list"),
    "empty": ({"conversations": []}, '"conversations" is empty'),
    "turn no object": ({"conversations": ["hi"]}, '"conversations[0]" is a JSON string'),
    "no speaker": ({"conversations": [{"value": "x"}]}, '"conversations[0].from" is missing'),
    "no text": ({"conversations": [{"from": "human"}]}, '"conversations[0].value" is missing'),
    "unknown speaker": (said(("tool", "x")), "'tool', which is none of human"),
    "speaker a list": (said((["gpt"], "x")), "which is none"),
    "empty text": (said(("human", "x"), ("gpt", " ")), '"conversations[1].value" is empty'),
    "text a number": (said(("human", 3), ("gpt", "y")), '"conversations[0].value" is a JSON num'),
    "twice human": (said(("human", "x"), *GOOD), "[1].from\" is 'user' where 'assistant' must"),
    "only answers": (said(("gpt", "x")), "no answer to learn"),
    "only a system turn": (said(("system", "x")), "no answer to learn"),
    "two questions alone": (said(("human", "x"), ("human", "y")), "'user' where 'assistant'"),
    "system later": (said(*GOOD, ("system", "y"), *GOOD), "'system' where 'user'"),
    "system a number": (said(*GOOD) | {"system": 3}, '"system" is a JSON number'),
    "system twice": (
        said(("system", "t"), *GOOD) | {"system": "s"},
        "of different texts; leave one",
    ),
}


@pytest.mark.parametrize("name", BAD)
def test_a_bad_record_is_refused_with_its_reason(name):
    record, reason = BAD[name]
    with pytest.raises(Refused) as caught:
        turns(record)
    assert reason in str(caught.value)


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("reasoning", "hm"),
        ("function_call", {"name": "f"}),
        ("name", "Ann"),
        ("weight", 0.5),
        ("train", "no"),
    ],
)
def test_fields_that_change_what_is_written_or_learned_are_refused(field, value):
    for name, who, what in (("messages", "role", "content"), ("conversations", "from", "value")):
        said = [{who: "user", what: "a"}, {who: "assistant", what: "b"}]
        read = messages if name == "messages" else turns
        assert read({name: [said[0], said[1] | {field: None if value else 1}]})
        with pytest.raises(Refused, match=rf'"{name}\[1\]\.{field}" '):
            read({name: [said[0], said[1] | {field: value}]})


def test_answers_of_weight_0_are_read():
    for name, who, what in (("messages", "role", "content"), ("conversations", "from", "value")):
        read = messages if name == "messages" else turns
        said = [{who: ("user", "assistant")[n % 2], what: "a"} for n in range(4)]
        for field in ({"weight": 0}, {"train": False}):
            found = read({name: [said[0], said[1] | field, said[2] | field, said[3]]})
            assert [turn.learned for turn in found] == [True, False, True, True]


CALLING = {"role": "assistant", "tool_calls": [{"function": {"name": "f", "arguments": {}}}]}
ASKING, ANSWERING = {"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}
RESULT = {"role": "tool", "content": "3"}


def calling(**function):
    return {**CALLING, "tool_calls": [{"function": function}]}


@pytest.mark.parametrize(
    ("record", "reason"),
    [
        ([ASKING, RESULT, ANSWERING], "'tool' where 'assistant' must stand"),
        ([ASKING, ANSWERING, RESULT], "'tool' where 'user' must stand"),
        ([ASKING, CALLING, ASKING, ANSWERING], "'user' where 'tool' must stand"),
        ([ASKING, CALLING, RESULT, ASKING], "'user' where 'tool' or 'assistant' must stand"),
        ([ASKING | {"tool_calls": [1]}, ANSWERING], r'"messages\[0\]\.tool_calls" holds'),
        ([ASKING, calling(arguments={})], r'"messages\[1\]\.tool_calls\[0\]" names no function'),
        ([ASKING, calling(name="f", arguments="{")], "arguments are no JSON object"),
        ([ASKING, calling(name="f", arguments="3")], "arguments are no JSON object"),
        ([ASKING | {"content": [{"type": "image"}]}, ANSWERING], "is of type 'image'"),
        ([ASKING | {"content": ["a"]}, ANSWERING], "is a JSON string without a text"),
        ([ASKING | {"content": []}, ANSWERING], "is empty"),
        ([ASKING, {"role": "assistant"}], r'"messages\[1\]\.content" is missing'),
    ],
)
def test_bad_calls_and_parts_are_refused(record, reason):
    with pytest.raises(Refused, match=reason):
        messages({"messages": record})


@pytest.mark.parametrize("tools", ["search", "{}", [1], {"name": "f"}])
def test_what_is_no_list_of_tools_is_refused_with_the_way_out(tools):
    given = {"messages": [ASKING, ANSWERING], "tools": tools}
    with pytest.raises(Refused, match=r'"tools" is .*other=tools'):
        messages(given)
    assert messages(given | {"tools": "[]"}) == messages({"messages": [ASKING, ANSWERING]})
