import hashlib
import json

import numpy as np
import pytest

from zsg_jax.arrangement import Arrangement
from zsg_jax.arrangement.files import load, save
from zsg_jax.runtime.errors import UserError

PROVENANCE = {"method": "tmta-min", "budget": None, "test": "über.jsonl", "seeds": [0, 1]}


@pytest.fixture
def saved(tmp_path):
    arrangement = Arrangement(np.array([5, 0, 3]), np.array([2, 2, 1]))
    save(arrangement, tmp_path / "deep" / "tmta", PROVENANCE)
    return tmp_path / "deep" / "tmta"


def test_what_is_saved_comes_back(saved):
    arrangement, provenance = load(saved)
    assert (arrangement.order.tolist(), arrangement.turn.tolist()) == ([5, 0, 3], [2, 2, 1])
    assert provenance == PROVENANCE


def test_other_programs_can_read_it(saved):
    order, turn = np.load(saved / "order.npy"), np.load(saved / "turn.npy")
    assert (order.dtype, turn.dtype) == (np.int64, np.int32)
    facts = json.loads((saved / "arrangement.json").read_text())
    assert (facts["rows"], facts["turns"], facts["turn_sizes"]) == (3, 2, [1, 2])
    assert facts["order_sha256"] == hashlib.sha256(order.astype("<i8").tobytes()).hexdigest()
    assert sorted(p.name for p in saved.iterdir()) == ["arrangement.json", "order.npy", "turn.npy"]


def test_an_empty_arrangement_and_an_overwritten_one(saved):
    save(Arrangement(np.array([]), np.array([])), saved, {})
    arrangement, provenance = load(saved)
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
        load(saved)
