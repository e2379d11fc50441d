import os
import subprocess
import sys
from pathlib import Path

import pytest

pytestmark = pytest.mark.references

FOLDER = Path(__file__).parents[2] / "benchmarks"


@pytest.mark.slow
def test_every_case_tells_its_verdict():
    pytest.importorskip("torch")
    own = {"PYTHONPATH": str(FOLDER.parent), "JAX_PLATFORMS": "cpu"}
    done = subprocess.run(
        [sys.executable, str(FOLDER / "diversity.py")],
        capture_output=True,
        text=True,
        env=os.environ | own,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("target ") == 3


def test_the_peer_computes_the_same_model(tmp_path, monkeypatch):
    torch = pytest.importorskip("torch")
    monkeypatch.syspath_prepend(str(FOLDER))
    import jax
    import numpy as np
    from torch_decoder import Decoder

    from zsg_jax.diversity.program import model_config
    from zsg_jax.models.model import abstract, apply, initialize

    config = model_config("small", 30, 30)
    params = initialize(config, jax.random.key(0))
    peer = Decoder(config)
    layers = params["layers"]

    def put(place, *arrays):
        whole = np.concatenate([np.asarray(one) for one in arrays], axis=-1)
        place.data = torch.from_numpy(whole.T if whole.ndim == 2 else whole).contiguous()

    for i, layer in enumerate(peer.layers):
        a, m = layers["attention"], layers["mlp"]
        put(layer.qkv.weight, *(a[name]["kernel"][i] for name in "qkv"))
        put(layer.o.weight, a["o"]["kernel"][i])
        put(layer.gate_up.weight, *(m[name]["kernel"][i] for name in ("gate", "up")))
        put(layer.down.weight, m["down"]["kernel"][i])
    put(peer.head.weight, params["lm_head"]["kernel"])
    peer.embed.weight.data = torch.from_numpy(np.array(params["embed"]["embedding"]))
    tokens = np.random.default_rng(0).integers(0, 30, (2, 30))
    place = np.broadcast_to(np.arange(30), tokens.shape)
    ours = apply(abstract(config)[0], params, tokens, place, np.ones_like(tokens))
    with torch.no_grad():
        theirs = peer(torch.from_numpy(tokens)).numpy()
    np.testing.assert_allclose(np.asarray(ours), theirs, atol=2e-5)
