import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.optimize import linprog

from zsg_jax.runtime.errors import UserError
from zsg_jax.similarity import transport
from zsg_jax.similarity.transport import optimal_transport

SEEDS = st.integers(0, 2**32 - 1)
FORMS = [("cosine", 1), ("euclidean", 1), ("euclidean", 2)]


def clusters(seed, n, t, d=6):
    rng = np.random.default_rng(seed)
    centres = rng.normal(size=(4, d))
    return tuple(centres[rng.integers(0, 4, m)] + rng.normal(size=(m, d)) for m in (n, t))


def costs(train, test, metric, power):
    """One pair at a time, in float64."""
    out = np.zeros((len(train), len(test)))
    for i, a in enumerate(train):
        for j, b in enumerate(test):
            a1, b1 = a / np.linalg.norm(a), b / np.linalg.norm(b)
            out[i, j] = -(a1 @ b1) if metric == "cosine" else np.linalg.norm(a1 - b1) ** power
    return out


def exact(costs_NxT):
    """The optimal plan, as a linear program."""
    n, t = costs_NxT.shape
    rows, columns = np.kron(np.eye(n), np.ones(t)), np.kron(np.ones(n), np.eye(t))
    weights = np.concatenate([np.full(n, 1 / n), np.full(t, 1 / t)])
    found = linprog(costs_NxT.ravel(), A_eq=np.vstack([rows, columns]), b_eq=weights)
    assert found.status == 0
    return found.x.reshape(n, t)


@settings(max_examples=15, deadline=None)
@given(SEEDS, st.integers(1, 24), st.integers(1, 16), st.sampled_from(FORMS))
def test_the_cost_is_that_of_the_linear_program(seed, n, t, form):
    train, test = clusters(seed, n, t)
    found = optimal_transport(train, test, distance=form[0], power=form[1])
    every = costs(train, test, *form)
    best = (exact(every) * every).sum()
    # The entropy costs at most epsilon times log of the pairs; marginals are off by the tolerance.
    slack = found.epsilon * np.log(n * t + 1) + 1e-3 * np.ptp(every) + 1e-5
    assert abs(found.cost - best) <= slack
    assert found.cost == pytest.approx(found.distance.sum())
    assert found.marginal_error <= 1e-3


@settings(max_examples=10, deadline=None)
@given(SEEDS, st.sampled_from(FORMS))
def test_a_row_pays_what_it_pays_in_the_exact_plan(seed, form):
    train, test = clusters(seed, 40, 5)
    found = optimal_transport(train, test, distance=form[0], power=form[1])
    every = costs(train, test, *form)
    expected = (exact(every) * every).sum(axis=1)
    # A row between two test rows of nearly equal cost is split by the entropy: hence a mean.
    assert np.abs(found.distance - expected).mean() * 40 <= 0.1 * every.std()
    assert found.distance.dtype == np.float64


def test_every_row_on_its_own_twin_is_the_shortest_way():
    rows = np.eye(8)
    found = optimal_transport(rows, rows[::-1], distance="euclidean")
    np.testing.assert_allclose(found.distance, 0, atol=1e-5)
    np.testing.assert_allclose(optimal_transport(rows, rows).distance, -1 / 8, atol=1e-5)


def test_costs_that_are_all_alike_leave_any_plan():
    found = optimal_transport(np.eye(3)[:1].repeat(5, 0), np.eye(3)[:1].repeat(2, 0))
    np.testing.assert_allclose(found.distance, -1 / 5, atol=1e-6)
    np.testing.assert_allclose(optimal_transport(np.zeros((4, 3)), np.eye(3)).distance, 0)


@settings(max_examples=10, deadline=None)
@given(SEEDS, st.integers(2, 60), st.integers(2, 9))
def test_the_order_of_the_rows_changes_nothing(seed, n, t):
    train, test = clusters(seed, n, t)
    rng = np.random.default_rng(seed)
    rows, tests = rng.permutation(n), rng.permutation(t)
    one, other = optimal_transport(train, test), optimal_transport(train[rows], test[tests])
    scale = costs(train, test, "cosine", 1).std() / n
    np.testing.assert_allclose(other.distance, one.distance[rows], atol=0.05 * scale + 1e-6)


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize(("n", "t"), [(100, 9), (9, 100), (1, 1)])
def test_blocks_give_what_the_whole_matrix_gives(form, n, t, monkeypatch):
    train, test = clusters(0, n, t)
    options = {"distance": form[0], "power": form[1]}
    expected = optimal_transport(train, test, **options)
    monkeypatch.setattr(transport, "DENSE", 0)
    # Blocks of a few rows; another number of iterations, so that this is compiled anew.
    monkeypatch.setattr(transport, "BLOCK", 256)
    found = optimal_transport(train, test, max_iterations=19_999, **options)
    np.testing.assert_allclose(found.distance, expected.distance, rtol=0.02, atol=2e-3 / n)
    assert found.cost == pytest.approx(expected.cost, abs=1e-3)


def test_the_same_rows_give_the_same_bits():
    train, test = clusters(1, 200, 16)
    found = [optimal_transport(train, test).distance.tolist() for _ in range(2)]
    assert found[0] == found[1]


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
        (np.eye(3), np.eye(3), {"power": 2}, 'use distance="euclidean"'),
        (np.eye(3), np.eye(3), {"distance": "euclidean", "power": 0}, "above 0"),
        (np.eye(3), np.eye(3), {"distance": "euclidian"}, "did you mean euclidean"),
        (np.eye(3), np.eye(3), {"relative_epsilons": (0.1, 0.0)}, "must be above 0"),
        (np.eye(3), np.eye(3), {"relative_epsilons": ()}, "at least one"),
    ],
)
def test_what_cannot_be_transported_is_refused(train, test, options, message):
    with pytest.raises(UserError, match=message):
        optimal_transport(train, test, **options)


def test_a_plan_that_has_not_converged_is_refused_with_the_way_out():
    train, test = clusters(0, 200, 16)
    with pytest.raises(UserError, match=r"after 40 iterations .* or a measure other"):
        optimal_transport(train, test, max_iterations=40)


def test_the_next_entropy_serves_where_one_does_not_converge():
    train, test = clusters(0, 200, 16)
    deviation = costs(train, test, "cosine", 1).std()
    found = optimal_transport(
        train, test, relative_epsilons=(1e-4, 0.3), tolerance=1e-4, max_iterations=300
    )
    assert found.epsilon == pytest.approx(0.3 * deviation, rel=1e-4)
    assert found.marginal_error <= 1e-4
