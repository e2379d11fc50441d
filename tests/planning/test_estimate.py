"""The roofline by hand, chips, and what a compiler says of a program that is too large."""

import dataclasses

import jax
import pytest

from zsg_jax.planning.chips import CHIPS, chip
from zsg_jax.planning.collectives import Exchanges
from zsg_jax.planning.estimate import StepShape, days, estimate, needed_bytes, roofline
from zsg_jax.planning.machines import parse
from zsg_jax.runtime.errors import UserError
from zsg_jax.workflows.plan import make_mesh, planned_trainer

# libtpu 0.0.42: LLaMA-2-7B on v5e:2x2, 20.2 GB of them state.
REFUSED = (
    "RESOURCE_EXHAUSTED: Ran out of memory on HBM, the total memory required for HLO temporaries "
    "(31.35G) exceeds available HBM (15.75G)."
)
# openxla.org/xla/errors: what is said once the program is laid out.
LAID_OUT = (
    "RESOURCE_EXHAUSTED: XLA:TPU compile permanent error. Ran out of memory in memory space hbm. "
    "Used 19.03G of 15.75G hbm. Exceeded hbm capacity by 3.28G."
)


def exchange(sent, group=8):
    return Exchanges("all-gather", group, 1, sent, sent)


def test_the_longest_of_three_times_by_hand():
    one = chip("h200")
    found = roofline(one, 989e12 * 2, 4.8e12 * 3, [exchange(450e9 * 7)])
    assert (found.compute, found.memory, found.exchange) == (2, 3, 7)
    assert (found.seconds, found.bound) == (7, "exchange")
    assert roofline(one, 989e12 * 2, 0, []).bound == "compute"
    assert roofline(one, 0, 1.0, []).bound == "memory"


def test_more_chips_than_are_wired_exchange_over_the_network():
    near, far = (
        roofline(chip("a100-80"), 0, 0, [exchange(1000, group)]).exchange for group in (8, 16)
    )
    assert far / near == pytest.approx(300e9 / 50e9)
    assert roofline(chip("v5e"), 0, 0, [exchange(200e9, 256)]).exchange == 1


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


def test_an_unknown_chip_is_named_with_the_nearest():
    with pytest.raises(UserError, match="did you mean a100-80"):
        chip("a100-8O")


@pytest.mark.parametrize(
    ("message", "needed"),
    [(REFUSED, 31.35 * 2**30), (LAID_OUT, 19.03 * 2**30), ("RESOURCE_EXHAUSTED: no room", 0)],
)
def test_what_a_refused_program_needs_is_read(message, needed):
    assert needed_bytes(message) == int(needed)


class Refusing:
    """A trainer whose step a compiler refuses."""

    def __init__(self, trainer, message):
        self._trainer, self._message = trainer, message

    def __getattr__(self, name):
        return getattr(self._trainer, name)

    def compiled_step(self, *_):
        raise jax.errors.JaxRuntimeError(self._message)


def refused(small_config, message):
    config = small_config()
    trainer = planned_trainer(config, make_mesh(config, jax.devices()[:1], "v5e:1x1"))
    return estimate(Refusing(trainer, message), StepShape(8, 64, 1, 10), parse("v5e:1x1"))


def test_a_refused_program_is_planned_with_what_its_message_says(small_config, capsys):
    plan = refused(small_config, REFUSED)
    assert plan.work is None
    assert plan.memory.total == int(31.35 * 2**30)
    assert not plan.memory.fits
    assert capsys.readouterr().err == ""


def test_another_error_of_the_compiler_is_no_lack_of_memory(small_config):
    with pytest.raises(jax.errors.JaxRuntimeError, match="INTERNAL"):
        refused(small_config, "INTERNAL: no such instruction")
