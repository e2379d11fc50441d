"""What several tests share: a study small enough to run in seconds, and the real assets' folder."""

import json
import os
import signal
import socket
import stat
import subprocess
import sys
import tempfile
import warnings
from importlib.metadata import version
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, settings

# Where a test does not ask for more. What compiles, or waits for a core, may take its time.
settings.register_profile(
    "few", max_examples=40, deadline=None, suppress_health_check=[HealthCheck.too_slow]
)
settings.load_profile("few")

# The same small steps are compiled by many tests and by the processes they start: once will do.
_COMPILED = tempfile.TemporaryDirectory(prefix="zsg_jax-tests-")
os.environ.setdefault("JAX_COMPILATION_CACHE_DIR", _COMPILED.name)
os.environ.setdefault("JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS", "0")
# Tests compile much and compute little, and compiling takes most of their time: a third of it so.
# JAX_DISABLE_MOST_OPTIMIZATIONS=0 runs them as users compile.
os.environ.setdefault("JAX_DISABLE_MOST_OPTIMIZATIONS", "1")
if os.environ["JAX_DISABLE_MOST_OPTIMIZATIONS"] == "1" and version("jaxlib").startswith("0.10."):
    # A flag that another version does not know would end it.
    flags = os.environ.get("XLA_FLAGS", "")
    os.environ["XLA_FLAGS"] = f"--xla_cpu_use_fusion_emitters=false {flags}".strip()

from zsg_jax.config import default_config  # noqa: E402, before jax reads the environment
from zsg_jax.training.metrics import CLOCKS  # noqa: E402

SKIPPED = "zsg_jax/skipped"


def pytest_addoption(parser):
    parser.addoption(
        "--skipped",
        action="store_true",
        help="only what the last run skipped, and what is marked ci",
    )


def pytest_configure(config):
    if not hasattr(config, "workerinput") and not config.getoption("--skipped"):
        config.pluginmanager.register(Skipped(config))


class Skipped:
    """Keeps which tests were skipped, so that they alone can be run where more is installed."""

    def __init__(self, config):
        self._config, self._found = config, []

    def pytest_runtest_logreport(self, report):
        if report.skipped:
            self._found.append(report.nodeid)

    def pytest_collectreport(self, report):
        if report.skipped:  # a whole file
            self._found.append(report.nodeid)

    def pytest_sessionfinish(self):
        self._config.cache.set(SKIPPED, sorted(set(self._found)))


def pytest_collection_modifyitems(config, items):
    if config.getoption("--skipped"):
        known = set(config.cache.get(SKIPPED, []))
        kept = [
            one
            for one in items
            if {one.nodeid, one.nodeid.split("::")[0]} & known or one.get_closest_marker("ci")
        ]
        config.hook.pytest_deselected(items=[one for one in items if one not in kept])
        items[:] = kept


@pytest.fixture(scope="session")
def free_port():
    """Gives a port of loopback at which nobody listens."""

    def find():
        with socket.socket() as one:
            one.bind(("127.0.0.1", 0))
            return one.getsockname()[1]

    return find


@pytest.fixture
def killed_at():
    """Runs work in a process that kills itself at the n-th file it has put on the disk.

    Of that file half is there, as in a power cut. Gives whether there were so many files.
    """

    def run(number, work):
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # JAX runs threads; what is run here asks no device
            child = os.fork()
        if child == 0:
            left, sync = number, os.fsync

            def sync_or_die(opened):
                nonlocal left
                if stat.S_ISREG(os.fstat(opened).st_mode):
                    left -= 1
                    if left == 0:
                        path = f"/proc/self/fd/{opened}"
                        os.truncate(path, os.path.getsize(path) // 2)
                        os.kill(os.getpid(), signal.SIGKILL)
                sync(opened)

            os.fsync = sync_or_die
            try:
                work()
            except BaseException:
                os._exit(1)
            os._exit(0)
        _, status = os.waitpid(child, 0)
        code = os.waitstatus_to_exitcode(status)
        assert code in (0, -signal.SIGKILL)
        return code != 0

    return run


@pytest.fixture(scope="session")
def small_model(tmp_path_factory):
    """A config.json of the smallest Llama that has every part, for compiles that are short."""
    path = tmp_path_factory.mktemp("model") / "config.json"
    shape = {"hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 1}
    shape |= {"num_attention_heads": 4, "num_key_value_heads": 2, "tie_word_embeddings": True}
    shape |= {"vocab_size": 300, "max_position_embeddings": 512, "model_type": "llama"}
    path.write_text(json.dumps(shape))
    return str(path)


@pytest.fixture(scope="session")
def write_llama():
    """Writes random weights of a tiny Llama as a Hugging Face folder."""
    from safetensors.numpy import save_file

    def write(folder, seed=0, *, vocab_size=300, poisoned=False):
        shape = {"hidden_size": 16, "intermediate_size": 24, "num_hidden_layers": 1}
        shape |= {"num_attention_heads": 2, "max_position_embeddings": 256, "model_type": "llama"}
        shape |= {"vocab_size": vocab_size, "tie_word_embeddings": True}
        folder.mkdir(parents=True, exist_ok=True)
        (folder / "config.json").write_text(json.dumps(shape))
        layer = "model.layers.0."
        shapes = {
            "model.embed_tokens.weight": (vocab_size, 16),
            "model.norm.weight": (16,),
            f"{layer}input_layernorm.weight": (16,),
            f"{layer}post_attention_layernorm.weight": (16,),
            f"{layer}mlp.gate_proj.weight": (24, 16),
            f"{layer}mlp.up_proj.weight": (24, 16),
            f"{layer}mlp.down_proj.weight": (16, 24),
            **{f"{layer}self_attn.{one}_proj.weight": (16, 16) for one in "qkvo"},
        }
        rng = np.random.default_rng(seed)
        tensors = {k: rng.normal(size=s).astype(np.float32) * 0.1 for k, s in shapes.items()}
        if poisoned:
            tensors["model.embed_tokens.weight"][ord("a")] = np.nan
        save_file(tensors, folder / "model.safetensors")
        return folder

    return write


@pytest.fixture(scope="session")
def write_bytes_llama(write_llama):
    """Writes such a Llama that reads bytes, with its tokenizer."""
    from zsg_jax.data.tokenize.tokenizer import ByteTokenizer

    def write(folder, seed=0):
        ByteTokenizer().save(write_llama(folder, seed, vocab_size=258))
        return folder

    return write


@pytest.fixture(scope="session")
def write_reward(write_bytes_llama):
    """Writes a tiny reward model that reads bytes."""
    from safetensors.numpy import load_file, save_file

    def write(folder):
        weights = write_bytes_llama(folder, seed=3) / "model.safetensors"
        head = {"score.weight": np.linspace(-1, 1, 16, dtype=np.float32)[None]}
        save_file(load_file(weights) | head, weights)
        return folder

    return write


@pytest.fixture(scope="session")
def make_config(small_model):
    """Makes the config of a study of 80 rows, 10 steps an epoch, that runs in seconds."""

    def make(**overrides):
        config = default_config()
        config.update_from_flattened_dict(
            {
                "seeds": (0,),
                "data.rewrites.train_families": ("repeat-2:abcdef", "free-4"),
                "data.rewrites.test_families": ("period-2:abcdef", "free-3"),
                "data.rewrites.rules": 8,
                "data.rewrites.samples": 5,
                "data.rewrites.test_rules": 3,
                "data.rewrites.test_samples": 2,
                "arrangement.methods": ("tmta-nft",),
                "training.batch_size": 8,
                "training.checkpoint_every": 4,
                "evaluation.every": 3,
            }
        )
        if not {"model.init_from", "model.family", "model.size"} & set(overrides):
            config.model.size = small_model
        config.update_from_flattened_dict(overrides)
        return config

    return make


def _without_pictures(patch):
    patch.setattr("zsg_jax.report.page._draw", lambda *given: [])
    patch.setattr("zsg_jax.workflows.study_orders.explainer", lambda *given: lambda *made: None)


@pytest.fixture
def small_config(make_config, monkeypatch):
    """`make_config`, of studies whose report has no pictures, which take as long as the rest."""
    _without_pictures(monkeypatch)
    return make_config


@pytest.fixture(scope="session")
def finished(make_config, tmp_path_factory):
    """The workdir of `make_config()` in which the study has ended; to be copied, not changed."""
    from zsg_jax.workflows import study

    workdir = tmp_path_factory.mktemp("finished") / "w"
    with pytest.MonkeyPatch.context() as patch:
        _without_pictures(patch)
        study.run(make_config(), workdir, command="test")
    return workdir


@pytest.fixture(scope="session")
def uneven(tmp_path_factory):
    """A training and a test file whose rows differ much in length, so that several share a row."""
    folder = tmp_path_factory.mktemp("uneven")
    paths = {}
    for side, count in (("train", 162), ("test", 18)):
        paths[f"data.{side}"] = str(folder / f"{side}.jsonl")
        with open(paths[f"data.{side}"], "w") as file:
            for number in range(count):
                words = ["red", "green", "blue"][: number * 7 % 3 + 1] * (number * 5 % 4 + 1)
                turns = [("user", f"Say {number}: {' '.join(words)}"), ("assistant", words[-1])]
                row = {"messages": [{"role": role, "content": text} for role, text in turns]}
                row |= {"id": f"{side} {number}", "task": f"{side} {number % 3}"}
                file.write(json.dumps(row) + "\n")
    return paths


# Imports a command once, and runs it with each list of flags in a process forked from there.
_COMMANDS = """
import importlib, json, os, sys, tempfile
module = importlib.import_module(sys.argv[1])
if sys.argv[1].startswith("zsg_jax."):
    # What the command imports when it runs, so that its processes share it.
    name = sys.argv[1].removeprefix("zsg_jax.")
    importlib.import_module(f"zsg_jax.workflows.{'study' if name == 'main' else name}")
told = []
for flags in json.loads(sys.argv[2]):
    files = [tempfile.TemporaryFile("w+"), tempfile.TemporaryFile("w+")]
    child = os.fork()
    if child == 0:
        for number, file in enumerate(files, 1):
            os.dup2(file.fileno(), number)
        sys.argv = [module.__file__, *flags]
        code = 0
        try:
            module.run()
        except SystemExit as end:
            code = end.code or 0
        finally:
            sys.stdout.flush()
            sys.stderr.flush()
            os._exit(code)
    code = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    told.append([code, *(file.seek(0) or file.read() for file in files)])
print(json.dumps(told))
"""


@pytest.fixture(scope="session")
def commands():
    """Runs a module's command with several lists of flags; gives (code, output, errors) of each.

    One after the other, each in a process of its own, with `environment` besides this one's.
    """

    def run(module, *several, cwd, **environment):
        result = subprocess.run(
            [
                sys.executable,
                "-c",
                _COMMANDS,
                module,
                json.dumps([list(map(str, s)) for s in several]),
            ],
            capture_output=True,
            text=True,
            cwd=cwd,
            env={**os.environ, "JAX_PLATFORMS": "cpu", **environment},
            check=False,
        )
        assert result.returncode == 0, result.stderr
        return [tuple(one) for one in json.loads(result.stdout)]

    return run


@pytest.fixture(scope="session")
def on_devices():
    """Runs code on so many simulated devices; gives what its last line, JSON, says, and stderr.

    Of code that is to end otherwise, as `ends` says, it gives nothing.
    """

    def run(count, code, *arguments, ends=0):
        flags = {"JAX_PLATFORMS": "cpu", "JAX_NUM_CPU_DEVICES": str(count)}
        done = subprocess.run(
            [sys.executable, "-c", code, *map(str, arguments)],
            capture_output=True,
            text=True,
            env=os.environ | flags,
            check=False,
        )
        assert done.returncode == ends, done.stderr
        return (json.loads(done.stdout.splitlines()[-1]), done.stderr) if ends == 0 else None

    return run


@pytest.fixture
def read_metrics():
    """Reads a run's metrics without their clock readings."""

    def read(run_folder):
        lines = (Path(run_folder) / "metrics.jsonl").read_text().splitlines()
        rows = [json.loads(line) for line in lines]
        for row in rows:
            for clock in CLOCKS:
                row.pop(clock, None)
        return rows

    return read


@pytest.fixture(scope="session")
def read_source(tmp_path_factory):
    """Reads a source whole: its instances, and the records that were left out."""
    from zsg_jax.data.reading import ReadOptions, open_dataset

    scratch = tmp_path_factory.mktemp("scratch")

    def read(path, bad_rows="refuse", **options):
        options = ReadOptions(scratch, bad_rows=bad_rows, keep_all=True, **options)
        with open_dataset(path, options) as dataset:
            return list(dataset), dataset.skipped

    return read


@pytest.fixture(scope="session")
def assets():
    """The folder with real models and data that ZSG_JAX_ASSETS names; skips where there is none."""
    folder = os.environ.get("ZSG_JAX_ASSETS")
    if not folder or not Path(folder).is_dir():
        pytest.skip("ZSG_JAX_ASSETS names no folder with models/ and data/")
    return Path(folder)
