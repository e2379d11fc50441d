"""Two small files to arrange, and a way to do it."""

import json
from pathlib import Path

import numpy as np
import pytest

from zsg_jax.workflows import arrange
from zsg_jax.workflows.arrange_options import ArrangeOptions

WORDS = ["river", "stone", "cloud", "paper", "lamp", "green", "seven", "music", "bread", "silent"]


def texts(rows, seed):
    rng = np.random.default_rng(seed)
    return [" ".join(rng.choice(WORDS, 6)) for _ in range(rows)]


def write_messages(path, prompts, tasks=("a", "b", "c"), **more):
    with Path(path).open("w") as file:
        for number, prompt in enumerate(prompts):
            turns = [("user", prompt), ("assistant", f"answer {number % 4}")]
            row = {
                "id": f"{Path(path).stem}-{number}",
                "task": tasks[number % len(tasks)],
                "messages": [{"role": role, "content": text} for role, text in turns],
                "source": {"page": number, "tags": ["é", None]},
                **more,
            }
            file.write(json.dumps(row) + "\n")
    return str(path)


@pytest.fixture
def sides(tmp_path):
    """60 training rows and 7 test rows of two tasks."""
    return {
        "train": write_messages(tmp_path / "train.jsonl", texts(60, 0)),
        "test": write_messages(tmp_path / "test.jsonl", texts(7, 1), tasks=("d", "e")),
    }


@pytest.fixture
def run(sides, tmp_path):
    """Arranges into tmp_path/out and gives the rows that came out, and arrangement.json."""

    def arranged(**options):
        request = ArrangeOptions(**{**sides, "output": tmp_path / "out", **options})
        written = arrange.run(request)
        rows = [json.loads(line) for line in written.read_text().splitlines()]
        facts = json.loads((request.output / "arrangement.json").read_text())
        return rows, facts

    return arranged
