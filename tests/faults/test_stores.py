"""Stores of hidden states and of gradients, killed on some devices and gone on with on others."""

import json
import signal
from pathlib import Path

import pytest

from zsg_jax.data.instance import Instance, Turn
from zsg_jax.data.views import conversations
from zsg_jax.workflows import study

STORED = """
import json, sys
from pathlib import Path

faults, name, file, folder, left = *sys.argv[1:5], int(sys.argv[5])
sys.path.insert(0, faults)
import jax, killed, numpy as np
from jax.sharding import Mesh
from zsg_jax.arrangement import tmta
from zsg_jax.arrangement.spaces import of_targets, open_encoder
from zsg_jax.similarity.encoders.embed import embed
from zsg_jax.similarity.search.options import Search

encoder = open_encoder(name, Path(folder))
if left:
    killed.place, killed.left, killed.durable.sync = "writing", left, killed.sync_whole
texts = json.loads(Path(file).read_text())
train = embed(texts["train"], encoder, Path(folder) / "train", shard_rows=8)
test = embed(texts["test"], of_targets(encoder), Path(folder) / "test", shard_rows=8)
search = Search(Mesh(np.array(jax.devices()), ("rows",)), 512)
print(json.dumps([jax.device_count(), tmta(train, test, search=search).order.tolist()]))
"""


def told(number):
    asked, said = f"say {'ab' * (number % 3)} {number}", "ba" * (1 + number % 2)
    one = Instance(asked, "", (Turn("user", asked), Turn("assistant", said)), ())
    return conversations("both")(one)


@pytest.fixture(scope="module")
def run(write_bytes_llama, make_config, tmp_path_factory):
    """A run with adapters, of which two checkpoints are kept."""
    workdir = tmp_path_factory.mktemp("warm") / "w"
    model = write_bytes_llama(workdir.parent / "llama")
    config = make_config(
        **{
            "model.init_from": str(model),
            "tokenizer": "bytes",
            "model.lora.rank": 2,
            "training.steps": 4,
            "training.checkpoint_every": 2,
        }
    )
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("zsg_jax.report.page._draw", lambda *given: [])
        patch.setattr("zsg_jax.workflows.study_orders.explainer", lambda *given: lambda *made: None)
        study.run(config, workdir, command="test")
    return workdir / "runs" / "tmta-nft-seed0"


def contents(folder):
    files = [path for path in sorted(folder.rglob("*")) if path.is_file()]
    return {str(path.relative_to(folder)): path.read_bytes() for path in files}


@pytest.mark.slow
@pytest.mark.parametrize(
    "name", ["states:{}", pytest.param("gradients:{},dimension=64", marks=pytest.mark.ci)]
)
def test_killed_on_some_devices_and_finished_on_others_it_is_the_same(
    name, run, tmp_path, on_devices
):
    file = tmp_path / "texts"
    file.write_text(json.dumps({"train": [*map(told, range(40))], "test": [*map(told, range(9))]}))

    def stored(count, where, left=0):
        (tmp_path / where).mkdir(exist_ok=True)
        given = (Path(__file__).parent, name.format(run), file, tmp_path / where, left)
        found = on_devices(count, STORED, *given, ends=-signal.SIGKILL if left else 0)
        return found and found[0]

    one, order = stored(1, "whole")
    assert one == 1
    whole = contents(tmp_path / "whole")
    assert sorted(path for path in whole if path.endswith(".npy")) == [
        *(f"test/0000{i}.npy" for i in range(2)),
        *(f"train/0000{i}.npy" for i in range(5)),
    ]
    # Each shard is a write, and the manifest that lists it another: of 5, then of 2.
    stored(2, "killed", left=5)
    assert sum(path.endswith(".npy") for path in contents(tmp_path / "killed")) == 2
    stored(8, "killed", left=8)
    assert (tmp_path / "killed" / "train" / "manifest.json").exists()
    for count, where in ((2, "killed"), (8, "whole on 8")):
        assert stored(count, where) == [count, order]
        assert contents(tmp_path / where) == whole
