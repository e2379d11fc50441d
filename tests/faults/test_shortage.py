"""Short of disk or of files, or killed at random, a study ends by a line at most, and goes on."""

import json
import os
import subprocess
import sys
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
def test_too_few_open_files_at_any_stage(ask):
    *told, (first, _, records) = ask("files", [12, 14, 16, 20, 24, 32, 1024], STEPS)
    assert first[0] == 0, first[1]
    assert check_all(told, numbers(records), "raise the limit (ulimit -n") >= 3


# Under a limit by which no more file can be opened, what opens one, as its command would.
_OPENING = """
import json, os, resource, sys
from pathlib import Path
import numpy as np
from zsg_jax.data.reading import ReadOptions, open_dataset
from zsg_jax.data.formats.jsonl import json_file
from zsg_jax.data.tokenize import jinja, tokenizer
from zsg_jax.models.huggingface import read_config
from zsg_jax.runtime import cli, files
from zsg_jax.similarity.embeddings import open_embeddings
from zsg_jax.workdir import claims, lock

folder = Path(sys.argv[1])
for name in ("a.json", "config.json", "tokenizer.json", "data.json"):
    (folder / name).write_text("{}")
(folder / "a.jsonl").write_text('{"question": "a", "answer": "b"}')
np.save(folder / "a.npy", np.zeros((2, 2)))
opening = [
    lambda: files.read_json(folder / "a.json"),
    lambda: files.write_json(folder / "b.json", {}),
    lambda: files.file_digest(folder / "a.json"),
    lambda: json_file(folder / "a.json", "mend it"),
    lambda: lock.locked(folder / "w").__enter__(),
    lambda: claims.claim_data(folder, {}),
    lambda: open_dataset(folder / "a.jsonl", ReadOptions(folder)),
    lambda: open_embeddings(folder / "a.npy"),
    lambda: tokenizer.from_folder(str(folder)),
    lambda: jinja.load(str(folder / "a.json"), str(folder), {}, {}),
    lambda: read_config(folder),
]
resource.setrlimit(resource.RLIMIT_NOFILE, (64, 64))
for full in (False, True):
    while full:
        try:
            os.dup(0)
        except OSError:
            break
    for one in opening:
        try:
            cli.guard(lambda argv: one())([])
        except BaseException:
            pass
    print("--", file=sys.stderr, flush=True)
"""


def test_whoever_opens_a_file_tells_that_too_many_are_open(tmp_path):
    done = subprocess.run(
        [sys.executable, "-c", _OPENING, tmp_path], capture_output=True, text=True, check=True
    )
    _, lines, _ = done.stderr.split("--\n")
    assert len(lines.splitlines()) == 11, lines
    for line in lines.splitlines():
        assert "too many open files; raise the limit (ulimit -n" in line, line


@pytest.mark.slow
def test_soak(ask):
    ((code, err), records), *others = ask("soak", KILLS, TEXTS)
    assert code == 0, err
    for (code, err), again in others:
        assert code == 0, err
        assert numbers(again) == numbers(records)
