"""Several sets of test rows with shares of what is chosen: by command, study and Python."""

import json

import numpy as np
import pytest

import zsg_jax
from zsg_jax.runtime.errors import UserError
from zsg_jax.workflows import study


@pytest.fixture
def targets(sides, tmp_path):
    """Writes the mixture of two files of test rows with what is told of each, and returns it."""
    with (tmp_path / "more.jsonl").open("w") as file:
        for number in range(4):
            turns = [("user", f"green music {number} lamp"), ("assistant", "answer 2")]
            messages = [{"role": role, "content": text} for role, text in turns]
            file.write(json.dumps({"id": f"more-{number}", "task": "f", "messages": messages}))
            file.write("\n")

    def write(*told):
        path = tmp_path / "targets.mix.json"
        names = ("test.jsonl", "more.jsonl")
        sources = [{"path": name, **one} for name, one in zip(names, told, strict=True)]
        path.write_text(json.dumps({"sources": sources}))
        return str(path)

    return write


def test_the_command_shares_out_and_tells_it(run, targets, tmp_path, capsys):
    test = targets({"share": 2}, {"share": 1})
    _, facts = run(test=test, method="targets", budget=30, explain=True)
    told = facts["provenance"]["target_sets"]
    assert [(one["share"], one["test_rows"], one["rows"]) for one in told.values()] == [
        ("2", 7, 20),
        ("1", 4, 10),
    ]
    assert list(told) == ["test", "more"]
    assert all(0 < one["similarity"] <= 1.000001 for one in told.values())
    assert "target set test: 20 rows, mean cosine" in capsys.readouterr().err
    page = (tmp_path / "out" / "explain.html").read_text()
    assert "Target set more</th><td>10 rows, mean cosine" in page
    # In the same order but for the sets: each set's rows are its own round robin's.
    _, facts = run(test=targets({}, {"budget": 3}), method="targets", budget=30)
    told = facts["provenance"]["target_sets"]
    assert [one["rows"] for one in told.values()] == [27, 3]
    rows, facts = run(test=targets({"budget": 9}, {"budget": 3}), method="targets")
    assert len(rows) == 12
    # Turns stay whole, so a set may have some more.
    rows, facts = run(test=targets({"share": 1}, {"share": 1}), budget=20, report_split=0.5)
    told = facts["provenance"]["target_sets"]
    assert sum(one["rows"] for one in told.values()) == len(rows) >= 20
    assert (
        sum(one["test_rows"] for one in told.values()) == facts["provenance"]["test_rows_aimed_at"]
    )


def test_orders_by_distance_are_shared_out_and_others_say_that_they_are_not(run, targets, capsys):
    test = targets({"share": 2}, {"share": 1})
    _, facts = run(test=test, method="wsd-nft+window-4", budget=30)
    told = facts["provenance"]["target_sets"]
    assert [one["rows"] for one in told.values()] == [20, 10]
    assert all(one["w_avg"] > 0 for one in told.values())
    _, facts = run(test=test, method="random", budget=30)
    assert "rows" not in facts["provenance"]["target_sets"]["test"]
    assert "random: target sets: their shares have no say" in capsys.readouterr().err


def test_python_takes_the_file_too(sides, targets):
    test = targets({"share": 1}, {"share": 3})
    found = zsg_jax.arrange_data(sides["train"], test, method="targets", budget=8)
    assert [one["rows"] for one in found.facts["target_sets"].values()] == [2, 6]


def test_a_study_keeps_to_the_shares_it_was_made_with_and_tells_each_sets_loss(
    sides, targets, small_config, tmp_path
):
    def config():
        return small_config(
            **{
                "data.train": sides["train"],
                "data.test": targets({"share": 1}, {"share": 3}),
                "data.answers": "each",
                "arrangement.methods": ("targets",),
                "arrangement.budget": 16,
                "training.steps": 2,
            }
        )

    study.run(config(), tmp_path / "w", command="test")
    made = tmp_path / "w" / "arrangements" / "targets"
    told = json.loads((made / "arrangement.json").read_text())["provenance"]["target_sets"]
    assert [one["rows"] for one in told.values()] == [4, 12]
    data = json.loads((tmp_path / "w" / "data.json").read_text())
    lines = (tmp_path / "w" / "runs" / "targets-seed0" / "metrics.jsonl").read_text().splitlines()
    losses = [one["losses"] for one in map(json.loads, lines) if one["kind"] == "test"][-1]
    own = {name: [] for name in ("more", "test")}
    for id, loss in zip(data["test_ids"], losses, strict=True):
        own[id.split("/")[0]].append(loss)
    report = tmp_path / "w" / "report"
    summary = json.loads((report / "summary.json").read_text())["arrangements"]["targets"]
    assert {name: curve[-1] for name, curve in summary["loss_by_set"].items()} == pytest.approx(
        {name: np.mean(each) for name, each in own.items()}
    )
    assert 'id="loss_by_set"' in (report / "index.html").read_text()
    (tmp_path / "w" / "runs").rename(tmp_path / "gone")
    again = config()
    targets({"share": 3}, {"share": 1})
    with pytest.raises(UserError, match="the shares of the target sets changed since"):
        study.run(again, tmp_path / "w", command="test")


def test_training_rows_have_no_share(run, targets):
    path = targets({"share": 2}, {"share": 1})
    with pytest.raises(UserError, match=r'"share" and "budget" are of sets of test rows'):
        run(train=path)


def test_no_test_row_is_lost_by_a_share(run, targets, tmp_path):
    """A share is none of the weights, which say how many rows of a source are read."""
    test = targets({"share": 5}, {"share": 1})
    _, facts = run(test=test)
    assert facts["provenance"]["test"]["rows"] == 11
    order = np.load(tmp_path / "out" / "order.npy")
    assert sorted(order) == list(range(60))
