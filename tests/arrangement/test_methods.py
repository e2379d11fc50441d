import numpy as np
import pytest

from zsg_jax.arrangement import tmta
from zsg_jax.arrangement.comparison import Comparison
from zsg_jax.arrangement.methods import (
    METHODS,
    arrange,
    caution,
    made_with,
    needs,
    parse,
)
from zsg_jax.arrangement.needs import Needs
from zsg_jax.runtime.errors import UserError
from zsg_jax.similarity.search.scan import scan

RNG = np.random.default_rng(0)
TRAIN, TEST = RNG.normal(size=(60, 8)), RNG.normal(size=(7, 8))
TASKS = [f"task {number}" for number in RNG.integers(0, 5, size=60)]
SHUFFLING = ["random", "tmta-random", "tmta-rt", "polar-4-shuffled", "uniform-3-shuffled"]
SHUFFLING += ["tasks-3"]


def inputs(budget=None, tasks=TASKS, **options):
    return Comparison(TRAIN, TEST, tasks, budget=budget, **options)


def test_a_range_of_turns():
    low = tmta(TRAIN, TEST)
    there = len(low.turn_sizes)
    made = arrange("tmta-turns-2-5", inputs(), 0)
    rows = [row for row, turn in zip(low.order, low.turn, strict=True) if 2 <= turn < 5]
    assert made.order.tolist() == rows
    assert set(made.turn.tolist()) == {2, 3, 4}
    assert arrange(f"tmta-turns-1-{there + 1}", inputs(), 0).order.tolist() == low.order.tolist()
    with pytest.raises(UserError, match=f"ends with turn {there + 1}, but there are {there}") as e:
        arrange(f"tmta-turns-1-{there + 2}", inputs(), 0)
    assert "budget" not in str(e.value)
    with pytest.raises(UserError, match=r"there are 2; .* or a larger budget"):
        arrange("tmta-turns-3-4", inputs(8), 0)


def test_the_weights_used_are_told():
    given = inputs()
    told = made_with("wsd-fft", given)
    means = given.distances.minimum.mean(), given.distances.average.mean()
    assert told["w_min"] == 1.0
    assert told["w_avg"] == pytest.approx(means[0] / means[1], rel=1e-4)
    assert made_with("coarse-nft", given)["w_avg"] != told["w_avg"]
    own = made_with("polar-3", given)
    assert made_with("uniform-2-shuffled@2", given) == own
    for number, task in enumerate(dict.fromkeys(TASKS)):
        alone = [i for i, other in enumerate(TASKS) if other == task]
        expected = made_with("wsd-nft", Comparison(TRAIN[alone], TEST, alone, budget=None))
        assert own["w_avg"][number] == pytest.approx(expected["w_avg"], rel=1e-4)
    assert made_with("random", given) == made_with("tmta-nft", given) == {"metric": "cosine"}
    given = inputs(w_min=0.5, w_avg=-2.0, distance="euclidean")
    for name in ("wsd-nft", "coarse-fft"):
        told = made_with(name, given)
        assert (told["metric"], told["w_min"], told["w_avg"]) == ("euclidean", 0.5, -2.0)
        assert "Euclidean" in told["distance"]


def test_what_cannot_be_arranged_is_refused():
    with pytest.raises(UserError, match="60 training rows, but 59 tasks"):
        inputs(tasks=TASKS[1:])
    with pytest.raises(UserError, match=r"distance='cos' is unknown; .*did you mean cosine"):
        inputs(distance="cos")
    with pytest.raises(UserError, match="budget=-1"):
        inputs(-1)
    with pytest.raises(UserError, match="'tasks-2': 2 tasks, 25 rows of each: of 5 tasks only 0"):
        arrange("tasks-2", inputs(50), 0)
    with pytest.raises(UserError, match="'tasks-5': 5 tasks have no room in a budget of 4 rows"):
        arrange("tasks-5", inputs(4), 0)


def test_tasks_may_be_numbers():
    # As they come, not in order of first appearance.
    numbers = np.array([int(task.split()[1]) * 7 - 3 for task in TASKS], np.int32)
    assert list(dict.fromkeys(numbers)) != sorted(set(numbers))
    for name in ("round-robin", "cluster", "coarse-nft", "polar-4", "uniform-3"):
        expected = arrange(name, inputs(), 0).order.tolist()
        assert arrange(name, inputs(tasks=numbers), 0).order.tolist() == expected


@pytest.mark.parametrize("method", SHUFFLING)
def test_the_seed_after_at_wins(method):
    given = inputs()
    orders = [
        arrange(name, given, seed).order.tolist()
        for name, seed in [(method, 5), (f"{method}@5", 0), (method, 0)]
    ]
    assert orders[0] == orders[1] != orders[2]
    assert parse(f"{method}@12", 0)[1] == 12


@pytest.mark.parametrize(
    "method",
    [*sorted(set(METHODS) - set(SHUFFLING)), "tmta-turns-1-3", "polar-4", "diverse-9", "mmr-60"],
)
def test_a_seed_changes_nothing_else(method):
    given = inputs(30)
    assert arrange(method, given, 0).order.tolist() == arrange(method, given, 1).order.tolist()
    with pytest.raises(UserError, match="draws nothing"):
        parse(f"{method}@1", 0)


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("tmta", "choose from tmta-min, .*tmta-turns-A-B"),
        ("tmta-rt@-1", "after @"),
        ("tmta-rt@01", "after @"),
        ("tmta-rt@", "after @"),
        ("tmta-max@1", "draws nothing"),
        ("round_robin", r"did you mean round-robin\?"),
        ("wsd-ntf", r"did you mean wsd-nft\?"),
        ("tmta-turn-1-6", r"did you mean tmta-turns-A-B\?"),
        ("tmta-turns-6-6", "1 ≤ A < B"),
        ("tmta-turns-0-6", "1 ≤ A < B"),
        ("tmta-turns-1", "1 ≤ A < B"),
        ("tmta-turns-1-6@2", "draws nothing"),
        ("ot-nft@1", "draws nothing"),
        ("polar", "write polar-N for N rows .*, as in polar-10"),
        ("polar-0", "write polar-N"),
        ("polar-2.5", "write polar-N"),
        ("polar-4@1", "draws nothing"),
        ("polar-4-shuffled@x", "after @"),
        ("uniform-", "write uniform-K for every K-th row .*, as in uniform-5"),
        ("uniform-05", "write uniform-K"),
        ("tasks-0", "write tasks-N"),
        ("diverse", "write diverse-N"),
        ("diverse-9@1", "draws nothing"),
        ("task-9", r"did you mean tasks-N\?"),
        ("unifrm-5", r"did you mean uniform-K\?"),
    ],
)
def test_names_that_stand_for_nothing_are_refused(name, message):
    with pytest.raises(UserError, match=message) as caught:
        parse(name, 0)
    assert repr(name) in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    "name",
    ["random@" + "9" * 5000, "tmta-nft" + "+folds-2" * 3000, "score-ascending:" + "ü" * 170],
)
def test_a_name_that_no_folder_could_have_is_refused(name):
    with pytest.raises(UserError, match=r"bytes long, but names folders; give one of 200 at most"):
        parse(name, 0)


@pytest.mark.parametrize(
    ("w_avg", "told"),
    [(None, ""), (2.0, ""), (-1.0, "weighs the average by -1: rows far"), (50.0, "decides alone")],
)
def test_odd_weights_are_told(w_avg, told):
    given = Comparison(abs(TRAIN), abs(TEST), TASKS, budget=None, w_avg=w_avg)
    for name in ("wsd-nft", "polar-4"):
        said = caution(made_with(name, given))
        assert told in said
        assert bool(told) == bool(said)
    assert caution(made_with("tmta-nft", given)) == ""


@pytest.mark.parametrize("metric", ["cosine", "euclidean"])
def test_what_methods_announce_is_all_they_need_and_one_pass_gives_it(metric, monkeypatch):
    names = [*METHODS, "tmta-turns-1-2", "polar-4", "uniform-3"]
    names = [name for name in names if not name.startswith("ot-")]
    # The mean rows of tasks are few, and compared on their own.
    wide = np.concatenate([TRAIN] * 80) + RNG.normal(size=(4800, 8))
    tasks = TASKS * 80
    alone = {}
    for name in names:
        given = Comparison(wide, TEST, tasks, budget=900, distance=metric)
        alone[name] = arrange(name, given, 1)
    passes = []

    def spied(train, *rest, **options):
        passes.append(len(train))
        return scan(train, *rest, **options)

    monkeypatch.setattr("zsg_jax.arrangement.comparison.scan", spied)
    monkeypatch.setattr("zsg_jax.similarity.search.cosine.scan", spied)
    for group in ([name] for name in names), [names]:
        for some in group:
            passes.clear()
            given = Comparison(wide, TEST, tasks, budget=900, distance=metric, needs=needs(some))
            for name in some:
                made = arrange(name, given, 1)
                np.testing.assert_array_equal(made.order, alone[name].order)
                np.testing.assert_array_equal(made.turn, alone[name].turn)
            assert passes.count(len(wide)) <= 1, some


def test_methods_that_look_at_no_embedding_announce_nothing():
    assert needs(["random", "round-robin", "cluster"]) == Needs.NOTHING
    assert needs(["tmta-nft"]) == Needs.NEAREST
    assert needs(["tmta-max", "coarse-fft", "uniform-3"]) == ~Needs.NEAREST
