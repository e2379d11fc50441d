"""The rows of a study from what was read to what was trained on: counts that add up."""

import re

from hypothesis import given, settings
from hypothesis import strategies as st

from zsg_jax.report.build import not_kept
from zsg_jax.report.rows import but_alike, copies, read_and_kept, taken, used

COUNTS = st.integers(0, 2000)


def numbers(text):
    return [int(one.replace(",", "")) for one in re.findall(r"\d[\d,]*", text)]


@settings(max_examples=40)
@given(COUNTS, COUNTS, COUNTS, COUNTS, COUNTS, st.booleans())
def test_what_is_kept_and_what_is_left_out_are_what_was_read(
    kept, cut, refused, twins, leaks, split
):
    read = kept + cut + refused + twins + leaks
    data = {
        "train_rows": read,
        "train_tasks": 7,
        "train_dropped": ["x"] * (cut + refused),
        "train_refused": [{}] * refused,
        "test_rows": kept + cut,
        "test_tasks": 3,
        "test_dropped": ["x"] * cut,
        "shared_tasks": [],
        "split": split,
        "aimed_rows": 11,
        "scored_rows": 13,
    }
    made = {
        "deduplicate": 0.95,
        "rows_left_out_as_duplicates": twins,
        "rows_left_out_as_leaks": leaks,
    }
    told = read_and_kept(data, {"data.train": "a.jsonl", "data.test": "b.jsonl"}, made)
    assert numbers(told["Training data, read"]) == [read, 7]
    # Apart from 0.95, which the reason of the duplicates names.
    parts = numbers(told["Training data, kept"].replace("0.95", ""))
    assert parts == [kept, *(one for one in (refused, cut, twins, leaks) if one)]
    assert numbers(told["Test data, read"]) == [kept + cut, 3]
    aims = [11, 13] if split else []
    assert numbers(told["Test data, kept"]) == [kept, *([cut] if cut else []), *aims]


def test_of_what_is_kept_an_order_has_some_and_some_of_these_are_trained_on():
    [(label, told)] = used("tmta-nft", 4800, 29, 3200, 200).items()
    assert "tmta-nft (nearest first)" in label
    assert numbers(told) == [4800, 29, 3200, 200]
    assert numbers(used("x", 48, 2, 48, 3).popitem()[1]) == [48, 2, 3]


def test_an_order_that_was_followed_until_rows_were_arranged_anew_is_not_said_to_be_used_up():
    told = used("x", 122, 4, 48, 16, (6, 10)).popitem()[1]
    assert "all of them" not in told
    assert numbers(told) == [122, 4, 48, 6, 10, 10]  # 6 steps, 10 after them; rearranged/10
    assert "rearranged/10" in told


def test_rows_to_score_that_have_steered_or_are_copies_are_told():
    assert but_alike({}) == but_alike({"scored_alike": 0}) == ""
    assert numbers(but_alike({"scored_alike": 2345})) == [2345]
    assert copies({}) == copies({"scored_copies": 0}) == ""
    assert numbers(copies({"scored_copies": 2345})) == [2345]


def test_seeds_that_lack_a_measure_do_not_speak_for_the_others():
    def run(*lacking):
        lost = [{"step": step, "not_kept": ["rouge", "rouge"]} for step in lacking]
        return [*lost, {"step": 9, "not_kept": ["rouge"], "rouge1": 1.0}]

    [every] = not_kept({"nft": {0: run(2, 4), 7: run(2, 4)}, "rt": {0: run(), 7: run()}})
    assert every.startswith("nft: rouge was asked for")
    assert "at step 2, 4," in every
    some = not_kept({"nft": {0: run(2, 4), 7: run(4), 8: run()}})
    assert [one.partition(": ")[0] for one in some] == ["nft, seed 0", "nft, seed 0 and 7"]
    assert ["at step 2," in some[0], "at step 4," in some[1]] == [True, True]


def test_names_alone_tell_which_tasks_are_in_both():
    data = {
        **{f"{side}_{fact}": 3 for side in ("train", "test") for fact in ("rows", "tasks")},
        **{"train_dropped": [], "test_dropped": [], "shared_tasks": [], "split": False},
    }
    told = read_and_kept(data, {"data.train": "a.jsonl", "data.test": "b.jsonl"}, {})
    assert "by name" in told["Test data, read"]  # a row may have no task
    assert "by data." not in "".join(told.values())
    keys = {"data.split": "held-out:1", "data.train_per_task": 9, "data.test_per_task": None}
    told = read_and_kept(data, {"data.train": "a.jsonl", "data.test": "b.jsonl"} | keys, {})
    assert told["Training data, read"].endswith("by data.split and data.train_per_task")
    assert "by data.split, " in told["Test data, read"]


def test_only_a_first_epoch_in_another_order_or_rows_arranged_anew_are_told():
    for rules in (["ordered"], ["ordered", "backward"]):
        assert taken(rules) == []
    [told] = taken(["anew@3+6"], " of one")
    assert "After step 3 and 6 each run of one" in told
    assert "of one" in taken(["backward"], " of one")[0]
    assert taken(["backward"]) != taken(["shuffled", "ordered"]) != []
