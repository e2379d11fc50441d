import json
from fractions import Fraction

import numpy as np
import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from zsg_jax.data.mixture import Entry, Mixture, is_mixture, mix, read_mixture, shares, target_sets
from zsg_jax.runtime.errors import UserError


def mixture(*entries, rows=None, seed=0):
    """Entries are (weight, cap)."""
    made = []
    for number, (weight, cap) in enumerate(entries):
        share = None if weight is None else Fraction(weight)
        made.append(Entry(f"s{number}", "path", share, cap, "auto", f"sources[{number}]"))
    return Mixture("m.mix.json", tuple(made), rows, seed)


def write(folder, content):
    path = folder / "two.mix.json"
    path.write_text(content if isinstance(content, str) else json.dumps(content))
    return path


def test_a_file_says_what_is_mixed(tmp_path):
    path = write(
        tmp_path,
        {
            "sources": [
                {"path": "a/flan.jsonl.gz", "weight": 0.1, "cap": 7, "format": "messages"},
                {"path": "/abs/b.jsonl", "weight": 2, "name": "other"},
            ],
            "rows": 10,
            "seed": 3,
        },
    )
    assert is_mixture(path)
    assert not is_mixture("mix.json")
    one, two = read_mixture(path).entries
    assert one[:5] == ("flan", tmp_path / "a/flan.jsonl.gz", Fraction(1, 10), 7, "messages")
    assert (two.name, str(two.path), two.weight, two.cap) == ("other", "/abs/b.jsonl", 2, None)
    assert two.format == "auto"
    assert read_mixture(path)[2:] == (10, 3)
    hub = write(tmp_path, {"sources": [{"path": "hub:owner/name:train"}]})
    assert str(read_mixture(hub).entries[0].path) == "hub:owner/name:train"


def test_sources_that_are_sets_of_targets(tmp_path):
    sources = [{"path": "a.jsonl", "share": 0.5}, {"path": "b.jsonl", "share": 2, "budget": 9}]
    found = target_sets(read_mixture(write(tmp_path, {"sources": sources})))
    assert found == (("a", Fraction(1, 2), None), ("b", 2, 9))
    del sources[0]["share"], sources[1]["share"]
    found = target_sets(read_mixture(write(tmp_path, {"sources": sources})))
    assert found == (("a", 1, None), ("b", 1, 9))
    del sources[1]["budget"]
    assert target_sets(read_mixture(write(tmp_path, {"sources": sources}))) == ()


BAD = {
    "broken": ("{", "is not JSON"),
    "a list": ([], "must be an object"),
    "no sources": ({"rows": 3}, '"sources" must be a list'),
    "none": ({"sources": []}, "at least one"),
    "a text": ({"sources": ["a"]}, r"sources\[0\]: must be an object"),
    "no path": ({"sources": [{"path": "a"}, {"weight": 1}]}, r'sources\[1\]: "path" must be'),
    "a typo": ({"sources": [{"path": "a", "wieght": 1}]}, r"sources\[0\]: .* did you mean weight"),
    "another typo": ({"sources": [{"path": "a"}], "row": 1}, "did you mean rows"),
    "weight 0": ({"sources": [{"path": "a", "weight": 0}]}, '"weight" must be a number above'),
    "weight true": ({"sources": [{"path": "a", "weight": True}]}, "must be a number above"),
    "weight infinite": ('{"sources": [{"path": "a", "weight": Infinity}]}', "must be a number"),
    "weight huge": ('{"sources": [{"path": "a", "weight": 1e99999999}]}', "from 1e-15 to 1e15"),
    "share tiny": ('{"sources": [{"path": "a", "share": 1e-99999999}]}', "from 1e-15 to 1e15"),
    "a key twice": ('{"sources": [{"path": "a"}], "rows": 1, "rows": 2}', 'names "rows" twice'),
    "cap 0": ({"sources": [{"path": "a", "cap": 0}]}, '"cap" must be a whole number from 1'),
    "rows a share": ({"sources": [{"path": "a"}], "rows": 0.5}, '"rows" must be a whole number'),
    "seed": ({"sources": [{"path": "a"}], "seed": -1}, '"seed" must be a whole number from 0'),
    "weights in part": (
        {"sources": [{"path": "a", "weight": 1}, {"path": "b"}]},
        r"sources\[1\] \('b'\): either every source",
    ),
    "shares in part": (
        {"sources": [{"path": "a", "share": 1}, {"path": "b", "budget": 2}]},
        r"sources\[1\] \('b'\): either every source has a \"share\"",
    ),
    "share 0": ({"sources": [{"path": "a", "share": 0}]}, '"share" must be a number above 0'),
    "budget 0": ({"sources": [{"path": "a", "budget": 0}]}, '"budget" must be a whole number'),
    "same name": (
        {"sources": [{"path": "x/a.jsonl"}, {"path": "y/a.jsonl"}]},
        r"sources\[1\] \('a'\): goes by the name of another",
    ),
    "name with a stroke": ({"sources": [{"path": "a", "name": "x/y"}]}, "must be plain"),
    "name empty": ({"sources": [{"path": "a", "name": " "}]}, '"name" must be a string'),
    "in another": ({"sources": [{"path": "b.mix.json"}]}, "is a mixture itself"),
}


@pytest.mark.parametrize("name", BAD)
def test_a_mixture_that_cannot_be_used_is_refused(tmp_path, name):
    content, message = BAD[name]
    path = write(tmp_path, content)
    with pytest.raises(UserError, match=message) as caught:
        read_mixture(path)
    assert str(caught.value).startswith(str(path))
    assert "\n" not in str(caught.value)
    with pytest.raises(UserError, match=r"none\.mix\.json: cannot be read"):
        read_mixture(tmp_path / "none.mix.json")


def test_shares_by_hand():
    weighted = mixture(("0.7", None), ("0.3", None))
    assert shares(weighted, [700, 300]) == [700, 300]
    assert shares(weighted, [100, 300]) == [100, 42]
    assert shares(weighted._replace(rows=10), [100, 100]) == [7, 3]
    # Quotas 1.4 and 0.6: the larger remainder takes the row that is left.
    assert shares(weighted._replace(rows=2), [100, 100]) == [1, 1]
    # Equal remainders: the first.
    assert shares(mixture((1, None), (1, None), rows=3), [9, 9]) == [2, 1]
    assert shares(mixture((1, 4), (1, None)), [9, 9]) == [4, 4]
    assert shares(mixture((None, 4), (None, None)), [9, 5]) == [4, 5]
    assert shares(mixture((None, 4), (None, None), rows=6), [9, 8]) == [2, 4]


@pytest.mark.parametrize(
    ("entries", "rows", "counts", "message"),
    [
        ([(1, None), (1, None)], 10, [4, 50], r"sources\[0\]: would give 5 rows but .* 4"),
        ([(1, 3), (1, None)], 10, [50, 50], r"sources\[0\]: would give 5 rows but .* 3"),
        ([(None, None)], 10, [9], r"sources\[0\]: would give 10 rows"),
        ([(1, None), (9, None)], 2, [50, 50], r"sources\[0\]: would give no row"),
        ([(1, None), (1000, None)], None, [50, 50], r"sources\[0\]: would give no row"),
        ([(None, None), (None, None)], None, [5, 0], r"sources\[1\]: has no row"),
    ],
)
def test_shares_that_cannot_be_are_refused(entries, rows, counts, message):
    with pytest.raises(UserError, match=message):
        shares(mixture(*entries, rows=rows), counts)


@given(
    st.lists(st.tuples(st.integers(1, 9), st.integers(1, 40)), min_size=1, max_size=4),
    st.integers(1, 60),
)
def test_with_rows_weights_are_kept_within_a_row(given_, rows):
    weights = [weight for weight, _ in given_]
    quotas = [weight * rows / sum(weights) for weight in weights]
    wanted = mixture(*((weight, None) for weight in weights), rows=rows)
    sizes = shares(wanted, [rows] * len(weights)) if min(quotas) >= 1 else None
    assume(sizes is not None)
    assert sum(sizes) == rows
    assert all(abs(size - quota) < 1 for size, quota in zip(sizes, quotas, strict=True))


COUNTS = st.lists(
    st.tuples(st.integers(1, 60), st.none() | st.integers(1, 30)), min_size=1, max_size=4
)


@given(COUNTS, st.integers(0, 5))
def test_rows_come_in_their_order_and_evenly(given_, seed):
    counts = [count for count, _ in given_]
    wanted = mixture(*((None, cap) for _, cap in given_), seed=seed)
    source, row = mix(wanted, counts)
    assert (source.dtype, row.dtype) == (np.int32, np.int64)
    sizes = [count if cap is None else min(count, cap) for count, cap in given_]
    assert np.bincount(source, minlength=len(counts)).tolist() == sizes
    total = sum(sizes)
    for number, (count, size) in enumerate(zip(counts, sizes, strict=True)):
        own = row[source == number].tolist()
        assert own == sorted(set(own))
        assert set(own) <= set(range(count))
        seen = 0
        for first, one in enumerate(source.tolist(), start=1):
            seen += one == number
            assert abs(seen - first * size / total) <= 1 + len(sizes) * size / total + 1e-9
    again = mix(wanted, counts)
    assert (again[0] == source).all()
    assert (again[1] == row).all()
