"""Orders by a number that the rows carry, as the command and the study make them."""

import json
from pathlib import Path

import numpy as np
import pytest

from zsg_jax.runtime.errors import UserError
from zsg_jax.workflows import study


@pytest.fixture
def scored(sides):
    """The training rows' file, every row with a number; gives the numbers."""
    path = Path(sides["train"])
    numbers = np.random.default_rng(0).integers(0, 20, 60).tolist()
    rows = [json.loads(line) for line in path.read_text().splitlines()]
    for row, number in zip(rows, numbers, strict=True):
        row["judged"] = {"quality": number}
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return numbers


def test_the_command_orders_writes_and_explains(run, scored, tmp_path):
    method = "score-descending:judged.quality"
    rows, facts = run(method=method, budget=40, explain=True)
    expected = sorted(range(60), key=lambda i: (-scored[i], i))[:40]
    assert np.load(tmp_path / "out" / "order.npy").tolist() == expected
    assert [row["zsg_distance"] for row in rows] == [scored[i] for i in expected]
    assert "quality" in facts["provenance"]["zsg_distance"]
    assert method in (tmp_path / "out" / "explain.html").read_text()
    rows, _ = run(method=f"{method}+folds-3")
    assert [row["judged"]["quality"] for row in rows[:20]] == sorted(scored)[::-1][::3]


def test_a_row_without_one_stops_the_command_before_anything_is_embedded(run, scored, tmp_path):
    with pytest.raises(UserError, match=r"train\.jsonl:1: has no 'quality'"):
        run(method="score-ascending:quality")
    assert not (tmp_path / "out" / "embeddings").exists()


def test_a_study_trains_in_the_order_of_the_rows_numbers(sides, scored, small_config, tmp_path):
    names = ("score-ascending:judged.quality", "score-descending:judged.quality+window-8")
    files = {f"data.{side}": path for side, path in sides.items()}
    config = small_config(**files, **{"arrangement.methods": names, "training.steps": 2})
    page = study.run(config, tmp_path / "w", command="test")
    first, second = (tmp_path / "w" / "arrangements" / name / "order.npy" for name in names)
    expected = sorted(range(60), key=lambda i: (scored[i], i))
    assert np.load(first).tolist() == expected
    down = sorted(range(60), key=lambda i: (-scored[i], i))
    assert sorted(np.load(second)[:8].tolist()) == sorted(down[:8])
    assert "the least judged.quality first" in page.read_text()
    with pytest.raises(UserError, match=r"train\.jsonl:1: has no 'quality'"):
        study.run(
            small_config(**files, **{"arrangement.methods": ("score-ascending:quality",)}),
            tmp_path / "other",
            command="test",
        )
