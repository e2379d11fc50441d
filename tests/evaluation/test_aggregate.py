"""Means against float64 sums written out, whatever the order, the batches and the samples."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from zsg_jax.evaluation.aggregate import HEADLINES, aggregate, aggregate_records
from zsg_jax.runtime.errors import UserError

EXAMPLES = st.lists(
    st.tuples(st.sampled_from("abc"), st.floats(0, 100), st.floats(0, 100)), min_size=1, max_size=20
)


@given(EXAMPLES, st.randoms())
def test_means_are_over_instances_and_over_tasks(examples, random):
    tasks = [task for task, *_ in examples]
    values = np.array([two for _, *two in examples])
    found = aggregate("x", values, tasks, [f"kind {task}" for task in tasks])
    each = values.mean(axis=1)
    of_task = {task: each[[one == task for one in tasks]].mean() for task in tasks}
    assert found["x"] == pytest.approx(each.mean())
    assert found["x_by_task"] == pytest.approx(of_task)
    assert found["x_over_tasks"] == pytest.approx(np.mean(list(of_task.values())))
    assert found["x_by_category"] == {f"kind {k}": v for k, v in found["x_by_task"].items()}
    shuffled = random.sample(examples, len(examples))
    again = aggregate("x", [two for _, *two in shuffled], [task for task, *_ in shuffled])
    assert {key: found[key] for key in again} == again


def records(**changes):
    told = [
        ("a", "t1", "Textual Entailment", 0, 30),
        ("b", "t1", "Textual Entailment", 100, 90),
        ("c", "t2", "keyword_tagging", 0, 60),
    ]
    return [
        {"id": i, "task": t, "category": c, "sample": s, "exact_match": float(e), "rougeL": r + s}
        | changes
        for s in (0, 2)
        for i, t, c, e, r in told
    ]


def test_samples_of_an_example_are_one_value():
    found = aggregate_records(records(), ["rougeL"])
    assert found["rougeL"] == pytest.approx(61)
    assert found["rougeL_over_tasks"] == pytest.approx(61)
    assert found["rougeL_by_task"] == {"t1": 61, "t2": 61}
    with pytest.raises(UserError, match="samples"):
        aggregate_records(records()[:-1], ["rougeL"])


def test_the_headline_takes_of_each_category_its_own():
    assert sorted(set(HEADLINES.values())) == ["exact_match", "rougeL"]
    found = aggregate_records(records(), ["rougeL", "exact_match"])
    assert found["headline"] == pytest.approx((0 + 100 + 61) / 3)
    assert found["headline_by_category"] == {"Textual Entailment": 50, "keyword_tagging": 61}
    for told in (records(category="Poetry"), records(category="")):
        assert "headline" not in aggregate_records(told, ["rougeL"])
    assert "rougeL_by_category" not in aggregate_records(records(category=""), ["rougeL"])


def test_what_cannot_be_averaged_is_refused():
    for values, wrong in (([np.nan], "finite"), ([], "no example")):
        with pytest.raises(UserError, match=wrong):
            aggregate("x", values, ["t"] * len(values))
    with pytest.raises(UserError, match="'reward'"):
        aggregate_records(records(), ["reward"])
