import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from zsg_jax.report.correlation import ALL, correlations
from zsg_jax.report.summary import summarize


def summary_of(**curves):
    """One seed each; a loss at steps 0, 10, 20, …."""
    records = {
        name: [{"step": 10 * i, "kind": "test", "loss": loss} for i, loss in enumerate(curve)]
        for name, curve in curves.items()
    }
    return summarize({name: {0: own} for name, own in records.items()})


def pearson(x, y):
    mx, my = sum(x) / len(x), sum(y) / len(y)
    over = sum((a - mx) * (b - my) for a, b in zip(x, y, strict=True))
    return over / math.sqrt(sum((a - mx) ** 2 for a in x) * sum((b - my) ** 2 for b in y))


def ranks(x):
    return [sum(b < a for b in x) + sum(b == a for b in x) / 2 for a in x]


CURVE = st.lists(st.integers(0, 9), min_size=4, max_size=4)


@settings(max_examples=30)
@given(CURVE, CURVE, CURVE, CURVE)
def test_correlations_are_those_by_their_formulas(make_trajectory, loss, other, seen, others):
    summary = summary_of(one=[9.5, *loss], two=[9.5, *other])
    found = correlations(
        summary,
        {"one": make_trajectory({"wsd": seen}), "two": make_trajectory({"wsd": others})},
    )["wsd"]
    assert list(found) == ["one", "two", ALL]
    cases = {"one": (seen, loss), "two": (others, other), ALL: (seen + others, loss + other)}
    for name, (x, y) in cases.items():
        assert found[name]["points"] == len(x)
        if len(set(x)) == 1 or len(set(y)) == 1:
            assert math.isnan(found[name]["pearson"])
            assert math.isnan(found[name]["spearman"])
        else:
            assert found[name]["pearson"] == pytest.approx(pearson(x, y), abs=1e-9)
            assert found[name]["spearman"] == pytest.approx(pearson(ranks(x), ranks(y)), abs=1e-9)


def test_only_points_that_both_have_are_correlated(make_trajectory):
    summary = summary_of(one=[5, 4, float("nan"), 2, 1])
    values = {"nearest": [4, 3, 2, 1, 7], "transport": [4, np.nan, 2, np.nan, 7]}
    found = correlations(summary, {"one": make_trajectory(values), "gone": make_trajectory(values)})
    assert list(found) == ["nearest", "transport"]
    assert list(found["nearest"]) == ["one"]
    # Step 20 has no loss and step 50 was not evaluated.
    assert found["nearest"]["one"]["points"] == 3
    assert found["nearest"]["one"]["spearman"] == pytest.approx(1)
    assert found["transport"]["one"]["points"] == 1 + 1
    assert math.isnan(found["transport"]["one"]["pearson"])
    assert correlations(summary, {}) == {}
