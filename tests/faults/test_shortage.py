"""Short of disk or of files, or killed at random, a study ends by a line at most, and goes on."""

import json
import os
from pathlib import Path

import pytest

from zsg_jax.training.metrics import CLOCKS

KILLS = int(os.environ.get("ZSG_JAX_KILLS", "100"))
STEPS = ["--config.training.steps=6", "--config.training.checkpoint_every=2"]
TEXTS = [
    *STEPS,
    "--config.training.checkpoint_every=3",
    "--config.evaluation.metrics=('loss', 'rouge_unicode', 'exact_match_unicode')",
    "--config.evaluation.texts.decoding=study,max_new_tokens=6,samples=2",
    "--config.evaluation.scores_every=2",
    "--config.training.steps=10",
]


@pytest.fixture
def ask(commands, tmp_path):
    """What `forked` says of the word and more that it is given."""

    def run(word, *given):
        flags = [word, tmp_path, *map(json.dumps, given)]
        ((code, out, err),) = commands("forked", flags, cwd=Path(__file__).parent)
        if code == 77:
            pytest.skip("no file system may be mounted here")
        assert code == 0, err
        return json.loads(out.splitlines()[-1])  # before it the commands say where their pages are

    return run


def numbers(records):
    """Records without their clocks."""
    rows = [json.loads(line) for line in records["metrics.jsonl"].splitlines()]
    kept = [{key: one for key, one in row.items() if key not in CLOCKS} for row in rows]
    return {**records, "metrics.jsonl": kept}


def check_all(told, whole, reason):
    """Whether each first command ended by a line, each second one well; how many were short."""
    short = 0
    for (code, err), (after, later), records in told:
        assert "Traceback" not in err
        assert after == 0, later
        assert numbers(records) == whole
        if code:
            short += 1
            assert code == 1, err
            assert len(err.splitlines()) < 20, err
            assert err.splitlines()[-1].startswith("zsg_jax: "), err
            assert reason in err.splitlines()[-1], err
    return short


@pytest.mark.slow
def test_a_disk_that_is_full_at_any_stage(ask):
    sizes = [8, 24, 48, 80, 120, 150, 200, 260]
    *told, (first, _, records) = ask("disk", [*sizes, 1 << 16], STEPS)
    assert first[0] == 0, first[1]
    assert check_all(told, numbers(records), "space left") >= 6


@pytest.mark.slow
def test_soak(ask):
    ((code, err), records), *others = ask("soak", KILLS, TEXTS)
    assert code == 0, err
    for (code, err), again in others:
        assert code == 0, err
        assert numbers(again) == numbers(records)
