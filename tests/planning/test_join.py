"""What a compiler says when a program is too large, as it was seen, and a plan that keeps still."""

import jax
import pytest

from zsg_jax.planning import join
from zsg_jax.planning.chips import chip
from zsg_jax.planning.join import needed_bytes
from zsg_jax.planning.memory import memory

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


@pytest.mark.parametrize(
    ("message", "needed"),
    [(REFUSED, 31.35 * 2**30), (LAID_OUT, 19.03 * 2**30), ("RESOURCE_EXHAUSTED: no room", 0)],
)
def test_what_a_refused_program_needs_is_read(message, needed):
    assert needed_bytes(message) == int(needed)


def test_a_refused_program_is_planned_with_what_its_message_says(small_config, monkeypatch, capsys):
    def refuse(*_):
        raise jax.errors.JaxRuntimeError(REFUSED)

    monkeypatch.setattr(join.Trainer, "compiled_step", refuse)
    compiled = join.compile_step(small_config(), jax.devices()[:1], "v5e:1x1")
    assert compiled.step is None
    told = memory(compiled, chip("v5e"))
    assert told.total == int(31.35 * 2**30)
    assert not told.fits
    assert capsys.readouterr().err == ""


def test_another_error_of_the_compiler_is_not_taken_for_a_lack_of_memory(small_config, monkeypatch):
    def fail(*_):
        raise jax.errors.JaxRuntimeError("INTERNAL: no such instruction")

    monkeypatch.setattr(join.Trainer, "compiled_step", fail)
    with pytest.raises(jax.errors.JaxRuntimeError, match="INTERNAL"):
        join.compile_step(small_config(), jax.devices()[:1], "v5e:1x1")
