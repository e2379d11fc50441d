import hashlib
import json
from collections import Counter
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from zsg_jax.data.schemas.read import read_messages
from zsg_jax.data.selection import select, select_sides
from zsg_jax.runtime.errors import UserError

NAMES = ["a", "b", "c"]
ROWS = st.lists(st.sampled_from(NAMES), max_size=40)


def selected(rows, **options):
    """Ids, "TASK-NUMBER" within the task, of the rows selected."""
    number = Counter()
    ids = []
    for name in rows:
        ids.append(f"{name}-{number[name]}")
        number[name] += 1
    return pick(list(zip(rows, ids, strict=True)), **options)


def pick(pairs, **options):
    tasks = list(dict.fromkeys(name for name, _ in pairs))
    task = np.array([tasks.index(name) for name, _ in pairs], np.int32)
    taken = select(tasks, task, [identity for _, identity in pairs], **options)
    assert taken.dtype == np.int64
    assert (np.diff(taken) > 0).all()
    return [pairs[row][1] for row in taken]


def key(seed, task, identity):
    told = b"".join(
        len(part).to_bytes(8, "little") + part
        for part in (str(seed).encode(), b"row", task.encode(), identity.encode())
    )
    return int.from_bytes(hashlib.blake2b(told, digest_size=8).digest(), "little")


@given(ROWS, st.none() | st.integers(1, 6), st.none() | st.sets(st.sampled_from(NAMES)))
def test_rows_are_those_of_the_rule(rows, per_task, keep):
    pairs = []
    for name in rows:
        pairs.append((name, f"{name}-{sum(one == name for one, _ in pairs)}"))
    expected = []
    for name in set(rows) if keep is None else keep:
        own = [identity for one, identity in pairs if one == name]
        own.sort(key=lambda identity, name=name: key(3, name, identity))
        expected += own[:per_task]
    got = selected(rows, per_task=per_task, keep=keep, seed=3)
    assert sorted(got) == sorted(expected)
    assert got == [identity for _, identity in pairs if identity in expected]


@given(ROWS, st.integers(1, 6), st.randoms(use_true_random=False))
def test_other_tasks_and_the_order_change_nothing(rows, per_task, random):
    pairs = [(name, f"{name}-{number}") for number, name in enumerate(rows)]
    first = set(pick(pairs, per_task=per_task, seed=1)) if pairs else set()
    others = [(name, identity) for name, identity in pairs if name != "a"]
    others += [("d", f"d-{number}") for number in range(9)]
    random.shuffle(others)
    second = set(pick(others, per_task=per_task, seed=1))
    assert {one for one in first if one[0] != "a"} == {one for one in second if one[0] != "d"}


def test_the_seed_decides():
    rows = ["a"] * 40
    assert selected(rows, per_task=5, seed=0) != selected(rows, per_task=5, seed=1)
    assert selected(rows, per_task=40, seed=0) == [f"a-{number}" for number in range(40)]


class Side(NamedTuple):
    tasks: list[str]
    task: np.ndarray
    ids: list[str]


def side(path):
    instances = read_messages(path)[0]
    tasks = list(dict.fromkeys(one.task for one in instances))
    task = np.array([tasks.index(one.task) for one in instances], np.int32)
    return Side(tasks, task, [one.id for one in instances])


def write(folder, tasks, per_task):
    turns = [{"role": "user", "content": "x"}, {"role": "assistant", "content": "y"}]
    rows = [
        {"id": f"{name}-{number}", "task": name, "messages": turns}
        for number in range(per_task)
        for name in tasks
    ]
    path = folder / "rows.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def test_one_file_gives_both_sides_of_flan_mini(tmp_path, capsys):
    path = write(tmp_path, "abcde", 30)
    lists = {"train_key_list": ["a", "b", "c"], "eval_key_list": ["d", "e"]}
    (tmp_path / "split.json").write_text(json.dumps(lists))
    both = side(path)
    rows = select_sides(
        both,
        both,
        split=str(tmp_path / "split.json"),
        train_per_task=20,
        test_per_task=5,
        seed=0,
    )
    tasks = [Counter(both.ids[row][0] for row in one) for one in rows]
    assert tasks == [{"a": 20, "b": 20, "c": 20}, {"d": 5, "e": 5}]
    assert "train: 60 of 150 rows and 3 of 5 tasks are used" in capsys.readouterr().err
    whole = select_sides(both, both)
    assert [len(one) for one in whole] == [150, 150]
    assert not capsys.readouterr().err
    held = select_sides(both, both, split="held-out:2", seed=4)
    assert [len(one) for one in held] == [90, 60]
    with pytest.raises(UserError, match="hold out fewer"):
        select_sides(both, both, split="held-out:5")


def test_the_real_tasks_are_split_and_sampled(assets):
    path = assets / "data" / "p3" / "train.jsonl.gz"
    if not Path(path).exists():
        pytest.skip("no data/p3 in ZSG_JAX_ASSETS")
    rows = side(path)
    train, test = select_sides(rows, rows, split="held-out:0.1", train_per_task=20, test_per_task=5)
    sides = [{rows.tasks[task] for task in rows.task[one]} for one in (train, test)]
    assert not sides[0] & sides[1]
    assert (len(sides[0]), len(sides[1])) == (248, 28)
    assert np.bincount(rows.task[train]).max() == 20
    assert np.bincount(rows.task[test]).max() == 5
