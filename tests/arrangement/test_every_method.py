"""Every method that can be named against the paper's words (arXiv 2406.11721) in plain Python."""

import itertools
import math
from fractions import Fraction

import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from scipy.optimize import linear_sum_assignment

from zsg_jax.arrangement.comparison import Comparison
from zsg_jax.arrangement.methods import METHODS, arrange, example_distance, made_with
from zsg_jax.arrangement.target_sets import of_sets
from zsg_jax.data.mixture import TargetSet

TRANSPORT = {name for name in METHODS if name.startswith("ot-")}
# Of a mean embedding float32 cannot hold the cosines exactly.
COARSE = {"coarse-nft", "coarse-fft"}
# Sums of many cosines, which test_coverage.py compares.
SUMS = {"coverage"}
OTHERS = sorted(set(METHODS) - TRANSPORT - COARSE - SUMS)


def exact(rows, generator):
    """Zero rows, ± unit vectors and ± ones, 16 long: float32 holds their cosines exactly."""
    signs = generator.choice([-1.0, 1.0], size=(rows, 16))
    single = np.eye(16)[generator.integers(0, 16, rows)] * signs
    kind = generator.integers(0, 3, rows)[:, None]
    return np.select([kind == 0, kind == 1], [single, signs], 0.0)


def unit(row):
    length = math.sqrt(sum(float(x) * float(x) for x in row))
    return [float(x) / length if length else 0.0 for x in row]


def all_distances(train, test, metric="cosine"):
    """A list of T distances for each training row."""
    rows, others = [unit(row) for row in train], [unit(row) for row in test]
    if metric == "euclidean":
        return [[math.dist(a, b) for b in others] for a in rows]
    return [[-sum(x * y for x, y in zip(a, b, strict=True)) for b in others] for a in rows]


def measures(every, w_min=1.0, w_avg=None):
    """Minimum, maximum, average and WSD of each row, and the weight of the average."""
    low, average = [min(row) for row in every], [sum(row) / len(row) for row in every]
    if w_avg is None:
        mean = sum(average) / len(average)
        w_avg = sum(low) / len(low) / mean if mean else 0.0
    wsd = [w_min * a + w_avg * b for a, b in zip(low, average, strict=True)]
    return {"min": low, "max": [max(row) for row in every], "avg": average, "wsd": wsd}, w_avg


def ends(nearest_first, end):
    """The study reverses the whole list."""
    return nearest_first if end == "nft" else nearest_first[::-1]


def ranked(distance, group=None):
    group = range(len(distance)) if group is None else group
    return sorted(group, key=lambda i: (distance[i], i))


def turns(every, budget, farthest=False):
    """Algorithm 1: a list of rows for each turn."""
    pool, found = list(range(len(every))), []
    while pool and (budget is None or sum(map(len, found)) < budget):
        sign = -1 if farthest else 1
        named = {
            min(pool, key=lambda i, j=j: (sign * every[i][j], i)) for j in range(len(every[0]))
        }
        found.append(sorted(named))
        pool = [i for i in pool if i not in named]
    return found


def rounds(every, wanted):
    """Each test row in turn takes the nearest row that is left."""
    pool, found = list(range(len(every))), []
    while len(found) < wanted:
        j = len(found) % len(every[0])
        found.append(min(pool, key=lambda i, j=j: (every[i][j], i)))
        pool.remove(found[-1])
    return found


def flat(groups):
    return [row for group in groups for row in group]


def mixed(rows, seed):
    return [rows[i] for i in np.random.Generator(np.random.PCG64(seed)).permutation(len(rows))]


def by_task(tasks):
    groups = {task: [] for task in tasks}
    for row, task in enumerate(tasks):
        groups[task].append(row)
    return list(groups.values())


def until(groups, wanted):
    """The study's loop: turns are taken whole as long as there are too few rows."""
    chosen = []
    for group in groups:
        if len(chosen) >= wanted:
            break
        chosen += group
    return chosen


def halves(first, second, rows):
    start, back = until(first, math.ceil(rows / 2)), until(second, rows // 2)[::-1]
    return start + [row for row in back if row not in start]


def own_wsd(every, tasks, **weights):
    """Each row's WSD, and its task's weight of the average, each task as if there were no other."""
    wsd, w_avg = {}, {}
    for group in by_task(tasks):
        found, weight = measures([every[i] for i in group], **weights)
        wsd |= dict(zip(group, found["wsd"], strict=True))
        w_avg |= dict.fromkeys(group, weight)
    return [wsd[i] for i in sorted(wsd)], [w_avg[i] for i in sorted(w_avg)]


def subset(name, wsd, tasks):
    """polar-N and uniform-K: task after task, each in order of WSD."""
    kind, number = name.split("-")[0], int(name.split("-")[1])
    chosen = []
    for group in by_task(tasks):
        order = ranked(wsd, group)
        near, far = math.ceil(number / 2), len(order) - number // 2
        both_ends = [row for i, row in enumerate(order) if i < near or i >= far]
        chosen += order[::number] if kind == "uniform" else both_ends
    return chosen


def naive(name, every, tasks, budget, seed, **weights):
    """The rows of the method `name`, in order."""
    rows = len(every)
    kind, end = name.split("-")[0], name.split("-")[-1]
    if kind in ("polar", "uniform"):
        chosen = subset(name, own_wsd(every, tasks, **weights)[0], tasks)
        return (mixed(chosen, seed) if end == "shuffled" else chosen)[:budget]
    if kind in ("wsd", "min", "max", "avg"):
        return ends(ranked(measures(every, **weights)[0][kind]), end)[:budget]
    low, high = turns(every, budget), turns(every, budget, farthest=True)
    wanted = rows if budget is None else min(budget, rows)
    if name == "targets":
        return rounds(every, wanted)
    if name.startswith("tmta-turns-"):
        a, b = map(int, name.split("-")[2:])
        return flat(low[a - 1 : b - 1])
    return {
        "tmta-min": lambda: flat(low),
        "tmta-max": lambda: flat(high),
        "tmta-nft": lambda: flat(low),
        "tmta-fft": lambda: flat(low)[::-1],
        "tmta-rt": lambda: mixed(flat(low), seed),
        "tmta-min-max": lambda: halves(low, high, wanted),
        "tmta-max-min": lambda: halves(high, low, wanted),
        "tmta-random": lambda: mixed(halves(low, high, wanted), seed),
        "random": lambda: mixed(range(rows), seed)[:budget],
        "round-robin": lambda: flat(
            [group[i] for group in by_task(tasks) if i < len(group)] for i in range(rows)
        )[:budget],
        "cluster": lambda: flat(by_task(tasks))[:budget],
    }[name]()


@st.composite
def pools(draw, make):
    generator = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    rows = draw(st.integers(1, 24))
    tasks = [f"task {i}" for i in generator.integers(0, draw(st.integers(1, 5)), rows)]
    # Averages over a power of two of them stay exact.
    return make(rows, generator), make(2 ** draw(st.integers(0, 3)), generator), tasks


def gaussians(rows, generator):
    return generator.normal(size=(rows, 12))


BUDGETS = st.one_of(st.none(), st.integers(1, 30))
WEIGHTS = st.sampled_from([{}, {"w_avg": 0.5}, {"w_min": -1.0, "w_avg": 2.0}, {"w_min": 0.25}])


def subsets_of(number):
    return [f"{kind}-{number}{end}" for kind in ("polar", "uniform") for end in ("", "-shuffled")]


def noise(every, w_avg, metric):
    """Distances that float32 cosines may bring into another order lie nearer than this."""
    low = [min(row) for row in every]
    average = [sum(row) / len(row) for row in every]
    mean = abs(sum(average) / len(average))
    step = 5e-7 if metric == "cosine" else 5e-7 / max(min(low), 1e-9)
    return step * (1 + abs(w_avg) * (1 + max(map(abs, average)) / max(mean, 1e-9)))


def apart(distance, gap):
    ordered = sorted(distance)
    return all(b - a > 4 * gap for a, b in itertools.pairwise(ordered))


@pytest.mark.parametrize("metric", ["cosine", "euclidean"])
@settings(max_examples=25)
@given(st.data(), BUDGETS, st.integers(0, 99), WEIGHTS, st.integers(1, 9))
def test_all_orders(metric, data, budget, seed, weights, number):
    """Cosines with ties, exactly; Euclidean distances, no exact numbers, where there are none."""
    train, test, tasks = data.draw(pools(exact if metric == "cosine" else gaussians))
    every = all_distances(train, test, metric)
    told, w_avg = measures(every, **weights)
    told["own"], of_task = own_wsd(every, tasks, **weights)
    gap = 0.0
    if metric == "euclidean":
        gap = noise(every, max(map(abs, [w_avg, *of_task])), metric)
        assume(all(apart(told[kind], gap) for kind in told))
        assume(all(apart(column, gap) for column in zip(*every, strict=True)))
    inputs = Comparison(train, test, tasks, budget=budget, distance=metric, **weights)
    cosine = Comparison(train, test, tasks, budget=budget, **weights)
    last = len(turns(every, budget))
    words = {"own": "w_avg of", "wsd": "WSD", "max": "maximum over", "avg": "average over"}
    subsets = [
        f"{kind}-{number}{end}" for kind in ("polar", "uniform") for end in ("", "-shuffled")
    ]
    for name in [*OTHERS, *subsets, f"tmta-turns-{(last + 1) // 2}-{last + 1}"]:
        order = arrange(name, inputs, seed).order.tolist()
        assert order == naive(name, every, tasks, budget, seed, **weights), name
        kind = name.split("-")[0]
        if kind in ("tmta", "min", "max"):
            assert order == arrange(name, cosine, seed).order.tolist(), name
        kind = "own" if kind in ("polar", "uniform") else kind if kind in told else "min"
        distance, text = example_distance(name, inputs)
        np.testing.assert_allclose(distance, told[kind], rtol=0, atol=gap)
        assert words.get(kind, "minimum over test rows of") in text
        assert ("Euclidean" in text) == (metric == "euclidean")


@settings(max_examples=20)
@given(pools(gaussians), BUDGETS, WEIGHTS, st.sampled_from(["cosine", "euclidean"]))
def test_whole_tasks_by_the_wsd_of_their_mean_embedding(pool, budget, weights, metric):
    train, test, tasks = pool
    groups, means = task_means(train, tasks)
    every = all_distances(means, test, metric)
    found, w_avg = measures(every, **weights)
    gap = noise(every, w_avg, metric)
    assume(apart(found["wsd"], gap))
    inputs = Comparison(train, test, tasks, budget=budget, distance=metric, **weights)
    nearest_first = flat(groups[task] for task in ranked(found["wsd"]))
    for end in ("nft", "fft"):
        expected = ends(nearest_first, end)[:budget]
        assert arrange(f"coarse-{end}", inputs, 0).order.tolist() == expected
    distance, text = example_distance("coarse-nft", inputs)
    of_rows = {row: found["wsd"][task] for task, group in enumerate(groups) for row in group}
    np.testing.assert_allclose(distance, [of_rows[row] for row in sorted(of_rows)], atol=gap)
    assert text.startswith("WSD of the task's mean row")


def task_means(train, tasks):
    """The rows of each task, and their mean embedding."""
    groups, rows = by_task(tasks), [unit(row) for row in train]
    return groups, [[sum(rows[i][d] for i in g) / len(g) for d in range(12)] for g in groups]


def toward(kind, train, test, tasks, metric):
    """The pool nearest first toward these test rows alone, how sure that is, and WSD's weight."""
    every, w_avg = all_distances(train, test, metric), None
    if kind == "ot":
        paid = assigned(every)
        return ranked(paid), apart(paid, 1e-7), None
    if kind == "coarse":
        groups, means = task_means(train, tasks)
        every = all_distances(means, test, metric)
        found, w_avg = measures(every)
        order = flat(groups[task] for task in ranked(found["wsd"]))
        return order, apart(found["wsd"], noise(every, w_avg, metric)), w_avg
    found, w_avg = measures(every)
    sure = apart(found[kind], noise(every, w_avg, metric))
    return ranked(found[kind]), sure, w_avg if kind == "wsd" else None


def shared_out(orders, sets, wanted):
    """The set with least of its share takes the first of its order that is left: (row, set)."""
    found, chosen = [], [0] * len(sets)
    while len(found) < wanted:
        may = [k for k, one in enumerate(sets) if one.budget is None or chosen[k] < one.budget]
        if not may:
            break
        k = min(may, key=lambda k: (Fraction(chosen[k]) / sets[k].share, k))
        taken = {row for row, _ in found}
        found.append((next(row for row in orders[k] if row not in taken), k))
        chosen[k] += 1
    return found


@pytest.mark.parametrize("kind", ["avg", "wsd", "coarse", "ot"])
@settings(max_examples=10)
@given(
    st.integers(0, 2**32 - 1),
    # 24 rows are a whole number to each test row of a set, so that a plan is an assignment.
    st.lists(st.sampled_from([1, 2, 3, 4, 6]), min_size=1, max_size=3),
    st.lists(st.fractions(Fraction(1, 5), 5, max_denominator=5), min_size=3, max_size=3),
    st.lists(st.none() | st.integers(1, 12), min_size=3, max_size=3),
    st.none() | st.integers(1, 24),
    st.sampled_from(["cosine", "euclidean"]),
)
def test_sets_of_test_rows_take_turns_in_orders_of_their_own(
    kind, seed, sizes, shares, budgets, budget, metric
):
    generator = np.random.default_rng(seed)
    train, test = gaussians(24, generator), gaussians(sum(sizes), generator)
    tasks = [f"task {i}" for i in generator.integers(0, 5, 24)]
    sets = [TargetSet(f"set {k}", shares[k], budgets[k]) for k in range(len(sizes))]
    index = generator.permutation(np.repeat(np.arange(len(sizes)), sizes)).astype(np.int32)
    alone = [toward(kind, train, test[index == k], tasks, metric) for k in range(len(sizes))]
    assume(all(sure for _, sure, _ in alone))
    shared = {"sets": sets, "set_index": index, "budget": budget, "distance": metric}
    inputs = Comparison(train, test, tasks, **shared)
    for end in ("nft", "fft"):
        orders = [ends(order, end) for order, _, _ in alone]
        expected = shared_out(orders, sets, 24 if budget is None else budget)
        made = arrange(f"{kind}-{end}", inputs, 0)
        assert made.order.tolist() == [row for row, _ in expected]
        told = of_sets(f"{kind}-{end}", inputs, made.order)["target_sets"]
        assert [one["rows"] for one in told.values()] == [
            sum(by == k for _, by in expected) for k in range(len(sizes))
        ]
        for one, (_, _, w_avg) in zip(told.values(), alone, strict=True):
            assert w_avg is None or one["w_avg"] == pytest.approx(w_avg, rel=1e-4, abs=1e-5)
            assert kind != "ot" or one["plan"] == "exact"


def assigned(every):
    """What each row pays: with copies of each test row the best plan is the best assignment."""
    wide = np.array(every).repeat(len(every) // len(every[0]), axis=1)
    return wide[linear_sum_assignment(wide)] / len(every)


@settings(max_examples=12)
@given(st.integers(0, 2**32 - 1), st.sampled_from(["cosine", "euclidean"]))
def test_examples_by_what_they_pay_in_the_transport(seed, metric):
    generator = np.random.default_rng(seed)
    train, test = gaussians(24, generator), gaussians(6, generator)
    paid = assigned(all_distances(train, test, metric))
    assume(apart(paid, 1e-7))
    nearest_first = ranked(paid)
    for budget in (None, 7):
        inputs = Comparison(train, test, ["all"] * 24, budget=budget, distance=metric)
        for end in ("nft", "fft"):
            expected = ends(nearest_first, end)[:budget]
            assert arrange(f"ot-{end}", inputs, 0).order.tolist() == expected
    assert made_with("ot-nft", inputs)["plan"] == "exact"
    distance, text = example_distance("ot-nft", inputs)
    np.testing.assert_allclose(distance, paid, rtol=0, atol=1e-7)
    assert "optimal transport" in text


def test_sinkhorns_plan_on_request():
    generator = np.random.default_rng(0)
    inputs = Comparison(gaussians(24, generator), gaussians(6, generator), range(24), budget=None)
    distance, _ = example_distance("ot-sinkhorn-nft", inputs)
    assert np.abs(distance - example_distance("ot-nft", inputs)[0]).mean() <= 1e-3
    assert arrange("ot-sinkhorn-nft", inputs, 0).order.tolist() == ranked(distance)
    assert arrange("ot-sinkhorn-fft", inputs, 0).order.tolist() == ends(ranked(distance), "fft")
    told = made_with("ot-sinkhorn-fft", inputs)
    assert told["plan"] == "sinkhorn"
    assert told["marginal_error"] <= 1e-3


def test_every_name_is_compared():
    assert set(OTHERS) | TRANSPORT | COARSE | SUMS == set(METHODS)
    tasks = ["a", "b", "a"]
    for name in OTHERS:
        naive(name, [[0.0], [1.0], [0.5]], tasks, None, 0)
