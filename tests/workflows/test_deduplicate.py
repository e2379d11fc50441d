"""Near-duplicates left out by the command, and from Python."""

import json
from pathlib import Path

import numpy as np
import pytest

import zsg_jax
from zsg_jax.runtime.errors import UserError
from zsg_jax.workflows import study


@pytest.fixture
def doubled(sides):
    """The training rows' file, its first 10 rows standing at its end again."""
    path = Path(sides["train"])
    lines = path.read_text().splitlines()
    again = [json.dumps(json.loads(line) | {"id": f"again {i}"}) for i, line in enumerate(lines)]
    path.write_text("\n".join([*lines, *again[:10]]) + "\n")
    return sides


def test_the_command_leaves_them_out_and_tells_them(run, doubled, tmp_path, capsys):
    alone, _ = run(output=tmp_path / "whole", method="min-nft")
    assert not (tmp_path / "whole" / "duplicates.jsonl").exists()
    rows, facts = run(method="min-nft", deduplicate=0.999, explain=True)
    # The originals stay, in the order that they have among all.
    expected = [row["id"] for row in alone if not row["id"].startswith("again")]
    assert [row["id"] for row in rows] == expected
    facts = facts["provenance"]
    assert facts["rows_left_out_as_duplicates"] == 10
    assert facts["rows_left_out_as_leaks"] == 0
    told = (tmp_path / "out" / "duplicates.jsonl").read_text().splitlines()
    assert [json.loads(line)["row"] for line in told] == [*range(60, 70)]
    first = json.loads(told[3])
    assert (first["id"], first["kept_row"], first["kept_id"]) == ("again 3", 3, "train-3")
    assert first["cosine"] == pytest.approx(1, abs=1e-5)
    assert "duplicates: 10 of 70 training rows" in capsys.readouterr().err
    assert "Left out as duplicates" in (tmp_path / "out" / "explain.html").read_text()
    # Made again without, the list of an earlier arrangement is gone.
    run(method="min-nft")
    assert not (tmp_path / "out" / "duplicates.jsonl").exists()


def test_leaks_are_counted_apart(run, doubled):
    train, test = (Path(doubled[side]) for side in ("train", "test"))
    leak = json.loads(test.read_text().splitlines()[0]) | {"id": "leak"}
    with train.open("a") as file:
        file.write(json.dumps(leak) + "\n" + json.dumps(leak | {"id": "leak 2"}) + "\n")
    rows, facts = run(deduplicate=0.999, drop_leaks=True)
    facts = facts["provenance"]
    assert (facts["rows_left_out_as_duplicates"], facts["rows_left_out_as_leaks"]) == (10, 2)
    assert len(rows) == 60


def test_no_row_is_left_out_for_one_that_leaks(run, doubled, tmp_path):
    """The test row stands in the pool, beside rows that are near but do not leak."""
    train, test = (Path(doubled[side]) for side in ("train", "test"))
    rows = [json.loads(line) for line in train.read_text().splitlines()[:5]]
    test.write_text(json.dumps(rows[0] | {"id": "told"}) + "\n")
    train.write_text("".join(json.dumps(row) + "\n" for row in rows))
    near = [np.cos(turn) + 1j * np.sin(turn) for turn in (0, 0.4, 0.8, 2.0, 2.1)]
    for name, turns in (("train", near), ("test", near[:1])):
        array = np.array([[one.real, one.imag] for one in turns], np.float32)
        np.save(tmp_path / f"{name}.npy", array)
    given = {f"{side}_embeddings": str(tmp_path / f"{side}.npy") for side in ("train", "test")}
    made, _ = run(method="min-nft", deduplicate=0.9, drop_leaks=True, **given)
    assert [row["id"] for row in made] == [rows[i]["id"] for i in (1, 3)]
    told = (tmp_path / "out" / "duplicates.jsonl").read_text().splitlines()
    pairs = [(one["row"], one["kept_row"]) for one in map(json.loads, told)]
    assert pairs == [(2, 1), (4, 3)]


def test_rows_in_memory(doubled):
    train = [json.loads(line) for line in Path(doubled["train"]).read_text().splitlines()]
    test = [json.loads(line) for line in Path(doubled["test"]).read_text().splitlines()]
    found = zsg_jax.arrange_data(train, test, deduplicate=0.999)
    assert sorted(found.order) == [*range(60)]
    assert found.facts["rows_left_out_as_duplicates"] == 10
    assert [pair["kept_row"] for pair in found.facts["duplicates"]] == [*range(10)]
    rows = np.eye(4)[[0, 1, 1, 2]]
    assert sorted(zsg_jax.arrange_data(rows, rows[:1], deduplicate=0.9).order) == [0, 1, 3]


def test_a_study_chooses_none_of_them(doubled, small_config, tmp_path):
    files = {f"data.{side}": path for side, path in doubled.items()}
    methods = {"arrangement.methods": ("min-nft", "random"), "training.batch_size": 15}
    config = small_config(**files, **methods, **{"arrangement.deduplicate": 0.999})
    page = study.run(config, tmp_path / "w", command="test")
    for name in methods["arrangement.methods"]:
        order = np.load(tmp_path / "w" / "arrangements" / name / "order.npy")
        assert sorted(order) == [*range(60)]
    told = (tmp_path / "w" / "duplicates.jsonl").read_text().splitlines()
    assert [json.loads(line)["kept_id"] for line in told] == [f"train-{one}" for one in range(10)]
    kept = "60 rows; left out: 10 near-duplicates of earlier ones (cosine 0.999 or more)"
    assert kept in page.read_text()
    with pytest.raises(UserError, match=r"arrangement\.deduplicate is 0\.999 there, None here"):
        study.run(small_config(**files, **methods), tmp_path / "w", command="test")
    for value, epochs, message in (
        (1.5, "ordered", "a cosine above 0"),
        (0.9, "anew@1", "anew by"),
    ):
        wrong = {"arrangement.deduplicate": value, "training.epochs": (epochs,)}
        with pytest.raises(UserError, match=message):
            study.run(small_config(**wrong), tmp_path / "other", command="test")


@pytest.mark.parametrize("value", [0.0, 1.5])
def test_what_is_no_cosine_is_refused(run, value):
    with pytest.raises(UserError, match="--deduplicate"):
        run(deduplicate=value)


def test_no_order_joins_others_that_left_out_other_duplicates(doubled, small_config, tmp_path):
    def again(*methods):
        given = {"arrangement.methods": methods, "arrangement.deduplicate": 0.999}
        files = {f"data.{side}": doubled[side] for side in ("train", "test")}
        more = {"training.steps": 1, "model.pretraining.steps": 0, "tokenizer": "bytes"}
        study.run(small_config(**given, **files, **more), tmp_path / "w", command="test")

    again("random")
    path = tmp_path / "w" / "duplicates.jsonl"
    content = path.read_text()
    path.write_text("".join(content.splitlines(keepends=True)[1:]))  # as other rules would tell
    with pytest.raises(UserError, match="other rows were left out as duplicates"):
        again("random", "round-robin")
    path.write_text(content)
    again("random", "round-robin")
    assert path.read_text() == content
