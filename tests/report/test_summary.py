import json
import math
import statistics

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from zsg_jax.report.curves import (
    EARLY_KIND,
    FLAT_KIND,
    LATE_KIND,
    RISING_KIND,
    area_under_curve,
    curve_kind,
    first_step_within,
)
from zsg_jax.report.summary import KEYS, compared_at, summarize
from zsg_jax.runtime.errors import UserError

LOSSES = st.lists(st.floats(0, 20), min_size=2, max_size=30)


def scored(step, loss, tasks=None, **more):
    return {
        "step": step,
        "kind": "test",
        "loss": loss,
        "loss_by_task": tasks or {"t": loss},
        "instances": 4,
        "dropped": 0,
        "losses": [loss] * 4,
        **more,
    }


def rows(losses, every=10, **more):
    return [scored(i * every, loss, **more) for i, loss in enumerate(losses)]


@given(LOSSES, st.integers(0, 500), st.lists(st.integers(1, 50), min_size=29, max_size=29))
def test_area_is_an_average_and_the_sum_of_trapezoids(losses, start, gaps):
    steps = [start, *(start + np.cumsum(gaps)).tolist()][: len(losses)]
    area = sum(
        gap * (left + right) / 2 for gap, left, right in zip(gaps, losses, losses[1:], strict=False)
    )
    assert area_under_curve(steps, losses) == pytest.approx(area / (steps[-1] - start), abs=1e-9)


@given(LOSSES)
def test_first_step_within_is_the_first(losses):
    steps = [7 * i for i in range(len(losses))]
    found = first_step_within(steps, losses)
    final = losses[-1]
    near = [s for s, loss in zip(steps, losses, strict=True) if abs(loss - final) <= 0.05 * final]
    assert found == near[0]


def test_first_step_within_takes_the_edge_and_both_sides():
    assert first_step_within([0, 1, 2, 3], [40, 21, 20, 20]) == 1  # 5 % exactly
    assert first_step_within([0, 1, 2], [19, 50, 20]) == 0  # below, and it leaves again
    assert first_step_within([0, 1, 2], [18, 22, 20]) == 2
    assert first_step_within([0, 1], [1.0, math.nan]) is None


@pytest.mark.parametrize(
    ("losses", "kind"),
    [
        ([3, 1.2, 1.0, 1.0, 1.0, 1.0, 1.0, 1.0, 1.0], EARLY_KIND),
        ([3, 1.0, 1.0, 1.0, 1.0, 1.0, 1.0, 1.1, 1.15], EARLY_KIND),  # wins back 7 % only
        ([3, 3.0, 3.0, 3.0, 2.9, 2.8, 1.5, 1.0, 1.0], LATE_KIND),
        ([3, 2.9, 5.0, 5.0, 5.0, 4.5, 4.0, 3.0, 2.8], LATE_KIND),
        ([3, 1.0, 1.0, 1.2, 1.5, 1.8, 2.0, 2.0, 2.0], RISING_KIND),
        ([1, 1.2, 1.4, 1.6, 1.8, 2.0, 2.0, 2.0, 2.0], RISING_KIND),  # never fell at all
        ([2, 2.04, 2.0, 2.09, 2.0, 2.05, 2.0, 2.0, 2.04], FLAT_KIND),
        ([0, 0, 0, 0, 0], FLAT_KIND),
        ([3, 1], None),
        ([3, math.nan, 1], None),
    ],
)
def test_kinds_of_curve(losses, kind):
    assert curve_kind(range(len(losses)), losses) == kind


@given(st.lists(st.floats(0.1, 20), min_size=3, max_size=30), st.floats(0.1, 10))
def test_kind_does_not_depend_on_the_unit_of_the_loss(losses, scale):
    steps = list(range(len(losses)))
    # A power of two scales floats without rounding, so no threshold is crossed by accident.
    power = 2.0 ** round(math.log2(scale))
    assert curve_kind(steps, losses) == curve_kind(steps, [power * loss for loss in losses])


def spread(values):
    return pytest.approx(statistics.stdev(values), abs=1e-9) if len(values) > 1 else None


@given(st.lists(st.lists(st.floats(0, 9), min_size=4, max_size=4), min_size=1, max_size=4))
def test_summary_against_plain_statistics(curves):
    runs = {"nft": {seed: rows(curve) for seed, curve in enumerate(curves)}}
    entry = summarize(runs)["arrangements"]["nft"]
    assert entry["seeds"] == list(range(len(curves)))
    assert entry["steps"] == [0, 10, 20, 30]
    columns = list(zip(*curves, strict=True))
    assert entry["loss_mean"] == pytest.approx([statistics.fmean(c) for c in columns])
    assert list(entry["loss_by_seed"].values()) == curves
    finals = [curve[-1] for curve in curves]
    areas = [(c[0] / 2 + c[1] + c[2] + c[3] / 2) / 3 for c in curves]
    firsts = [first_step_within([0, 10, 20, 30], c) for c in curves]
    for key, values in [
        ("final_loss", finals),
        ("auc", areas),
        ("first_step_within_5_percent", firsts),
    ]:
        assert entry[key]["mean"] == pytest.approx(statistics.fmean(values))
        assert list(entry[key]["by_seed"].values()) == pytest.approx(values)
        assert entry[key]["std"] == spread(values)
    deviations = [spread(column) for column in columns]
    assert entry["loss_std"] == (deviations if len(curves) > 1 else None)
    assert entry["first_step_within_5_percent"]["of_mean_curve"] == first_step_within(
        entry["steps"], entry["loss_mean"]
    )


def test_unequal_seeds_use_their_common_steps_and_say_so():
    runs = {"nft": {0: rows([3, 2, 1, 0.5]), 1: rows([5, 4])}, "rt": {0: rows([3, 2, 1, 0.5])}}
    summary = summarize(runs)
    entry = summary["arrangements"]["nft"]
    assert entry["steps"] == [0, 10]
    assert entry["final_loss"]["mean"] == 3.0
    assert "2 common steps up to 10" in entry["note"]
    assert "seed 0 at step 30" in entry["note"]
    assert summary["arrangements"]["rt"]["note"] is None
    assert "nft at step 10, rt at step 30" in summary["notes"][0]


def test_the_last_row_of_a_repeated_step_counts_and_order_does_not():
    once = rows([3, 2, 1])
    twice = [scored(20, 9.0), *reversed(once)]
    assert summarize({"a": {0: twice}}) == summarize({"a": {0: once}})


def test_tasks_are_meaned_over_seeds_and_a_missing_one_is_null():
    first = [scored(0, 2, {"a": 1.0, "b": 3.0}), scored(10, 2, {"a": 1.0, "b": 3.0})]
    second = [scored(0, 2, {"a": 3.0, "b": 5.0}), scored(10, 2, {"a": 2.0})]
    entry = summarize({"x": {0: first, 1: second}})["arrangements"]["x"]
    assert entry["loss_by_task"] == {"a": [2.0, 1.5], "b": [4.0, None]}
    assert entry["curve_kind"] == {"a": None, "b": None}


def test_no_nan_reaches_the_json():
    bad = rows([3, math.inf, math.nan, 1])
    summary = summarize({"x": {0: bad, 1: rows([3, 2, 1.5, 1])}, "one": {0: rows([3])}})
    json.dumps(summary, allow_nan=False)
    entry = summary["arrangements"]["x"]
    assert entry["loss_mean"] == [3.0, None, None, 1.0]
    assert entry["auc"]["mean"] is None
    assert entry["auc"]["by_seed"]["1"] is not None
    assert entry["first_step_within_5_percent"]["of_mean_curve"] == 30
    assert summary["arrangements"]["one"]["auc"] == {
        "mean": None,
        "std": None,
        "by_seed": {"0": None},
    }


def test_scores_are_the_other_numbers_on_the_steps_that_have_them():
    some = [scored(0, 3, rougeL=10.0), scored(5, 2), scored(10, 1, rougeL=30)]
    entry = summarize({"x": {0: some, 1: some}})["arrangements"]["x"]
    found = entry["scores"].pop("rougeL")
    assert not entry["scores"]
    assert (found["steps"], found["mean"], found["std"]) == ([0, 10], [10.0, 30.0], [0, 0])
    assert (found["final"]["mean"], found["by_task"], found["by_category"]) == (30.0, {}, {})


def test_the_documentation_of_keys_matches_the_entry():
    summary = summarize({"x": {0: rows([3, 2, 1])}})
    entry = summary["arrangements"]["x"]
    assert set(entry) == set(KEYS) | {"seeds", "instances", "dropped", "note"}
    assert "units of the loss" in summary["keys"]["auc"]


@pytest.mark.parametrize(
    ("runs", "told"),
    [
        ({}, "no runs"),
        ({"nft": {}}, "nft: there is no run"),
        ({"nft": {3: []}}, "nft, seed 3: its metrics hold no test record"),
        ({"nft": {0: [scored(0, 1)], 1: [scored(5, 1)]}}, "share no evaluated step"),
    ],
)
def test_nothing_to_compare_is_refused(runs, told):
    with pytest.raises(UserError, match=told):
        summarize(runs)


@given(LOSSES, st.integers(0, 400))
def test_the_window_is_what_a_shorter_run_would_have_told(losses, window):
    told = summarize({"a": {0: rows(losses)}}, window)["arrangements"]["a"]["window"]
    count = len([step for step in range(0, 10 * len(losses), 10) if step <= window])
    if count in (1, len(losses)):  # up to step 0 nothing is trained
        assert told is None
    else:
        short = summarize({"a": {0: rows(losses[:count])}})["arrangements"]["a"]
        assert told == {
            "step": 10 * (count - 1),
            "auc": short["auc"],
            "loss": short["final_loss"],
        }


def test_the_window_ends_where_all_arrangements_were_evaluated():
    runs = {"a": {0: rows([3, 2, 1, 1])}, "b": {0: rows([3, 2, 1], every=15)}}
    assert summarize(runs, 25)["window"] is None
    assert summarize(runs, 5)["window"] is None
    assert compared_at(summarize(runs, 25), "loss") == {30: [("a", "b")]}
    assert summarize(runs)["window"] is None
    assert summarize(runs, 30)["window"] is None
    summary = summarize({"a": {0: rows([3, 2, 1, 1])}, "b": {0: rows([3, 2, 1], every=20)}}, 25)
    assert summary["window"] == 20
    assert {one["window"]["step"] for one in summary["arrangements"].values()} == {20}
    assert compared_at(summary, "loss") == {20: [("a", "b")]}
    assert compared_at(summary, "rougeL") == {}


def test_two_are_compared_at_the_last_step_that_both_have():
    lengths = {"a": 6, "b": 6, "short": 3}
    told = {name: {0: rows([3.0] * count)} for name, count in lengths.items()}
    end, short = ("a", "b"), [("a", "short"), ("b", "short")]
    assert compared_at(summarize(told), "loss") == {20: short, 50: [end]}
    assert compared_at(summarize(told, 10), "loss") == {10: [end, *short], 20: short, 50: [end]}
    assert compared_at(summarize(told, 40), "loss") == {20: [end, *short], 50: [end]}
    assert compared_at(summarize(told), "loss", [end]) == {50: [end]}
