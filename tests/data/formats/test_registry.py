"""The same instances come out of every format and every schema that they are written in."""

import gzip
import json

import datasets
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from zsg_jax.data.dataset import ReadOptions, open_dataset
from zsg_jax.data.instance import Instance, Turn, instances_digest
from zsg_jax.data.schemas.read import read_messages
from zsg_jax.data.schemas.registry import SCHEMAS
from zsg_jax.runtime.errors import UserError

ADVICE = "pass --bad-rows=skip to go on"
TEXT = st.text(st.characters(exclude_categories=["Cs"]), min_size=1, max_size=12).filter(str.strip)
NAME = TEXT.filter(lambda text: "\n" not in text and "\r" not in text)


@st.composite
def instances(draw, multi):
    """Up to six instances; `multi` allows a system turn and several exchanges."""
    found = []
    for identity in draw(st.lists(NAME, min_size=1, max_size=6, unique=True)):
        pairs = draw(st.integers(1, 3 if multi else 1))
        turns = [Turn(role, draw(TEXT)) for role in ("user", "assistant") * pairs]
        if multi and draw(st.booleans()):
            turns.insert(0, Turn("system", draw(TEXT)))
        further = draw(st.lists(TEXT, max_size=2))
        references = tuple(dict.fromkeys([turns[-1].content, *further]))
        found.append(Instance(identity, draw(NAME), tuple(turns), references))
    return found


def chat(turns):
    return [{"role": turn.role, "content": turn.content} for turn in turns]


def alpaca(turns):
    instruction, _, given = turns[0].content.partition("\n\n")
    if not instruction.strip() or not given.strip():
        instruction, given = turns[0].content, ""
    return {"instruction": instruction, "input": given, "output": turns[1].content}


SPEAKERS = {"system": "system", "user": "human", "assistant": "gpt"}
# Schema, whether it holds more than one exchange, and how its fields are written from turns.
WRITTEN_AS = [
    ("messages", True, lambda turns: {"messages": chat(turns)}),
    (
        "sharegpt",
        True,
        lambda turns: {
            "conversations": [{"from": SPEAKERS[who], "value": what} for who, what in turns]
        },
    ),
    ("alpaca", False, alpaca),
    (
        "prompt_completion",
        False,
        lambda turns: {"prompt": turns[0].content, "completion": turns[1].content},
    ),
    (
        "prompt_completion",
        True,
        lambda turns: {"prompt": chat(turns[:-1]), "completion": chat(turns[-1:])},
    ),
    (
        "question_answer",
        False,
        lambda turns: {"question": turns[0].content, "answer": turns[1].content},
    ),
    (
        "inputs_targets",
        False,
        lambda turns: {"inputs": turns[0].content, "targets": turns[1].content},
    ),
    (
        "inputs_targets",
        False,
        lambda turns: {
            "inputs": [1, 2],
            "inputs_pretokenized": turns[0].content,
            "targets": [],
            "targets_pretokenized": turns[1].content,
        },
    ),
]


def table(rows):
    """Columns for every field that any row has; pyarrow alone would look at the first row."""
    names = dict.fromkeys(name for row in rows for name in row)
    return pa.Table.from_pylist([{name: row.get(name) for name in names} for row in rows])


def write_lines(rows, folder):
    path = folder / "x.jsonl"
    path.write_text("\n".join(map(json.dumps, rows)))
    return path


def write_json_lines(rows, folder):
    path = folder / "x.json"
    path.write_text("\n".join(json.dumps(row, ensure_ascii=False) for row in rows), "utf-8")
    return path


def write_packed_lines(rows, folder):
    path = folder / "x.jsonl.gz"
    path.write_bytes(gzip.compress("\n".join(map(json.dumps, rows)).encode()))
    return path


def write_array(rows, folder):
    path = folder / "x.json"
    path.write_text(json.dumps(rows, indent=1, ensure_ascii=False), "utf-8")
    return path


def write_packed_array(rows, folder):
    path = folder / "x.json.gz"
    path.write_bytes(gzip.compress(json.dumps(rows).encode()))
    return path


def write_parquet(rows, folder):
    pq.write_table(table(rows), folder / "x.parquet", row_group_size=2)
    return folder / "x.parquet"


def write_dataset(rows, folder):
    datasets.disable_progress_bars()
    whole = datasets.Dataset(table(rows))
    whole.save_to_disk(str(folder / "saved"), num_shards=min(2, len(rows)))
    return folder / "saved"


def write_split(rows, folder):
    datasets.disable_progress_bars()
    whole = datasets.Dataset(table(rows))
    both = datasets.DatasetDict({"train": whole, "test": whole})
    both.save_to_disk(str(folder / "splits"))
    return folder / "splits" / "train"


def write_arrow_file(rows, folder):
    whole = table(rows)
    with pa.ipc.new_file(str(folder / "x.arrow"), whole.schema) as writer:
        writer.write_table(whole, max_chunksize=2)
    return folder / "x.arrow"


def write_folder(rows, folder):
    """Files of several formats, one row in each; what is no data lies beside them."""
    (folder / "many").mkdir()
    for number, row in enumerate(rows):
        (folder / "one").mkdir(exist_ok=True)
        path = (write_lines, write_parquet, write_packed_array)[number % 3]([row], folder / "one")
        path.rename(folder / "many" / f"{number:03}{''.join(path.suffixes)}")
    (folder / "many" / "README.md").write_text("about")
    (folder / "many" / ".hidden.jsonl").write_text("{")
    (folder / "many" / "dataset_info.json").write_text("{}")
    (folder / "many" / "deeper.jsonl").mkdir()
    return folder / "many"


FORMATS = [
    write_lines,
    write_json_lines,
    write_packed_lines,
    write_array,
    write_packed_array,
    write_parquet,
    write_dataset,
    write_split,
    write_arrow_file,
    write_folder,
]


@pytest.mark.parametrize("write", FORMATS)
@settings(deadline=None, max_examples=30)
@given(st.sampled_from(WRITTEN_AS), st.data())
def test_instances_come_back_as_they_went_in(tmp_path_factory, write, written_as, data):
    schema, multi, fields = written_as
    given = data.draw(instances(multi))
    rows = [
        {
            "id": one.id,
            "task": one.task,
            **fields(one.turns),
            "references": list(one.references[1:]),
            "note": {"page": number},
        }
        for number, one in enumerate(given)
    ]
    folder = tmp_path_factory.mktemp("source")
    path = write(rows, folder)
    assert read_messages(path) == (given, [])
    assert read_messages(path, format=schema) == (given, [])
    with open_dataset(path, ReadOptions(folder / "scratch", advice=ADVICE)) as dataset:
        assert dataset.schema == schema
        assert [dataset[row] for row in reversed(range(len(given)))] == given[::-1]
        assert dataset.digest == instances_digest(given)
        assert [json.loads(dataset.raw(row)) for row in range(len(given))] == rows
        assert not any(b"\n" in dataset.raw(row) for row in range(len(given)))


BARE = {"instruction": "Do", "output": "ok"}


@pytest.mark.parametrize("write", FORMATS)
def test_what_a_row_lacks_is_filled_in_by_file_and_number(tmp_path, write):
    rows = [BARE | {"id": "a", "task": "t"}, BARE, BARE | {"references": ["fine"]}]
    path = write(rows, tmp_path)
    with open_dataset(path, ReadOptions(tmp_path / "scratch", advice=ADVICE)) as dataset:
        found = list(dataset)
        assert found == read_messages(path)[0]
    names = [f"{path.name}:2", f"{path.name}:3"]
    if write is write_folder:
        names = ["001.parquet:1", "002.json.gz:1"]
    assert [one.id for one in found] == ["a", *names]
    assert [one.task for one in found] == ["t", "(no task)", "(no task)"]
    assert [one.references for one in found] == [("ok",), ("ok",), ("ok", "fine")]


@pytest.mark.parametrize("write", FORMATS)
@pytest.mark.parametrize(
    ("bad", "reason"),
    [
        ({"id": "b", "output": "ok"}, '"instruction" is '),
        ({"instruction": "Do", "output": None}, '"output" is '),
        ({"instruction": " ", "output": "ok"}, '"instruction" is empty'),
        ({"id": "a", "instruction": "Do", "output": "ok"}, "\"id\" 'a' was already used"),
    ],
)
def test_a_bad_row_is_named_by_file_row_and_reason(tmp_path, write, bad, reason):
    path = write([BARE | {"id": "a"}, bad, BARE | {"id": "c"}], tmp_path)
    file, number = (path / "001.parquet", 1) if write is write_folder else (path, 2)
    lines = path.name.startswith("x.json") and write not in (write_array, write_packed_array)
    place = f"{file}:{number}" if lines else f"{file}, row {number}"
    with pytest.raises(UserError) as caught:
        read_messages(path)
    assert str(caught.value).startswith(f"{place}: ")
    assert reason in str(caught.value)
    assert "--config.data.bad_rows=skip" in str(caught.value)
    with open_dataset(path, ReadOptions(tmp_path / "s", advice=ADVICE, bad_rows="skip")) as dataset:
        assert [one.id for one in dataset] == ["a", "c"]
        assert [(one.path, one.line) for one in dataset.skipped] == [(str(file), number)]
        assert dataset.skipped_count == 1


def test_one_broken_file_among_many_is_named(tmp_path):
    folder = tmp_path / "many"
    folder.mkdir()
    for number in range(20):
        (folder / f"{number:02}.jsonl").write_text(json.dumps(BARE) + "\n")
    broken = folder / "12.jsonl"
    broken.write_text(json.dumps(BARE) + '\n{"instruction": "Do", "out')
    found, skipped = read_messages(folder, "skip")
    assert len(found) == 20
    assert [(one.path, one.line) for one in skipped] == [(str(broken), 2)]
    broken.unlink()
    for content, name in ((b"no parquet", "12.parquet"), (b"\x1f\x8b0", "12.jsonl.gz")):
        (folder / name).write_bytes(content)
        for bad_rows in ("refuse", "skip"):
            with pytest.raises(UserError, match=rf"many/{name}: .*damaged"):
                read_messages(folder, bad_rows)
        (folder / name).unlink()
    (folder / "12.json").write_text(json.dumps([{"question": "x", "answer": "y"}]))
    with pytest.raises(UserError, match=r"12\.json, row 1: is a row of question_answer, but "):
        read_messages(folder)


def test_ids_used_twice_in_a_folder_name_both_files(tmp_path):
    for name in ("a.jsonl", "b.jsonl"):
        (tmp_path / name).write_text(json.dumps(BARE | {"id": "same"}))
    with pytest.raises(UserError, match=r"b\.jsonl:1: .* was already used in .*a\.jsonl:1; "):
        read_messages(tmp_path)


def test_a_folder_without_data_tells_what_would_be(tmp_path):
    (tmp_path / "README.md").write_text("about")
    with pytest.raises(UserError, match=r"is a folder that holds no data set .*\*\.jsonl\.gz, "):
        read_messages(tmp_path)


def test_a_format_that_is_given_holds_for_every_row(tmp_path):
    both = {"question": "x", "answer": "y", "prompt": "p", "completion": "c"}
    path = write_lines([both, both], tmp_path)
    with pytest.raises(UserError, match=r"x\.jsonl:1: could be a row of prompt_completion or que"):
        read_messages(path)
    with pytest.raises(UserError, match="say which by --data-format=SCHEMA"):
        open_dataset(path, ReadOptions(tmp_path, advice=ADVICE, flag="--data-format"))
    path = write_lines([both, BARE], tmp_path)
    found, skipped = read_messages(path, "skip", format="question_answer")
    assert [one.text for one in found] == ["x y"]
    assert '"question" is missing' in skipped[0].reason
    with pytest.raises(UserError, match=r"data\.format='alpacka' is unknown; .*mean alpaca\?"):
        read_messages(path, format="alpacka")


def test_what_was_recognized_is_said_once(tmp_path, capsys):
    path = write_lines([BARE], tmp_path)
    open_dataset(path, ReadOptions(tmp_path, advice=ADVICE)).close()
    assert capsys.readouterr().err == f"{path}: read as rows of alpaca\n"
    open_dataset(path, ReadOptions(tmp_path, advice=ADVICE, format="alpaca")).close()
    assert capsys.readouterr().err == ""


def test_conversations_without_their_ends_are_counted(tmp_path, capsys):
    ends = [{"from": "gpt", "value": "so"}, {"from": "human", "value": "and?"}]
    said = [{"from": "human", "value": "a"}, {"from": "gpt", "value": "b"}]
    rows = [{"conversations": said, "source": "flan"}, {"conversations": ends[:1] + said}]
    rows += [{"conversations": said + ends[1:], "task_name": "t", "source": "flan"}]
    found, _ = read_messages(write_lines(rows, tmp_path))
    assert [one.text for one in found] == ["a b"] * 3
    assert [one.task for one in found] == ["flan", "(no task)", "t"]
    assert "2 rows of 3 began with an answer or ended with a question" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("row", "task"),
    [
        ({"task_name": "n", "task_id": 3}, "n"),
        ({"task_id": 3}, "3"),
        ({"task": "t", "task_name": "n"}, "t"),
        ({"task_name": None, "task_id": "i"}, "i"),
        ({"source": "https://example.org"}, "(no task)"),
        ({}, "(no task)"),
    ],
)
def test_a_task_goes_by_several_names(tmp_path, row, task):
    assert read_messages(write_lines([BARE | row], tmp_path))[0][0].task == task


def test_of_messages_only_task_names_the_task(tmp_path):
    row = {"messages": chat([Turn("user", "x"), Turn("assistant", "y")]), "task_name": "n"}
    assert read_messages(write_lines([row], tmp_path))[0][0].task == "(no task)"


def test_every_schema_was_written():
    assert {schema for schema, *_ in WRITTEN_AS} == set(SCHEMAS)


@pytest.mark.parametrize("write", FORMATS)
def test_real_rows_have_one_digest_in_every_format(assets, tmp_path, write):
    source = assets / "data" / "p3" / "test.jsonl.gz"
    if not source.exists():
        pytest.skip("no data/p3 in ZSG_JAX_ASSETS")
    rows = [json.loads(line) for line in gzip.decompress(source.read_bytes()).splitlines()]
    path = write(rows, tmp_path)
    with (
        open_dataset(source, ReadOptions(tmp_path / "a", advice=ADVICE)) as one,
        open_dataset(path, ReadOptions(tmp_path / "b", advice=ADVICE)) as other,
    ):
        assert len(one) == len(other) == 200
        assert one.digest == other.digest
