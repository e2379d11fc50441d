import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from zsg_jax.data.formats.fields import parse_fields, rename
from zsg_jax.data.reading import ReadOptions, open_dataset
from zsg_jax.runtime.errors import UserError


@given(st.dictionaries(st.sampled_from("abcdef"), st.sampled_from("uvwabc"), max_size=4))
def test_fields_come_back_from_their_text(fields):
    assert parse_fields(",".join(f" {new}={old}" for new, old in fields.items())) == fields


@pytest.mark.parametrize(
    ("text", "told"),
    [("prompt", "'prompt' is no NEW=OLD"), ("a=", "'a=' is no"), ("a=b,a=c", "'a' is given twice")],
)
def test_a_text_that_is_no_mapping_is_told(text, told):
    with pytest.raises(UserError, match=told):
        parse_fields(text)


@given(
    st.dictionaries(st.sampled_from("abcd"), st.integers(), max_size=4),
    st.dictionaries(st.sampled_from("abcd"), st.sampled_from("abcd"), max_size=4),
)
def test_all_fields_are_renamed_at_once(row, fields):
    expected = {}
    for name, value in row.items():
        replaced = name in fields and fields[name] in row
        if not replaced and name not in fields.values():
            expected[name] = value
    for new, old in fields.items():
        if old in row:
            expected[new] = row[old]
    assert json.loads(rename(json.dumps(row).encode(), fields)) == expected


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("answers.text.0", "x"),
        ("answers.text", ["x", "y"]),
        ("a.b", "dotted"),
        ("answers.text.2", None),
        ("answers.none.0", None),
        ("answers.text.-1", None),
    ],
)
def test_an_old_name_may_lead_into_a_field(name, value):
    row = {"answers": {"text": ["x", "y"]}, "a.b": "dotted"}
    found = json.loads(rename(json.dumps(row).encode(), {"new": name}))
    assert found.get("new") == value
    assert found["answers"] == row["answers"]


@pytest.mark.parametrize("category", [{}, {"category": None}])
def test_a_field_that_no_other_replaces_stays(category):
    row = {"task": "own", "text": "x"}
    found = json.loads(rename(json.dumps(row | category).encode(), {"task": "category"}))
    assert found == row


@pytest.mark.parametrize("name", ["x.jsonl", "x.json"])
def test_every_reader_sees_the_new_names(tmp_path, read_source, name):
    rows = [{"ask": f"q{k}", "say": {"text": [f"a{k}"]}, "more": k} for k in range(5)]
    path = tmp_path / name
    path.write_text(
        json.dumps(rows) if name.endswith(".json") else "".join(json.dumps(r) + "\n" for r in rows)
    )
    with pytest.raises(UserError, match="fit no schema"):
        read_source(path)
    fields = parse_fields("prompt=ask,completion=say.text.0")
    with open_dataset(path, ReadOptions(tmp_path, fields=fields)) as dataset:
        assert dataset.schema == "prompt_completion"
        found = [[turn.content for turn in one.turns] for one in dataset]
        assert json.loads(dataset.raw(3))["more"] == 3
    assert found == [[f"q{k}", f"a{k}"] for k in range(5)]


def test_a_broken_record_is_told_by_its_line(tmp_path, read_source):
    path = tmp_path / "x.jsonl"
    path.write_text('{"q": "a", "a": "b"}\n{"q": \n')
    with pytest.raises(UserError, match=r"x\.jsonl:2: is not JSON"):
        read_source(path, fields={"prompt": "q", "completion": "a"})
