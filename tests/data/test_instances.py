import json

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from zsg_jax.data.dataset import Corpus, open_corpus
from zsg_jax.data.instance import Instance, Turn, instances_digest
from zsg_jax.data.instances import of_corpus, of_list


def made(tasks):
    return [
        Instance(f"id {n}", task, (Turn("user", f"ask {n}"), Turn("assistant", "yes")), ("yes",))
        for n, task in enumerate(tasks)
    ]


def opened(folder, listed):
    rows = [
        {
            "id": one.id,
            "task": one.task,
            "messages": [{"role": turn.role, "content": turn.content} for turn in one.turns],
        }
        for one in listed
    ]
    (folder / "x.jsonl").write_text("\n".join(map(json.dumps, rows)))
    return open_corpus(folder / "x.jsonl", scratch=folder, advice="", full_account=True)


@settings(deadline=None)
@given(st.lists(st.sampled_from("abc"), min_size=1, max_size=9), st.data())
def test_instances_are_what_a_list_is(tmp_path_factory, tasks, data):
    listed = made(tasks)
    with opened(tmp_path_factory.mktemp("x"), listed) as corpus:
        for whole in (of_corpus(corpus), of_list(listed)):
            expected = listed
            assert whole.digest == instances_digest(listed)
            # A selection, and a selection of it.
            for _ in range(2):
                rows = data.draw(st.lists(st.integers(0, max(len(expected) - 1, 0)), max_size=9))
                rows = rows if expected else []
                whole = whole.select(np.array(rows, np.int64))
                expected = [expected[row] for row in rows]
                assert list(whole) == expected
                assert len(whole) == len(expected)
                assert whole.ids == [one.id for one in expected]
                assert whole.task_names == [one.task for one in expected]
                assert list(whole.texts) == [one.text for one in expected]
                assert whole.digest == instances_digest(expected)
                start, stop = data.draw(st.tuples(st.integers(-4, 9), st.integers(-4, 9)))
                assert whole[start:stop] == expected[start:stop]
                assert whole.texts[start:stop] == [one.text for one in expected[start:stop]]
                for row in range(len(expected)):
                    assert whole[np.int64(row)] == whole[row] == expected[row]
                    assert whole[-row - 1] == expected[-row - 1]
                    assert whole.texts[row] == expected[row].text


def test_an_instance_is_read_when_it_is_asked_for(tmp_path, monkeypatch):
    read = []
    plain = Corpus.instance
    with opened(tmp_path, made("abcab")) as corpus:
        whole = of_corpus(corpus)
        monkeypatch.setattr(
            Corpus, "instance", lambda self, row: read.append(row) or plain(self, row)
        )
        part = whole.select(np.array([3, 1, 4]))
        assert (part.ids, part.task_names, len(part.texts)) == (
            ["id 3", "id 1", "id 4"],
            ["a", "b", "b"],
            3,
        )
        assert whole.digest == corpus.digest
        assert read == []
        assert part[2].id == "id 4"
        assert part.texts[0] == "ask 3 yes"
        assert read == [4, 3]


def test_instances_are_instances_already():
    whole = of_list(made("ab"))
    assert of_list(whole) is whole
    with pytest.raises(IndexError):
        whole[2]
