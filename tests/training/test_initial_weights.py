"""Parameters out of a checkpoint onto another mesh: the same numbers, zeros in the padding."""

import json
from dataclasses import replace

import jax
import numpy as np
import pytest
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec

from zsg_jax.models import model as models
from zsg_jax.models.families import FAMILIES
from zsg_jax.runtime.errors import UserError
from zsg_jax.training import initial_weights
from zsg_jax.training.checkpoint import MANIFEST, Checkpoints

ROTARY = {"num_kv_heads": 1, "head_dim": 4}
SHAPE = {
    "vocab_size": 11,
    "hidden_size": 8,
    "intermediate_size": 12,
    "num_layers": 2,
    "num_heads": 2,
    "max_positions": 16,
}
MODELS = {
    "gpt2": FAMILIES["gpt2"].config(**SHAPE),
    "qwen3": FAMILIES["qwen3"].config(**SHAPE, **ROTARY),
}
MESH = Mesh(np.asarray(jax.devices()[:1]), ("fsdp",), axis_types=(AxisType.Auto,))


def shapes_of(model):
    where = NamedSharding(MESH, PartitionSpec())
    return jax.tree.map(
        lambda leaf: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=where),
        models.abstract(model)[1],
    )


def save(folder, model):
    """Every number random, so that each array has its own; zeros in the padding."""
    rng = np.random.default_rng(0)
    written = jax.tree.map(
        lambda leaf: rng.normal(size=leaf.shape).astype(np.float32),
        models.abstract(replace(model, vocab_padding=0))[1],
    )
    params = jax.tree.map(jax.numpy.asarray, padded(written, model.vocab_padding))
    Checkpoints(folder).save(7, {"params": params, "step": jax.numpy.asarray(7)}, {"step": 7})
    return folder / "00000007", written


def padded(params, words):
    changed = params | {
        "embed": {"embedding": np.pad(params["embed"]["embedding"], [(0, words), (0, 0)])}
    }
    if "lm_head" in params:
        changed["lm_head"] = {"kernel": np.pad(params["lm_head"]["kernel"], [(0, 0), (0, words)])}
    return changed


@pytest.mark.parametrize(("name", "before", "after"), [("gpt2", 0, 3), ("qwen3", 4, 1)])
def test_the_vocabulary_is_padded_anew_and_nothing_else_changes(tmp_path, name, before, after):
    model = MODELS[name]
    old, new = replace(model, vocab_padding=before), replace(model, vocab_padding=after)
    folder, written = save(tmp_path, old)
    loaded = initial_weights.load(folder, new, shapes_of(new))
    jax.tree.map(np.testing.assert_array_equal, loaded, padded(written, after))


def test_another_model_or_a_changed_byte_is_refused(tmp_path):
    model = MODELS["qwen3"]
    folder, _ = save(tmp_path, model)
    digest = initial_weights.digest(folder, model)
    for other, message in (
        (replace(model, intermediate_size=13), r"mlp\S* has shape .*12.* the model .*13"),
        (replace(model, tie_embeddings=True), "lm_head.kernel has shape .* the model None"),
        (replace(model, vocab_size=12), "holds 11 words, config.json 12"),
    ):
        with pytest.raises(UserError, match=message):
            initial_weights.digest(folder, other)
        with pytest.raises(UserError, match=message) as caught:
            initial_weights.load(folder, other, shapes_of(other))
        assert "\n" not in str(caught.value)
    data = max((folder / "state").rglob("d/*"), key=lambda path: path.stat().st_size)
    content = data.read_bytes()
    data.write_bytes(content[:-1] + bytes([content[-1] ^ 1]))
    with pytest.raises(UserError, match=r"is damaged: .*checksum"):
        initial_weights.load(folder, model, shapes_of(model))
    data.write_bytes(content)
    manifest = json.loads((folder / MANIFEST).read_text())
    (folder / MANIFEST).write_text(json.dumps(manifest | {"state/more": "0"}))
    assert initial_weights.digest(folder, model) != digest
