"""A study that measures all there is: its means follow from the records of examples."""

import json
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from zsg_jax.runtime.errors import UserError
from zsg_jax.workflows import evaluate, study
from zsg_jax.workflows.evaluate_options import EvaluateOptions

RUN = "runs/tmta-nft-seed0"


@pytest.fixture
def everything(small_config, write_reward, uneven, tmp_path):
    """The config of a study with every metric, on rows that have choices."""
    reward = write_reward(tmp_path / "reward")
    rows = [json.loads(line) for line in Path(uneven["data.test"]).read_text().splitlines()]
    test = tmp_path / "test.jsonl"
    with test.open("w") as file:
        for row in rows:
            file.write(json.dumps(row | {"choices": ["red", "green", "blue"]}) + "\n")
    metrics = ("loss", "rouge", "exact_match", "exact_match_unicode", "choices", "reward")
    return small_config(
        **uneven | {"data.test": str(test)},
        **{
            "training.steps": 7,
            "evaluation.metrics": metrics,
            "evaluation.scores_every": 2,
            "evaluation.texts.decoding": "study,max_new_tokens=4,samples=2",
            "evaluation.texts.reward_model": str(reward),
        },
    )


@pytest.mark.ci
@pytest.mark.slow
def test_every_metric_is_measured_on_its_schedule_and_kept(everything, read_metrics, tmp_path):
    page = study.run(everything, tmp_path / "w", command="test")
    tests = {
        one["step"]: one for one in read_metrics(tmp_path / "w" / RUN) if one["kind"] == "test"
    }
    assert list(tests) == [0, 3, 6, 7]
    assert [step for step, one in tests.items() if "reward" in one] == [0, 6, 7]
    lines = {
        name: [json.loads(line) for line in (tmp_path / "w" / RUN / f"{name}.jsonl").open()]
        for name in ("generations", "scores")
    }
    assert len(lines["generations"]) == 3 * 2 * 18
    assert len(lines["scores"]) == 3 * 18
    for step in (0, 6, 7):
        for name in ("rougeL", "exact_match", "exact_match_unicode", "reward"):
            values = [one[name] for one in lines["generations"] if one["step"] == step]
            assert tests[step][name] == pytest.approx(np.mean(values))
        right = [one["accuracy"] for one in lines["scores"] if one["step"] == step]
        assert tests[step]["accuracy"] == pytest.approx(np.mean(right))
        assert tests[step]["accuracy_by_task"].keys() == tests[step]["loss_by_task"].keys()
    assert tests[0]["reward"] != tests[7]["reward"]
    assert "Final reward" in page.read_text()

    # Alone less may be asked for.
    alone = EvaluateOptions(tmp_path / "e", checkpoint=(f"{tmp_path}/w/{RUN}",), metrics="loss")
    told = json.loads(evaluate.run(alone).read_text())
    assert told["loss"] == tests[7]["loss"]
    assert "reward" not in told

    # Records that are gone are missed.
    (tmp_path / "w" / RUN / "finished.json").unlink()
    kept = tmp_path / "w" / RUN / "generations.jsonl"
    whole = kept.read_bytes()
    kept.write_bytes(whole[:500])
    with pytest.raises(UserError, match=r"generations\.jsonl: does not hold the records"):
        study.run(everything, tmp_path / "w", command="test")
    kept.write_bytes(whole)

    # Another reward model is told, not mixed in.
    reward = tmp_path / "reward" / "model.safetensors"
    tensors = load_file(reward)
    save_file({**tensors, "score.weight": -tensors["score.weight"]}, reward)
    with pytest.raises(UserError, match="the reward model changed"):
        study.run(everything, tmp_path / "w", command="test")
