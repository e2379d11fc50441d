import gzip
import json

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from zsg_jax.data.dataset import open_corpus
from zsg_jax.data.instance import instances_digest
from zsg_jax.data.joined import Joined, open_mixture
from zsg_jax.data.mixture import read_mixture
from zsg_jax.data.schemas.read import read_messages
from zsg_jax.runtime.errors import UserError


def line(identity, task, answer):
    turns = [{"role": "user", "content": "x"}, {"role": "assistant", "content": answer}]
    return json.dumps({"id": identity, "task": task, "messages": turns, "more": [1]}) + "\n"


class Source:
    """A corpus that is said to hold some kind of rows."""

    def __init__(self, path, scratch, kind="messages"):
        self._corpus = open_corpus(path, scratch=scratch, advice="mend it")
        self.ids = [one.id for one in self._corpus.instances()]
        self.kind = kind

    def __len__(self):
        return len(self._corpus)

    def __getattr__(self, name):
        return getattr(self._corpus, name)


@pytest.fixture
def mixed(tmp_path):
    """Opens a mixture of two files that share their ids and a task."""
    (tmp_path / "one.jsonl").write_text(
        "".join(line(f"i{k}", "ab"[k % 2], f"one {k}") for k in range(6))
    )
    (tmp_path / "two.jsonl.gz").write_bytes(
        gzip.compress("".join(line(f"i{k}", "bc"[k % 2], f"two {k}") for k in range(4)).encode())
    )

    def make(kinds=("messages", "messages"), **changes):
        sources = [{"path": "one.jsonl", "cap": 4}, {"path": "two.jsonl.gz"}]
        path = tmp_path / "m.mix.json"
        path.write_text(json.dumps({"sources": sources} | changes))

        def open_entry(entry):
            kind = kinds[entry.name == "two"]
            return Source(entry.path, tmp_path / entry.name, kind)

        return open_mixture(read_mixture(path), open_entry)

    return make


def test_a_mixture_has_the_rows_of_its_sources(mixed, tmp_path, capsys):
    with mixed() as rows:
        assert len(rows) == len(rows.task) == 8
        instances = list(rows.instances())
        assert len({one.id for one in instances}) == 8
        assert rows.ids == [one.id for one in instances]
        for number, one in enumerate(instances):
            name, identity = one.id.split("/")
            file = tmp_path / {"one": "one.jsonl", "two": "two.jsonl.gz"}[name]
            whole = {own.id: own for own in read_messages(file)[0]}
            assert one.turns == whole[identity].turns
            assert rows.tasks[rows.task[number]] == one.task == whole[identity].task
            assert rows.number[number] == int(identity[1:]) + 1
        assert sorted(rows.tasks) == ["a", "b", "c"]
        assert rows.digest == instances_digest(instances)
        assert list(rows.texts([3, 1])) == [instances[3].text, instances[1].text]
        assert rows.shares == [
            {"name": "one", "path": str(tmp_path / "one.jsonl"), "rows": 4, "of": 6},
            {"name": "two", "path": str(tmp_path / "two.jsonl.gz"), "rows": 4, "of": 4},
        ]
        # What is written out of a mixture is read again as it was.
        again = tmp_path / "again.jsonl"
        again.write_bytes(b"".join(rows.raw(row) + b"\n" for row in range(8)))
        assert read_messages(again)[0] == instances
        assert all(json.loads(rows.raw(row))["more"] == [1] for row in range(8))
        with pytest.raises(IndexError):
            rows.raw(8)
    assert "m.mix.json: 8 rows mixed: one 4 of 6, two 4 of 4" in capsys.readouterr().err


def test_kinds_that_differ_become_messages_with_what_an_instance_has(mixed, tmp_path):
    with mixed(kinds=("messages", "other")) as rows:
        assert rows.kind == "messages"
        again = tmp_path / "again.jsonl"
        again.write_bytes(b"".join(rows.raw(row) + b"\n" for row in range(8)))
        assert read_messages(again)[0] == list(rows.instances())
        assert [one.startswith("one") for one in rows.ids] == [
            "more" in json.loads(rows.raw(row)) for row in range(8)
        ]
    with mixed(kinds=("other", "other")) as rows:
        assert rows.kind == "other"
        assert all(json.loads(rows.raw(row))["id"] == rows.ids[row] for row in range(8))


def test_an_error_names_the_mixture_and_the_entry(mixed, tmp_path):
    (tmp_path / "bad.jsonl").write_text("{\n")
    for path, reason in (
        ("none.jsonl", "no such file"),
        ("bad.jsonl", r"bad\.jsonl:1: is not JSON"),
    ):
        with pytest.raises(UserError, match=rf"m\.mix\.json: sources\[1\] \('two'\): .*{reason}"):
            mixed(sources=[{"path": "one.jsonl"}, {"path": path, "name": "two"}])


@settings(deadline=None, max_examples=20)
@given(st.sets(st.integers(0, 5), min_size=1))
def test_a_part_of_a_file_is_a_source(tmp_path_factory, rows):
    folder = tmp_path_factory.mktemp("part")
    path = folder / "rows.jsonl"
    lines = [line(f"i{k}", "abc"[k // 2], f"answer {k}") for k in range(6)]
    path.write_text("".join(lines))
    source, row = np.zeros(len(rows), np.int32), np.array(sorted(rows), np.int64)
    with Joined(path, [Source(path, folder)], source, row) as part:
        assert part.kind == "messages"
        assert part.ids == [f"i{k}" for k in sorted(rows)]
        assert [one.id for one in part.instances()] == [f"i{k}" for k in sorted(rows)]
        assert [part.tasks[task] for task in part.task] == ["abc"[k // 2] for k in sorted(rows)]
        assert set(part.tasks) == {"abc"[k // 2] for k in rows}
        assert part.raw(0).decode() + "\n" == lines[min(rows)]
        assert part.number.tolist() == [k + 1 for k in sorted(rows)]
