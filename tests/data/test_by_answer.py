import json

import numpy as np
import pytest

from zsg_jax.data.by_answer import by_answer
from zsg_jax.data.dataset import from_list
from zsg_jax.data.instance import instances_digest
from zsg_jax.data.reading import ReadOptions, open_dataset
from zsg_jax.data.schemas.read import parse
from zsg_jax.runtime.errors import UserError


def said(count, **of_last):
    turns = [{"role": ("user", "assistant")[n % 2], "content": f"say {n}"} for n in range(count)]
    return [*turns[:-1], turns[-1] | of_last]


@pytest.fixture
def opened(tmp_path):
    def write(*rows):
        path = tmp_path / "rows.jsonl"
        path.write_text("".join(json.dumps(row) + "\n" for row in rows))
        return open_dataset(path, ReadOptions(tmp_path, keep_all=True))

    return write


def test_every_answer_that_is_learned_becomes_the_last_of_an_instance(opened, capsys):
    long = {"id": "a", "task": "x", "messages": said(6), "references": ["r"]}
    long["choices"] = ["say 5", "no"]
    system = [{"role": "system", "content": "s"}, *said(4, weight=0)]
    with opened(long, {"id": "b", "messages": said(2)}, {"id": "c", "messages": system}) as given:
        made = by_answer(given, "training")
        assert made.ids == [one.id for one in made] == ["a#1", "a#2", "a#3", "b", "c#1"]
        whole = given[0]
        for number, one in enumerate(made[:3]):
            assert one.turns == whole.turns[: 2 * number + 2]
            assert (one.task, one.answered) == ("x", True)
        assert (made[2].references, made[2].choices) == (whole.references, whole.choices)
        assert (made[0].references, made[0].choices) == (("say 1",), ())
        assert made[3] == given[1]
        assert [turn.content for turn in made[4].turns] == ["s", "say 0", "say 1"]
        assert made.numbers.tolist() == [1, 1, 1, 2, 3]
        assert made.task_names == ["x"] * 3 + ["(no task)"] * 2
        chosen = made.select(np.array([4, 1]))
        assert [one.id for one in chosen] == chosen.ids == ["c#1", "a#2"]
        assert made.digest == instances_digest(made) != given.digest
        assert parse(made.raw(1), "none") == made[1]
    assert "3 training conversations became 5 rows" in capsys.readouterr().err


def test_an_id_that_another_answer_gets_is_refused(opened):
    rows = {"id": "a#1", "messages": said(2)}, {"id": "a", "messages": said(4)}
    with opened(*rows) as given, pytest.raises(UserError, match="an id of a test row"):
        by_answer(given, "test")
    assert len(by_answer(from_list([]), "test")) == 0
