import dataclasses

import pytest

from zsg_jax.planning.chips import CHIPS, chip
from zsg_jax.planning.collectives import Collective
from zsg_jax.planning.machines import parse
from zsg_jax.planning.roofline import days, roofline
from zsg_jax.runtime.errors import UserError


def exchange(size, *, spread=False, count=1.0):
    return Collective("all-gather", "m", "g", size, (size,), 8, ("fsdp",), spread, count, "")


def test_the_longest_of_three_times_by_hand():
    one = chip("h200")
    found = roofline(one, 989e12 * 2, 4.8e12 * 3, [exchange(450_000_000_000, count=8)])
    assert (found.compute, found.memory) == (2, 3)
    assert found.exchange == pytest.approx(8 * 7 / 8)
    assert (found.seconds, found.bound) == (pytest.approx(7), "exchange")
    assert roofline(one, 989e12 * 2, 0, []).bound == "compute"
    assert roofline(one, 0, 1.0, []).bound == "memory"


def test_what_leaves_a_host_takes_the_network():
    near, far = (
        roofline(chip("a100-80"), 0, 0, [exchange(1000, spread=s)]).exchange for s in (False, True)
    )
    assert far / near == pytest.approx(300e9 / 50e9)


def test_a_machine_without_figures_has_no_roofline():
    assert roofline(parse("cpu:2").chip, 1, 1, []) is None


def test_days():
    assert days(1_000_000, 16, 0.864) == pytest.approx(0.625)
    assert days(17, 16, 86400) == 2


@pytest.mark.parametrize("name", CHIPS)
def test_every_figure_is_there_and_of_a_sane_size(name):
    one = CHIPS[name]
    assert 5e13 < one.peak < 5e15
    assert 1e10 < one.memory < 2e11
    assert 2e11 < one.bandwidth < 1e13
    assert 1e10 < one.interconnect < 2e12
    assert 0.5 < one.usable <= 1
    assert one.kind == ("tpu" if name.startswith("v") else "gpu")
    assert all(value is not None for value in dataclasses.astuple(one))


def test_an_unknown_chip_is_told_with_the_nearest():
    with pytest.raises(UserError, match="did you mean a100-80"):
        chip("a100-8O")
