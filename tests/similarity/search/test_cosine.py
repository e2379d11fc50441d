import textwrap

import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from zsg_jax.runtime.errors import UserError
from zsg_jax.similarity.search import on_device as device_pass
from zsg_jax.similarity.search import on_host as host_pass
from zsg_jax.similarity.search.cosine import (
    cosine_matrix,
    row_statistics,
    scan,
    top_k,
    unit_embeddings,
)
from zsg_jax.similarity.search.options import Search
from zsg_jax.similarity.search.stream import _jitted

BLOCKS = st.sampled_from([1, 300, 512, 8192])


def gaussians(rows, columns, seed=0):
    return np.random.default_rng(seed).normal(size=(rows, columns)).astype(np.float32)


def with_repeats(rows, columns, seed):
    """Rows drawn from a few, among them a zero row, so that there are many exact ties."""
    generator = np.random.default_rng(seed)
    pool = generator.normal(size=(int(generator.integers(2, 12)), columns)).astype(np.float32)
    pool[0] = 0
    return pool[generator.integers(0, len(pool), rows)]


def reference(train, test):
    train, test = (
        x / np.maximum(np.linalg.norm(x, axis=1, keepdims=True), 1e-300)
        for x in (np.asarray(train, np.float64), np.asarray(test, np.float64))
    )
    return train @ test.T


@pytest.mark.parametrize(("n", "t", "d"), [(1, 1, 1), (700, 130, 37), (300, 5, 384), (9, 127, 16)])
def test_cosines_agree_with_float64(n, t, d):
    train, test = gaussians(n, d) * 3, gaussians(t, d, 1)
    np.testing.assert_allclose(
        cosine_matrix(train, test), reference(train, test), rtol=0, atol=3e-7
    )


@pytest.mark.parametrize("dtype", [np.float16, jnp.bfloat16, np.float32, np.float64])
def test_every_float_dtype_is_the_float64_of_itself(dtype, tmp_path):
    train = gaussians(10, 8).astype(dtype)
    stored = np.memmap(tmp_path / "rows", dtype, "w+", shape=train.shape)
    stored[:] = train
    test = gaussians(3, 8, 1)
    np.testing.assert_array_equal(
        cosine_matrix(stored, test), cosine_matrix(train.astype(np.float64), test)
    )


@pytest.mark.parametrize(("t", "d"), [(3, 7), (127, 48), (300, 384)])
def test_a_number_has_the_same_bits_at_every_place(t, d):
    row, test = gaussians(1, d), gaussians(t, d, 1)
    alone, statistics = cosine_matrix(row, test)[0], row_statistics(row, test)
    crowd = gaussians(700, d, 2)
    places = [0, 1, 3, 17, 255, 256, 301, 511, 699]
    crowd[places] = row
    for block_size in (1, 8192):
        search = Search(block_size=block_size)
        found = cosine_matrix(crowd, test, search=search)[places]
        np.testing.assert_array_equal(found, np.tile(alone, (9, 1)))
        found = row_statistics(crowd, test, search=search)
        for field, value in zip(found, statistics, strict=True):
            assert set(field[places].tolist()) == set(value.tolist())
    values, indices = top_k(crowd, row, 9)
    np.testing.assert_array_equal(indices, [places])
    assert len(set(values[0].tolist())) == 1


def test_a_cosine_that_vanishes_below_zero_ties_with_zero():
    train, test = np.zeros((3, 16), np.float32), np.zeros((1, 16), np.float32)
    train[1, 0] = train[2, 1] = test[0, 2] = 1
    # Their product is below float32's range and would be -0.0, which XLA ranks under 0.0.
    train[1, 15], test[0, 15] = 1e-25, -1e-25
    for farthest in (False, True):
        np.testing.assert_array_equal(top_k(train, test, 3, farthest=farthest)[1], [[0, 1, 2]])


def test_negative_zero_ties_with_zero():
    train = np.array([[0, -1], [0, 1], [-0.0, 1], [0, 0], [0, -1]], np.float32)
    test = np.array([[1, 0], [-1, -0.0]], np.float32)
    for farthest in (False, True):
        values, indices = top_k(train, test, 5, farthest=farthest)
        np.testing.assert_array_equal(indices, [[0, 1, 2, 3, 4]] * 2)
        assert not np.signbit(values).any()


@settings(max_examples=20)
@given(
    n=st.sampled_from([1, 40, 700]),
    t=st.integers(1, 130),
    block_size=BLOCKS,
    seed=st.integers(0, 2**32 - 1),
)
def test_row_statistics_are_those_of_the_matrix(n, t, block_size, seed):
    train, test = gaussians(n, 12, seed), gaussians(t, 12, seed + 1)
    statistics = row_statistics(train, test, search=Search(block_size=block_size))
    matrix = cosine_matrix(train, test)
    np.testing.assert_array_equal(statistics.minimum, matrix.min(axis=1))
    np.testing.assert_array_equal(statistics.maximum, matrix.max(axis=1))
    mean = reference(train, test).mean(axis=1)
    np.testing.assert_allclose(statistics.mean, mean, rtol=0, atol=3e-7)
    distance = np.sqrt(np.maximum(2 - 2 * matrix.astype(np.float64), 0)).mean(axis=1)
    np.testing.assert_allclose(statistics.euclidean, distance, rtol=1e-6, atol=0)
    assert all(field.shape == (n,) and field.dtype == np.float32 for field in statistics)


def test_empty_sets():
    none, some = np.empty((0, 4), np.float32), gaussians(3, 4)
    assert cosine_matrix(none, some).shape == (0, 3)
    assert cosine_matrix(some, none).shape == (3, 0)
    assert row_statistics(none, some).mean.shape == (0,)
    assert (top_k(none, some, 2)[1] == -1).all()
    assert (top_k(some, some, 2, excluded=np.ones(3, bool))[1] == -1).all()
    assert top_k(some, none, 2)[0].shape == (0, 2)
    with pytest.raises(UserError, match="empty"):
        row_statistics(some, none)


@settings(max_examples=30)
@given(seed=st.integers(0, 2**32 - 1), exponent=st.integers(-1000, 1000))
def test_unit_rows_ignore_powers_of_two_and_place(seed, exponent):
    rows = np.random.default_rng(seed).normal(size=(5, 33))
    rows[2] = 0
    unit = unit_embeddings(rows)
    lengths = np.linalg.norm(unit.astype(np.float64), axis=1)
    np.testing.assert_allclose(lengths, [1, 1, 0, 1, 1], atol=1e-6)
    np.testing.assert_array_equal(unit_embeddings(np.ldexp(rows, exponent)), unit)
    np.testing.assert_array_equal(unit_embeddings(rows[3:4]), unit[3:4])
    np.testing.assert_array_equal(unit_embeddings(np.asfortranarray(rows)), unit)


def test_a_nan_is_named_by_array_and_row():
    bad = np.ones((20_000, 2), np.float16)
    bad[17_001, 1] = np.nan
    good = np.ones((3, 2), np.float32)
    with pytest.raises(UserError, match="mine: row 17001 holds a NaN"):
        unit_embeddings(bad, "mine")
    with pytest.raises(UserError, match="train: row 17001 "):
        top_k(bad, good, 1)
    with pytest.raises(UserError, match="train: row 17001 "):
        top_k(bad, good, 1, excluded=np.arange(20_000) % 2 == 0)
    with pytest.raises(UserError, match="test: row 1 "):
        cosine_matrix(good, np.array([[1, 1], [-np.inf, 1]]))


def test_what_cannot_be_compared_is_refused():
    rows = gaussians(4, 3)
    for call in (cosine_matrix, row_statistics, lambda a, b: top_k(a, b, 1)):
        with pytest.raises(UserError, match="3 columns and test has 2"):
            call(rows, rows[:, :2])
        with pytest.raises(UserError, match=r"train: shape \(3,\)"):
            call(rows[0], rows)
        with pytest.raises(UserError, match="test: dtype int64"):
            call(rows, np.ones((2, 3), np.int64))
    with pytest.raises(UserError, match="k=0"):
        top_k(rows, rows, 0)
    with pytest.raises(UserError, match="excluded"):
        top_k(rows, rows, 1, excluded=np.zeros(3, bool))
    with pytest.raises(UserError, match="block_size=0"):
        top_k(rows, rows, 1, search=Search(block_size=0))


@pytest.mark.parametrize(
    ("on_host", "function"), [(True, host_pass._span), (False, device_pass._block)]
)
def test_one_compile_for_one_shape(on_host, function):
    function = _jitted(function, "cpu")
    train, test = gaussians(1300, 20), gaussians(9, 20, 1)
    scan(train, test, nearest=5, search=Search(block_size=512), on_host=on_host)
    before = function._cache_size()
    # Another number of rows, of test rows, of columns and another k, with a last block half full.
    scan(
        train[:1100, :19], test[:4, :19], nearest=7, search=Search(block_size=400), on_host=on_host
    )
    assert function._cache_size() == before


@pytest.mark.parametrize("on_host", [True, False])
@settings(max_examples=15)
@given(
    n=st.sampled_from([1, 60, 300, 700]),
    t=st.sampled_from([1, 20, 130]),
    lengths=st.tuples(st.integers(0, 8), st.sampled_from([0, 3, 70, 300])),
    statistics=st.booleans(),
    some_excluded=st.booleans(),
    repeats=st.booleans(),
    block_size=st.sampled_from([1, 300, 8192]),
    seed=st.integers(0, 2**32 - 1),
)
def test_lists_are_a_stable_sort_of_the_matrix_and_one_pass_gives_all(
    on_host, n, t, lengths, statistics, some_excluded, repeats, block_size, seed
):
    make = with_repeats if repeats else gaussians
    train, test = make(n, 12, seed), make(t, 12, seed + 1)
    excluded = np.random.default_rng(seed).random(n) < (0.4 if some_excluded else 0)
    left = np.flatnonzero(~excluded)
    found = scan(
        train,
        test,
        nearest=lengths[0],
        farthest=lengths[1],
        statistics=statistics,
        excluded=excluded if some_excluded else None,
        search=Search(block_size=block_size),
        on_host=on_host,
    )
    matrix = cosine_matrix(train[left], test)
    for lists, k, sign in ((found.nearest, lengths[0], -1), (found.farthest, lengths[1], 1)):
        if not k:
            assert lists is None
            continue
        (values, indices), there = lists, min(k, len(left))
        assert (values.dtype, indices.dtype, indices.shape) == (np.float32, np.int64, (t, k))
        order = np.argsort(sign * matrix, axis=0, kind="stable")[:k].T
        np.testing.assert_array_equal(indices[:, :there], left[order])
        expected = np.take_along_axis(matrix.T, order, axis=1)
        np.testing.assert_array_equal(values[:, :there], expected)
        assert (indices[:, there:] == -1).all()
        assert (values[:, there:] == sign * np.inf).all()
    assert (found.statistics is not None) == statistics
    if statistics:
        expected = row_statistics(train[left], test)
        for field, value in zip(found.statistics, expected, strict=True):
            np.testing.assert_array_equal(field, value)


ON_MESHES = textwrap.dedent("""
    import hashlib, json, sys
    import jax, numpy as np
    from jax.sharding import Mesh
    from zsg_jax.arrangement import tmta
    from zsg_jax.similarity.search.cosine import cosine_matrix, scan
    from zsg_jax.similarity.search.options import Search

    def digest(arrays):
        parts = [np.ascontiguousarray(a).tobytes() for a in arrays]
        return hashlib.sha256(b"".join(parts)).hexdigest()

    def results(mesh, block_size):
        generator = np.random.default_rng(0)
        pool = generator.normal(size=(2900, 130)).astype(np.float32)
        train = pool[generator.integers(0, 2900, 2900)]
        test = generator.normal(size=(130, 130)).astype(np.float32)
        excluded = generator.random(2900) < 0.1
        options = {"search": Search(mesh, block_size)}
        out = {"matrix": digest([cosine_matrix(train, test, **options)])}
        for on_host in (False, True):
            found = scan(train, test, nearest=30, farthest=7, statistics=True, **options,
                excluded=excluded, on_host=on_host)
            out[f"scan {on_host}"] = digest([a for part in found[:3] for a in part])
            # Longer than the examples of any of eight devices are many.
            found = scan(train, test, nearest=600, **options, on_host=on_host)
            out[f"long {on_host}"] = digest(found.nearest)
        for farthest in (False, True):
            a = tmta(train, test, farthest=farthest, k=30, budget=1450, **options)
            out[f"tmta {farthest}"] = digest([a.order, a.turn])
        return out

    devices = np.array(jax.devices())
    runs = {"none, one block": results(None, 8192)}
    # A device's 1,536 are no multiple of this: its last block must not reach further.
    runs["2"] = results(Mesh(devices[:2], ("data",)), 1024)
    runs["8"] = results(Mesh(devices.reshape(2, 2, 2), ("data", "fsdp", "tensor")), 256)
    if sys.argv[1:] == ["every"]:
        runs["none, small blocks"] = results(None, 256)
        runs["1"] = results(Mesh(devices[3:4], ("data",)), 8192)
        runs["8, explicit"] = results(jax.make_mesh((2, 4), ("data", "fsdp")), 8192)
    print(json.dumps(runs))
""")


@pytest.mark.parametrize("more", [(), pytest.param(("every",), marks=pytest.mark.slow)])
def test_every_mesh_gives_the_same_bits(on_devices, more):
    runs, _ = on_devices(8, ON_MESHES, *more)
    assert len(runs) == (6 if more else 3)
    expected = runs["none, one block"]
    assert {name: run for name, run in runs.items() if run != expected} == {}
