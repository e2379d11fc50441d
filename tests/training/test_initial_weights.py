"""Parameters out of a checkpoint onto another mesh: the same numbers, zeros in the padding."""

import json
from dataclasses import replace

import jax
import numpy as np
import pytest
from flax import traverse_util
from hypothesis import given, settings
from hypothesis import strategies as st
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


def save(folder, model, seed):
    """Every number random, so that each array has its own, the padding too."""
    rng = np.random.default_rng(seed)
    params = jax.tree.map(
        lambda leaf: jax.numpy.asarray(rng.normal(size=leaf.shape).astype(np.float32)),
        models.abstract(model)[1],
    )
    Checkpoints(folder).save(7, {"params": params, "step": jax.numpy.asarray(7)}, {"step": 7})
    return folder / "00000007", params


@settings(max_examples=8, deadline=None)
@given(
    name=st.sampled_from(sorted(MODELS)),
    before=st.integers(0, 4),
    after=st.integers(0, 4),
    seed=st.integers(0, 99),
)
def test_the_vocabulary_is_padded_anew_and_nothing_else_changes(
    tmp_path_factory, name, before, after, seed
):
    model = MODELS[name]
    old, new = replace(model, vocab_padding=before), replace(model, vocab_padding=after)
    folder, params = save(tmp_path_factory.mktemp("c"), old, seed)
    loaded = traverse_util.flatten_dict(initial_weights.load(folder, new, shapes_of(new)), sep=".")
    padded = {"embed.embedding": 0, "lm_head.kernel": 1}
    for path, written in traverse_util.flatten_dict(params, sep=".").items():
        expected = np.asarray(written)
        if path in padded:
            expected = expected.take(range(11), axis=padded[path])
            zeros = np.zeros([8, 8], np.float32)
            zeros = zeros[:after] if padded[path] == 0 else zeros[:, :after]
            expected = np.concatenate([expected, zeros], axis=padded[path])
        np.testing.assert_array_equal(np.asarray(loaded.pop(path)), expected)
    assert not loaded


def test_another_model_or_a_changed_byte_is_refused(tmp_path):
    model = MODELS["qwen3"]
    folder, _ = save(tmp_path, model, 0)
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


CHILD = """
import json, sys
import jax, numpy as np
from zsg_jax.models.families import FAMILIES
from zsg_jax.training import initial_weights
from zsg_jax.training.sharding import make_mesh
from zsg_jax.training.trainer import Trainer, TrainerOptions

options = TrainerOptions(4, 4, 1e-3, "constant", 0, 1.0, 0.0)
model = FAMILIES["qwen3"].config(**json.loads(sys.argv[2]))
trainer = Trainer(model, options, make_mesh(1, 4), init_from=sys.argv[1])
state = trainer.initial_state(0)
assert int(state["step"]) == 0
assert not any(np.asarray(leaf).any() for leaf in jax.tree.leaves(state["opt_state"]))
for path, leaf in jax.tree_util.tree_leaves_with_path(state["params"]):
    if leaf.ndim > 1 and "scale" not in str(path):
        assert leaf.addressable_shards[0].data.size * 4 == leaf.size, path
params = jax.tree.map(lambda leaf: float(np.asarray(leaf, np.float64).sum()), state["params"])
print(json.dumps(params))
"""


def test_a_checkpoint_of_one_device_starts_on_four_with_a_new_optimizer(on_devices, tmp_path):
    folder, params = save(tmp_path, MODELS["qwen3"], 3)
    found, _ = on_devices(4, CHILD, folder, json.dumps(SHAPE | ROTARY))
    wanted = jax.tree.map(lambda leaf: float(np.asarray(leaf, np.float64).sum()), params)
    assert found == wanted
