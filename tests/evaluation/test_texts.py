"""Texts are written, kept and scored one by one, and every mean follows from what is kept."""

import json
from collections import Counter

import jax
import numpy as np
import pytest

from zsg_jax.data.instance import Instance, Turn
from zsg_jax.data.tokenize.encode import encode_prompts
from zsg_jax.data.tokenize.tokenizer import ByteTokenizer
from zsg_jax.evaluation.decoding import parse
from zsg_jax.evaluation.generation import Generator
from zsg_jax.evaluation.texts import TextEvaluator
from zsg_jax.models.families import FAMILIES
from zsg_jax.models.model import abstract, initialize
from zsg_jax.training import sharding

BYTES = ByteTokenizer()
INSTANCES = [
    Instance(
        f"example {i}",
        f"task {i % 2}",
        (Turn("user", "Say it. " * (i % 4 + 1)), Turn("assistant", "no")),
        ("no", "\N{LATIN SMALL LETTER E WITH ACUTE}"),
        category="question rewriting",
    )
    for i in range(7)
]


@pytest.fixture(scope="module")
def evaluate():
    model = FAMILIES["llama"].sized("tiny", BYTES.vocab_size, 128)
    mesh = sharding.make_mesh(1, 1)
    params = jax.jit(initialize, static_argnums=0)(model, jax.random.key(0))
    generator = Generator(
        abstract(model)[0],
        model,
        mesh,
        parse("temperature=1.5,max_new_tokens=5"),
        eos=[BYTES.eos_id],
        batch_size=4,
    )

    def run(folder=None, step=3, **more):
        one = TextEvaluator(
            generator,
            INSTANCES,
            encode_prompts(INSTANCES, BYTES).ids,
            decode=BYTES.decode,
            metrics=("rouge", "exact_match"),
            samples=2,
            **more,
        )
        return one(params, step, folder)

    return run


def test_every_mean_follows_from_the_records(evaluate, tmp_path):
    fields = evaluate(tmp_path, reward=lambda places, texts: np.array([*map(len, texts)]) / 2)
    records = [
        json.loads(line) for line in (tmp_path / "generations.jsonl").read_text().splitlines()
    ]
    assert Counter((one["id"], one["sample"]) for one in records) == Counter(
        (one.id, sample) for one in INSTANCES for sample in (0, 1)
    )
    for record in records:
        assert record["text"] == BYTES.decode(record["tokens"])
        assert record["reward"] == len(record["text"]) / 2
        assert (record["step"], record["references"]) == (3, ["no", "é"])
    for name in ("rougeL", "exact_match", "reward"):
        by_id = {
            one.id: np.mean([each[name] for each in records if each["id"] == one.id])
            for one in INSTANCES
        }
        assert fields[name] == pytest.approx(np.mean(list(by_id.values())))
        by_task = {
            task: np.mean([by_id[one.id] for one in INSTANCES if one.task == task])
            for task in ("task 0", "task 1")
        }
        assert fields[f"{name}_by_task"] == pytest.approx(by_task)
        assert fields[f"{name}_over_tasks"] == pytest.approx(np.mean(list(by_task.values())))
    assert fields["headline"] == fields["rougeL"]
    assert fields["ended"] == dict(Counter(one["ended"] for one in records))
    assert fields["generated_tokens"] == np.mean([len(one["tokens"]) for one in records])
    assert fields["empty"] == sum(not one["text"].strip() for one in records)
    # Two samples of an example are two draws.
    texts = {(one["id"], one["sample"]): one["text"] for one in records}
    assert any(texts[one.id, 0] != texts[one.id, 1] for one in INSTANCES)


def test_records_make_the_same_fields_again_with_nothing_written_anew(evaluate, tmp_path):
    fields = evaluate(tmp_path)
    before = (tmp_path / "generations.jsonl").read_bytes()
    assert evaluate(tmp_path) == fields == evaluate()
    assert (tmp_path / "generations.jsonl").read_bytes() == before
    evaluate(tmp_path, seed=1, step=4)
    seeds = [json.loads(line)["text"] for line in (tmp_path / "generations.jsonl").open()]
    assert seeds[:14] != seeds[14:]
