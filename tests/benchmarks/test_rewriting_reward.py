"""The reward model of string rewriting: a folder whose rewards are those of transformers."""

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from zsg_jax.data.instance import Turn
from zsg_jax.evaluation.rewards import RewardModel
from zsg_jax.training import sharding

SCRIPT = Path(__file__).parents[2] / "benchmarks" / "rewriting_reward.py"
ROWS = "rewrites:rules=32,samples=4,spaced=true,test_rows=2,test_rules=2"


@pytest.mark.slow
@pytest.mark.references
def test_a_reward_model_is_trained_that_the_study_reads(tmp_path):
    torch = pytest.importorskip("torch")
    transformers = pytest.importorskip("transformers")
    folder = tmp_path / "reward"
    command = [sys.executable, str(SCRIPT), ROWS, str(folder), "3"]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    assert "step 3" in done.stdout
    assert "no rule applied" in done.stdout

    prompts, texts = ["k i g -> c f w\nf q d k i g u c b q"] * 2, ["f q d c f w u c b q", "f q"]
    model = RewardModel(folder, sharding.make_mesh(1, 1), template="chat", max_length=128)
    ours = model.score([(Turn("user", one),) for one in prompts], texts)
    theirs = transformers.AutoModelForSequenceClassification.from_pretrained(folder).eval()
    tokenizer = transformers.PreTrainedTokenizerFast.from_pretrained(folder)
    for prompt, text, reward in zip(prompts, texts, ours, strict=True):
        ids = tokenizer.encode(f"{prompt}\n{text}", add_special_tokens=False)
        ids = torch.tensor([[tokenizer.bos_token_id, *ids, tokenizer.eos_token_id]])
        with torch.no_grad():
            hidden = theirs.model(ids).last_hidden_state[:, -1]
            expected = float(theirs.score(hidden)[0, 0])
        np.testing.assert_allclose(reward, expected, atol=1e-5)
