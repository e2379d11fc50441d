"""What was measured of an example is kept, and what a kill leaves out is measured again."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from zsg_jax.evaluation.records import measured, params_digest, read
from zsg_jax.runtime.appended import mend
from zsg_jax.runtime.errors import UserError

BATCHES = [[0, 1, 2], [3, 4, 5], [6]]


class Killed(Exception):
    """The process ends here."""


def evaluate(path, step, *, params="a", after=None):
    """All records of a step; `after` so many batches the process is killed."""
    asked = []

    def measure(batch):
        if len(asked) == after:
            raise Killed
        asked.append(list(batch))
        return [{"id": f"é{i}", "value": step * 10 + i} for i in batch]

    return measured(path, {"step": step, "params": params}, BATCHES, measure), asked


def test_records_are_given_back_without_measuring_again(tmp_path):
    path = tmp_path / "run" / "scores.jsonl"
    first, asked = evaluate(path, 0)
    assert asked == BATCHES
    assert [one["value"] for one in first] == list(range(7))
    again, asked = evaluate(path, 0)
    assert (again, asked) == (first, [])
    assert read(path) == first


@given(st.data())
def test_a_file_cut_anywhere_is_completed_as_it_was(tmp_path_factory, data):
    path = tmp_path_factory.mktemp("cut") / "scores.jsonl"
    for step in (0, 10, 20):
        evaluate(path, step)
    whole = path.read_bytes()
    path.write_bytes(whole[: data.draw(st.integers(0, len(whole)))])
    for step in (0, 10, 20):
        evaluate(path, step)
    assert path.read_bytes() == whole


def test_a_killed_evaluation_goes_on_at_its_batch(tmp_path):
    path = tmp_path / "scores.jsonl"
    with pytest.raises(Killed):
        evaluate(path, 0, after=2)
    _, asked = evaluate(path, 0)
    assert asked == [[6]]


@given(st.data())
def test_a_flipped_bit_in_what_a_kill_left_is_measured_again(tmp_path_factory, data):
    path = tmp_path_factory.mktemp("flip") / "scores.jsonl"
    evaluate(path, 0)
    whole = path.read_bytes()
    path.unlink()
    with pytest.raises(Killed):
        evaluate(path, 0, after=data.draw(st.integers(1, 2)))
    kept = path.read_bytes()
    harmed = path.with_suffix(data.draw(st.sampled_from([".jsonl", ".sha256"])))
    content = bytearray(harmed.read_bytes())
    content[data.draw(st.integers(0, len(content) - 1))] ^= 1 << data.draw(st.integers(0, 7))
    harmed.write_bytes(content)
    try:
        evaluate(path, 0)
    except UserError:
        # A checkpoint has told of so many bytes, which were found to be as they were.
        sound = data.draw(st.integers(0, len(kept)))
        path.write_bytes(kept[:sound] + path.read_bytes()[sound:])
        mend(path, sound)
        evaluate(path, 0)
    assert path.read_bytes() == whole


def test_records_of_other_parameters_are_measured_again(tmp_path):
    path = tmp_path / "scores.jsonl"
    evaluate(path, 0)
    evaluate(path, 10)
    evaluate(path, 10, params="b")
    assert [one["params"] for one in read(path)] == ["a"] * 7 + ["b"] * 7
    evaluate(path, 0, params="b")
    assert {one["step"] for one in read(path)} == {0}


def test_a_damaged_line_is_named(tmp_path):
    path = tmp_path / "scores.jsonl"
    path.write_text('{"step": 0}\n{"st\n{"step": 0}\n')
    with pytest.raises(UserError, match=r"scores\.jsonl:2: is damaged"):
        read(path)


def test_the_digest_of_parameters_tells_one_bit_and_no_sharding():
    params = {"a": jnp.arange(16.0).reshape(8, 2), "b": {"c": jnp.ones(3, jnp.bfloat16)}}
    digest = params_digest(params)
    swapped = {**params, "a": params["a"].at[jnp.array([0, 1])].set(params["a"][:2][::-1])}
    flipped = {**params, "a": jnp.nextafter(params["a"], jnp.inf)}
    assert len({digest, params_digest(swapped), params_digest(flipped)}) == 3
    mesh = jax.make_mesh((len(jax.devices()),), ("data",))
    where = jax.sharding.NamedSharding(mesh, jax.sharding.PartitionSpec("data"))
    spread = {**params, "a": jax.device_put(np.asarray(params["a"]), where)}
    assert params_digest(spread) == digest
