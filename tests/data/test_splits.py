import json
from collections import Counter

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from zsg_jax.data.dataset import from_list
from zsg_jax.data.instance import Instance, Turn
from zsg_jax.data.sampling import draw
from zsg_jax.data.splits import (
    Selection,
    Split,
    check_split,
    choose_split,
    report_split,
    select,
    select_sides,
)
from zsg_jax.runtime.errors import UserError

TASKS = st.lists(st.integers(0, 6), min_size=2, max_size=60).filter(
    lambda tasks: len(set(tasks)) < len(tasks)
)


@given(TASKS, st.floats(0.01, 0.99), st.integers(0, 2**32))
def test_every_task_gives_its_share_and_keeps_an_example(tasks, fraction, seed):
    tasks = np.array(tasks, np.int32)
    kept = report_split(tasks, fraction, seed)
    assert (kept.shape, kept.dtype) == (tasks.shape, bool)
    np.testing.assert_array_equal(kept, report_split(tasks, fraction, seed))
    for task in set(tasks.tolist()):
        total = int((tasks == task).sum())
        share = min(max(round(fraction * total), 1), total - 1)
        assert kept[tasks == task].sum() == share


@given(TASKS, st.floats(0.01, 0.99), st.integers(0, 2**32), st.data())
def test_answers_of_a_conversation_stand_on_one_side(tasks, fraction, seed, data):
    answers = data.draw(st.lists(st.integers(0, len(tasks) - 1), max_size=80))
    # Every conversation has an answer; the others stand anywhere among them.
    conversation = np.array(data.draw(st.permutations([*range(len(tasks)), *answers])))
    tasks = np.array(tasks, np.int32)
    kept = report_split(tasks[conversation], fraction, seed, conversation)
    np.testing.assert_array_equal(kept, report_split(tasks, fraction, seed)[conversation])


@given(TASKS, st.floats(0.01, 0.99), st.integers(0, 2**32), st.data())
def test_every_target_set_keeps_an_example_to_arrange_toward(tasks, fraction, seed, data):
    tasks = np.array([0, 0, *tasks], np.int32)
    more = data.draw(st.lists(st.integers(0, 3), min_size=len(tasks) - 2, max_size=len(tasks) - 2))
    sets = np.unique([0, 0, *more], return_inverse=True)[1].astype(np.int32)
    kept = report_split(tasks, fraction, seed, set_index=sets)
    alone = report_split(tasks, fraction, seed)
    assert kept.any()
    assert all(not kept[sets == one].all() for one in sets)
    # Where the draw by task does so, as where every task is in one set alone, it stays.
    if all(not alone[sets == one].all() for one in sets):
        np.testing.assert_array_equal(kept, alone)
    # Sets numbered from 0 without a gap, as those of a mixture.
    by_task = np.unique(tasks, return_inverse=True)[1].astype(np.int32)
    np.testing.assert_array_equal(report_split(tasks, fraction, seed, set_index=by_task), alone)


def test_what_cannot_be_split_is_refused():
    for task in ([], [0], [0, 1, 2]):
        with pytest.raises(UserError, match="no task has two rows"):
            report_split(np.array(task, np.int32), 0.5, 0)
    with pytest.raises(UserError, match="no task has two conversations"):
        report_split(np.zeros(3, np.int32), 0.5, 0, np.zeros(3, np.int64))
    for fraction in (0.0, 1.0, -0.1, 1.5, float("nan")):
        with pytest.raises(UserError, match="between 0 and 1"):
            report_split(np.zeros(4, np.int32), fraction, 0)


def write(folder, content):
    path = folder / "split.json"
    path.write_text(content if isinstance(content, str) else json.dumps(content))
    return str(path)


def test_a_file_says_which_tasks_are_unseen(tmp_path):
    lists = {"train_key_list": ["beta", "a", "beta"], "eval_key_list": ["c"], "seed": 1}
    path = write(tmp_path, lists)
    chosen = choose_split(path, ["a", "beta", "c"], ["d", "c"], 0)
    assert chosen == Split(frozenset({"a", "beta"}), frozenset("c"))
    with pytest.raises(UserError, match=r"train_key_list: no row .* 'beta'; .*did you mean bet_a"):
        choose_split(path, ["a", "bet_a"], ["c"], 0)
    with pytest.raises(UserError, match=r"eval_key_list: no row of \S*data\.test .* 'c'"):
        choose_split(path, ["a", "beta"], ["a"], 0)
    with pytest.raises(UserError, match=r"none\.json: cannot be read: No such file.* held-out:N"):
        choose_split(str(tmp_path / "none.json"), ["a"], ["b"], 0)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("{", "is not JSON"),
        ([], '"train_key_list" must be a list'),
        (
            '{"train_key_list": ["a"], "eval_key_list": ["b"], "eval_key_list": ["c"]}',
            'names "eval_key_list" twice',
        ),
        ({"train_key_list": ["a"]}, '"eval_key_list" must be a list'),
        ({"train_key_list": [], "eval_key_list": ["b"]}, '"train_key_list" .* at least one'),
        (
            {"train_key_list": ["a", 3], "eval_key_list": ["b"]},
            '"train_key_list" must be a list of task',
        ),
        (
            {"train_key_list": list("abcdefgh"), "eval_key_list": list("bcdefghi")},
            "'b', 'c', 'd', 'e', 'f' and 2 more in both lists",
        ),
    ],
)
def test_a_split_file_that_cannot_be_used_is_refused(tmp_path, content, message):
    path = write(tmp_path, content)
    with pytest.raises(UserError, match=message) as caught:
        choose_split(path, list("abcdefgh"), list("bcdefghi"), 0)
    assert path in str(caught.value)
    assert "\n" not in str(caught.value)


NAMES = st.sets(st.text(st.characters(codec="utf-8"), min_size=1, max_size=3), min_size=2)


@settings(max_examples=25)
@given(NAMES, st.data(), st.integers(0, 9), st.randoms(use_true_random=False))
def test_tasks_are_held_out_by_seed(names, data, seed, random):
    size = data.draw(st.integers(1, len(names) - 1))
    tasks = sorted(names)
    chosen = choose_split(f"held-out:{size}", tasks, tasks, seed)
    assert len(chosen.test) == size
    assert chosen.train | chosen.test == names
    assert not chosen.train & chosen.test
    # Neither the order of the tasks nor one that is not drawn has a say; one more adds to them.
    random.shuffle(tasks)
    assert choose_split(f"held-out:{size}", tasks, tasks, seed) == chosen
    others = [name for name in tasks if name != min(chosen.train)]
    if len(chosen.train) > 1:
        assert choose_split(f"held-out:{size}", others, others, seed).test == chosen.test
        more = choose_split(f"held-out:{size + 1}", tasks, tasks, seed)
        assert chosen.test < more.test


def test_a_share_of_the_tasks_is_held_out_of_another_file_too():
    tasks = [f"t{number}" for number in range(40)]
    chosen = choose_split("held-out:0.1", [*tasks[:30], "own", "(no task)"], [*tasks], 0)
    assert len(chosen.test) == 4
    assert chosen.train == {*tasks[:30], "own", "(no task)"} - chosen.test
    assert len(choose_split("held-out:0.001", tasks, tasks, 0).test) == 1
    # Rows without a task are never the unseen ones.
    only = choose_split("held-out:1", ["a", "(no task)"], ["a", "(no task)"], 0)
    assert only == Split(frozenset(["(no task)"]), frozenset(["a"]))


def test_what_cannot_be_held_out_is_refused():
    for split in ("held-out:", "held-out:0", "held-out:1.5", "held-out:-1", "held-out:x"):
        with pytest.raises(UserError, match="neither a number of tasks nor a share"):
            check_split(split)
    check_split("held-out:1")
    check_split("any/file.json")
    with pytest.raises(UserError, match="hold out 3 tasks: the test rows have 2 with a name"):
        choose_split("held-out:3", ["a", "b"], ["c", "d"], 0)
    with pytest.raises(UserError, match=r"2 tasks: .* 0 would be left to train on"):
        choose_split("held-out:2", ["a", "b"], ["a", "b"], 0)


LETTERS = st.lists(st.sampled_from("abc"), max_size=40)
TURNS = (Turn("user", "x"), Turn("assistant", "y"))


def dataset(pairs):
    """Examples by task and id."""
    return from_list([Instance(identity, task, TURNS, ("y",)) for task, identity in pairs])


def numbered(tasks):
    """Examples whose ids are TASK-NUMBER, counted within the task."""
    seen = Counter()
    pairs = []
    for task in tasks:
        pairs.append((task, f"{task}-{seen[task]}"))
        seen[task] += 1
    return pairs


def pick(pairs, **options):
    """Ids of the examples selected."""
    indices = select(dataset(pairs), **options)
    assert indices.dtype == np.int64
    assert (np.diff(indices) > 0).all()
    return [pairs[index][1] for index in indices]


@given(LETTERS, st.none() | st.integers(1, 6), st.none() | st.sets(st.sampled_from("abc")))
def test_selected_examples_are_those_of_the_rule(tasks, per_task, keep):
    pairs = numbered(tasks)
    expected = set()
    for name in set(tasks) if keep is None else keep:
        own = [identity for task, identity in pairs if task == name]
        own.sort(key=lambda identity, name=name: draw(3, "row", name, identity))
        expected |= set(own[:per_task])
    chosen = pick(pairs, per_task=per_task, keep=keep, seed=3)
    assert chosen == [identity for _, identity in pairs if identity in expected]


def test_one_file_gives_both_sides_of_flan_mini(tmp_path, capsys):
    lists = {"train_key_list": ["a", "b", "c"], "eval_key_list": ["d", "e"]}
    both = dataset(numbered("abcde" * 30))
    selection = Selection(write(tmp_path, lists), train_per_task=20, test_per_task=5)
    train, test = select_sides(both, both, selection)
    assert Counter(train.task_names) == {"a": 20, "b": 20, "c": 20}
    assert Counter(test.task_names) == {"d": 5, "e": 5}
    assert "train: 60 of 150 rows and 3 of 5 tasks are used" in capsys.readouterr().err
    assert select_sides(both, both, Selection(seed=3)) == (both, both)
    assert not capsys.readouterr().err
    held = select_sides(both, both, Selection("held-out:2", seed=4))
    assert [len(side) for side in held] == [90, 60]
    with pytest.raises(UserError, match="hold out fewer"):
        select_sides(both, both, Selection("held-out:5"))


@pytest.mark.parametrize(
    "alike", [("r\u00e9sum\u00e9", "re\u0301sume\u0301"), ("QA", "QA "), ("Q A", "Q\u00a0A")]
)
def test_tasks_that_look_alike_are_told(capsys, alike):
    train, test = (dataset(numbered([one, "b"])) for one in alike)
    select_sides(train, test, Selection())
    assert "tasks: 2 names" in (told := capsys.readouterr().err)
    assert "count as different tasks" in told
    select_sides(train, train, Selection())
    assert not capsys.readouterr().err
