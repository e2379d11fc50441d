"""What is kept and computed in which dtype."""

import dataclasses
import json

import jax
import jax.numpy as jnp
import pytest

from zsg_jax.models.families import FAMILIES
from zsg_jax.models.placement import Compute
from zsg_jax.training import sharding
from zsg_jax.training.trainer import Trainer, TrainerOptions
from zsg_jax.workflows import export as exporting
from zsg_jax.workflows import study

OPTIONS = TrainerOptions(8, 4, 1e-2, "constant", 0, 1.0, 0.0)


def trainer(family, dtype, param_dtype):
    return Trainer(
        dataclasses.replace(FAMILIES[family].sized("tiny", 40, 16), num_layers=1),
        OPTIONS,
        sharding.make_mesh(1, 1),
        compute=Compute(jnp.dtype(dtype)),
        param_dtype=param_dtype,
    )


def dtypes(tree):
    return {str(leaf.dtype) for leaf in jax.tree.leaves(tree) if leaf.ndim}


@pytest.mark.parametrize(
    "param_dtype", [pytest.param("float32", marks=pytest.mark.slow), "bfloat16"]
)
def test_weights_and_moments_are_kept_in_what_is_asked_for_and_learn(param_dtype, batch):
    one = trainer("llama", "bfloat16", param_dtype)
    state, step = one.initial_state(0), one.compiled_step(20, 16)
    assert dtypes(state["params"]) == dtypes(state["opt_state"]) == {param_dtype}
    losses, rows = [], batch(one.mesh, 40)
    for _ in range(20):
        state, metrics = step(state, rows)
        assert metrics["loss"].dtype == metrics["grad_norm"].dtype == jnp.float32
        losses.append(float(metrics["loss"]))
    assert dtypes(state["params"]) == dtypes(state["opt_state"]) == {param_dtype}
    assert losses[-1] < losses[0] - 1


@pytest.mark.parametrize("family", FAMILIES)
def test_norms_softmax_and_losses_are_computed_in_float32(family):
    one = trainer(family, "bfloat16", "float32")
    tokens = jnp.zeros((2, 16), jnp.int32)
    jaxpr = str(
        jax.make_jaxpr(lambda p: one.hidden(p, tokens, tokens, tokens + 1))(
            one.abstract_state["params"]
        )
    )
    # What a norm and a softmax are made of never has a bfloat16 result.
    for name in ("rsqrt", "exp", "reduce_max"):
        results = [
            line.split(" = ")[0]
            for line in jaxpr.splitlines()
            if f" {name}[" in line or f" {name} " in line
        ]
        assert not [line for line in results if "bf16" in line], name
    assert "bf16" in jaxpr


def test_pure_bfloat16_is_warned_of_and_exported_as_it_is(small_config, tmp_path, capsys):
    config = small_config(**{"model.param_dtype": "bfloat16", "training.steps": 2})
    study.run(config, tmp_path / "w", command="test")
    told = [line for line in capsys.readouterr().err.splitlines() if "param_dtype" in line]
    assert len(told) == 1
    assert "an update under a 256th of a weight is lost" in told[0]
    folder = exporting.run(
        exporting.ExportOptions(tmp_path / "w", "tmta-nft-seed0", tmp_path / "out")
    )
    assert json.loads((folder / "config.json").read_text())["torch_dtype"] == "bfloat16"
