"""Paired differences of arrangements: what is compared, and when nothing is."""

from itertools import combinations

import numpy as np
import pytest

from zsg_jax.report.differences import differences as all_differences
from zsg_jax.report.differences import luck, sentences
from zsg_jax.report.examples import losses, scores
from zsg_jax.report.metrics import METRICS
from zsg_jax.report.page import write_report
from zsg_jax.statistics.steadiness import steadiness

NOISE = np.random.default_rng(0).normal(size=60)


def runs(offsets, seeds=(0,), steps=(0, 10, 20), instances=60):
    return {
        name: {
            seed: [
                {"step": step, "kind": "test", "losses": (NOISE[:instances] + offset).tolist()}
                for step in steps
            ]
            for seed in seeds
        }
        for name, offset in offsets.items()
    }


def compared(measured, steps, **options):
    pairs = list(combinations(measured.values, 2))
    return all_differences(measured, dict.fromkeys(steps, pairs), **options)


def differences(told, tasks, steps):
    found = compared(losses(told, tasks, steps), steps)
    return {step: [one.difference for one in pairs] for step, pairs in found.items()}


def test_the_same_instances_are_compared_at_each_step():
    found = differences(runs({"a": 0.0, "b": 0.5, "c": 0.0}), None, [10, 20, 25])
    assert list(found) == [10, 20]  # nobody was evaluated at 25
    by_pair = {(one.first, one.second): one for one in found[20]}
    near, same = by_pair["a", "b"], by_pair["a", "c"]
    assert (near.mean, near.low, near.high) == pytest.approx((-0.5,) * 3)
    assert (same.mean, same.p) == (0, 1)


def test_a_pair_is_one_sentence_over_its_steps():
    told = runs({"a": 0.0, "b": 0.5}, steps=(0,)) | {}
    for name, by_seed in runs({"a": 0.0, "b": 0.0}, steps=(20,)).items():
        told[name][0] += by_seed[0]
    found = compared(losses(told, None, [0, 20]), [0, 20])
    [said] = sentences(found, METRICS["loss"], {"a": 20, "b": 20})
    assert "step 0 a is 0.5000 below b" in said
    assert "0.5000 to 0.5000" in said
    assert "step 20, they do not differ" in said
    noisy = {"a": {0: scored({"x": [1], "y": [0]})}, "b": {0: scored({"x": [0], "y": [1]})}}
    found = compared(scores(noisy, "exact_match", [20]), [20])
    [said] = sentences(found, METRICS["exact_match"], {"a": 20, "b": 20})
    assert said.startswith("At the end, step 20, a and b cannot be told apart")
    alike = losses(runs(dict.fromkeys("abc", 0.0), steps=(20,)), None, [20])
    assert len(sentences(compared(alike, [20]), METRICS["loss"], {})) == 1


def test_what_other_draws_of_a_shuffle_come_to_is_told():
    told = runs({"tmta-random": 0.0, "tmta-random@1": 0.3, "tmta-random@2": 0.1, "nft": 0.5})
    [said] = luck(compared(losses(told, None, [20]), [20]), 2)
    assert "step 20" in said
    assert "3 draws of tmta-random" in said
    assert "0.30" in said
    assert luck(compared(losses(runs({"a": 0.0, "b": 0.3}), None, [20]), [20]), 2) == []


def scored(answers, field="exact_match", step=20, **more):
    """Records of one run: an id, then what each of its samples scores."""
    return [
        {"step": step, "id": id, "task": "t", "sample": sample, field: float(value)} | more
        for id, values in answers.items()
        for sample, value in enumerate(values)
    ]


def test_scores_are_paired_by_id_and_samples_are_averaged():
    first = {"x": [100, 0], "y": [0, 0], "z": [100, 100]}
    second = {"z": [0, 100], "y": [0, 0], "x": [0, 0]}
    told = {"a": {0: scored(first)}, "b": {0: scored(second)}}
    [[one]] = compared(scores(told, "exact_match", [20]), [20], right_or_wrong=True).values()
    assert one.difference.mean == pytest.approx(100 / 3)
    assert one.mcnemar == 0.5  # two examples differ, both for a
    assert compared(scores(told, "rougeL", [20]), [20]) == {}
    told["b"][0] = scored({"x": [0], "y": [0], "other": [0]})
    assert compared(scores(told, "exact_match", [20]), [20]) == {}
    # Of a record that is there twice the last counts.
    both = {"x": [0], "y": [0]}
    twice = {"a": {0: scored({"x": [7], "y": [1]}) + scored({"x": [1]})}, "b": {0: scored(both)}}
    [[one]] = compared(scores(twice, "exact_match", [20]), [20]).values()
    assert (one.difference.mean, one.mcnemar) == (1, None)


def test_whole_tasks_are_the_units_where_there_are_enough():
    alike = [f"task {number // 5}" for number in range(60)]
    two = {"a": 0.0, "b": 0.0}
    told = runs(two)
    effect = np.random.default_rng(1).normal(size=12).repeat(5)
    for record in told["a"][0]:
        record["losses"] = (NOISE + effect).tolist()
    spans = {}
    for name, tasks in (("none", None), ("two", ["x", "y"] * 30), ("twelve", alike)):
        [one] = differences(told, tasks, [20])[20]
        spans[name] = one.high - one.low
    assert spans["none"] == spans["two"] < spans["twelve"] / 1.5


def test_nothing_is_compared_that_cannot_be():
    assert differences(runs({"a": 0.0}), None, [20]) == {}
    other = runs({"a": 0.0}) | runs({"b": 0.0}, instances=50)
    assert differences(other, None, [20]) == {}
    seeds = runs({"a": 0.0}, seeds=(0,)) | runs({"b": 0.0}, seeds=(1,))
    assert differences(seeds, None, [20]) == {}
    assert differences(runs({"a": np.nan, "b": 0.0}), None, [20]) == {}
    assert compared(scores({}, "rougeL", [20]), [20]) == {}
    # Of one seed and one instance nothing tells the error.
    assert differences(runs({"a": 0.0, "b": 1.0}, instances=1), None, [20]) == {}


def test_those_that_go_on_are_compared_where_a_shorter_one_has_ended():
    told = runs({"a": 0.0, "b": 0.5}) | runs({"short": 0.2}, steps=(0, 10))
    pairs = {10: [("a", "short"), ("b", "short")], 20: [("a", "b")]}
    found = all_differences(losses(told, None, pairs), pairs)
    assert {step: len(of) for step, of in found.items()} == {10: 2, 20: 1}
    said = sentences(found, METRICS["loss"], {"a": 20, "b": 20, "short": 10})
    begin = [" ".join(one.split()[:3]) for one in said]
    assert begin == ["At step 10", "At step 10", "At the end,"]


@pytest.mark.usefixtures("undrawn")
def test_the_page_tells_the_window_and_the_differences(make_runs, read_page, tmp_path):
    told = make_runs(losses=NOISE[:8].tolist())
    page = read_page(write_report(tmp_path, told, {}, {}, window=25))
    page.check()
    results = page.table("results")
    assert results[0][1:3] == ["Area up to step 20", "Loss at step 20"]
    # 3/(1+e) at steps 0, 10, 20, a quarter more for the mean of two seeds.
    assert results[1][1].startswith(f"{(2.25 + 1.25) / 2 + 0.25:.4f} ±")
    assert results[1][2].startswith("1.2500 ±")
    table = page.table("differences-loss")
    assert [row[:2] for row in table[1:]] == [["nft − fft", "20"], ["nft − fft", "30"]]
    assert "step 20" in page.said()
    assert not read_page(write_report(tmp_path, make_runs(seeds=1), {}, {})).said().count("window")


@pytest.mark.usefixtures("undrawn")
def test_the_page_compares_nothing_before_the_first_step(make_runs, read_page, tmp_path):
    told = make_runs(seeds=1, losses=NOISE[:8].tolist())
    for name, end in (("nft", 8), ("fft", 7)):
        told[name][0] = [
            one | {"step": end if one["step"] else 0}
            for one in told[name][0]
            if one["kind"] == "test" and one["step"] <= 10
        ]
    page = read_page(write_report(tmp_path, {name: told[name] for name in ("nft", "fft")}, {}, {}))
    page.check()
    assert "at the same step after step 0" in page.said()


@pytest.mark.usefixtures("undrawn")
def test_the_page_tells_how_steady_each_measure_is(make_runs, read_page, tmp_path):
    told = make_runs(seeds=1, evaluations=12)
    scores = [1.0, 4, 2, 6, 4, 7, 6, 9, 8, 8, 10, 9]
    for runs_of in told.values():
        for record in runs_of[0]:
            if record["kind"] == "test":
                record["rouge"] = scores[record["step"] // 10]
    table = read_page(write_report(tmp_path, told, {}, {})).table("steadiness")
    found = steadiness(np.array(scores))
    assert [row[0] for row in table[1:]] == ["test loss", "rouge"]
    assert table[2][1:] == [f"{found.against:.0%}({found.noise:.1%})"] * 2
    assert table[1][1].startswith("0%")
