"""A run killed with SIGKILL at any moment goes on and writes the numbers it would have."""

import gzip
import hashlib
import json
import signal
import subprocess
import sys
from itertools import islice
from pathlib import Path

import pytest

from zsg_jax.config import flatten
from zsg_jax.evaluation.records import GENERATIONS, SCORES
from zsg_jax.workflows import study

ROOT = Path(__file__).parents[2]


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


@pytest.mark.ci
@pytest.mark.slow
def test_killed_again_and_again_the_metrics_are_the_same_bit_for_bit(check):
    # Files come first: config.json, the tokens', data.json, shards and manifests, the
    # arrangement's, metrics. Then 10 steps, a test row at 0, 3, 6, 9 and 10, a checkpoint at 4, 8
    # and 10.
    check([("writing", 9), ("saving", 1), ("mid-row", 5), ("saved", 2)], "going on after step 8")


@pytest.fixture
def check_records(commands, read_metrics, tmp_path):
    """Kills a study while it writes records of examples; gives its records, once they are equal."""

    def run(config, places):
        file = tmp_path / "config.json"
        file.write_text(json.dumps(flatten(config)))
        whole, killed = tmp_path / "whole", tmp_path / "killed"
        study.run(config, whole, command="test")
        several = ((killed, file, *place) for place in (*places, ("none", 0)))
        *deaths, last = commands("killed", *several, cwd=Path(__file__).parent)
        assert last[0] == 0, last[2]
        assert [one[0] for one in deaths] == [-signal.SIGKILL] * len(places)
        first, second = (folder / "runs" / "tmta-nft-seed0" for folder in (killed, whole))
        assert read_metrics(first) == read_metrics(second)
        names = [name for name in (GENERATIONS, SCORES) if (second / name).exists()]
        records = {name: (second / name).read_bytes() for name in names}
        assert {name: (first / name).read_bytes() for name in names} == records
        return records

    return run


@pytest.mark.ci
@pytest.mark.slow
def test_killed_while_it_generates_the_records_are_the_same_byte_for_byte(
    small_config, check_records
):
    config = small_config(
        **{
            "evaluation.metrics": ("loss", "rouge_unicode", "exact_match_unicode"),
            "evaluation.texts.decoding": "study,max_new_tokens=6,samples=2",
            "evaluation.batch_size": 8,
            "evaluation.scores_every": 2,
        }
    )
    # Three batches of 8 texts at steps 0, 6 and 10, a checkpoint at 4, 8 and 10.
    records = check_records(config, [("records", 2), ("records", 4)])
    assert records[GENERATIONS].count(b"\n") == 3 * 2 * 12


@pytest.mark.slow
@pytest.mark.parametrize("source", ["p3", "superni"])
def test_killed_while_it_measures_all_there_is_of_real_rows(
    source, assets, small_config, check_records, write_reward, tmp_path
):
    metrics = ("loss", "generate", "rouge", "exact_match", "reward")
    splits = assets / "data" / "superni" / "splits" / "default"
    sides = {f"data.{side}": str(splits / f"{side}_tasks.txt") for side in ("train", "test")}
    if source == "p3":
        metrics += ("choices",)
        sides = {
            "data.train": str(tmp_path / "train.jsonl"),
            "data.test": str(tmp_path / "test.jsonl"),
        }
        with gzip.open(assets / "data" / "p3" / "train.jsonl.gz", "rt") as file:
            Path(sides["data.train"]).write_text("".join(islice(file, 0, None, 53)))
        script, rows = ROOT / "benchmarks" / "p3_choices.py", assets / "data/p3/test.jsonl.gz"
        subprocess.run([sys.executable, script, rows, tmp_path / "all.jsonl"], check=True)
        with (tmp_path / "all.jsonl").open() as file:
            Path(sides["data.test"]).write_text("".join(islice(file, 0, None, 9)))
    model = str(assets / "models" / "stories260k")
    config = small_config(
        **sides,
        **{
            "tokenizer": model,
            "model.init_from": model,
            "data.truncation": "head",
            "data.natural_instructions.max_source": 200,
            "data.natural_instructions.train_per_task": 20,
            "data.natural_instructions.test_per_task": 12,
            "arrangement.budget": 32,
            "training.steps": 4,
            "training.checkpoint_every": 2,
            "evaluation.every": 2,
            "evaluation.scores_every": 1,
            "evaluation.batch_size": 8,
            "evaluation.metrics": metrics,
            "evaluation.texts.decoding": "study,max_new_tokens=8",
            "evaluation.texts.reward_model": str(write_reward(tmp_path / "reward")),
        },
    )
    records = check_records(config, [("records", 2), ("records", 5)])
    assert set(records) == {GENERATIONS} | ({SCORES} if source == "p3" else set())
    assert all(one.count(b"\n") >= 3 * 20 for one in records.values())


# Its checkpoint half saved; within the rows, each side's; before the order is there, and with half
# of its last file; as its first step is done, and at a step on from there.
_ANEW = [("saving", 1), ("writing:3/embeddings/train/0", 1), ("writing:3/embeddings/test/m", 1)]
_ANEW += [("writing:3/order.npy", 1), ("writing:3/ids.txt", 1), ("row", 1), ("row", 3)]


@pytest.mark.slow
@pytest.mark.parametrize(
    "rule", [pytest.param("anew@3+6", marks=pytest.mark.ci), "anew@3+6:gradients,dimension=32"]
)
def test_killed_around_a_new_arrangement_by_adapters_on_two_devices(
    rule, small_config, write_bytes_llama, commands, read_metrics, tmp_path
):
    config = small_config(
        **{
            "model.init_from": str(write_bytes_llama(tmp_path / "llama")),
            "tokenizer": "bytes",
            "model.lora.rank": 2,
            "training.epochs": (rule,),
            "arrangement.budget": 64,
            "mesh.data": 2,
        }
    )
    file, folders = tmp_path / "config.json", [tmp_path / "whole", tmp_path / "killed"]
    file.write_text(json.dumps(flatten(config)))
    several = [(folders[0], file, "none", 0)]
    several += [(folders[1], file, *place) for place in (*_ANEW, ("none", 0))]
    here = Path(__file__).parent
    whole, *deaths, last = commands("killed", *several, cwd=here, JAX_NUM_CPU_DEVICES="2")
    assert (whole[0], last[0]) == (0, 0), (whole[2], last[2])
    assert [one[0] for one in deaths] == [-signal.SIGKILL] * len(_ANEW), deaths
    first, second = (folder / "runs" / "tmta-nft-seed0" for folder in folders)
    rows = read_metrics(second)
    assert rows == read_metrics(first)
    kept = [
        {
            str(path.relative_to(one)): path.read_bytes()
            for path in (one / "rearranged").rglob("*")
            if path.is_file() and path.name != "cost.json"
        }
        for one in (first, second)
    ]
    assert kept[0] == kept[1]
    ids = (second / "rearranged" / "6" / "ids.txt").read_bytes().splitlines(keepends=True)
    assert len(set(ids)) == len(ids) >= 64
    steps = [row for row in rows if row["kind"] == "train"]
    digests = [hashlib.sha256(b"".join(ids[: 8 * n])).hexdigest() for n in range(1, len(steps) + 1)]
    assert [row["order_digest"] for row in steps] == digests


@pytest.mark.slow
def test_killed_at_any_file(check):
    files = [("writing", count) for count in (1, 2, 4, 6, 9, 12, 4, 6, 9)]
    loop = [("saving", 2), ("saving", 1), ("saved", 1)]
    check([*files, *loop, ("writing", 3), ("writing", 4)])


@pytest.mark.slow
@pytest.mark.parametrize("count", range(1, 16))
def test_killed_before_any_row(check, count):
    check([("row", count)])
