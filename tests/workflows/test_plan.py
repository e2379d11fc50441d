"""The command as people run it: what it prints, what it refuses, and its advice followed."""

import json
import re
import shlex
from pathlib import Path

import pytest

from zsg_jax.models.families import FAMILIES
from zsg_jax.training import flops
from zsg_jax.workflows.plan import epoch_rows

ROOT = Path(__file__).parents[2]
SMALL = ("--config.data.max_length=64", "--config.evaluation.max_length=64")
SMALLEST = (*SMALL, "--topology=cpu:1", "--config.training.batch_size=4")


@pytest.fixture(scope="module")
def plan(commands):
    """Plans the packaged study by several lists of flags: (code, output, errors) of each."""

    def run(*several):
        given = [["--config", "tmta", *flags] for flags in several]
        # A program read from a cache has not been compiled, and tells no memory; code that is as
        # slow as may be takes as much.
        how = {"JAX_ENABLE_COMPILATION_CACHE": "false"}
        how["XLA_FLAGS"] = "--xla_backend_optimization_level=0"
        return commands("zsg_jax.plan", *given, cwd=ROOT, **how)

    return run


LAYERS, WIDTH, INNER = 12, 128, 344


@pytest.fixture(scope="module")
def planned(plan, small_model, tmp_path_factory):
    """Several plans, by name."""
    shape = {
        "model_type": "llama",
        "architectures": ["LlamaForCausalLM"],
        "vocab_size": 258,
        "hidden_size": WIDTH,
        "intermediate_size": INNER,
        "num_hidden_layers": LAYERS,
        "num_attention_heads": 4,
        "num_key_value_heads": 4,
        "max_position_embeddings": 64,
        "rms_norm_eps": 1e-5,
        "tie_word_embeddings": True,
    }
    path = tmp_path_factory.mktemp("plan") / "shape.json"
    path.write_text(json.dumps(shape))
    adapted = ["--topology=rtx4090:1", "--json", *SMALL, "--config.training.batch_size=1"]
    adapted += [f"--config.model.size={path}", "--config.model.lora.rank=2"]
    adapted += ["--config.model.dtype=bfloat16", "--config.model.remat=full"]
    several = {
        "cards": ["--topology=h200:2", "--json", *SMALL],
        "adapted": adapted,
        "hopeless": ["--memory-gb=0.0001", *SMALLEST, f"--config.model.size={small_model}"],
    }
    return dict(zip(several, plan(*several.values()), strict=True))


# One test, for several would be spread over processes, each of which would plan.
@pytest.mark.ci
@pytest.mark.slow
def test_plans_add_up(planned):
    a_plan_as_json_adds_up(planned)
    a_card_is_planned_without_the_copies_that_only_a_cpu_makes(planned)
    too_big_a_model_exits_1_and_says_what_it_takes(planned)


def a_plan_as_json_adds_up(planned):
    code, out, err = planned["cards"]
    assert code == 0, err
    told = json.loads(out)
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
    # The embedded study wants 2,400 rows, 16 a step.
    assert (roof["rows"], roof["days"]) == (2400, pytest.approx(150 * roof["seconds"] / 86400))
    sums = [one for one in told["collectives"] if one["kind"] == "all-reduce"]
    assert sum(one["bytes"] for one in sums) >= memory["parameters"]


def a_card_is_planned_without_the_copies_that_only_a_cpu_makes(planned):
    code, out, err = planned["adapted"]
    assert (code, err) == (0, "")  # its report and nothing else
    told = json.loads(out)
    weights = LAYERS * (4 * WIDTH * WIDTH + 3 * WIDTH * INNER)
    assert told["memory"]["parameters"] >= 2 * weights
    # The CPU computes in float32, but needs no more than a few layers so at once.
    assert told["memory"]["temporaries"] < 4 * weights


def too_big_a_model_exits_1_and_says_what_it_takes(planned):
    code, out, err = planned["hopeless"]
    assert code == 1
    # Parameters, two moments and gradients, 4 bytes each.
    parameters = int(re.search(r"([\d,]+) parameters", out)[1].replace(",", ""))
    told = re.search(r"a chip has (\S+) kB, state and gradients alone take (\S+) kB", err)
    chip, least = told.groups()
    assert (float(chip), float(least)) == (100, pytest.approx(16e-3 * parameters, abs=0.1))


# How the advice is found, `tests/planning/test_advice.py` asks without compiling.
@pytest.mark.slow
def test_advice_followed_exits_0(plan, planned, small_model):
    _, out, _ = planned["hopeless"]
    total = float(re.search(r"together +([\d.]+) MB", out)[1])
    limited = [*SMALLEST, f"--config.model.size={small_model}", f"--memory-gb={total * 8e-4:.5f}"]
    ((code, out, err),) = plan(limited)
    assert code == 1
    assert "does not fit" in out
    last = err.strip().splitlines()[-1]
    assert last.startswith("zsg_jax: does not fit cpu:1; this does, nearest of ")
    advice = shlex.split(last.partition("tried: ")[2])
    assert advice
    assert all(flag.startswith("--config.") for flag in advice)
    ((code, out, err),) = plan([*limited, *advice])
    assert code == 0, err
    assert "  fits: " in out


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


def test_a_mistake_is_one_line(plan):
    ran = plan(*(flags for flags, _ in MISTAKES))
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
def test_a_tpu_that_is_not_here(plan, machine, gib):
    pytest.importorskip("libtpu")
    ((code, out, err),) = plan(["--topology", machine, "--json", "--config.mesh.data=4", *SMALL])
    assert code == 0, err
    told = json.loads(out)
    assert not told["estimate"]
    assert told["chips"] == 4
    assert told["chip_memory"] == gib * 2**30
    # All gradients are summed, whatever kernels stand before that in the program.
    sums = [one for one in told["collectives"] if "reduce" in one["kind"]]
    assert sum(one["bytes"] for one in sums) >= told["memory"]["parameters"]
