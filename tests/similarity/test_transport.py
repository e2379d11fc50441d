import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.optimize import linprog

from zsg_jax.runtime.errors import UserError
from zsg_jax.similarity import sinkhorn, transport
from zsg_jax.similarity.transport import optimal_transport

SEEDS = st.integers(0, 2**32 - 1)
DISTANCES = st.sampled_from(["cosine", "euclidean"])


def clusters(seed, n, t, d=6):
    rng = np.random.default_rng(seed)
    centres = rng.normal(size=(4, d))
    return tuple(centres[rng.integers(0, 4, m)] + rng.normal(size=(m, d)) for m in (n, t))


def costs(train, test, distance):
    """One pair at a time, in float64."""
    unit = [[row / np.linalg.norm(row) for row in side] for side in (train, test)]
    if distance == "cosine":
        return np.array([[-(a @ b) for b in unit[1]] for a in unit[0]])
    return np.array([[np.linalg.norm(a - b) for b in unit[1]] for a in unit[0]])


def exact(costs_NxT):
    """The optimal plan, as a linear program."""
    n, t = costs_NxT.shape
    rows, columns = np.kron(np.eye(n), np.ones(t)), np.kron(np.ones(n), np.eye(t))
    weights = np.concatenate([np.full(n, 1 / n), np.full(t, 1 / t)])
    found = linprog(costs_NxT.ravel(), A_eq=np.vstack([rows, columns]), b_eq=weights)
    assert found.status == 0
    return found.x.reshape(n, t)


@settings(max_examples=20)
@given(SEEDS, st.integers(1, 24), st.integers(1, 12), DISTANCES)
def test_an_example_pays_what_it_pays_in_the_linear_programs_plan(seed, n, t, distance):
    train, test = clusters(seed, n, t)
    found = optimal_transport(train, test, distance=distance)
    every = costs(train, test, distance)
    # A Euclidean cost near 0 is the root of a difference of float32.
    np.testing.assert_allclose(found.distance * n, (exact(every) * every).sum(1) * n, atol=2e-4)
    assert found.distance.dtype == np.float64
    assert found.cost == pytest.approx(found.distance.sum())
    assert found.facts == {"plan": "exact"}


@settings(max_examples=5)
@given(SEEDS, DISTANCES)
def test_sinkhorns_plan_is_the_exact_one_but_for_its_entropy(seed, distance):
    # One shape, one compilation.
    train, test = clusters(seed, 60, 7)
    found = optimal_transport(train, test, distance=distance, exact=False)
    every = costs(train, test, distance)
    expected = optimal_transport(train, test, distance=distance)
    # The entropy costs at most epsilon times log of the pairs; marginals are off by the tolerance.
    slack = found.facts["epsilon"] * np.log(60 * 7 + 1) + 1e-3 * np.ptp(every) + 1e-5
    assert abs(found.cost - expected.cost) <= slack
    # One between two test examples of nearly equal cost is split by the entropy: hence a mean.
    assert np.abs(found.distance - expected.distance).mean() * 60 <= 0.1 * every.std()
    assert found.facts["marginal_error"] <= 1e-3
    # The order in which examples come is no matter, and the same ones give the same bits.
    rows = np.random.default_rng(seed).permutation(60)
    other = optimal_transport(train[rows], test, distance=distance, exact=False)
    np.testing.assert_allclose(other.distance, found.distance[rows], atol=1e-3 * every.std())
    again = optimal_transport(train, test, distance=distance, exact=False)
    assert again.distance.tolist() == found.distance.tolist()


def test_blocks_give_what_one_block_gives(monkeypatch):
    train, test = clusters(0, 100, 9)
    expected = optimal_transport(train, test, exact=False)
    monkeypatch.setattr(transport, "BLOCK", 256)
    monkeypatch.setattr(sinkhorn, "BLOCK", 256)
    found = optimal_transport(train, test, exact=False)
    np.testing.assert_allclose(found.distance, expected.distance, atol=1e-5)
    assert optimal_transport(train, test).cost == pytest.approx(found.cost, abs=1e-3)


@pytest.mark.parametrize("exact", [True, False])
def test_every_example_on_its_own_twin_and_costs_that_are_all_alike(exact):
    rows = np.eye(8)
    found = optimal_transport(rows, rows[::-1], distance="euclidean", exact=exact)
    np.testing.assert_allclose(found.distance, 0, atol=1e-5)
    found = optimal_transport(rows, rows, exact=exact)
    np.testing.assert_allclose(found.distance, -1 / 8, atol=1e-5)
    found = optimal_transport(rows[:1].repeat(5, 0), rows[:1].repeat(2, 0), exact=exact)
    np.testing.assert_allclose(found.distance, -1 / 5, atol=1e-6)
    np.testing.assert_allclose(optimal_transport(np.zeros((4, 8)), rows, exact=exact).distance, 0)


def test_a_plan_too_large_for_the_machine_is_sinkhorns_and_said(monkeypatch, capsys):
    train, test = clusters(0, 60, 7)
    monkeypatch.setattr(transport, "PAIR_BYTES", 1e15)
    found = optimal_transport(train, test)
    assert found.facts["plan"] == "sinkhorn"
    assert "more than half of a machine's memory" in capsys.readouterr().err
    assert optimal_transport(train, test, exact=True).facts == {"plan": "exact"}


def bad(what):
    rows = np.ones((5, 3))
    rows[3] = what
    return rows


@pytest.mark.parametrize(
    ("train", "test", "options", "message"),
    [
        (bad(np.nan), np.eye(3), {}, "train: row 3 holds a NaN"),
        (np.eye(3), bad(np.inf), {}, "test: row 3 holds a NaN or an infinity"),
        (np.zeros((0, 3)), np.eye(3), {}, "train is empty"),
        (np.eye(3), np.zeros((0, 3)), {}, "test is empty"),
        (np.eye(3), np.eye(2), {}, "3 columns and test has 2"),
        (np.eye(3), np.eye(3), {"distance": "euclidian"}, "did you mean euclidean"),
    ],
)
def test_what_cannot_be_transported_is_refused(train, test, options, message):
    with pytest.raises(UserError, match=message):
        optimal_transport(train, test, **options)


def test_more_entropy_serves_where_less_does_not_converge_and_else_it_is_said(monkeypatch):
    train, test = clusters(0, 60, 7)
    deviation = costs(train, test, "cosine").std()
    monkeypatch.setattr(sinkhorn, "TRIED", ((0.3, 1.0), (1e-3, 1.0)))
    found = optimal_transport(train, test, exact=False)
    assert found.facts["epsilon"] == pytest.approx(0.3 * deviation, rel=1e-4)
    monkeypatch.setattr(sinkhorn, "TRIED", ((1e-3, 1.0), (0.3, 1.0)))
    with monkeypatch.context() as patch:
        patch.setattr(sinkhorn, "SWEEPS", 110)
        found = optimal_transport(train, test, exact=False)
        assert found.facts["epsilon"] == pytest.approx(0.3 * deviation, rel=1e-4)
    monkeypatch.setattr(sinkhorn, "SWEEPS", 40)
    with pytest.raises(UserError, match=r"after 40 iterations .* or a measure other"):
        optimal_transport(train, test, exact=False)
