import json

import pytest

from zsg_jax.data.dataset import from_list
from zsg_jax.data.formats.fields import parse_fields
from zsg_jax.data.formats.jsonl import Refused
from zsg_jax.data.instance import Turn
from zsg_jax.data.reading import ReadOptions, open_dataset
from zsg_jax.data.schemas.registry import SCHEMAS, fitting
from zsg_jax.data.schemas.unanswered import plain_text, preference, prompt
from zsg_jax.data.sources import open_source
from zsg_jax.data.views import view_words
from zsg_jax.runtime.errors import UserError

ASKED = {"role": "user", "content": "a"}
GOOD, POOR = ({"role": "assistant", "content": text} for text in ("b", "c"))
SYSTEM = {"role": "system", "content": "s"}
TURNS = Turn("user", "a"), Turn("assistant", "b")


@pytest.mark.parametrize(
    "record",
    [
        {"prompt": "a", "chosen": "b", "rejected": "c"},
        {"prompt": [ASKED], "chosen": [GOOD], "rejected": [POOR]},
        {"prompt": "a", "chosen": [GOOD], "rejected": [POOR]},
        # The prompt once more, as in data that others have binarized; or there alone.
        {"prompt": "a", "chosen": [ASKED, GOOD], "rejected": [ASKED, POOR]},
        {"chosen": [ASKED, GOOD], "rejected": [ASKED, POOR]},
    ],
)
def test_a_preference_is_its_prompt_and_what_was_chosen(record):
    assert preference(record) == TURNS
    with pytest.raises(Refused, match="rejected"):
        preference(record | {"rejected": ""})
    with pytest.raises(Refused, match="rejected"):
        preference({key: one for key, one in record.items() if key != "rejected"})


def test_a_chosen_text_without_a_prompt_is_a_plain_text():
    assert preference({"chosen": "Q a A b", "rejected": "Q a A c"}) == plain_text(
        {"text": "Q a A b"}
    )


@pytest.mark.parametrize("name", ["question", "instruction", "input", "inputs"])
@pytest.mark.parametrize("asked", ["a", [ASKED]])
def test_the_prompt_of_a_preference_goes_by_other_names(name, asked):
    texts = {"chosen": "b", "rejected": "c"}
    assert preference({name: asked, **texts}) == TURNS
    assert preference({name: asked, "prompt": "", "system": "s", **texts}) == (
        Turn("system", "s"),
        *TURNS,
    )
    assert preference({name: asked, "chosen": [GOOD], "rejected": [POOR]}) == TURNS
    assert preference({name: "x", "prompt": "a", **texts}) == TURNS
    assert preference({name: " ", **texts}) == (Turn("text", "b"),)
    tools = preference({name: asked, "tools": [{"name": "f"}], **texts})
    assert tools[0].role == "tools"
    assert tools[1:] == TURNS


def test_an_instruction_of_a_preference_may_have_an_input():
    row = {"instruction": "a", "input": "i", "chosen": "b", "rejected": "c"}
    assert preference(row) == (Turn("user", "a\n\ni"), TURNS[1])


@pytest.mark.parametrize(
    ("more", "reason", "fields"),
    [
        ({"system": "s"}, 'no prompt behind "system"', "other_system=system"),
        (
            {"system": "s", "tools": [{"name": "f"}], "history": [["hi", "ho"]]},
            'no prompt behind "system" and "tools" and "history"',
            "other_system=system,other_tools=tools,other_history=history",
        ),
        ({"question": "a", "instruction": "a"}, "could each be the prompt", "prompt=question"),
        ({"question": {"a": 1}}, '"question" is a JSON object', "other=question"),
        ({"question": "a", "history": [["x", "y"]]}, '"history" is not read', "other=history"),
    ],
)
def test_what_a_preference_would_lose_is_refused_with_a_way_out(tmp_path, more, reason, fields):
    path = tmp_path / "rows.jsonl"
    path.write_text(json.dumps({"chosen": "b", "rejected": "c", **more}) + "\n")
    with pytest.raises(UserError, match=reason) as told:
        open_dataset(path, ReadOptions(tmp_path, answers=False))
    assert f"--config.data.fields={fields}" in str(told.value)
    options = ReadOptions(tmp_path, answers=False, fields=parse_fields(fields))
    with open_dataset(path, options) as dataset:
        assert dataset[0].text in ("b", "a b")


def test_preferences_without_a_prompt_are_told_as_what_they_are(tmp_path):
    rows = [{"prompt": "a", "chosen": "b", "rejected": "c"}, {"chosen": "ab", "rejected": "ac"}]
    (tmp_path / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    with open_dataset(tmp_path / "rows.jsonl", ReadOptions(tmp_path, answers=False)) as dataset:
        both = "prompt and chosen answer, of 1 rows without a prompt the chosen text"
        assert view_words("both", dataset) == both
        assert view_words("both", dataset.select([1])) == "chosen text"
        assert view_words("both", dataset.select([0])) == "prompt and chosen answer"


def test_a_prompt_is_a_text_or_messages():
    assert prompt({"prompt": "a"}) == prompt({"prompt": [ASKED]}) == TURNS[:1]
    both = prompt({"prompt": [SYSTEM, ASKED]})
    assert both == prompt({"prompt": "a", "system": "s"}) == (Turn("system", "s"), TURNS[0])


@pytest.mark.parametrize(
    ("read", "record", "reason"),
    [
        (prompt, {"prompt": [ASKED, GOOD]}, "ends with an answer"),
        (prompt, {"prompt": [SYSTEM]}, "stands alone"),
        (prompt, {"prompt": " "}, "is empty"),
        (preference, {"chosen": "a", "rejected": [POOR]}, "both must be strings"),
        (preference, {"chosen": [ASKED], "rejected": [ASKED]}, "not with an answer"),
        (preference, {"chosen": [GOOD], "rejected": [POOR]}, '"prompt" is missing'),
        (plain_text, {"text": 3}, "JSON number"),
    ],
)
def test_a_bad_record_is_refused_with_its_reason(read, record, reason):
    with pytest.raises(Refused, match=reason):
        read(record)


def test_a_schema_with_an_answer_goes_first():
    assert fitting({"prompt": "a", "completion": "b", "text": "ab"}) == ["prompt_completion"]
    assert fitting({"prompt": "a", "chosen": [], "rejected": [], "messages": []}) == ["messages"]
    assert fitting({"prompt": "a", "chosen": "b", "rejected": "c"}) == ["preference"]
    assert fitting({"prompt": "a", "text": "b"}) == ["prompt"]


def test_rows_without_an_answer_are_counted_among_those_that_are_chosen(tmp_path):
    asked, answered = {"messages": [ASKED]}, {"messages": [ASKED, GOOD]}
    for name, rows in (("u", [*[asked] * 10, answered]), ("a", [answered] * 9)):
        (tmp_path / f"{name}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    sources = [{"path": "u.jsonl", "weight": 1, "cap": 4}, {"path": "a.jsonl", "weight": 2}]
    (tmp_path / "all.mix.json").write_text(json.dumps({"sources": sources}))
    with open_source(tmp_path / "all.mix.json", ReadOptions(tmp_path, answers=False)) as mixed:
        for dataset in (mixed, mixed.select([0, 1, 2]), from_list(list(mixed)[1:])):
            assert dataset.unanswered == sum(not one.answered for one in dataset)
        assert 3 <= mixed.unanswered <= 4 < len(mixed)
    with open_source(tmp_path / "u.jsonl", ReadOptions(tmp_path, answers=False)) as dataset:
        assert dataset.unanswered == 10
        assert "of 2 rows without an answer" in view_words("both", dataset.select([0, 10, 1]))
        assert view_words("both", dataset.select([0, 1])) == "prompt"
        assert view_words("both", dataset.select([10])) == "prompt and answer"


ROWS = {
    "messages": {"messages": [ASKED]},
    "sharegpt": {"conversations": [{"from": "human", "value": "a"}]},
    "prompt": {"prompt": "a"},
    "preference": {"prompt": "a", "chosen": "b", "rejected": "c"},
    "text": {"text": "a b"},
}


@pytest.mark.parametrize("schema", ROWS)
def test_such_rows_are_read_where_no_answer_is_asked_for(schema, tmp_path):
    path = tmp_path / "rows.jsonl"
    path.write_text(json.dumps(ROWS[schema]) + "\n")
    with open_dataset(path, ReadOptions(tmp_path, answers=False)) as dataset:
        assert dataset.schema == schema
        (instance,) = dataset
        assert instance.text == ("a" if schema in ("messages", "sharegpt", "prompt") else "a b")
        assert instance.answered is (schema == "preference")
        assert dataset.unanswered == (not instance.answered)
        assert instance.references == (("b",) if instance.answered else ())
    row = SCHEMAS[schema].answer_by is None
    with pytest.raises(
        UserError, match=r"rows\.jsonl:1: .*no answer" if row else f"{schema}.*fields"
    ):
        open_dataset(path, ReadOptions(tmp_path))
