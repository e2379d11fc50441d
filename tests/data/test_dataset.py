import gzip
import hashlib
import json
import os
import tempfile
import threading
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from zsg_jax.data.dataset import from_list, join
from zsg_jax.data.instance import Instance, Turn, instances_digest
from zsg_jax.data.reading import SKIPPED_KEPT, ReadOptions, open_dataset
from zsg_jax.runtime.errors import UserError


def record(**fields):
    turns = [{"role": "user", "content": "Capital?"}, {"role": "assistant", "content": "Paris"}]
    return {"messages": turns, **fields}


def opened(path, bad_rows="refuse", scratch="scratch", **options):
    options = ReadOptions(path.parent / scratch, bad_rows=bad_rows, **options)
    return open_dataset(path, options)


LINES = st.lists(
    st.one_of(
        st.sampled_from([b"", b"  ", b"{", b"[]", json.dumps(record(messages=[])).encode()]),
        st.builds(
            lambda identity, task, note, space: (
                space
                + json.dumps(
                    record(**identity, **task, note=note, references=[note or "x"]),
                    ensure_ascii=False,
                ).encode()
                + space
            ),
            st.sampled_from([{}, {"id": "a"}, {"id": "ü"}, {"id": 7}]),
            st.sampled_from([{}, {"task": "t"}, {"task": "β"}]),
            st.sampled_from(["", "naïve", "  x ", "\u2028"]),
            st.sampled_from([b"", b" ", b"\t"]),
        ),
    ),
    max_size=12,
)


@settings(max_examples=30)
@given(LINES, st.sampled_from([".jsonl", ".jsonl.gz"]), st.sampled_from([b"\n", b"\r\n"]))
def test_a_dataset_holds_what_stands_in_the_lines(tmp_path_factory, lines, suffix, end):
    path = tmp_path_factory.mktemp("dataset") / f"x{suffix}"
    content = end.join(lines)
    path.write_bytes(gzip.compress(content) if suffix.endswith("gz") else content)
    kept, left_out, seen = {}, [], set()
    for number, line in enumerate(map(bytes.strip, lines), start=1):
        fields = json.loads(line) if line.startswith(b'{"') else {}
        identity = str(fields.get("id", f"{path.name}:{number}"))
        says = fields.get("messages") and all(map(str.strip, fields["references"]))
        if says and identity not in seen:
            kept[number] = (identity, fields.get("task", "(no task)"), line)
            seen.add(identity)
        elif line:
            left_out.append(number)
    if not kept or left_out:
        with pytest.raises(UserError):
            opened(path)
    for keep_all in (False, True) if kept else ():
        with opened(path, "skip", keep_all=keep_all) as dataset:
            ids, tasks, raw = map(list, zip(*kept.values(), strict=True))
            assert [one.id for one in dataset] == dataset.ids == ids
            assert [one.task for one in dataset] == dataset.task_names == tasks
            assert (dataset.task_index.dtype, len(dataset.tasks)) == (np.int32, len(set(tasks)))
            assert dataset.digest == instances_digest(dataset)
            assert [one.line for one in dataset.skipped] == left_out
            assert [dataset.raw(k) for k in range(len(dataset))] == raw
            assert dataset.numbers.tolist() == list(kept)


def instances_of(tasks):
    return [
        Instance(f"id {n}", task, (Turn("user", f"ask {n}"), Turn("assistant", "yes")), ("yes",))
        for n, task in enumerate(tasks)
    ]


def written(path, instances):
    """A file that gives these instances, opened."""
    records = [
        {"id": one.id, "task": one.task, "messages": [turn._asdict() for turn in one.turns]}
        for one in instances
    ]
    path.write_text("\n".join(map(json.dumps, records)))
    return opened(path, keep_all=True)


def test_the_digest_is_of_all_that_instances_hold():
    pair = Turn("user", "a"), Turn("assistant", "b")
    made = [
        [Instance("i", "t", pair, ("b",), choices)]
        for choices in ((), ("b", "c"), ("c", "b"), ("bc", "b"))
    ]
    made += [[Instance("i", "t", pair, ("b", "c", "b"))], [Instance("i", "t", pair, ("b", "c"))]]
    assert len({instances_digest(one) for one in made}) == len(made)
    # Workdirs and prepared data sets are known by it.
    known = "310676d9602d8ad44659fd43e0fe8b66"
    assert instances_digest(made[0]).startswith(known)


TASKS = st.lists(st.sampled_from("abc"), min_size=1, max_size=9)


@settings(max_examples=20)
@given(TASKS, st.data())
def test_a_selection_is_what_it_is_of_a_list(tmp_path_factory, tasks, data):
    listed = instances_of(tasks)
    with written(tmp_path_factory.mktemp("x") / "x.jsonl", listed) as in_file:
        for dataset in (in_file, from_list(listed)):
            expected = listed
            # A selection, and a selection of it.
            for _ in range(2):
                chosen = data.draw(st.lists(st.integers(0, max(len(expected) - 1, 0)), max_size=9))
                chosen = chosen if expected else []
                dataset = dataset.select(chosen)
                expected = [expected[index] for index in chosen]
                assert list(dataset) == expected
                assert dataset.ids == [one.id for one in expected]
                assert dataset.task_names == [one.task for one in expected]
                assert dataset.digest == instances_digest(expected)
                start, stop = data.draw(st.tuples(st.integers(-4, 9), st.integers(-4, 9)))
                assert list(dataset[start:stop]) == expected[start:stop]
                assert dataset.texts[start:stop] == [one.text for one in expected[start:stop]]
                for index in range(len(expected)):
                    assert dataset[np.int64(index)] == dataset[index] == expected[index]
                    assert dataset[-index - 1] == expected[-index - 1]
                    assert json.loads(dataset.raw(index))["id"] == expected[index].id
                with pytest.raises(IndexError):
                    dataset[len(expected)]


@settings(max_examples=20)
@given(TASKS, TASKS, st.data())
def test_joined_datasets_are_one_in_the_order_given(tmp_path_factory, one, two, data):
    lists = {"one": instances_of(one), "two": instances_of(two)}
    where = [(k, index) for k, tasks in enumerate((one, two)) for index in range(len(tasks))]
    chosen = data.draw(st.lists(st.sampled_from(where), min_size=1))
    source = np.array([k for k, _ in chosen], np.int32)
    index = np.array([within for _, within in chosen], np.int64)
    folder = tmp_path_factory.mktemp("x")
    with join(
        folder / "m.mix.json",
        {
            "one": written(folder / "1.jsonl", lists["one"]),
            "two": from_list(lists["two"]).select(range(len(two))),
        },
        source,
        index,
    ) as joined:
        names = [("one", "two")[k] for k in source]
        expected = [lists[name][within] for name, within in zip(names, index, strict=True)]
        assert joined.ids == [f"{n}/{e.id}" for n, e in zip(names, expected, strict=True)]
        assert joined.ids == [found.id for found in joined]
        assert [found.turns for found in joined] == [one.turns for one in expected]
        assert joined.task_names == [one.task for one in expected]
        assert sorted(joined.tasks) == sorted({one.task for one in expected})
        assert joined.numbers.tolist() == (index + 1).tolist()
        assert joined.digest == instances_digest(joined)
        again = joined.select([0, len(joined) - 1])
        assert list(again) == [joined[0], joined[-1]]


def test_the_digest_is_over_lengths_and_texts(tmp_path):
    path = tmp_path / "x.jsonl"
    path.write_text(json.dumps(record(id="é", task="t", references=["París"])))
    content = b""
    for text in ("é", "t", "user", "Capital?", "assistant", "Paris", "Paris", "París"):
        content += len(text.encode()).to_bytes(8, "little") + text.encode()
    with opened(path) as dataset:
        assert dataset.digest == hashlib.sha256(content + b"\xff").hexdigest()


def test_bad_records_are_all_counted_and_some_or_all_kept(tmp_path):
    path = tmp_path / "x.jsonl"
    path.write_text(json.dumps(record()) + "\n" + "{\n" * (SKIPPED_KEPT + 5))
    for keep_all, kept in ((False, SKIPPED_KEPT), (True, SKIPPED_KEPT + 5)):
        with opened(path, "skip", keep_all=keep_all) as dataset:
            assert dataset.skipped_count == SKIPPED_KEPT + 5
            assert [one.line for one in dataset.skipped] == list(range(2, kept + 2))


@pytest.mark.parametrize("change", ["touched", "longer", "cut", "replaced", "edited"])
def test_an_example_is_read_when_it_is_asked_for_and_a_changed_file_is_noticed(tmp_path, change):
    path = tmp_path / "x.jsonl"
    with written(path, instances_of("abcab")) as dataset:
        part = dataset.select(np.array([3, 1, 4]))[:2]
        if change == "replaced":
            # What was opened is still there.
            (tmp_path / "new").write_text(json.dumps(record(id="new")) + "\n")
            (tmp_path / "new").replace(path)
            assert dataset[0].id == "id 0"
            return
        if change == "touched":
            os.utime(path, ns=(1, 1))
        elif change == "edited":
            # In place, with its size as it was and its time put back.
            before, content = path.stat(), path.read_text()
            path.write_text(content.replace("id 3", "id 8").replace("id 1", "id 9"))
            os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))
        else:
            os.truncate(path, 1000 if change == "longer" else 5)
        assert (part.ids, part.task_names, len(part.texts)) == (["id 3", "id 1"], ["a", "b"], 2)
        for read in (lambda: part[0], lambda: part.texts[0], lambda: part.raw(0)):
            with pytest.raises(UserError, match=r"x\.jsonl: changed while it was in use"):
                read()


def test_a_copy_leaves_nothing_behind_and_lines_need_none(tmp_path):
    path = tmp_path / "x.jsonl.gz"
    path.write_bytes(gzip.compress(json.dumps(record()).encode()))
    with opened(path) as dataset:
        # A file without a name goes with the process, however that ends.
        assert list((tmp_path / "scratch").iterdir()) == []
        path.write_bytes(b"the source may go once it is copied")
        assert dataset[0].id == "x.jsonl.gz:1"
    for name in ("x.jsonl", "x.json"):
        plain = tmp_path / name
        plain.write_text("\n" + json.dumps(record(id="a")) + "\n" + json.dumps(record(id="b")))
        with opened(plain, scratch="unused") as dataset:
            assert not (tmp_path / "unused").exists()
            assert [one.id for one in dataset[::-1]] == ["b", "a"]


def test_a_pipe_is_a_source(tmp_path):
    path = tmp_path / "pipe"
    os.mkfifo(path)
    content = "\n".join(json.dumps(record(id=k)) for k in range(2500))
    writer = threading.Thread(target=path.write_text, args=(content,))
    writer.start()
    with opened(path) as dataset:
        writer.join()
        assert [dataset[k].id for k in (2499, 0)] == ["2499", "0"]


def test_a_scratch_folder_that_is_none_is_refused(tmp_path):
    packed = tmp_path / "x.jsonl.gz"
    packed.write_bytes(gzip.compress(json.dumps(record()).encode()))
    (tmp_path / "taken").write_text("a file, not a folder")
    with pytest.raises(UserError, match="taken: cannot be opened"):
        opened(packed, scratch="taken")


def test_a_full_disk_is_told(tmp_path, monkeypatch):
    packed = tmp_path / "x.jsonl.gz"
    packed.write_bytes(gzip.compress(json.dumps(record()).encode()))
    full = Path("/dev/full").open("wb")  # noqa: SIM115, the dataset closes it
    monkeypatch.setattr(tempfile, "TemporaryFile", lambda dir: full)
    with pytest.raises(UserError, match=r"cannot hold the rows of .*No space left"):
        opened(packed)
