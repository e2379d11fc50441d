"""Random weights of every family: tensor by tensor distributed as transformers begins it."""

import re

import jax
import numpy as np
import pytest
from safetensors.numpy import load_file

from zsg_jax.data.tokenize.tokenizer import ByteTokenizer
from zsg_jax.models import huggingface
from zsg_jax.models.families import FAMILIES
from zsg_jax.models.huggingface.write import write
from zsg_jax.models.model import count, initialize
from zsg_jax.training.sharding import make_mesh
from zsg_jax.workflows.study_model import make_trainer

pytestmark = pytest.mark.references

VOCABULARY, POSITIONS = 512, 256


def theirs(model):
    """The same model by transformers, random; a PyTorch seed decides it."""
    torch = pytest.importorskip("torch")
    transformers = pytest.importorskip("transformers")
    torch.manual_seed(1)
    config = transformers.AutoConfig.for_model(**huggingface.config_json(model))
    return transformers.AutoModelForCausalLM.from_config(config)


def by_kind(tensors):
    """All layers' tensors of a name together."""
    kinds = {}
    for name, tensor in tensors.items():
        numbers = np.asarray(tensor, np.float64).ravel()
        kinds.setdefault(re.sub(r"\.\d+\.", ".#.", name), []).append(numbers)
    return {name: np.concatenate(parts) for name, parts in kinds.items()}


@pytest.mark.parametrize("family", FAMILIES)
def test_random_weights_are_distributed_as_the_architecture_has_them(family, tmp_path):
    model = FAMILIES[family].sized("tiny", VOCABULARY, POSITIONS)
    reference = theirs(model)
    params = jax.jit(initialize, static_argnums=0)(model, jax.random.key(0))
    assert count(params) == sum(one.numel() for one in reference.parameters())
    write(tmp_path, model, params, source=None)
    ours = by_kind(load_file(tmp_path / "model.safetensors"))
    reference.save_pretrained(tmp_path / "theirs")
    expected = by_kind(load_file(tmp_path / "theirs" / "model.safetensors"))
    assert ours.keys() == expected.keys()
    for name, numbers in ours.items():
        wanted = expected[name]
        assert numbers.shape == wanted.shape
        if not wanted.std():
            np.testing.assert_array_equal(numbers, wanted, err_msg=name)
            continue
        # Both are samples; the bounds are six deviations of what is estimated from so many numbers.
        size, deviation = len(numbers), wanted.std()
        error = 6 * np.sqrt(2 / size)
        assert abs(numbers.mean()) < error * deviation, name
        assert abs(np.log(numbers.std() / deviation)) < error, name
        fourth = [((x / x.std()) ** 4).mean() for x in (numbers, wanted)]
        assert abs(fourth[0] - fourth[1]) < 6 * np.sqrt(2 * 24 / size), name


def test_the_number_of_parameters_is_told(small_config, capsys):
    config = small_config(**{"model.family": "qwen3"})
    trainer = make_trainer(config, ByteTokenizer(), make_mesh(1, 1))
    assert trainer.parameters == count(initialize(trainer.model, jax.random.key(0)))
    told = capsys.readouterr().err
    assert f"qwen3, {trainer.parameters:,} parameters; mesh data=1 fsdp=1 tensor=1 on cpu" in told
