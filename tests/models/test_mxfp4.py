"""Experts packed in MXFP4: the numbers of transformers, read part by part, written unpacked."""

import json

import jax
import numpy as np
import pytest

from zsg_jax.models import huggingface
from zsg_jax.models.huggingface.mxfp4 import unpacked
from zsg_jax.models.huggingface.write import write
from zsg_jax.runtime.errors import UserError

SIZES = {"hidden_size": 64, "intermediate_size": 32, "num_hidden_layers": 2}
OUTPUTS = {"gate_up_proj": (64, 2), "down_proj": (64, 1)}  # and groups of inputs


@pytest.fixture
def packed(tmp_path, make_folder, configs):
    """A folder as gpt-oss is published, and its tensors."""
    config = configs["gpt_oss"] | SIZES | {"quantization_config": {"quant_method": "mxfp4"}}
    rng, tensors = np.random.default_rng(0), {}
    for layer in range(2):
        for name, (outputs, groups) in OUTPUTS.items():
            path = f"model.layers.{layer}.mlp.experts.{name}"
            tensors[path] = None
            shape = 3, outputs, groups
            tensors[f"{path}_blocks"] = rng.integers(0, 256, (*shape, 16), np.uint8)
            tensors[f"{path}_scales"] = rng.integers(120, 130, shape, np.uint8)
    folder = tmp_path / "packed"
    return folder, make_folder(folder, config, tensors=tensors, shards=2)


def test_every_number_is_read_as_the_format_has_it(packed):
    folder, tensors = packed
    model = huggingface.read_config(folder)
    experts = huggingface.load(folder, model)["layers"]["mlp"]["experts"]
    for layer in range(2):
        path = f"model.layers.{layer}.mlp.experts."
        for name, (outputs, groups) in OUTPUTS.items():
            blocks, scales = (tensors[f"{path}{name}_{one}"] for one in ("blocks", "scales"))
            expected = np.zeros((3, 32 * groups, outputs))
            for e, i, o in np.ndindex(*expected.shape):
                byte = int(blocks[e, o, i // 32, i % 32 // 2])
                four = byte >> 4 if i % 2 else byte & 15
                size = [0, 0.5, 1, 1.5, 2, 3, 4, 6][four & 7]
                scale = 2.0 ** (int(scales[e, o, i // 32]) - 127)
                expected[e, i, o] = (-1) ** (four >> 3) * size * scale
            if name == "gate_up_proj":
                found = np.stack([experts[one]["kernel"][layer] for one in ("gate", "up")], -1)
                found = found.reshape(expected.shape)
            else:
                found = experts["down"]["kernel"][layer]
            np.testing.assert_array_equal(found, expected)


@pytest.mark.references
def test_transformers_unpacks_the_same(packed):
    torch = pytest.importorskip("torch")
    theirs = pytest.importorskip("transformers.integrations.mxfp4")
    _, tensors = packed
    path = "model.layers.0.mlp.experts.gate_up_proj"
    blocks, scales = (tensors[f"{path}_{one}"] for one in ("blocks", "scales"))
    expected = theirs.convert_moe_packed_tensors(
        torch.tensor(blocks), torch.tensor(scales), dtype=torch.float32
    )
    np.testing.assert_array_equal(unpacked(blocks, scales).swapaxes(1, 2), expected.numpy())


def test_what_was_packed_is_written_unpacked_and_read_again(packed, tmp_path):
    folder, _ = packed
    model = huggingface.read_config(folder)
    params = huggingface.load(folder, model)
    (tmp_path / "written").mkdir()
    write(tmp_path / "written", model, params, source=folder)
    assert "quantization_config" not in json.loads(
        (tmp_path / "written" / "config.json").read_text()
    )
    assert huggingface.read_config(tmp_path / "written") == model
    again = huggingface.load(tmp_path / "written", model)
    jax.tree.map(np.testing.assert_array_equal, params, again)


def test_packed_parts_that_do_not_fit_are_refused(tmp_path, make_folder, configs):
    config = configs["gpt_oss"] | SIZES | {"quantization_config": {"quant_method": "mxfp4"}}
    name = "model.layers.0.mlp.experts.down_proj"
    tensors = {name: None, f"{name}_blocks": np.zeros((3, 64, 1, 16), np.uint8)}
    make_folder(tmp_path, config, tensors=tensors)
    with pytest.raises(UserError, match=r"down_proj': blocks and scales of MXFP4 do not fit"):
        huggingface.load(tmp_path, huggingface.read_config(tmp_path))
    config["model_type"] = "llama"
    (tmp_path / "config.json").write_text(json.dumps(config))
    with pytest.raises(UserError, match="quantization_config is"):
        huggingface.read_config(tmp_path)
