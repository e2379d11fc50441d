import numpy as np
import pytest

from zsg_jax.arrangement import tmta
from zsg_jax.arrangement.methods import METHODS, Turns, arrange, parse
from zsg_jax.errors import UserError

RNG = np.random.default_rng(0)
TRAIN, TEST = RNG.normal(size=(60, 8)), RNG.normal(size=(7, 8))


def test_every_method_orders_the_rows_it_should():
    turns = Turns(TRAIN, TEST, budget=25)
    low, high = tmta(TRAIN, TEST, budget=25), tmta(TRAIN, TEST, budget=25, farthest=True)
    assert set(low.order.tolist()) != set(high.order.tolist())
    for name in METHODS:
        made = arrange(name, turns, 3)
        rows = high if name == "tmta-max" else low
        assert sorted(made.order) == sorted(rows.order)
        turn_of = dict(zip(rows.order.tolist(), rows.turn.tolist(), strict=True))
        assert [turn_of[row] for row in made.order.tolist()] == made.turn.tolist()
    assert arrange("tmta-nft", turns, 0).order.tolist() == low.order.tolist()
    backward = arrange("tmta-fft", turns, 0)
    assert (np.diff(backward.turn) <= 0).all()
    for turn in np.unique(backward.turn):
        assert (np.diff(backward.order[backward.turn == turn]) > 0).all()


def test_the_seed_after_at_wins():
    turns = Turns(TRAIN, TEST, budget=None)
    orders = [
        arrange(name, turns, seed).order.tolist()
        for name, seed in [("tmta-rt", 5), ("tmta-rt@5", 0), ("tmta-rt", 0)]
    ]
    assert orders[0] == orders[1] != orders[2]
    assert parse("tmta-rt@12", 0) == ("tmta-rt", 12)


@pytest.mark.parametrize("name", ["tmta", "tmta-rt@-1", "tmta-rt@01", "tmta-rt@", "tmta-max@1"])
def test_names_that_stand_for_nothing_are_refused(name):
    with pytest.raises(UserError, match=r"arrangement\.methods"):
        parse(name, 0)
