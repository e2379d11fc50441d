"""LoRA in a whole study: what changes, what is kept, what goes on, and what is exported."""

import dataclasses
import json

import jax
import numpy as np
import pytest
from safetensors.numpy import load_file

from zsg_jax.models import huggingface, lora
from zsg_jax.models.families import FAMILIES
from zsg_jax.models.huggingface.write import write
from zsg_jax.models.lora import LoRA
from zsg_jax.models.model import initialize
from zsg_jax.models.placement import Compute
from zsg_jax.runtime.errors import UserError
from zsg_jax.training import loop, sharding
from zsg_jax.training.trainer import Trainer, TrainerOptions
from zsg_jax.workflows import export as exporting
from zsg_jax.workflows import study

OPTIONS = TrainerOptions(8, 4, 1e-2, "cosine", 0, 1.0, 0.1, packing=False)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A Hugging Face folder with a random Llama for bytes."""
    path = tmp_path_factory.mktemp("model")
    model = dataclasses.replace(FAMILIES["llama"].sized("tiny", 258, 256), num_layers=1)
    params = initialize(model, jax.random.key(7))
    write(path, model, jax.tree.map(lambda leaf: 3 * leaf, params), source=None)
    return path


def test_only_the_adapters_and_their_moments_change(folder, batch):
    model = huggingface.read_config(folder)
    mesh = sharding.make_mesh(1, 1)
    compute, adapters = Compute(jax.numpy.bfloat16), LoRA(4, 8.0, ("q", "up"), 0.1)
    one = Trainer(model, OPTIONS, mesh, compute=compute, lora=adapters, init_from=folder)
    state, step = one.initial_state(0), one.compiled_step(10, 16)
    before, losses = jax.device_get(state), []
    # Kept in what it is computed in, but for the norms; the adapters in float32.
    kept = {
        (sharding.path_name(path).endswith("scale"), str(leaf.dtype))
        for path, leaf in jax.tree_util.tree_leaves_with_path(before["frozen"])
    }
    assert kept == {(True, "float32"), (False, "bfloat16")}
    assert {str(leaf.dtype) for leaf in jax.tree.leaves(before["params"])} == {"float32"}
    assert one.trained == sum(leaf.size for leaf in jax.tree.leaves(before["params"]))
    assert one.trained < one.parameters / 10
    data = batch(mesh, model.vocab_size)
    for _ in range(10):
        state, metrics = step(state, data)
        losses.append(float(metrics["loss"]))
    after = jax.device_get(state)
    jax.tree.map(np.testing.assert_array_equal, before["frozen"], after["frozen"])
    for a, b in zip(
        jax.tree.leaves(before["params"]), jax.tree.leaves(after["params"]), strict=True
    ):
        assert (a != b).any()
    moments = sum(leaf.size for leaf in jax.tree.leaves(after["opt_state"]) if leaf.ndim)
    assert moments == 2 * one.trained
    assert losses[-1] < losses[0] - 0.05


SETTINGS = {"model.lora.rank": 4, "model.lora.dropout": 0.2, "training.learning_rate": 1e-2}


@pytest.mark.slow
@pytest.mark.parametrize("base", [pytest.param("same", marks=pytest.mark.ci), "nf4"])
def test_a_study_of_adapters_resumes_exactly_and_exports(
    folder, small_config, tmp_path, read_metrics, monkeypatch, base
):
    if base == "nf4":
        pytest.importorskip("qwix")
    settings = {**SETTINGS, "model.init_from": str(folder), "model.lora.base": base}
    whole, stopped = tmp_path / "whole", tmp_path / "stopped"
    study.run(small_config(**settings), whole, command="test")
    real = loop.Checkpoints.save

    def save(self, step, state, position):
        real(self, step, state, position)
        assert "frozen" not in state
        if step == 4:
            raise KeyboardInterrupt

    monkeypatch.setattr(loop.Checkpoints, "save", save)
    with pytest.raises(KeyboardInterrupt):
        study.run(small_config(**settings), stopped, command="test")
    monkeypatch.setattr(loop.Checkpoints, "save", real)
    study.run(small_config(**settings), stopped, command="test")
    rows, again = (read_metrics(one / "runs" / "tmta-nft-seed0") for one in (whole, stopped))
    assert rows == again
    assert rows[-1]["loss"] < rows[0]["loss"] - 0.3

    # The run's checkpoint holds adapters alone, and cannot be begun from.
    last = whole / "runs" / "tmta-nft-seed0" / "checkpoints" / "00000010"
    size = sum(path.stat().st_size for path in last.rglob("*") if path.is_file())
    assert size < (folder / "model.safetensors").stat().st_size
    again = small_config(**{"model.init_from": str(whole / "runs" / "tmta-nft-seed0")})
    with pytest.raises(UserError, match="holds adapters alone; export the run"):
        study.run(again, tmp_path / "next", command="test")

    request = exporting.ExportOptions(whole, "tmta-nft-seed0", tmp_path / "merged")
    merged = exporting.run(request)
    model = huggingface.read_config(merged)
    params = huggingface.load(merged, model)
    before = huggingface.load(folder, model)
    changed = jax.tree.map(lambda a, b: bool((a != b).any()), params, before)
    assert changed["layers"]["mlp"] == {name: {"kernel": True} for name in ("gate", "up", "down")}
    assert not changed["embed"]["embedding"]
    # What is measured at the end is what the exported weights give.
    follow = {"model.init_from": str(merged), "training.steps": 1}
    study.run(small_config(**follow), tmp_path / "follow", command="test")
    first = read_metrics(tmp_path / "follow" / "runs" / "tmta-nft-seed0")[0]
    np.testing.assert_allclose(first["losses"], rows[-1]["losses"], atol=1e-4)

    alone = exporting.run(dataclasses.replace(request, output=tmp_path / "adapters", adapters=True))
    tensors = load_file(alone / "adapter_model.safetensors")
    modes = {path.stat().st_mode for one in (merged, alone) for path in one.glob("*.*")}
    assert len(modes) == 1
    assert len(tensors) == 7 * 2
    told = json.loads((alone / "adapter_config.json").read_text())
    assert (told["base_model_name_or_path"], told["r"]) == (str(folder), 4)


def test_adapters_are_the_same_on_any_mesh_of_one_device_and_by_seed(folder):
    model = huggingface.read_config(folder)
    one = Trainer(model, OPTIONS, sharding.make_mesh(1, 1), lora=LoRA(2), init_from=folder)
    a, b, c = (jax.device_get(one.initial_state(seed)) for seed in (0, 0, 1))
    jax.tree.map(np.testing.assert_array_equal, a, b)
    jax.tree.map(np.testing.assert_array_equal, a["frozen"], c["frozen"])
    q = [state["params"]["layers"]["attention"]["q"][lora.A] for state in (a, c)]
    assert (q[0] != q[1]).any()
    frozen = jax.device_get(one.frozen(0))
    jax.tree.map(np.testing.assert_array_equal, frozen["frozen"], a["frozen"])


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"model.init_from": ""}, r"lora\.rank=4 adapts weights, but model\.init_from"),
        ({"model.lora.targets": ("kv",)}, "target 'kv' is none of all, q, k, v, o, gate"),
        ({"model.lora.rank": 0}, r"model\.lora\.dropout=0\.2 is of adapters; give"),
        ({"model.lora.targets": ()}, "targets are none; name some"),
        ({"model.lora.base": "nf5"}, "base='nf5'; choose one of same, nf4; did you mean nf4"),
    ],
)
def test_settings_that_make_no_adapters_are_refused(
    folder, small_config, tmp_path, changes, message
):
    config = small_config(**SETTINGS | {"model.init_from": str(folder)} | changes)
    with pytest.raises(UserError, match=message):
        study.run(config, tmp_path / "w", command="test")
