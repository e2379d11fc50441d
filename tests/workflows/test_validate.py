import dataclasses
import importlib.util
from pathlib import Path

import jax
import pytest

from zsg_jax.config import default_config, flatten
from zsg_jax.data.formats.natural_instructions import Options
from zsg_jax.models.families import FAMILIES
from zsg_jax.runtime.errors import UserError
from zsg_jax.training import sharding
from zsg_jax.training.step import train_step
from zsg_jax.workflows import selection
from zsg_jax.workflows.study_model import make_trainer
from zsg_jax.workflows.validate import validate

CONFIGS = Path(__file__).parents[2] / "configs"


def load(name, preset=""):
    spec = importlib.util.spec_from_file_location(name, CONFIGS / f"{name}.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module.get_config(preset)


# Two have keys of their own, one needs files and has other presets.
OTHERS = {"diversity", "diversity_real", "selection"}
STUDIES = sorted({path.stem for path in CONFIGS.glob("*.py")} - OTHERS)


@pytest.mark.parametrize(
    ("name", "preset"),
    [
        *((name, preset) for name in STUDIES for preset in ("", "p3", "llama2_7b")),
        ("tmta", "p3_same_rows"),
        ("tmta", "llama2_7b_same_rows"),
        ("diversity_real", ""),
        ("diversity_real", "smollm2"),
    ],
)
def test_the_presets_are_valid(name, preset):
    config = load(name, preset)
    validate(config)
    assert (config.data.train == "rewrites") == (not preset and name in STUDIES)
    # The docstring tells how to run it, as it is called.
    text = (CONFIGS / f"{name}.py").read_text()
    assert f"--config configs/{name}.py{':' * bool(preset)}{preset}" in text


@pytest.mark.parametrize("preset", ["", "p3", "smollm2"])
def test_the_presets_of_selections_are_valid(preset):
    config = load("selection", preset)
    # A sentence encoder's folder is looked for.
    config.grid.spaces = tuple(one for one in config.grid.spaces if one != "all-MiniLM-L6-v2")
    assert len(selection.read(config)) == len(config.grid.budgets) * (1 + len(config.grid.spaces))
    text = (CONFIGS / "selection.py").read_text()
    assert f"--config configs/selection.py{':' * bool(preset)}{preset}" in text


@pytest.mark.parametrize("name", [*STUDIES, "selection"])
def test_an_unknown_preset_is_named(name):
    with pytest.raises(
        UserError, match=rf"configs/{name}\.py has no preset 'p4'; choose one of .*\bp3\b"
    ):
        load(name, "p4")


def test_a_chat_template_is_never_joined():
    config = default_config()
    config.data.template, config.data.join_tokens = "mine.jinja", True
    with pytest.raises(UserError, match="join_tokens is of the study's form"):
        validate(config)


def test_groups_of_turns_lie_side_by_side():
    methods = load("turns").arrangement.methods
    assert methods[:2] == ("tmta-turns-1-11", "tmta-turns-11-21")
    assert (methods[-1], len(methods)) == ("tmta-turns-41-51", 5)
    assert load("turns", "p3").arrangement.methods[-1] == "tmta-turns-21-26"
    # The study's: [i, i + 5) for i = 0, 5, …, 25, turns from 0.
    assert load("turns", "llama2_7b").arrangement.methods == tuple(
        f"tmta-turns-{1 + i}-{6 + i}" for i in range(0, 30, 5)
    )


@pytest.mark.parametrize("preset", ["p3", "llama2_7b"])
def test_a_preset_has_the_studys_form_or_the_same_rows_in_each_order(preset):
    study, same = load("tmta", preset), load("tmta", f"{preset}_same_rows")
    assert study.arrangement.methods == ("tmta-min-max", "tmta-random", "tmta-max-min")
    assert same.arrangement.methods == ("tmta-nft", "tmta-rt", "tmta-fft")
    same.arrangement.methods = study.arrangement.methods
    assert flatten(same) == flatten(study)


def test_the_config_is_small_enough_to_know():
    # Keys of a source, pretraining, adapters or an evaluator are read only by those who use it.
    keys = flatten(default_config())
    own = (
        "data.rewrites.",
        "data.natural_instructions.",
        "model.pretraining.",
        "model.lora.",
        "evaluation.texts.",
    )
    assert len([key for key in keys if not key.startswith(own)]) <= 69
    assert len(keys) <= 102


@pytest.mark.parametrize(
    ("key", "value", "message"),
    [
        ("seeds", (), "at least one"),
        ("seeds", (1, 1), "different"),
        ("seeds", (-1,), "from 0"),
        ("seeds", ("a",), "tuple of whole numbers"),
        ("data.bad_rows", "drop", "choose one of refuse, skip"),
        ("data.train", "", "is empty"),
        ("data.template", "", "is empty"),
        ("data.template", "chat", "tokenizer='bytes' has none"),
        ("data.answers", "lst", "did you mean last"),
        ("data.truncation", "tails", "did you mean tail"),
        ("data.max_answer", 0, "at least 1"),
        ("data.max_length", 1, "at least 2"),
        ("data.split", "held-out:none", "neither a number of tasks nor a share"),
        ("data.split", "split.json", "is for files"),
        ("data.train_per_task", 0, "at least 1"),
        ("data.test_per_task", 5, "is for files"),
        ("data.seed", -1, "at least 0"),
        ("model.lora.base", "nf4", "is of adapters; give model.lora.rank too"),
        ("data.natural_instructions.schema", "randm", "did you mean random"),
        ("data.natural_instructions.reference", "last", "choose one of drawn, first"),
        ("data.natural_instructions.positive_examples", -1, "at least 0"),
        ("data.natural_instructions.max_source", None, "of type int"),
        ("data.train", "mine.jsonl", "give both files, or neither"),
        ("data.test", "mine.jsonl", "give both files, or neither"),
        ("arrangement.methods", ("tmta-nft,tmta-rt",), "written as a tuple"),
        ("model.size", "tny", "did you mean tiny"),
        ("model.dtype", "float16", "float32, bfloat16"),
        (
            "model.family",
            "gpt",
            "choose one of llama, mistral, .*, phi3, gpt2; did you mean gpt2",
        ),
        ("model.init_from", "folder", "would train the same run 3 times"),
        ("arrangement.methods", (), "at least one"),
        ("arrangement.methods", ("tmta-nft", "tmta-nft"), "different"),
        ("arrangement.methods", ("tmta-ntf",), "did you mean tmta-nft"),
        ("arrangement.methods", ("tmta-nft@1",), "draws nothing"),
        ("arrangement.methods", ("tmta-rt@x",), "after @"),
        ("similarity.trajectory", (), "at least 1"),
        ("similarity.trajectory", ("nearest", "centriod"), "did you mean centroid"),
        ("arrangement.budget", 0, "at least 1"),
        ("arrangement.methods", ("polar-0",), "write polar-N"),
        ("arrangement.w_avg", float("nan"), "must be a number or None"),
        ("arrangement.w_avg", float("inf"), "must be a number or None"),
        ("arrangement.w_min", None, "must be a number"),
        ("arrangement.w_min", float("-inf"), "must be a number"),
        ("similarity.distance", "euclid", "did you mean euclidean"),
        ("training.batch_size", 0, "at least 1"),
        ("training.steps", 0, "at least 1"),
        ("training.learning_rate", -1.0, "at least 0"),
        ("training.learning_rate", float("nan"), "must be a number"),
        ("training.learning_rate", float("inf"), "must be a number"),
        ("training.warmup_steps", -1, "at least 0"),
        ("training.profile_steps", (10,), "the first and the last step to trace"),
        ("training.profile_steps", (10, 11, 12), "the first and the last step to trace"),
        ("training.profile_steps", (13, 10), "the first and the last step to trace"),
        ("training.profile_steps", (0, 10), "whole numbers from 1"),
        ("training.profile_steps", (1.0, 2.0), "a tuple of whole numbers"),
        ("training.profile_steps", (True, True), "a tuple of whole numbers"),
        ("data.train", "caf\udce9.jsonl", "is not UTF-8"),
        ("training.schedule", "linear", "cosine, constant"),
        ("evaluation.every", 0, "at least 1"),
    ],
)
def test_values_that_no_stage_can_use_are_refused(key, value, message):
    config = default_config()
    with config.unlocked():
        config.update_from_flattened_dict({key: value})
    with pytest.raises(UserError, match=message) as caught:
        validate(config)
    assert key.split(".")[-1] in str(caught.value)
    assert "\n" not in str(caught.value)


def test_steps_to_trace_lie_within_the_steps():
    config = default_config()
    for wanted in ((), (1, 1), (10, 13)):
        config.training.profile_steps = wanted
        validate(config)
    config.training.steps = 13
    validate(config)
    config.training.steps = 12
    with pytest.raises(UserError, match=r"profile_steps=\(10, 13\) .* whole numbers from 1 to 12"):
        validate(config)


def test_the_defaults_of_natural_instructions_are_the_readers():
    config = default_config()
    given = config.data.natural_instructions.to_dict()
    assert Options(**given, seed=config.data.seed) == Options()
    assert {*given, "seed"} == {field.name for field in dataclasses.fields(Options)}


def test_a_size_belongs_to_its_family():
    config = default_config()
    config.model.family, config.model.size = "gpt2", "diversity"
    validate(config)
    config.model.size = "llama2_7b"
    with pytest.raises(UserError, match="choose one of tiny, diversity, gpt2"):
        validate(config)
    config.model.family, config.model.size = "llama", "diversity"
    with pytest.raises(UserError, match="choose one of tiny, small, llama2_7b, llama3_8b"):
        validate(config)


def test_a_family_need_not_be_given_and_a_size_may_be_a_file():
    config = default_config()
    assert config.model.family == ""
    config.model.size = "small"
    validate(config)
    config.model.size = "mine/config.json"
    validate(config)
    config.seeds, config.model.init_from, config.model.size = (0,), "folder", "unread"
    validate(config)
    for family in FAMILIES:
        config.model.family, config.model.size, config.model.init_from = family, "tiny", ""
        validate(config)


def test_weights_are_any_numbers_or_left_to_the_study_but_not_both_zero():
    config = default_config()
    assert (config.arrangement.w_min, config.arrangement.w_avg) == (1.0, None)
    for pair in ((0.0, None), (0.0, 1.5), (2, 0), (-1.0, -3), (1.0, None)):
        config.arrangement.w_min, config.arrangement.w_avg = pair
        validate(config)
    config.arrangement.w_min = config.arrangement.w_avg = 0.0
    with pytest.raises(UserError, match="w_min and w_avg are both 0"):
        validate(config)
    with pytest.raises(TypeError):
        config.arrangement.w_avg = "much"
    # What is held to whole numbers is no fraction, though both are None by default.
    with pytest.raises(TypeError):
        config.arrangement.budget = 2.5


def test_a_key_that_nothing_reads_is_refused_with_the_nearest():
    config = default_config()
    with config.unlocked():
        config.training.batchsize = 3
    with pytest.raises(UserError, match=r"did you mean training.batch_size\?"):
        validate(config)
    config = default_config()
    with config.unlocked():
        del config.training["batch_size"]
    with pytest.raises(UserError, match=r"training\.batch_size is missing"):
        validate(config)


def test_the_7b_preset_builds_in_shapes():
    config = load("tmta", "llama2_7b")
    config.model.init_from = ""  # the weights themselves are not needed for shapes

    class Tokenizer:
        vocab_size = 32_000

    # All rows lie on one device here; the rules that split the state are the same.
    mesh = sharding.make_mesh(config.mesh.data, config.mesh.fsdp)
    trainer = make_trainer(config, Tokenizer(), mesh)
    assert trainer.parameters == 6_738_415_616
    state, metrics = jax.eval_shape(
        lambda state, batch: train_step(state, batch, **trainer.train_step_arguments(1875)),
        trainer.abstract_state,
        trainer.abstract_batch(config.data.max_length),
    )
    # Which instance each of 16 rows holds, 16 at most.
    assert metrics["index"].shape == metrics["slot"].shape == (16, 16)
    assert jax.tree.map(lambda a: (a.shape, a.dtype), state) == jax.tree.map(
        lambda a: (a.shape, a.dtype), trainer.abstract_state
    )


def test_a_text_may_be_given_where_the_default_is_none():
    config = default_config()
    config.update_from_flattened_dict(
        {"similarity.train_prompt": "passage: ", "similarity.cache": "folder"}
    )
    validate(config)
    config.similarity.cache = ""
    with pytest.raises(UserError, match=r"similarity\.cache is empty; give a folder"):
        validate(config)
