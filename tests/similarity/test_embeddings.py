import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from zsg_jax.arrangement import tmta
from zsg_jax.runtime.errors import UserError
from zsg_jax.similarity.embeddings import SelectedEmbeddings, StoredEmbeddings, open_embeddings
from zsg_jax.similarity.search.cosine import cosine_matrix, row_statistics, top_k


@pytest.fixture(scope="module")
def table(tmp_path_factory):
    """A table, and the same rows in files of 5, 1, 0, 9 and 7 rows."""
    folder = tmp_path_factory.mktemp("rows")
    rows = np.random.default_rng(0).normal(size=(22, 4)).astype(np.float32)
    files, start = [], 0
    for number, count in enumerate((5, 1, 0, 9, 7)):
        path = folder / f"{number}.npy"
        np.save(path, rows[start : start + count])
        files.append((path, count))
        start += count
    return rows, StoredEmbeddings(files, 4, np.float32)


slices = st.builds(
    slice,
    st.none() | st.integers(-25, 25),
    st.none() | st.integers(-25, 25),
    st.sampled_from([None, 1, 2, 3, -1]),
)
index = st.lists(st.integers(0, 21), max_size=40).map(lambda rows: np.array(rows, np.int64))


@given(where=slices | index)
def test_reads_what_the_array_would_give(table, where):
    rows, stored = table
    np.testing.assert_array_equal(stored[where], rows[where])


@given(chosen=index, where=slices)
def test_selected_rows_read_what_the_array_would_give(table, chosen, where):
    rows, stored = table
    np.testing.assert_array_equal(SelectedEmbeddings(stored, chosen)[where], rows[chosen][where])
    np.testing.assert_array_equal(SelectedEmbeddings(rows, chosen)[where], rows[chosen][where])


def test_shape_length_and_whole(table):
    rows, stored = table
    assert (stored.shape, len(stored), stored.dtype, stored.ndim) == ((22, 4), 22, rows.dtype, 2)
    np.testing.assert_array_equal(np.asarray(stored), rows)
    mask = rows[:, 0] > 0
    np.testing.assert_array_equal(stored[mask], rows[mask])


def test_kernels_give_the_same_bits_from_disk(table):
    rows, stored = table
    test = np.random.default_rng(1).normal(size=(3, 4)).astype(np.float32)
    chosen = np.array([1, 4, 5, 9, 14, 21])
    for given_rows, same in ((rows, stored), (rows[chosen], SelectedEmbeddings(stored, chosen))):
        np.testing.assert_array_equal(cosine_matrix(given_rows, test), cosine_matrix(same, test))
        for one, other in zip(
            (*row_statistics(given_rows, test), *top_k(given_rows, test, 4)),
            (*row_statistics(same, test), *top_k(same, test, 4)),
            strict=True,
        ):
            np.testing.assert_array_equal(one, other)
        np.testing.assert_array_equal(tmta(given_rows, test).order, tmta(same, test).order)
        np.testing.assert_array_equal(
            tmta(given_rows, test, k=1, budget=4).order, tmta(same, test, k=1, budget=4).order
        )


def test_opens_one_file_and_names_what_is_wrong_with_it(tmp_path):
    path = tmp_path / "rows.npy"
    with pytest.raises(UserError, match=r"rows\.npy: no such file"):
        open_embeddings(path)
    np.save(path, np.zeros((3, 2), np.float16))
    assert (open_embeddings(path).shape, open_embeddings(path).dtype) == ((3, 2), np.float16)
    np.save(path, np.zeros(3))
    with pytest.raises(UserError, match=r"rows\.npy: shape \(3,\); embeddings must be"):
        open_embeddings(path)
    np.savez(tmp_path / "rows.npz", np.zeros((3, 2)))
    with pytest.raises(UserError, match=r"rows\.npz: is an archive of arrays"):
        open_embeddings(tmp_path / "rows.npz")
    path.write_bytes(b"[1, 2]")
    with pytest.raises(UserError, match=r"rows\.npy: is no \.npy file of numbers"):
        open_embeddings(path)
    np.save(path, np.array([{}]), allow_pickle=True)
    with pytest.raises(UserError, match=r"rows\.npy: is no \.npy file of numbers"):
        open_embeddings(path)


def test_a_file_that_changed_is_named(tmp_path):
    path = tmp_path / "rows.npy"
    np.save(path, np.zeros((3, 2), np.float32))
    stored = open_embeddings(path)
    np.save(path, np.zeros((2, 2), np.float32))
    with pytest.raises(UserError, match=r"rows\.npy: has changed since it was opened"):
        stored[0:1]


def test_a_file_rewritten_in_the_same_shape_is_named(tmp_path):
    path = tmp_path / "rows.npy"
    np.save(path, np.zeros((3, 2), np.float32))
    stored = open_embeddings(path)
    np.testing.assert_array_equal(stored[:], np.zeros((3, 2)))
    np.save(tmp_path / "new.npy", np.ones((3, 2), np.float32))
    (tmp_path / "new.npy").replace(path)
    with pytest.raises(UserError, match=r"rows\.npy: has changed since it was opened"):
        stored[0:1]


def test_bfloat16_as_numpy_writes_it_is_read(tmp_path):
    rows = np.random.default_rng(0).standard_normal((3, 4)).astype(jnp.bfloat16)
    np.save(tmp_path / "a.npy", rows)
    found = open_embeddings(tmp_path / "a.npy")
    assert found.dtype == jnp.bfloat16
    assert (np.asarray(found[:]) == rows).all()
