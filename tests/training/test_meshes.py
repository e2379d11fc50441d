"""One model trained for 20 steps on every kind of mesh that 8 devices make: the same losses, and
the state split as the rules say; in one process, which does nothing else."""

import json

import numpy as np
import pytest

from zsg_jax.training.sharding import AXES

# Losses fall from 4.7; sums over devices round differently, and Adam carries that on.
TOLERANCE = 1e-3
MESHES = {
    "one": (1, 1, 1),
    "data": (8, 1, 1),
    "fsdp": (1, 8, 1),
    "tensor": (1, 1, 8),
    "data fsdp": (2, 4, 1),
    "data tensor": (4, 1, 2),
    "fsdp tensor": (1, 2, 4),
    "all": (2, 2, 2),
}

CHILD = """
import json, sys
import jax
import numpy as np
from zsg_jax.models import loss
from zsg_jax.models.families import FAMILIES
from zsg_jax.training import sharding
from zsg_jax.training.trainer import Trainer, TrainerOptions

# 45 words over 8 devices need padding, and take three parts of each device's share.
loss.WHOLE, loss.PART = 5, 2
model = FAMILIES["qwen2"].config(
    vocab_size=45, hidden_size=32, intermediate_size=48, num_layers=2, num_heads=16, num_kv_heads=8,
    head_dim=2, max_positions=16,
)
told = {}
for name, sizes in json.loads(sys.argv[1]).items():
    mesh = sharding.make_mesh(*sizes)
    options = TrainerOptions(16, 8, 1e-2, "cosine", 0, 1.0, 0.0)
    trainer = Trainer(model, options, mesh)
    state, step, losses = trainer.initial_state(0), trainer.compiled_step(20, 16), []
    for number in range(20):
        rng = np.random.default_rng(number)
        length = rng.integers(3, 17, (16, 1))
        place = np.arange(16)[None]
        real = place < length
        first = rng.integers(0, 45, (16, 1))
        batch = {
            "tokens": np.where(real, (first + place * place) % 45, 0).astype(np.int32),
            "positions": np.broadcast_to(place, (16, 16)).astype(np.int32),
            "segment_ids": real.astype(np.int32),
            "loss_mask": real & (place > 0),
            "index": np.arange(16, dtype=np.int32),
        }
        batch = sharding.place_batch(batch, mesh)
        with jax.transfer_guard("disallow"):
            state, metrics = step(state, batch)
        losses.append(float(jax.device_get(metrics["loss"])))
    params = jax.device_get(state["params"])
    told[name] = {
        "losses": losses,
        "layers": np.asarray(params["layers"]["mlp"]["up"]["kernel"]).ravel()[::7].tolist(),
        "head": np.asarray(params["lm_head"]["kernel"])[:, :45].ravel()[::7].tolist(),
        "placed": {
            sharding.path_name(path): [
                leaf.sharding.shard_shape(leaf.shape), leaf.shape, len(leaf.sharding.device_set)
            ]
            for path, leaf in jax.tree_util.tree_leaves_with_path(state)
        },
    }
print(json.dumps(told))
"""


# One test, for several would be spread over processes, each of which would train.
@pytest.mark.parametrize(
    "names",
    [
        ["one", "tensor"],
        pytest.param([*MESHES], marks=pytest.mark.slow),
    ],
    ids=["some", "every"],
)
def test_twenty_steps_are_the_same_on_every_mesh_and_each_device_holds_its_part(on_devices, names):
    told, _ = on_devices(8, CHILD, json.dumps({name: MESHES[name] for name in names}))
    for name in names:
        same(told, name)
        parts(told, name)


def same(told, name):
    one, other = told["one"], told[name]
    np.testing.assert_allclose(one["losses"], other["losses"], atol=TOLERANCE)
    for part in ("layers", "head"):
        np.testing.assert_allclose(one[part], other[part], atol=10 * TOLERANCE)
    assert len(one["losses"]) == 20
    assert one["losses"][-1] < one["losses"][0] - 0.5


def parts(told, name):
    sizes = dict(zip(AXES, MESHES[name], strict=True))
    placed = told[name]["placed"]
    kernels = 0
    for path, (shard, whole, devices) in placed.items():
        assert devices == np.prod(MESHES[name])
        split = np.prod(whole) / np.prod(shard)
        if "kernel" in path or "embedding" in path:
            kernels += 1
            assert split == sizes["fsdp"] * sizes["tensor"], path
        elif "/q/bias" in path:
            assert split == sizes["tensor"]
        else:
            assert split in (1, sizes["tensor"]), path
        if "/mu/" in path:
            mine = [shard, whole, devices]
            assert mine == placed[f"params/{path.split('/mu/')[1]}"]
            assert mine == placed[path.replace("/mu/", "/nu/")]
    # The embedding, the head and seven kernels of all layers, and two moments of each.
    assert kernels == 3 * 9
