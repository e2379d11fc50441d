"""How much memory a host needs to load a model, beside what its devices hold.

    python benchmarks/loading.py

makes up a Llama of 2 GB in eight files, loads it onto eight simulated devices over which its state
is split, and writes it again. On a CPU the devices' memory is the host's, so the model's own bytes
are taken off the peak. What is left should be about one file. Each line is a process of its own.
"""

import argparse
import json
import math
import os
import sys
import tempfile
import threading
import time
from pathlib import Path
from typing import Any

from measuring import child, load, machine, verdict

# 0.5 billion parameters in float32; the width is what a mesh of eight splits.
SHAPE = {
    "model_type": "llama",
    "vocab_size": 32000,
    "hidden_size": 1024,
    "intermediate_size": 4096,
    "num_hidden_layers": 26,
    "num_attention_heads": 16,
    "num_key_value_heads": 16,
    "max_position_embeddings": 2048,
}
FILES = 8


class Peak:
    """The most resident memory while it is open, of it what is no file's: both in bytes."""

    def __enter__(self) -> "Peak":
        self.most, self.own, self._open = 0, 0, True
        self._thread = threading.Thread(target=self._watch)
        self._thread.start()
        return self

    def __exit__(self, *error: object) -> None:
        self._open = False
        self._thread.join()

    def _watch(self) -> None:
        while self._open:
            status = dict(
                line.split(":", 1) for line in Path("/proc/self/status").read_text().splitlines()
            )
            total, own = (int(status[key].split()[0]) * 1024 for key in ("VmRSS", "RssAnon"))
            self.most, self.own = max(self.most, total), max(self.own, own)
            time.sleep(0.002)


def make(folder: str, layers: int) -> tuple:
    """Writes the made-up model, one file after the other; gives the bytes of all and of one."""
    import numpy as np
    from flax import traverse_util
    from safetensors.numpy import save_file

    from zsg_jax.models import huggingface
    from zsg_jax.models.huggingface import layouts

    root, start = Path(folder), time.perf_counter()
    root.mkdir()
    (root / "config.json").write_text(json.dumps(SHAPE | {"num_hidden_layers": layers}))
    model = huggingface.read_config(root)
    shapes = huggingface.unpadded(model)
    places = layouts.places(layouts.LAYOUTS["llama"], shapes)
    flat = traverse_util.flatten_dict(shapes, sep=".")
    every = [(place, leaf.shape) for path, leaf in flat.items() for place in places[path]]
    # Layer after layer, as such files are written.
    every.sort(key=lambda one: one[0].at)
    sizes = {place.name: place.shape_in_file(place.own(shape)) for place, shape in every}
    total = 4 * sum(math.prod(shape) for shape in sizes.values())
    rng, table, files = np.random.default_rng(0), {}, [dict[str, Any]()]
    for name, shape in sizes.items():
        held = 4 * sum(array.size for array in files[-1].values())
        if held and held + 4 * math.prod(shape) > 1.15 * total / FILES:
            save_file(files[-1], root / f"part-{len(files)}.safetensors")
            files[-1] = {}  # lets the memory go
            files.append({})
        files[-1][name] = rng.standard_normal(shape, np.float32)
        table[name] = f"part-{len(files)}.safetensors"
    save_file(files[-1], root / f"part-{len(files)}.safetensors")
    (root / "model.safetensors.index.json").write_text(json.dumps({"weight_map": table}))
    largest = max(path.stat().st_size for path in root.glob("*.safetensors"))
    said = {"bytes": total, "file": largest, "files": len(files)}
    return time.perf_counter() - start, said


def ours(folder: str) -> tuple:
    """Loads onto a mesh of all devices, which its rule table splits the parameters over."""
    import jax

    from zsg_jax.models import huggingface
    from zsg_jax.models.model import abstract
    from zsg_jax.training import sharding

    model = huggingface.read_config(folder)
    mesh = sharding.make_mesh(1, -1)
    shapes = abstract(model)[1]
    where = sharding.shardings({"params": shapes}, mesh)["params"]
    wanted = jax.tree.map(
        lambda leaf, one: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=one), shapes, where
    )
    # The compiler's own pages are no part of what a model takes.
    jax.jit(jax.numpy.cumsum)(jax.numpy.ones(8)).block_until_ready()
    before, start = _resident(), time.perf_counter()
    with Peak() as peak:
        params = jax.block_until_ready(huggingface.load(folder, model, wanted))
    seconds = time.perf_counter() - start
    held = sum(leaf.nbytes for leaf in jax.tree.leaves(params))
    said = {"above": peak.most - before - held, "own": peak.own - before - held}
    return seconds, said | {"held": held, "devices": mesh.size}


def export(folder: str, output: str) -> tuple:
    """Loads, then writes the folder again, in files as large."""
    from zsg_jax.models import huggingface
    from zsg_jax.models.huggingface.write import write

    model = huggingface.read_config(folder)
    params = huggingface.load(folder, model)
    Path(output).mkdir()
    largest = max(path.stat().st_size for path in Path(folder).glob("*.safetensors"))
    before, start = _resident(), time.perf_counter()
    with Peak() as peak:
        write(Path(output), model, params, source=folder, file_bytes=largest)
    said = {"above": peak.most - before, "own": peak.own - before}
    return time.perf_counter() - start, said


def _resident() -> int:
    line = next(x for x in Path("/proc/self/status").read_text().splitlines() if "VmRSS" in x)
    return int(line.split()[1]) * 1024


def main() -> None:
    """Prints the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--layers", type=int, default=26, help="fewer make a smaller model")
    parser.add_argument("--output", type=Path, help="a folder to keep the table in")
    given = parser.parse_args()
    os.environ["XLA_FLAGS"] = f"--xla_force_host_platform_device_count={FILES}"
    os.environ["JAX_PLATFORMS"] = "cpu"
    this, busy = Path(__file__), load()
    with tempfile.TemporaryDirectory() as root:
        folder, again = f"{root}/model", f"{root}/again"
        made = child("make up a model", "make", this, folder=folder, layers=given.layers)
        loaded = child("load", "ours", this, folder=folder)
        written = child("write", "export", this, folder=folder, output=again)
    size, file = made.result["bytes"], made.result["file"]
    lines = [
        machine(),
        f"load average {busy}",
        "",
        f"a made-up Llama of {size / 1e9:.2f} GB, float32, in {made.result['files']} files of at"
        f" most {file / 1e9:.3f} GB",
        f"{'':44}{'seconds':>9}{'peak above the model, GB':>26}{'of it no file':>15}",
    ]
    for row, what in (
        (loaded, f"load onto {loaded.result['devices']} devices, {size / 1e9:.2f} GB in all"),
        (written, "write it again"),
    ):
        above, own = row.result["above"] / 1e9, row.result["own"] / 1e9
        lines.append(f"{what:44}{row.seconds:9.1f}{above:26.3f}{own:15.3f}")
    share = loaded.result["above"] / file
    lines.append(verdict("peak of loading above the model, in files", share, 1.5, at_most=True))
    print("\n".join(lines))
    if given.output:
        given.output.mkdir(parents=True, exist_ok=True)
        (given.output / "loading.txt").write_text("\n".join(lines) + "\n")


if __name__ == "__main__":
    if len(sys.argv) > 1 and sys.argv[1] in ("make", "ours", "export"):
        from measuring import peak_memory

        seconds, result = globals()[sys.argv[1]](**json.loads(sys.argv[2]))
        print(json.dumps({"seconds": seconds, "peak": peak_memory(), "result": result}))
    else:
        main()
