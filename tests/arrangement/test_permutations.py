import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from zsg_jax.arrangement import Arrangement
from zsg_jax.arrangement.permutations import farthest_first, nearest_first, shuffled
from zsg_jax.errors import UserError


def pairs(arrangement):
    return list(zip(arrangement.order.tolist(), arrangement.turn.tolist(), strict=True))


@st.composite
def by_turns(draw):
    """What TMTA gives: turns ascending, row indices ascending inside a turn."""
    sizes = draw(st.lists(st.integers(1, 5), max_size=8))
    rows = draw(st.permutations(range(sum(sizes) + 3)))
    order, turn, start = [], [], 0
    for number, size in enumerate(sizes, 1):
        order += sorted(rows[start : start + size])
        turn += [number] * size
        start += size
    return Arrangement(np.array(order, int), np.array(turn, int))


@given(by_turns(), st.integers(0, 2**63))
def test_permutations_keep_rows_and_their_turns(tmta, seed):
    assert pairs(nearest_first(tmta)) == pairs(tmta)
    backward = sorted(pairs(tmta), key=lambda pair: (-pair[1], pair[0]))
    assert pairs(farthest_first(tmta)) == backward
    assert pairs(nearest_first(farthest_first(tmta))) == pairs(tmta)
    mixed = shuffled(tmta, seed)
    assert sorted(pairs(mixed)) == sorted(pairs(tmta))
    assert pairs(shuffled(tmta, seed)) == pairs(mixed)


def test_seeds_differ_and_stay():
    tmta = Arrangement(np.arange(8), np.repeat([1, 2], 4))
    # Written out, since a seed has to give the same run under every NumPy.
    assert shuffled(tmta, 0).order.tolist() == [2, 4, 3, 6, 5, 0, 1, 7]
    assert shuffled(tmta, 1).order.tolist() != shuffled(tmta, 0).order.tolist()
    with pytest.raises(UserError, match="seed=-1"):
        shuffled(tmta, -1)
