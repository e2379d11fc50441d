"""Choices: transformers' log-likelihoods, plain Python's rules, the same on every mesh."""

import dataclasses
import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from zsg_jax.data.instance import Instance, Turn
from zsg_jax.data.tokenize.encode import Form, encode_choices
from zsg_jax.data.tokenize.tokenizer import ByteTokenizer, from_folder
from zsg_jax.evaluation.choices import RULES, ChoicesEvaluator
from zsg_jax.evaluation.records import SCORES, read
from zsg_jax.models import huggingface
from zsg_jax.models.families import FAMILIES
from zsg_jax.models.huggingface.write import write
from zsg_jax.models.model import abstract
from zsg_jax.runtime.errors import UserError
from zsg_jax.training import sharding

MESH = sharding.make_mesh(1, 1)
BYTES = ByteTokenizer()


def example(number, prompt, choices, right=0, task="t"):
    turns = Turn("user", prompt), Turn("assistant", choices[right])
    return Instance(f"i{number}", task, turns, (choices[right],), tuple(choices))


ROWS = [
    example(0, "Is it so?", ["yes", "no"], 1),
    example(1, "Where is the tower?", ["Rome", "Paris", "Łódź in Poland"], 1, "u"),
    example(2, "A", ["a", "the same", "another one", "b", "c"], 3, "u"),
    example(3, "One that is longer than the others, so that it is alone.", ["no", "yes"]),
    example(4, "Twice?", ["it", "is ", " is", "not"], 1),
    dataclasses.replace(example(5, "?", ["x", "y"]), choices=()),
]


def make(family, tokenizer=BYTES, **changes):
    """A small random model whose layers show."""
    shape = {"num_layers": 2, "hidden_size": 32, "intermediate_size": 48}
    made = FAMILIES[family].sized("tiny", tokenizer.vocab_size, 128)
    if family != "gpt2":
        shape["windows"] = tuple(window and 5 for window in made.windows)
        shape["num_layers"] = max(2, made.period)
    model = dataclasses.replace(made, **shape | changes)
    rng = np.random.default_rng(1)
    params = jax.tree_util.tree_map_with_path(
        lambda path, leaf: jnp.asarray(
            rng.normal(size=leaf.shape) * 0.25 + ("scale" in str(path)), jnp.float32
        ),
        abstract(model)[1],
    )
    return model, params


def evaluator(model, params, rows=ROWS, tokenizer=BYTES, **more):
    placed = sharding.shardings(params, MESH)
    shapes = jax.tree.map(
        lambda x, s: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=s), params, placed
    )
    return ChoicesEvaluator(
        rows,
        tokenizer,
        graphdef=abstract(model)[0],
        vocab_size=model.vocab_size,
        abstract_params=shapes,
        mesh=MESH,
        **{"batch_size": 2, "max_length": 128} | more,
    )


def measured(made, params, folder, step=3):
    """The fields, and the records by id."""
    fields = made(params, step, folder=folder)
    return fields, {one["id"]: one for one in read(folder / SCORES)}


@pytest.fixture(scope="module")
def theirs():
    """A function to transformers' log-likelihood of each choice by a folder's model."""
    torch = pytest.importorskip("torch")
    transformers = pytest.importorskip("transformers")

    def load(folder):
        model = transformers.AutoModelForCausalLM.from_pretrained(folder).eval()

        def score(texts):
            found = []
            for text in texts:
                ids = torch.tensor(text.ids[None]).long()
                with torch.no_grad():
                    nats = model(ids).logits[0].float().log_softmax(-1)
                at = np.flatnonzero(text.scored)
                found.append(float(nats[at - 1, text.ids[at]].double().sum()))
            return found

        return score

    return load


def empty(choices):
    turns = Turn("user", ""), Turn("assistant", "")
    return Instance("i", "t", turns, (), choices)


# What mixes tokens in another way; the others, whose logits are compared elsewhere, by name.
MIXING = ("llama", "gpt2", "gemma2", "smollm3", "qwen3_moe")


@pytest.mark.references
@pytest.mark.parametrize(
    "family",
    [pytest.param(one, marks=[] if one in MIXING else pytest.mark.slow) for one in FAMILIES],
)
def test_log_likelihoods_are_those_of_transformers(family, tmp_path, theirs):
    model, params = make(family)
    write(tmp_path, model, params, source=None)
    score = theirs(tmp_path)
    made = evaluator(model, params)
    _, records = measured(made, params, tmp_path)
    assert list(records) != [one.id for one in ROWS[:5]]  # the longest first
    for row in ROWS[:5]:
        texts, bare = encode_choices([row, empty(row.choices)], BYTES, 128)
        own = records[row.id]
        np.testing.assert_allclose(own["loglikelihoods"], score(texts), atol=1e-4)
        np.testing.assert_allclose(own["unconditional"], score(bare), atol=1e-4)
        assert own["tokens"] == [len(one.strip().encode()) + 1 for one in row.choices]


@pytest.mark.references
def test_rows_of_p3_have_the_log_likelihoods_of_transformers(assets, tmp_path, theirs, p3_choices):
    folder = assets / "models" / "stories260k"
    tokenizer, model = from_folder(folder), huggingface.read_config(folder)
    rows = [one for number, one in enumerate(p3_choices) if number % 50 < 2]
    params = huggingface.load(folder, model)
    score = theirs(folder)
    made = evaluator(model, params, rows, tokenizer, max_length=512, batch_size=4)
    _, records = measured(made, params, tmp_path)
    for row, texts in zip(rows, encode_choices(rows, tokenizer, 512), strict=True):
        np.testing.assert_allclose(records[row.id]["loglikelihoods"], score(texts), atol=1e-4)


def test_every_rule_is_what_its_name_says(tmp_path):
    model, params = make("llama")
    fields, records = measured(evaluator(model, params), params, tmp_path)
    right = {rule: [] for rule in RULES}
    for row in ROWS[:5]:
        one, words = records[row.id], [text.strip() for text in row.choices]
        assert one["right"] == row.choices.index(row.turns[-1].content)
        pairs = list(zip(one["loglikelihoods"], words, strict=True))
        wanted = {
            "accuracy": [nats for nats, _ in pairs],
            "accuracy_per_token": [
                nats / count
                for nats, count in zip(one["loglikelihoods"], one["tokens"], strict=True)
            ],
            "accuracy_per_character": [nats / len(text) for nats, text in pairs],
            "accuracy_per_byte": [nats / len(text.encode()) for nats, text in pairs],
            "accuracy_unconditional": [
                nats - alone
                for nats, alone in zip(one["loglikelihoods"], one["unconditional"], strict=True)
            ],
        }
        for rule, values in wanted.items():
            best = values.index(max(values))
            assert one["chosen"][rule] == best
            assert (rule in one["tied"]) == (values.count(values[best]) > 1)
            right[rule].append(100.0 * (words[best] == words[one["right"]]))
            assert one[rule] == right[rule][-1]
    for rule, values in right.items():
        np.testing.assert_allclose(fields[rule], np.mean(values))
        assert set(fields[f"{rule}_by_task"]) == {"t", "u"}
    assert (fields["choice_examples"], fields["choice_dropped"]) == (5, 0)


def test_a_tie_goes_to_the_first_and_is_counted(tmp_path):
    model, params = make("gpt2")
    # Every token is as likely as any other: so is every choice of as many.
    params = jax.tree.map(jnp.zeros_like, params)
    rows = [
        example(0, "a", ["xy", "yx"], 0),
        example(1, "a", ["xy", "yx", "z z"], 1),
        example(2, "a", ["x", "yx"], 1),
        # What is there twice is right where it stands first, too.
        example(3, "a", ["same ", "other", "same"], 2),
    ]
    fields, records = measured(evaluator(model, params, rows), params, tmp_path)
    assert [records[f"i{k}"]["chosen"]["accuracy"] for k in range(4)] == [0, 0, 0, 0]
    assert ["accuracy" in records[f"i{k}"]["tied"] for k in range(4)] == [True, True, False, True]
    assert [records[f"i{k}"]["accuracy"] for k in range(4)] == [100, 0, 0, 100]
    assert (fields["accuracy"], fields["choice_ties"]) == (50.0, 3)


def test_an_example_of_which_a_choice_is_cut_is_left_out_and_counted(tmp_path):
    model, params = make("llama")
    rows = [*ROWS[:2], example(7, "x" * 90, ["a", "b" * 30]), example(8, "y" * 90, ["c", "d"])]
    made = evaluator(model, params, rows)
    fields, records = measured(made, params, tmp_path)
    assert made.dropped == ["i7"]
    assert (fields["choice_examples"], fields["choice_dropped"]) == (3, 1)
    assert set(records) == {"i0", "i1", "i8"}
    # Where the prompt is cut instead, each choice stands behind what its own length leaves.
    head = evaluator(model, params, rows, form=Form(truncation="head"))
    assert head(params, 1)["choice_examples"] == 4
    with pytest.raises(UserError, match=r"each of the 1 test rows .*max_length=128; raise"):
        evaluator(model, params, rows[2:3])
    short = Form(max_answer=1)
    with pytest.raises(UserError, match=r"cut by .*data\.max_answer=1 or .*max_length=128; raise"):
        evaluator(model, params, rows[2:3], form=short)
    with pytest.raises(UserError, match="no test row has choices"):
        evaluator(model, params, ROWS[5:])


@pytest.mark.ci
@pytest.mark.slow
def test_batches_change_nothing_and_a_killed_evaluation_goes_on(tmp_path):
    model, params = make("llama")
    rows = [example(k, "p" * (k * 7 % 60), ["a" * (k % 9 + 1), "b"], k % 2) for k in range(40)]
    fields, records = measured(evaluator(model, params, rows, batch_size=1), params, tmp_path / "1")
    for size in (3, 64):
        other, theirs = measured(
            evaluator(model, params, rows, batch_size=size), params, tmp_path / str(size)
        )
        assert other == fields
        for name, one in records.items():
            np.testing.assert_allclose(
                theirs[name]["loglikelihoods"], one["loglikelihoods"], atol=1e-5
            )
    path = tmp_path / "1" / SCORES
    whole = path.read_bytes()
    path.write_bytes(whole[: len(whole) // 2])
    again = evaluator(model, params, rows, batch_size=1)
    assert again(params, 3, folder=tmp_path / "1") == fields
    assert path.read_bytes() == whole


def test_what_is_no_number_is_refused_by_name():
    model, params = make("llama")
    bad = jax.tree.map(lambda leaf: leaf * np.nan, params)
    with pytest.raises(UserError, match=r"choice of i\d is no finite number at step 9"):
        evaluator(model, params)(bad, 9)


CHILD = """
import dataclasses, json, sys, tempfile
from pathlib import Path
import jax, numpy as np
from zsg_jax.data.instance import Instance, Turn
from zsg_jax.data.tokenize.tokenizer import ByteTokenizer
from zsg_jax.evaluation.choices import ChoicesEvaluator
from zsg_jax.evaluation.records import SCORES, read
from zsg_jax.models.families import FAMILIES
from zsg_jax.models.model import abstract, initialize
from zsg_jax.training import sharding

tokenizer = ByteTokenizer()
rows = [
    Instance(str(k), "t", (Turn("user", "p" * k), Turn("assistant", "a")), (), ("a", "bc" * k, "d"))
    for k in range(1, 12)
]
model = FAMILIES["llama"].sized("tiny", tokenizer.vocab_size, 128)
params = jax.device_get(jax.jit(initialize, static_argnums=0)(model, jax.random.key(0)))
told = []
for sizes in ((1, 1, 1), (2, 2, 2)):
    mesh = sharding.make_mesh(*sizes)
    more = sharding.vocabulary_padding(model.vocab_size, mesh)
    padded = dataclasses.replace(model, vocab_padding=more)
    own = dict(params)
    table = own["embed"]["embedding"]
    own["embed"] = {"embedding": np.pad(table, ((0, more), (0, 0)))}
    if "lm_head" in own:
        own["lm_head"] = {"kernel": np.pad(own["lm_head"]["kernel"], ((0, 0), (0, more)))}
    placed = jax.device_put(own, sharding.shardings(own, mesh))
    shapes = jax.tree.map(
        lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=x.sharding), placed)
    made = ChoicesEvaluator(rows, tokenizer, graphdef=abstract(padded)[0],
        vocab_size=model.vocab_size, abstract_params=shapes, mesh=mesh, batch_size=3,
        max_length=128)
    folder = Path(tempfile.mkdtemp(dir=sys.argv[1]))
    fields = made(placed, 1, folder=folder)
    told.append([fields, {one["id"]: one for one in read(folder / SCORES)}])
print(json.dumps(told))
"""


def test_every_mesh_measures_the_same(on_devices, tmp_path):
    told, _ = on_devices(8, CHILD, tmp_path)
    fields, records = told[0]
    for others, theirs in told[1:]:
        assert others == fields
        for name, one in records.items():
            assert theirs[name]["chosen"] == one["chosen"]
            for key in ("loglikelihoods", "unconditional"):
                np.testing.assert_allclose(theirs[name][key], one[key], atol=1e-5)


@pytest.fixture(scope="module")
def p3_choices(assets):
    """The test rows of P3 with the choices of their tasks."""
    import gzip

    with gzip.open(assets / "data" / "p3" / "test.jsonl.gz", "rt") as file:
        rows = [json.loads(line) for line in file]
    answers = {}
    for row in rows:
        answers.setdefault(row["task"], set()).add(row["messages"][-1]["content"])
    return [
        Instance(
            row["id"],
            row["task"],
            tuple(Turn(**turn) for turn in row["messages"]),
            (),
            tuple(sorted(answers[row["task"]])),
        )
        for row in rows
    ]
