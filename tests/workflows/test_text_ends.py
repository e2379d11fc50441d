"""What ends a text by a model's generation_config.json does so along a chain of studies."""

import json
import shutil

import pytest

from zsg_jax.runtime.errors import UserError
from zsg_jax.workflows import compare, study
from zsg_jax.workflows.compare_options import CompareOptions

RUN = "runs/tmta-nft-seed0"
TEXTS = {
    "evaluation.metrics": ("loss", "exact_match"),
    "evaluation.texts.decoding": "greedy,max_new_tokens=6",
}


@pytest.fixture
def trained(small_config, uneven, monkeypatch):
    """Trains a step from a folder or a run."""
    monkeypatch.setattr("zsg_jax.report.page._draw", lambda *given: [])

    def train(start, workdir, **more):
        given = {**uneven, "model.init_from": str(start), "tokenizer": "bytes"}
        given |= {"training.steps": 1, "model.pretraining.steps": 0} | more
        study.run(small_config(**given), workdir, command="test")
        return workdir

    return train


def texts(workdir):
    lines = (workdir / RUN / "generations.jsonl").read_text().splitlines()
    return [len(json.loads(line)["tokens"]) for line in lines]


@pytest.mark.parametrize("lost", [False, True])
def test_they_come_from_the_model_that_a_chain_began_with(trained, write_llama, tmp_path, lost):
    model = write_llama(tmp_path / "model")
    ends = model / "generation_config.json"
    ends.write_text(json.dumps({"eos_token_id": [*range(300)]}))
    first = trained(model, tmp_path / "first")
    second = trained(first / RUN, tmp_path / "second")
    if lost:
        shutil.rmtree(model)
    third = trained(second / RUN, tmp_path / "third", **TEXTS)
    assert max(texts(third)) <= 1


def test_other_ends_are_not_compared_where_there_are_texts(trained, write_llama, tmp_path):
    model, made = write_llama(tmp_path / "model"), []
    for name, more in (("one", {}), ("two", {}), ("three", TEXTS), ("four", TEXTS)):
        told = {"eos_token_id": [7, 9] if name in ("two", "four") else [7]}
        (model / "generation_config.json").write_text(json.dumps(told))
        made.append(str(trained(model, tmp_path / name, **more)))
    compare.run(CompareOptions((*made[:2], made[2]), tmp_path / "out"))
    with pytest.raises(UserError, match="what ends a text"):
        compare.run(CompareOptions((made[2], made[3]), tmp_path / "out"))
