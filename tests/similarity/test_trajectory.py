import json
import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from zsg_jax.runtime.errors import UserError
from zsg_jax.similarity import measures
from zsg_jax.similarity import trajectory as module
from zsg_jax.similarity.search.options import Search
from zsg_jax.similarity.sinkhorn import NotConverged
from zsg_jax.similarity.trajectory import (
    MEASURES,
    Trajectory,
    check_measures,
    load_trajectory,
    save_trajectory,
    trajectory,
)

WITHOUT_PLANS = tuple(name for name in MEASURES if name != "transport")


def distance(a, b, metric):
    a, b = a / np.linalg.norm(a), b / np.linalg.norm(b)
    return -(a @ b) if metric == "cosine" else math.sqrt(((a - b) ** 2).sum())


def from_nothing(seen, test, texts, test_texts, metric, w_min, w_avg):
    """Every measure of the rows seen, pair by pair in float64, as it is defined."""
    every = [[distance(a, b, metric) for b in test] for a in seen]
    columns = [[row[j] for row in every] for j in range(len(test))]
    flat = [d for row in every for d in row]
    unit = [[x / np.linalg.norm(x) for x in rows] for rows in (seen, test)]
    one, other = (sum(rows) / len(rows) for rows in unit)
    if metric == "cosine":
        centroid = -(one @ other) / np.linalg.norm(one) / np.linalg.norm(other)
    else:
        centroid = np.linalg.norm(one - other)
    counts = []
    for side in (texts, test_texts):
        grams = [gram for text in side for gram in zip(text.split(), text.split()[1:])]  # noqa: B905
        counts.append({gram: grams.count(gram) / len(grams) for gram in grams})
    p, q = counts
    return {
        "minimum": min(flat),
        "maximum": max(flat),
        "average": sum(flat) / len(flat),
        "nearest": sum(min(column) for column in columns) / len(columns),
        "wsd": sum(w_min * min(row) + w_avg * sum(row) / len(row) for row in every) / len(every),
        "centroid": centroid,
        "divergence": sum(p[x] * math.log(p[x] / (q.get(x, 0) + 1e-10)) for x in p),
    }


@settings(max_examples=12)
@given(
    st.integers(1, 30),
    st.integers(1, 9),
    st.integers(1, 7),
    st.integers(1, 4),
    st.integers(3, 40),
    st.sampled_from(["cosine", "euclidean"]),
    st.integers(0, 2**32 - 1),
)
def test_it_equals_starting_over_at_every_point(
    rows, batch_size, tests, every, stride, metric, seed
):
    rng = np.random.default_rng(seed)
    train, test = (rng.normal(size=(n, 5)).astype(np.float32) for n in (rows, tests))
    texts = [[" ".join(rng.choice(list("abc"), 4)) for _ in range(n)] for n in (rows, tests)]
    tasks = [str(task) for task in rng.integers(0, 3, tests)]
    order = rng.permutation(rows)[: rng.integers(1, rows + 1)]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(module, "STUDY_EVERY", stride)
        # Blocks that end inside a step and at its end, so that several are joined.
        got = trajectory(
            train,
            test,
            order,
            batch_size=batch_size,
            every=every,
            measures=WITHOUT_PLANS,
            distance=metric,
            tasks=tasks,
            texts=texts,
            w_min=0.5,
            w_avg=2.0,
            search=Search(block_size=int(rng.integers(1, 2 * batch_size + 1))),
        )
    shown = [
        seen
        for seen in range(1, len(order) + 1)
        if seen % stride == 0 or seen % (every * batch_size) == 0 or seen == len(order)
    ]
    assert got.examples.tolist() == shown
    steps = [seen / batch_size if seen < len(order) else -(-seen // batch_size) for seen in shown]
    assert got.step.tolist() == steps
    assert (got.distance, got.weights) == (metric, (0.5, 2.0))
    assert sorted(got.by_task) == sorted(set(tasks))
    parts = {None: range(tests)}
    parts |= {task: [j for j in range(tests) if tasks[j] == task] for task in tasks}
    for task, part in parts.items():
        values = got.values if task is None else got.by_task[task]
        assert list(values) == list(WITHOUT_PLANS)
        for place, count in enumerate(shown):
            seen = order[:count]
            expected = from_nothing(
                train[seen].astype(np.float64),
                test[list(part)].astype(np.float64),
                [texts[0][row] for row in seen],
                [texts[1][j] for j in part],
                metric,
                0.5,
                2.0,
            )
            for name in WITHOUT_PLANS:
                # A Euclidean distance near 0 is the root of a difference: half the digits.
                assert values[name][place] == pytest.approx(expected[name], abs=2e-6), name


def test_the_weights_of_wsd_make_both_terms_weigh_alike():
    rng = np.random.default_rng(0)
    train, test = rng.normal(size=(20, 3)) + 1, rng.normal(size=(6, 3)) + 1
    got = trajectory(train, test, np.arange(20), batch_size=5, measures=("wsd",))
    every = np.array([[distance(a, b, "cosine") for b in test] for a in train])
    expected = every.min(axis=1).mean() / every.mean()
    assert got.weights == pytest.approx((1.0, expected))
    assert got.values["wsd"][-1] == pytest.approx(2 * every.min(axis=1).mean())
    assert got.by_task == {}


@pytest.mark.parametrize("metric", ["cosine", "euclidean"])
def test_transport_is_that_of_the_rows_seen(metric):
    rng = np.random.default_rng(1)
    train, test = rng.normal(size=(60, 6)), rng.normal(size=(4, 6))
    tasks = ["a", "b", "a", "b"]
    got = trajectory(
        train,
        test,
        np.arange(60),
        batch_size=20,
        measures=("transport",),
        distance=metric,
        tasks=tasks,
    )
    from scipy.optimize import linear_sum_assignment

    for part, values in (
        ([0, 1, 2, 3], got.values),
        ([0, 2], got.by_task["a"]),
        ([1, 3], got.by_task["b"]),
    ):
        for place in range(3):
            seen = train[: 20 * (place + 1)]
            every = np.array([[distance(a, test[j], metric) for j in part] for a in seen])
            # As many copies of each test row as make the plan an assignment.
            wide = np.repeat(every, len(seen) // len(part), axis=1)
            best = wide[linear_sum_assignment(wide)].mean()
            assert values["transport"][place] == pytest.approx(best, abs=1e-6)


def test_transport_is_solved_at_few_points_and_nothing_stands_at_the_others(monkeypatch):
    monkeypatch.setattr(module, "TRANSPORTS", 3)
    rows = np.random.default_rng(0).normal(size=(11, 3))
    got = trajectory(rows, rows[:2], np.arange(11), batch_size=1, measures=("transport", "nearest"))
    assert np.flatnonzero(np.isfinite(got.values["transport"])).tolist() == [0, 5, 10]
    assert np.isfinite(got.values["nearest"]).all()


def test_no_more_than_a_block_of_cosines_is_held(monkeypatch):
    monkeypatch.setattr(module, "PAIRS_AT_ONCE", 14)
    sizes, real = [], measures.cosine_matrix

    def counted(train, test, **options):
        sizes.append(len(train) * len(test))
        return real(train, test, **options)

    monkeypatch.setattr(measures, "cosine_matrix", counted)
    rows = np.random.default_rng(0).normal(size=(11, 3))
    progress = []
    trajectory(
        rows,
        rows[:4],
        np.arange(11),
        batch_size=5,
        search=Search(on_progress=lambda rows, of: progress.append(rows)),
    )
    assert (max(sizes), sum(sizes), sum(progress)) == (12, 44, 11)


def test_what_is_saved_is_what_is_read(tmp_path):
    values = {"nearest": np.array([-0.25, -0.5]), "transport": np.array([np.nan, 0.125])}
    path = tmp_path / "similarity.json"
    seen = np.array([160, 200])
    points = Trajectory(seen / 16, "cosine", values, {"t": dict(values)}, (1.0, 2.5), seen)
    save_trajectory(path, points)
    read = load_trajectory(path)
    for one, other in ((read.values, values), (read.by_task["t"], values)):
        assert list(one) == list(other)
        for name in one:
            np.testing.assert_array_equal(one[name], other[name])
    assert (read.step.tolist(), read.distance, read.weights) == ([10, 12.5], "cosine", (1.0, 2.5))
    assert read.examples.tolist() == [160, 200]
    stored = json.loads(path.read_text())
    # The last point is not one of the study's.
    assert (stored["step"], stored["study"]) == ([10, 12.5], [True, False])
    assert stored["measures"]["transport"]["all"] == [None, 0.125]
    assert stored["measures"]["nearest"]["by_task"] == {"t": [-0.25, -0.5]}
    for harm in ({"measures": []}, {"measures": {"nearest": {}}}, {"step": ["x"]}):
        path.write_text(json.dumps(stored | harm))
        with pytest.raises(UserError, match="is damaged"):
            load_trajectory(path)


ROWS = np.eye(3)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: check_measures(()), "at least 1"),
        (lambda: check_measures(("nearest", "nearest")), "different"),
        (lambda: check_measures(("nerest",)), "did you mean nearest"),
        (lambda: trajectory(ROWS, ROWS[:0], np.arange(3), batch_size=1), "test set is empty"),
        (lambda: trajectory(ROWS, ROWS, np.arange(0), batch_size=1), "order is empty"),
        (lambda: trajectory(ROWS, ROWS, np.arange(3), batch_size=1, distance="l1"), "'l1'"),
        (
            lambda: trajectory(ROWS, ROWS, np.arange(3), batch_size=1, measures=("divergence",)),
            "needs the texts",
        ),
        (
            lambda: trajectory(ROWS, ROWS, np.arange(3), batch_size=1, tasks=["a"]),
            "each test example needs its task",
        ),
    ],
)
def test_what_has_no_trajectory_is_refused(call, message):
    with pytest.raises(UserError, match=message):
        call()


def test_a_plan_that_is_not_found_leaves_out_a_point(monkeypatch, capsys):
    solve = measures.optimal_transport

    def failing(train, test, **options):
        if len(train) == 4:
            raise NotConverged("no plan")
        return solve(train, test, **options)

    monkeypatch.setattr(measures, "optimal_transport", failing)
    rows = np.random.default_rng(0).normal(size=(8, 3)).astype(np.float32)
    got = trajectory(rows, rows[:2], np.arange(8), batch_size=2, measures=("transport",))
    assert np.isfinite(got.values["transport"]).tolist() == [True, False, True, True]
    assert "a point is left out: no plan" in capsys.readouterr().err
