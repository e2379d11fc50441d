"""Values of test examples: what each set of targets comes to, from the records."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from zsg_jax.report.examples import with_sets
from zsg_jax.report.summary import summarize
from zsg_jax.report.tables import by_group

NAMES, SEEDS, STEPS = ("nft", "rt"), (0, 1), (0, 10)


def drawn(sets, seed):
    """Runs with losses of all examples and the exact match of some, of two samples each."""
    rng = np.random.default_rng(seed)
    ids = [f"row {number}" for number in rng.permutation(len(sets))]
    runs, scored = {}, {}
    for name in NAMES:
        runs[name], scored[name] = {}, {}
        for one in SEEDS:
            values = rng.normal(2, 1, (len(STEPS), len(sets)))
            told = zip(STEPS, values.tolist(), strict=True)
            runs[name][one] = [
                {"step": 5, "kind": "train", "loss": 1.0},
                *(
                    {"step": step, "kind": "test", "loss": float(np.mean(each)), "losses": each}
                    for step, each in told
                ),
            ]
            scored[name][one] = [
                {"step": 10, "id": id, "task": "t", "sample": k, "exact_match": float(x)}
                for id in ids[: len(ids) // 2]
                for k, x in enumerate(rng.choice([0.0, 100.0], 2))
            ]
    return runs, scored, dict(zip(ids, sets, strict=True))


@given(st.lists(st.sampled_from("abc"), min_size=2, max_size=12), st.integers(0, 2**32 - 1))
def test_each_set_has_the_mean_of_its_examples(sets, seed):
    runs, scored, of = drawn(sets, seed)
    found = with_sets(runs, scored, of)
    for name in NAMES:
        for one in SEEDS:
            for before, record in zip(runs[name][one], found[name][one], strict=True):
                if record["kind"] == "train" or len(set(sets)) < 2:
                    assert record == before
                    continue
                for kind in set(sets):
                    each = [x for x, s in zip(before["losses"], sets, strict=True) if s == kind]
                    assert record["loss_by_set"][kind] == pytest.approx(np.mean(each))
                texts = {}
                for line in scored[name][one]:
                    if line["step"] == record["step"]:
                        texts.setdefault(of[line["id"]], []).append(line["exact_match"])
                assert record.get("exact_match_by_set", {}) == pytest.approx(
                    {kind: np.mean(each) for kind, each in texts.items()}
                )


def test_the_table_holds_the_mean_over_seeds_and_a_set_is_no_task():
    runs, scored, of = drawn(["a", "b", "a"], 0)
    for by_seed in runs.values():
        for run in by_seed.values():
            run[1]["loss_by_task"] = run[2]["loss_by_task"] = {"a": 1.0}
    summary = summarize(with_sets(runs, scored, of))
    table = by_group(summary, "loss", "by_set")
    assert [row.name for row in table.rows] == ["a", "b"]
    ends = [np.mean([runs["rt"][seed][2]["losses"][1] for seed in SEEDS])]
    assert table.rows[1].cells[1].text == f"{ends[0]:.4f}"
    assert not any(cell.below for row in table.rows for cell in row.cells)


def test_records_that_lack_losses_tell_no_set():
    runs, scored, of = drawn(["a", "b", "b"], 1)
    del runs["nft"][0][1]["losses"]
    found = with_sets(runs, scored, of)
    assert "loss_by_set" not in found["nft"][0][1]
    assert "loss_by_set" in found["nft"][0][2]
