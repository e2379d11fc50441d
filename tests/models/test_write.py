"""Folders written: the same bytes as were read, and configs that mean the same model."""

import dataclasses
import json

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.numpy import load_file, save_file

from zsg_jax.models import huggingface
from zsg_jax.models.families import FAMILIES
from zsg_jax.models.huggingface.write import DTYPES, write
from zsg_jax.models.rotary import LinearScaling, Llama3Scaling
from zsg_jax.runtime.errors import UserError


def read_all(folder):
    tensors = {}
    for path in sorted(folder.glob("*.safetensors")):
        part = load_file(path)
        assert not tensors.keys() & part.keys()
        tensors |= part
    return tensors


def there_and_back(source, target, file_bytes=5 * 10**9, dtype="same", padding=0):
    model = huggingface.read_config(source)
    model = dataclasses.replace(model, vocab_padding=padding)
    params = huggingface.load(source, model)
    target.mkdir()
    write(target, model, params, source=source, dtype=dtype, file_bytes=file_bytes)


@settings(max_examples=10)
@given(
    family=st.sampled_from(sorted(FAMILIES)),
    dtype=st.sampled_from(list(DTYPES.values())),
    shards=st.sampled_from([0, 3]),
    file_bytes=st.sampled_from([1, 700, 10**9]),
    padding=st.sampled_from([0, 5]),
    seed=st.integers(0, 9),
)
def test_there_and_back_gives_the_same_bytes(
    tmp_path_factory, make_folder, configs, family, dtype, shards, file_bytes, padding, seed
):
    folder = tmp_path_factory.mktemp("folders")
    prefix = "transformer." if family == "gpt2" and seed % 2 else ""
    data = make_folder(
        folder / "a", configs[family], dtype, prefix=prefix, shards=shards, seed=seed
    )
    there_and_back(folder / "a", folder / "b", file_bytes, padding=padding)
    again = read_all(folder / "b")
    assert again.keys() == data.keys()
    for name, tensor in data.items():
        assert again[name].dtype == tensor.dtype, name
        assert again[name].shape == tensor.shape, name
        assert again[name].tobytes() == tensor.tobytes(), name
    configs = [json.loads((folder / one / "config.json").read_text()) for one in "ab"]
    assert configs[0] == configs[1]
    files = sorted((folder / "b").glob("*.safetensors"))
    if file_bytes == 10**9:
        assert [file.name for file in files] == ["model.safetensors"]
    elif file_bytes == 1:
        assert len(files) == len(data)
    else:
        index = json.loads((folder / "b" / "model.safetensors.index.json").read_text())
        assert index["metadata"]["total_size"] == sum(t.nbytes for t in data.values())
        for file in files:
            part = load_file(file)
            assert len(part) == 1 or sum(t.nbytes for t in part.values()) <= 700
            assert {index["weight_map"][name] for name in part} == {file.name}


def test_another_dtype_is_rounded_and_told_and_what_does_not_fit_is_refused(
    tmp_path, make_folder, configs
):
    data = make_folder(tmp_path / "a", configs["llama"])
    there_and_back(tmp_path / "a", tmp_path / "b", dtype="float16")
    found = read_all(tmp_path / "b")
    assert all((found[k] == data[k].astype(np.float16)).all() for k in data)
    assert json.loads((tmp_path / "b" / "config.json").read_text())["torch_dtype"] == "float16"
    data["model.norm.weight"][3] = 1e6
    save_file(data, tmp_path / "a" / "model.safetensors")
    with pytest.raises(
        UserError, match=r"'model\.norm\.weight' holds numbers too large for float16"
    ):
        there_and_back(tmp_path / "a", tmp_path / "c", dtype="float16")


def test_buffers_and_a_copied_head_of_gpt2_files_are_passed_over(tmp_path, make_folder, configs):
    data = make_folder(tmp_path / "a", configs["gpt2"])
    extra = {
        "h.0.attn.bias": np.ones((1, 1, 4, 4), bool),  # of a dtype that no parameter has
        "lm_head.weight": data["wte.weight"],
    }
    save_file(data | extra, tmp_path / "a" / "model.safetensors")
    there_and_back(tmp_path / "a", tmp_path / "b")
    assert read_all(tmp_path / "b").keys() == data.keys()
    save_file(
        data | extra | {"lm_head.weight": -extra["lm_head.weight"]},
        tmp_path / "a/model.safetensors",
    )
    with pytest.raises(UserError, match=r"no place for, such as 'lm_head\.weight'"):
        huggingface.load(tmp_path / "a", huggingface.read_config(tmp_path / "a"))


@pytest.mark.parametrize("family", FAMILIES)
def test_the_config_of_a_model_from_scratch_means_the_same_model(tmp_path, family):
    model = FAMILIES[family].sized("tiny", 37, 64)
    models = [model]
    if family == "llama":
        for scaling in (LinearScaling(3.0), Llama3Scaling(4.0, 1.0, 4.0, 16)):
            models.append(dataclasses.replace(model, rope_scaling=scaling, tie_embeddings=False))
    for one in models:
        (tmp_path / "config.json").write_text(json.dumps(huggingface.config_json(one)))
        assert huggingface.read_config(tmp_path) == one
