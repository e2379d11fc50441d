"""The same study on one device, an instance a row, and packed on two and eight simulated devices:
the same order, losses within rounding. More meshes, without a study: test_meshes.py."""

import json

import numpy as np
import pytest

from zsg_jax.training.sharding import AXES

# Losses near 5 after 10 steps; sums over devices round differently in the last digits.
TOLERANCE = 2e-4

CHILD = """
import json, sys
from pathlib import Path
import jax
from zsg_jax.workflows import study
from zsg_jax.config import default_config
from zsg_jax.report import page
from zsg_jax.training import checkpoint, sharding, trainer

assert jax.device_count() == 8
folder, cases, base = Path(sys.argv[1]), json.loads(sys.argv[2]), json.loads(sys.argv[3])
as_tuples = lambda flat: {k: tuple(v) if isinstance(v, list) else v for k, v in flat.items()}

def config(overrides):
    one = default_config()
    one.update_from_flattened_dict(as_tuples({**base, **overrides}))
    return one

states, compiles = {}, {}
real_save, real_compile = checkpoint.Checkpoints.save, trainer.compile_train_step

def save(self, step, state, position):
    name = self._folder.parents[2].name
    states[name] = {
        sharding.path_name(path): [str(leaf.sharding.spec), len(leaf.sharding.device_set)]
        for path, leaf in jax.tree_util.tree_leaves_with_path(state)
    }
    real_save(self, step, state, position)
    if current == "moved" and jax.tree.leaves(state)[0].sharding.num_devices == 2:
        raise KeyboardInterrupt

def compile_train_step(*args, **kwargs):
    compiles[current] = compiles.get(current, 0) + 1
    return real_compile(*args, **kwargs)

checkpoint.Checkpoints.save, trainer.compile_train_step = save, compile_train_step
page._draw = lambda *given: []
for current, several in cases.items():
    for overrides in several:
        try:
            study.run(config(overrides), folder / current, command="test")
        except KeyboardInterrupt:
            pass
print(json.dumps({"states": states, "compiles": compiles}))
"""

CASES = {
    # Two arrangements, which share what was compiled.
    "one": [
        {
            "mesh.data": 1,
            "training.packing": False,
            "arrangement.methods": ["tmta-rt", "tmta-nft"],
        }
    ],
    # Stopped on two devices, it goes on on eight.
    "moved": [
        {"mesh.data": 1, "mesh.fsdp": 2, "training.micro_batch_size": 8},
        {
            "mesh.data": 2,
            "mesh.fsdp": 2,
            "mesh.tensor": 2,
            "training.micro_batch_size": 8,
        },
    ],
}


@pytest.fixture(scope="module")
def studies(on_devices, tmp_path_factory, uneven, small_model):
    folder = tmp_path_factory.mktemp("devices")
    base = {
        "seeds": [0],
        "model.size": small_model,
        **uneven,
        "arrangement.methods": ["tmta-rt"],
        "training.batch_size": 16,
        "training.learning_rate": 3e-3,
        "training.checkpoint_every": 4,
        "evaluation.every": 5,
    }
    told, errors = on_devices(8, CHILD, folder, json.dumps(CASES), json.dumps(base))
    # The run that was stopped on two devices went on, and on eight.
    assert "tmta-rt-seed0: going on after step 4" in errors
    return folder, told


def train_rows(read_metrics, folder, name):
    return [
        row
        for row in read_metrics(folder / name / "runs" / "tmta-rt-seed0")
        if row["kind"] == "train"
    ]


# One test, for several would be spread over processes, each of which would train.
@pytest.mark.ci
@pytest.mark.slow
def test_the_order_losses_and_shards_are_right_on_every_mesh(studies, read_metrics):
    same_order(studies, read_metrics, "moved")
    same_losses(studies, read_metrics, "moved")
    for name in CASES:
        shards(studies, name)


def same_order(studies, read_metrics, name):
    folder, _ = studies
    one = train_rows(read_metrics, folder, "one")
    rows = train_rows(read_metrics, folder, name)
    # 162 rows, 16 a step: the eleventh step is not full.
    assert len(rows) == 11
    digests = [[row["order_digest"] for row in some] for some in (one, rows)]
    assert digests[0] == digests[1]
    assert len(set(digests[0])) == 11
    assert [row["tokens"] for row in rows] == [row["tokens"] for row in one]
    # Eight devices take eight rows at least.
    fills = [np.mean([row["fill"] for row in some]) for some in (one, rows)]
    assert fills[1] > 0.99 * fills[0]


def same_losses(studies, read_metrics, name):
    folder, _ = studies
    rows = [read_metrics(folder / case / "runs" / "tmta-rt-seed0") for case in ("one", name)]
    losses = [[row["loss"] for row in some] for some in rows]
    np.testing.assert_allclose(losses[0], losses[1], atol=TOLERANCE)
    tests = [[row["losses"] for row in some if row["kind"] == "test"] for some in rows]
    np.testing.assert_allclose(tests[0], tests[1], atol=TOLERANCE * 5)
    assert losses[0][-1] < losses[0][0] - 0.5


def shards(studies, name):
    """Moments lie like their parameters, and one compile served each mesh."""
    _, told = studies
    assert told["compiles"][name] == len(CASES[name])
    devices = np.prod([CASES[name][-1].get(f"mesh.{axis}", 1) for axis in AXES])
    states = told["states"][name]
    parameters = {
        path.removeprefix("params/"): where
        for path, where in states.items()
        if path.startswith("params/")
    }
    for moment in ("mu", "nu"):
        moments = {
            path.split(f"/{moment}/")[1]: where
            for path, where in states.items()
            if f"/{moment}/" in path
        }
        assert moments == parameters
    split = [spec for path, (spec, _) in states.items() if "kernel" in path]
    assert all("fsdp" in spec for spec in split)
    assert {count for _, count in states.values()} == {devices}
