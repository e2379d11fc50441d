import hashlib
import json

import numpy as np
import pytest

from zsg_jax.arrangement import Arrangement
from zsg_jax.arrangement.arrangement import load_arrangement, save_arrangement
from zsg_jax.runtime.errors import UserError

PROVENANCE = {"method": "tmta-min", "budget": None, "test": "über.jsonl", "seeds": [0, 1]}


def test_it_keeps_its_own_read_only_arrays():
    order = np.array([4, 0, 7])
    arrangement = Arrangement(order, np.array([1, 1, 3], np.int64))
    order[0] = 9
    assert arrangement.order.tolist() == [4, 0, 7]
    assert (arrangement.order.dtype, arrangement.turn.dtype) == (np.int64, np.int32)
    assert (len(arrangement), arrangement.turn_sizes.tolist()) == (3, [2, 0, 1])
    with pytest.raises(ValueError, match="read-only"):
        arrangement.order[0] = 1


def test_an_empty_arrangement():
    arrangement = Arrangement(np.array([]), np.array([]))
    assert (len(arrangement), arrangement.turn_sizes.tolist()) == (0, [])
    assert (arrangement.order.dtype, arrangement.turn.dtype) == (np.int64, np.int32)


@pytest.mark.parametrize(
    ("order", "turn", "message"),
    [
        ([1, 2], [1], "2 rows in order and 1 in turn"),
        ([3, 1, 3], [1, 1, 1], r"rows \[3\] come twice"),
        ([-1, 1], [1, 1], "row -1 in order is negative"),
        ([0, 1], [0, 1], "turn 0 is below 1"),
        ([0], [2**31], "does not fit int32"),
        ([0.5], [1], "order is .* float64"),
        ([[0]], [[1]], r"order is \(1, 1\)"),
    ],
)
def test_what_is_no_arrangement_is_refused(order, turn, message):
    with pytest.raises(UserError, match=message):
        Arrangement(np.array(order), np.array(turn))


@pytest.fixture
def saved(tmp_path):
    arrangement = Arrangement(np.array([5, 0, 3]), np.array([2, 2, 1]))
    save_arrangement(arrangement, tmp_path / "deep" / "tmta", PROVENANCE)
    return tmp_path / "deep" / "tmta"


def test_what_is_saved_comes_back(saved):
    arrangement, provenance = load_arrangement(saved)
    assert (arrangement.order.tolist(), arrangement.turn.tolist()) == ([5, 0, 3], [2, 2, 1])
    assert provenance == PROVENANCE


def test_other_programs_can_read_it(saved):
    order, turn = np.load(saved / "order.npy"), np.load(saved / "turn.npy")
    assert (order.dtype, turn.dtype) == (np.int64, np.int32)
    facts = json.loads((saved / "arrangement.json").read_text())
    assert (facts["rows"], facts["turns"], facts["turn_sizes"]) == (3, 2, [1, 2])
    assert facts["order_sha256"] == hashlib.sha256(order.astype("<i8").tobytes()).hexdigest()
    assert sorted(p.name for p in saved.iterdir()) == ["arrangement.json", "order.npy", "turn.npy"]


def test_an_arrangement_may_be_empty_and_replaces_another(saved):
    save_arrangement(Arrangement(np.array([]), np.array([])), saved, {})
    arrangement, provenance = load_arrangement(saved)
    assert (len(arrangement), provenance) == (0, {})


@pytest.mark.parametrize("name", ["order.npy", "turn.npy", "arrangement.json"])
@pytest.mark.parametrize("damage", ["missing", "flipped", "short", "empty", "stranger"])
def test_damage_is_refused_by_name(saved, name, damage):
    path = saved / name
    content = bytearray(path.read_bytes())
    if damage == "missing":
        path.unlink()
    elif damage == "flipped":
        # In JSON the first bracket, in an array a value: a letter of provenance is not guarded.
        content[0 if name.endswith("json") else -1] ^= 1
        path.write_bytes(content)
    elif damage == "short":
        path.write_bytes(content[: len(content) // 2])
    elif damage == "empty":
        path.write_bytes(b"")
    elif name.endswith("json"):
        path.write_text("[]")
    else:
        np.save(path, np.array([1.0, 2.0, 3.0]))
    with pytest.raises(UserError, match=name):
        load_arrangement(saved)
