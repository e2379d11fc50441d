import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from scipy import stats

from zsg_jax.statistics.errors import standard_error

VALUES = arrays(np.float64, st.integers(2, 30), elements=st.floats(-100, 100))


@given(VALUES)
def test_the_error_is_scipys_and_tasks_of_one_example_change_nothing(values):
    expected = stats.sem(values)
    assert standard_error(values) == pytest.approx(expected, abs=1e-9)
    assert standard_error(values, np.arange(len(values))) == pytest.approx(expected, abs=1e-9)


@given(VALUES, st.data())
def test_covariances_within_tasks_are_added_one_by_one(values, data):
    tasks = data.draw(st.lists(st.sampled_from("abc"), min_size=len(values), max_size=len(values)))
    off = values - values.mean()
    variance = values.var(ddof=1) / len(values)
    for i in range(len(values)):
        for j in range(len(values)):
            if i != j and tasks[i] == tasks[j]:
                variance += off[i] * off[j] / len(values) ** 2
    expected = math.sqrt(max(variance, 0))
    assert standard_error(values, tasks) == pytest.approx(expected, abs=1e-6)


def test_a_copied_example_tells_nothing_new():
    values = np.random.default_rng(0).normal(size=400)
    twice, tasks = np.repeat(values, 2), np.repeat(np.arange(400), 2)
    assert standard_error(twice, tasks) == pytest.approx(standard_error(values), rel=5e-3)
    assert math.isnan(standard_error(values[:1]))
