"""A run killed with SIGKILL at any moment goes on and writes the numbers it would have."""

import json
import signal
from pathlib import Path

import pytest

from zsg_jax.config import flatten
from zsg_jax.workflows import study


@pytest.fixture
def check(commands, finished, read_metrics, tmp_path):
    """Kills a study at several places, and compares what it writes at last."""

    def run(places, told=""):
        study = tmp_path / "killed", finished / "config.json"
        several = [[*study, *place] for place in (*places, ("none", 0))]
        *killed, (code, _, err) = commands("killed", *several, cwd=Path(__file__).parent)
        for place, one in zip(places, killed, strict=True):
            assert one[0] == -signal.SIGKILL, (place, one)
        assert code == 0, err
        assert told in err
        run = Path("runs") / "tmta-nft-seed0"
        assert read_metrics(study[0] / run) == read_metrics(finished / run)
        assert (study[0] / "report" / "index.html").exists()

    return run


def test_killed_again_and_again_the_metrics_are_the_same_bit_for_bit(check):
    # Files come first: config.json, the tokens', data.json, shards and manifests, the
    # arrangement's, metrics. Then 10 steps, a test row at 0, 3, 6, 9 and 10, a checkpoint at 4, 8
    # and 10.
    check([("writing", 9), ("saving", 1), ("mid-row", 5), ("saved", 2)], "going on after step 8")


def test_killed_while_it_generates_the_records_are_the_same_byte_for_byte(
    commands, small_config, read_metrics, tmp_path
):
    metrics = ("loss", "rouge_unicode", "exact_match_unicode")
    config = small_config(
        **{
            "evaluation.metrics": metrics,
            "evaluation.texts.decoding": "study,max_new_tokens=6,samples=2",
            "evaluation.batch_size": 8,
            "evaluation.scores_every": 2,
        }
    )
    file = tmp_path / "config.json"
    file.write_text(json.dumps(flatten(config)))
    whole, killed = tmp_path / "whole", tmp_path / "killed"
    # Three batches of 8 texts at steps 0, 6 and 10, a checkpoint at 4, 8 and 10.
    places = [("records", 2), ("records", 4), ("none", 0)]
    study.run(config, whole, command="test")
    *deaths, last = commands(
        "killed", *((killed, file, *place) for place in places), cwd=Path(__file__).parent
    )
    assert last[0] == 0, last[2]
    assert [one[0] for one in deaths] == [-signal.SIGKILL] * 2
    run = Path("runs") / "tmta-nft-seed0"
    assert read_metrics(killed / run) == read_metrics(whole / run)
    texts = (whole / run / "generations.jsonl").read_bytes()
    assert texts.count(b"\n") == 3 * 2 * 12
    assert (killed / run / "generations.jsonl").read_bytes() == texts


@pytest.mark.slow
def test_killed_at_any_file(check):
    files = [("writing", count) for count in (1, 2, 4, 6, 9, 12, 4, 6, 9)]
    loop = [("saving", 2), ("saving", 1), ("saved", 1)]
    check([*files, *loop, ("writing", 3), ("writing", 4)])


@pytest.mark.slow
@pytest.mark.parametrize("count", range(1, 16))
def test_killed_before_any_row(check, count):
    check([("row", count)])
