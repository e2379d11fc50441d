"""Predictions from files, and the baselines of Super-NaturalInstructions, on its own layout."""

import json

import numpy as np
import pytest

from zsg_jax.data.dataset import join
from zsg_jax.data.formats.natural_instructions import Options
from zsg_jax.data.reading import ReadOptions, open_dataset
from zsg_jax.evaluation.predictions import (
    copy_demonstration,
    copy_input,
    read_predictions,
    score_texts,
)
from zsg_jax.runtime.errors import UserError


def write(path, *lines):
    path.write_text("".join(json.dumps(one) + "\n" for one in lines))
    return path


def test_predictions_are_read_by_id(tmp_path, capsys):
    path = write(
        tmp_path / "p.jsonl",
        {"id": "b", "prediction": "two", "task": "t"},
        {"id": "a", "text": ""},
        {"id": 3, "output": "three"},
    )
    assert read_predictions(path, ["a", "b", "3"]) == ["", "two", "three"]
    assert capsys.readouterr().err == ""
    assert read_predictions(path, ["a", "b", "3", "d", "e"])[3:] == [None, None]
    assert "2 rows of 5" in capsys.readouterr().err
    with pytest.raises(UserError, match=r"none\.jsonl: holds no prediction"):
        read_predictions(write(tmp_path / "none.jsonl"), ["a"])


@pytest.mark.parametrize(
    ("line", "wrong"),
    [
        ({"id": "z", "text": "x"}, "'z'"),
        ({"id": "a", "text": "x"}, "before"),
        ({"id": "b", "text": 1}, "not a string"),
        ({"id": "b", "text": "a\ud800"}, "lone surrogate"),
        ({"id": "b"}, "none of"),
        ({"text": "x"}, '"id"'),
        ({"id": "b", "text": "x", "output": "y"}, "more than one"),
        (["b", "x"], "not an object"),
    ],
)
def test_what_is_no_prediction_is_named_by_its_line(tmp_path, line, wrong):
    path = write(tmp_path / "p.jsonl", {"id": "a", "text": "x"}, line)
    with pytest.raises(UserError, match=r"p\.jsonl:2: .*") as told:
        read_predictions(path, ["a", "b"])
    assert wrong in str(told.value)


def task(category, output, *instances):
    return {
        "Definition": ["Say it."],
        "Categories": [category],
        "Positive Examples": [{"input": "x", "output": output}] if output else [],
        "Instances": [{"id": i, "input": given, "output": out} for i, given, out in instances],
    }


@pytest.fixture
def listed(tmp_path):
    tasks = {
        "one": task("Word Analogy", "No", ("1", "yes", ["yes"]), ("2", "yes", ["no", "No!"])),
        "two": task("Title Generation", "a cat", ("3", "the big cat", ["the cat"])),
    }
    (tmp_path / "tasks").mkdir()
    for name, content in tasks.items():
        (tmp_path / "tasks" / f"{name}.json").write_text(json.dumps(content))
    listed = tmp_path / "tasks.txt"
    listed.write_text("one\ntwo\n")
    return listed


def opened(path, **options):
    return open_dataset(path, ReadOptions(path.parent / "scratch", keep_all=True, **options))


def test_the_baselines_follow_from_the_task_files(listed):
    with opened(listed) as dataset:
        inputs, shown = copy_input(dataset), copy_demonstration(dataset)
        assert inputs == {"1": "yes", "2": "yes", "3": "the big cat"}
        assert shown == {"1": "No", "2": "No", "3": "a cat"}
        scored = score_texts(dataset, list(shown.values()), ["rouge", "exact_match"])
    assert [one["exact_match"] for one in scored.records] == [0, 100, 0]
    assert [one["rougeL"] for one in scored.records] == pytest.approx([0, 100, 50])
    assert scored.fields["rougeL"] == pytest.approx(50)
    assert scored.fields["rougeL_over_tasks"] == pytest.approx(50)
    assert scored.fields["headline"] == pytest.approx(50)
    assert scored.fields["exact_match_by_category"] == {"Word Analogy": 50, "Title Generation": 0}


def test_other_rows_have_a_prompt_and_no_demonstration(listed, tmp_path):
    rows = write(tmp_path / "rows.jsonl", {"instruction": "Do", "input": "it", "output": "done"})
    with opened(listed) as first, opened(rows) as second:
        mixed = join(tmp_path, {"ni": first, "own": second}, np.array([0, 1]), np.array([2, 0]))
        assert copy_input(mixed) == {"ni/3": "the big cat", "own/rows.jsonl:1": "Do\n\nit"}
        with pytest.raises(UserError, match="own/rows"):
            copy_demonstration(mixed)


def test_a_task_without_examples_has_none_to_copy(listed):
    path = listed.parent / "tasks" / "two.json"
    path.write_text(json.dumps(task("Title Generation", "", ("3", "the big cat", ["the cat"]))))
    with opened(listed) as dataset, pytest.raises(UserError, match="'two'"):
        copy_demonstration(dataset)


def test_the_baselines_on_real_tasks(assets):
    listed = assets / "data" / "superni" / "splits" / "default" / "test_tasks.txt"
    if not listed.exists():
        pytest.skip("the assets hold no data/superni")
    with open_dataset(
        listed, ReadOptions(listed.parent, instructions=Options(max_source=0)), "test"
    ) as dataset:
        assert len(dataset) == 200
        texts = list(copy_demonstration(dataset).values())
        scored = score_texts(dataset, texts, ["rouge", "exact_match"])
        # Emotions: one of six answers is always said.
        assert 0 < scored.fields["exact_match_by_task"]["task875_emotion_classification"] < 60
        assert set(scored.fields["rougeL_by_category"]) == {
            "Dialogue Generation",
            "Basic Sentiment Analysis",
        }
        copied = score_texts(dataset, list(copy_input(dataset).values()), ["rouge"])
        assert copied.fields["rougeL"] < scored.fields["rougeL"]
