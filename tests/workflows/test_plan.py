"""The command as people run it: what it prints, what it refuses, and its advice followed."""

import json
import os
import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

from zsg_jax.models.families import FAMILIES
from zsg_jax.training import flops
from zsg_jax.workflows.plan import epoch_rows

ROOT = Path(__file__).parents[2]
SMALL = ("--config.data.max_length=64", "--config.evaluation.max_length=64")


def plan(*flags, config="configs/tmta.py"):
    given = ["--config", config] if config else []
    return subprocess.run(
        [sys.executable, "-m", "zsg_jax.plan", *given, *flags],
        capture_output=True,
        text=True,
        cwd=ROOT,
        check=False,
        env={
            **os.environ,
            "JAX_PLATFORMS": "cpu",
            "PYTHONPATH": os.pathsep.join([str(ROOT), os.environ.get("PYTHONPATH", "")]),
            # A program read from a cache has not been compiled, and tells no memory.
            "JAX_ENABLE_COMPILATION_CACHE": "false",
        },
    )


def test_a_plan_as_json_adds_up():
    done = plan("--topology", "h200:2", "--json", *SMALL)
    assert done.returncode == 0, done.stderr
    told = json.loads(done.stdout)
    memory = told["memory"]
    parts = [value for name, value in memory.items() if name not in ("total", "usable")]
    assert sum(parts) == memory["total"] <= memory["usable"]
    # Adam keeps two numbers a parameter, and every copy has all of them.
    assert memory["parameters"] == 4 * told["parameters"]
    assert memory["optimizer"] == pytest.approx(2 * memory["parameters"], abs=64)
    assert told["estimate"]
    assert told["fits"]
    assert told["rows"] * told["length"] == 16 * 64
    # 16 sequences of 64 tokens, on two cards.
    model = FAMILIES["llama"].sized("tiny", 258, 64)
    assert told["model_flops"] == flops.train(model, [64] * 16) / 2
    assert told["state_bytes"] >= 2 * (memory["parameters"] + memory["optimizer"])
    roof = told["roofline"]
    assert roof["seconds"] == max(roof["compute"], roof["memory"], roof["exchange"])
    # The embedded study has 4 families of 100 rules with 12 strings, 16 a step.
    assert (roof["rows"], roof["days"]) == (4800, pytest.approx(300 * roof["seconds"] / 86400))
    sums = [one for one in told["collectives"] if one["kind"] == "all-reduce"]
    assert sum(one["bytes"] for one in sums) >= memory["parameters"]


def test_a_card_is_planned_without_the_copies_that_only_a_cpu_makes(tmp_path):
    layers, width, inner = 12, 128, 344
    shape = {
        "model_type": "llama",
        "architectures": ["LlamaForCausalLM"],
        "vocab_size": 258,
        "hidden_size": width,
        "intermediate_size": inner,
        "num_hidden_layers": layers,
        "num_attention_heads": 4,
        "num_key_value_heads": 4,
        "max_position_embeddings": 64,
        "rms_norm_eps": 1e-5,
        "tie_word_embeddings": True,
    }
    (tmp_path / "shape.json").write_text(json.dumps(shape))
    done = plan(
        *("--topology", "rtx4090:1", "--json", *SMALL, "--config.training.batch_size=1"),
        *(f"--config.model.size={tmp_path / 'shape.json'}", "--config.model.lora.rank=2"),
        *("--config.model.dtype=bfloat16", "--config.model.remat=full"),
    )
    assert done.returncode == 0, done.stderr
    assert done.stderr == ""  # its report and nothing else
    told = json.loads(done.stdout)
    weights = layers * (4 * width * width + 3 * width * inner)
    assert told["memory"]["parameters"] >= 2 * weights
    # The CPU computes in float32, but needs no more than a few layers so at once.
    assert told["memory"]["temporaries"] < 4 * weights


def test_too_big_a_model_exits_1_and_its_advice_followed_exits_0(small_model):
    machine = ("--topology", "cpu:1", *SMALL, f"--config.model.size={small_model}")
    whole = plan(*machine)
    assert whole.returncode == 0, whole.stderr
    assert "fits" in whole.stdout
    total = re.search(r"together +([\d.]+) MB", whole.stdout)
    limit = ("--memory-gb", f"{float(total[1]) / 1000 * 0.8:.4f}")
    refused = plan(*machine, *limit)
    assert refused.returncode == 1
    assert "does not fit" in refused.stdout
    last = refused.stderr.strip().splitlines()[-1]
    assert last.startswith("zsg_jax: does not fit cpu:1; this does, nearest of ")
    advice = shlex.split(last.partition("tried: ")[2])
    assert advice
    assert all(flag.startswith("--config.") for flag in advice)
    followed = plan(*machine, *limit, *advice)
    assert followed.returncode == 0, followed.stderr


def test_what_no_setting_makes_fit_is_said_with_what_it_takes():
    done = plan("--topology", "cpu:1", "--memory-gb", "0.001", *SMALL)
    assert done.returncode == 1
    last = done.stderr.strip().splitlines()[-1]
    # Parameters, two moments and gradients of 127,552 numbers.
    assert "a chip has 1.00 MB, state and gradients alone take 2.04 MB" in last
    assert "take more or larger chips" in last


MISTAKES = [
    (["--topology", "h20O:8"], "did you mean h200"),
    ([], "--topology is missing"),
    (["--topologi", "cpu:1"], "did you mean --topology"),
    (["--topology", "cpu:8", "--config.mesh.data=3"], "takes 3 of the 8 chips of cpu:8"),
    (["--topology", "cpu:3"], "nearest that fit: 15 or 18"),
    (["--topology", "cpu:1", "--rows", "0"], "--rows 0"),
    (["--topology", "cpu:1", "--memory-gb", "-1"], "--memory-gb -1"),
    (["--topology", "v5e:3x3"], "sizes that do: 1x1, 2x2, 2x4"),
    (["--topology", "v5p:2x2"], "v5p has 3 sides"),
]


def test_a_mistake_is_one_line(commands):
    several = [["--config", "configs/tmta.py", *flags] for flags, _ in MISTAKES]
    ran = commands("zsg_jax.plan", *several, cwd=ROOT)
    for (flags, message), (code, out, told) in zip(MISTAKES, ran, strict=True):
        assert (flags, code, out) == (flags, 1, "")
        assert message in told
        assert told.count("zsg_jax: ") == len(told.splitlines()) == 1, told


def test_rows_are_told_by_what_the_config_says(small_config):
    config = small_config()
    assert epoch_rows(config) == 2 * 8 * 5
    config.arrangement.budget = 30
    assert epoch_rows(config) == 30
    config.data.train = config.data.test = "rows.jsonl"
    assert epoch_rows(config) == 30
    config.arrangement.budget = None
    assert epoch_rows(config) is None


@pytest.mark.slow
@pytest.mark.parametrize(
    ("machine", "gib"), [("v4:2x2x1", 32), ("v5e:2x2", 16), ("v5p:2x2x1", 95), ("v6e:2x2", 32)]
)
def test_a_tpu_that_is_not_here(machine, gib):
    pytest.importorskip("libtpu")
    done = plan("--topology", machine, "--json", "--config.mesh.data=4", *SMALL)
    assert done.returncode == 0, done.stderr
    told = json.loads(done.stdout)
    assert not told["estimate"]
    assert told["chips"] == 4
    assert told["chip_memory"] == gib * 2**30
    # All gradients are summed, whatever kernels stand before that in the program.
    sums = [one for one in told["collectives"] if "reduce" in one["kind"]]
    assert sum(one["bytes"] for one in sums) >= told["memory"]["parameters"]
