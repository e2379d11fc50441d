"""The same instances come out of every format and every schema that they are written in."""

import gzip
import json

import datasets
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from zsg_jax.data.formats import registry
from zsg_jax.data.instance import Instance, Turn, instances_digest
from zsg_jax.data.reading import ReadOptions, open_dataset
from zsg_jax.data.schemas.checks import CHOICES
from zsg_jax.data.schemas.registry import SCHEMAS
from zsg_jax.runtime.errors import UserError

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
        others = draw(st.lists(TEXT, max_size=3))
        choices = draw(st.permutations([*others, turns[-1].content])) if others else ()
        found.append(Instance(identity, draw(NAME), tuple(turns), references, tuple(choices)))
    return found


def chat(turns):
    return [{"role": turn.role, "content": turn.content} for turn in turns]


def alpaca(turns):
    instruction, _, given = turns[0].content.partition("\n\n")
    if not instruction.strip() or not given.strip():
        instruction, given = turns[0].content, ""
    return {"instruction": instruction, "input": given, "output": turns[1].content}


def pair(prompt, answer, **more):
    return lambda turns: {prompt: turns[0].content, answer: turns[1].content} | more


def sharegpt(turns):
    speakers = {"system": "system", "user": "human", "assistant": "gpt"}
    return {
        "conversations": [{"from": speakers[turn.role], "value": turn.content} for turn in turns]
    }


# Schema, whether it holds more than one exchange, and how its fields are written from turns.
WRITTEN_AS = [
    ("messages", True, lambda turns: {"messages": chat(turns)}),
    ("sharegpt", True, sharegpt),
    ("alpaca", False, alpaca),
    ("prompt_completion", False, pair("prompt", "completion")),
    (
        "prompt_completion",
        True,
        lambda turns: {"prompt": chat(turns[:-1]), "completion": chat(turns[-1:])},
    ),
    ("question_answer", False, pair("question", "answer")),
    ("inputs_targets", False, pair("inputs", "targets")),
    (
        "inputs_targets",
        False,
        pair("inputs_pretokenized", "targets_pretokenized", inputs=[1, 2], targets=[]),
    ),
]
ANSWERED = {name for name, schema in SCHEMAS.items() if schema.answer_by is None}
assert {schema for schema, *_ in WRITTEN_AS} == ANSWERED


def table(records):
    """Columns for every field that any record has; pyarrow alone would look at the first one."""
    names = dict.fromkeys(name for one in records for name in one)
    return pa.Table.from_pylist([{name: one.get(name) for name in names} for one in records])


def write_lines(records, folder, name="x.jsonl"):
    text = "\n".join(json.dumps(one, ensure_ascii=name == "x.jsonl") for one in records)
    return write_text(text, folder / name)


def write_array(records, folder, name="x.json"):
    return write_text(json.dumps(records, indent=1, ensure_ascii=False), folder / name)


def write_text(text, path):
    packed = gzip.compress(text.encode()) if path.suffix == ".gz" else text.encode()
    path.write_bytes(packed)
    return path


def write_parquet(records, folder):
    pq.write_table(table(records), folder / "x.parquet", row_group_size=2)
    return folder / "x.parquet"


def write_dataset(records, folder):
    datasets.disable_progress_bars()
    whole = datasets.Dataset(table(records))
    whole.save_to_disk(str(folder / "saved"), num_shards=min(2, len(records)))
    return folder / "saved"


def write_split(records, folder):
    datasets.disable_progress_bars()
    whole = datasets.Dataset(table(records))
    datasets.DatasetDict({"train": whole, "test": whole}).save_to_disk(str(folder / "splits"))
    return folder / "splits" / "train"


def write_arrow_file(records, folder):
    whole = table(records)
    with pa.ipc.new_file(str(folder / "x.arrow"), whole.schema) as writer:
        writer.write_table(whole, max_chunksize=2)
    return folder / "x.arrow"


def write_folder(records, folder):
    """Files of several formats, one record in each; what is no data lies beside them."""
    (folder / "many").mkdir()
    for number, record in enumerate(records):
        (folder / "one").mkdir(exist_ok=True)
        name = ("lines", "parquet", "packed array")[number % 3]
        path = FORMATS[name]([record], folder / "one")
        path.rename(folder / "many" / f"{number:03}{''.join(path.suffixes)}")
    (folder / "many" / "README.md").write_text("about")
    (folder / "many" / ".hidden.jsonl").write_text("{")
    (folder / "many" / "dataset_info.json").write_text("{}")
    (folder / "many" / "deeper.jsonl").mkdir()
    return folder / "many"


FORMATS = {
    "lines": write_lines,
    "json lines": lambda records, folder: write_lines(records, folder, "x.json"),
    "packed lines": lambda records, folder: write_lines(records, folder, "x.jsonl.gz"),
    "array": write_array,
    "packed array": lambda records, folder: write_array(records, folder, "x.json.gz"),
    "parquet": write_parquet,
    "datasets": write_dataset,
    "split": write_split,
    "arrow": write_arrow_file,
    "folder": write_folder,
}


@pytest.mark.parametrize("format", FORMATS)
@settings(max_examples=20)
@given(st.sampled_from(WRITTEN_AS), st.data())
def test_instances_come_back_as_they_went_in(tmp_path_factory, format, written_as, data):
    schema, multi, fields = written_as
    given = data.draw(instances(multi))
    listed = data.draw(st.sampled_from(CHOICES))
    records = [
        {
            "id": one.id,
            "task": one.task,
            **fields(one.turns),
            "references": list(one.references[1:]),
            **({listed: list(one.choices)} if one.choices else {}),
            "note": {"page": number},
        }
        for number, one in enumerate(given)
    ]
    folder = tmp_path_factory.mktemp("source")
    path = FORMATS[format](records, folder)
    named = data.draw(st.sampled_from(["auto", schema]))
    with open_dataset(path, ReadOptions(folder / "scratch", format=named)) as dataset:
        assert (dataset.schema, dataset.skipped_count) == (schema, 0)
        assert [dataset[index] for index in reversed(range(len(given)))] == given[::-1]
        assert dataset.digest == instances_digest(given)
        raw = [dataset.raw(index) for index in range(len(given))]
    # A table has null for what a row lacks.
    found = [{k: v for k, v in json.loads(one).items() if v is not None} for one in raw]
    assert found == records
    assert not any(b"\n" in one for one in raw)


BARE = {"instruction": "Do", "output": "ok"}


@pytest.mark.parametrize("format", FORMATS)
def test_what_a_record_lacks_is_filled_in_by_file_and_number(tmp_path, read_source, format):
    records = [BARE | {"id": "a", "task": "t"}, BARE, BARE | {"references": ["fine"]}]
    path = FORMATS[format](records, tmp_path)
    found, _ = read_source(path)
    names = [f"{path.name}:2", f"{path.name}:3"]
    if format == "folder":
        names = ["001.parquet:1", "002.json.gz:1"]
    assert [one.id for one in found] == ["a", *names]
    assert [one.task for one in found] == ["t", "(no task)", "(no task)"]
    assert [one.references for one in found] == [("ok",), ("ok",), ("ok", "fine")]


@pytest.mark.parametrize("format", FORMATS)
@pytest.mark.parametrize(
    ("bad", "reason"),
    [
        ({"instruction": "Do", "output": None}, '"output" is '),
        ({"id": "a", "instruction": "Do", "output": "ok"}, "\"id\" 'a' was already used"),
    ],
)
def test_a_bad_record_is_named_by_file_number_and_reason(
    tmp_path, read_source, format, bad, reason
):
    path = FORMATS[format]([BARE | {"id": "a"}, bad, BARE | {"id": "c"}], tmp_path)
    file, number = (path / "001.parquet", 1) if format == "folder" else (path, 2)
    place = f"{file}:{number}" if "lines" in format else f"{file}, row {number}"
    with pytest.raises(UserError) as caught:
        read_source(path)
    assert str(caught.value).startswith(f"{place}: ")
    assert reason in str(caught.value)
    found, skipped = read_source(path, "skip")
    assert [one.id for one in found] == ["a", "c"]
    assert [(one.path, one.line) for one in skipped] == [(str(file), number)]


def test_one_broken_file_among_many_is_named(tmp_path, read_source):
    for number in range(20):
        (tmp_path / f"{number:02}.jsonl").write_text(json.dumps(BARE) + "\n")
    broken = tmp_path / "12.jsonl"
    broken.write_text(json.dumps(BARE) + '\n{"instruction": "Do", "out')
    found, skipped = read_source(tmp_path, "skip")
    assert len(found) == 20
    assert [(one.path, one.line) for one in skipped] == [(str(broken), 2)]
    broken.unlink()
    for name, content, message in (
        ("12.parquet", b"no parquet", r"12\.parquet: .*damaged"),
        ("12.jsonl.gz", b"\x1f\x8b0", r"12\.jsonl\.gz: .*damaged"),
    ):
        (tmp_path / name).write_bytes(content)
        for bad_rows in ("refuse", "skip"):
            with pytest.raises(UserError, match=message):
                read_source(tmp_path, bad_rows)
        (tmp_path / name).unlink()
    other = tmp_path / "12.json"
    other.write_bytes(b'[{"question": "x", "answer": "y"}]')
    with pytest.raises(UserError, match=r"12\.json, row 1: is a row of question_answer"):
        read_source(tmp_path)
    other.unlink()
    for name in ("a.jsonl", "b.jsonl"):
        (tmp_path / name).write_text(json.dumps(BARE | {"id": "same"}))
    with pytest.raises(UserError, match=r"b\.jsonl:1: .* was already used in .*a\.jsonl:1; "):
        read_source(tmp_path)


def test_a_folder_without_data_tells_what_would_be(tmp_path, read_source):
    (tmp_path / "README.md").write_text("about")
    with pytest.raises(UserError, match=r"is a folder that holds no data set .*\*\.jsonl\.gz, "):
        read_source(tmp_path)


def test_a_format_that_is_given_holds_for_every_record(tmp_path, read_source):
    both = {"question": "x", "answer": "y", "prompt": "p", "completion": "c"}
    path = write_lines([both, BARE], tmp_path)
    with pytest.raises(UserError, match=r"--config\.data\.format=SCHEMA"):
        read_source(path)
    found, skipped = read_source(path, "skip", format="question_answer")
    assert [one.text for one in found] == ["x y"]
    assert '"question" is missing' in skipped[0].reason
    with pytest.raises(UserError, match=r"data\.format='alpacka' is unknown; .*mean alpaca\?"):
        read_source(path, format="alpacka")


def test_conversations_without_their_ends_are_counted(tmp_path, read_source, capsys):
    ends = [{"from": "gpt", "value": "so"}, {"from": "human", "value": "and?"}]
    said = [{"from": "human", "value": "a"}, {"from": "gpt", "value": "b"}]
    records = [{"conversations": said, "source": "flan"}, {"conversations": ends[:1] + said}]
    records += [{"conversations": said + ends[1:], "task_name": "t", "source": "flan"}]
    found, _ = read_source(write_lines(records, tmp_path))
    assert [one.text for one in found] == ["a b"] * 3
    assert [one.task for one in found] == ["flan", "(no task)", "t"]
    told = capsys.readouterr().err
    assert "read as rows of sharegpt" in told
    assert "2 rows of 3 began with an answer" in told


@pytest.mark.parametrize(
    ("record", "task"),
    [
        (BARE | {"task_name": "n", "task_id": 3}, "n"),
        (BARE | {"task_id": 3}, "3"),
        (BARE | {"task": "t", "task_name": "n"}, "t"),
        (BARE | {"task_name": None, "task_id": "i"}, "i"),
        # As of tables in which some rows have none.
        (BARE | {"task_id": 3.0}, "3"),
        (BARE | {"task_name": [], "task_id": float("nan")}, None),
        (BARE | {"source": "https://example.org"}, "(no task)"),
        # Of messages only "task" names the task.
        ({"messages": chat([Turn("user", "x"), Turn("assistant", "y")]), "task_name": "n"}, None),
    ],
)
def test_a_task_goes_by_several_names(tmp_path, read_source, record, task):
    assert read_source(write_lines([record], tmp_path))[0][0].task == (task or "(no task)")


@pytest.mark.parametrize("fields", [{"task_id": 0.5}, {"task_name": ["a"]}, {"task_id": True}])
def test_what_names_no_task_is_refused(tmp_path, read_source, fields):
    (name,) = fields
    with pytest.raises(UserError, match=rf'"{name}" is a JSON .*fields=other={name}'):
        read_source(write_lines([BARE | fields], tmp_path))


def test_what_is_left_out_of_a_folder_is_named(tmp_path, capsys):
    (tmp_path / "sub").mkdir()
    for name in ("a.jsonl", "b.ndjson", "c.JSONL", ".hidden", "sub/d.jsonl"):
        (tmp_path / name).write_text("{}\n")
    assert [path.name for path in registry.files(tmp_path)] == ["a.jsonl"]
    assert "left out, by their names no files of rows: b.ndjson, c.JSONL, sub/d.jsonl" in (
        capsys.readouterr().err
    )


@pytest.mark.parametrize("first", [0, 1])
@pytest.mark.parametrize("name", ["train-{:05}-of-00003.parquet", "c4.{:05}-of-00003-a0b1.json.gz"])
def test_of_files_that_belong_together_those_that_are_missing_are_told(
    tmp_path, capsys, first, name
):
    paths = [tmp_path / name.format(number) for number in range(first, first + 3)]
    for path in (*paths, tmp_path / "more-2-of.jsonl"):
        path.touch()
    assert [path in registry.files(tmp_path) for path in paths] == [True] * 3
    paths[1].unlink()
    assert "belong together" not in capsys.readouterr().err
    assert len(registry.files(tmp_path)) == 3
    assert f"1 are not there, the first {paths[1].name[:14]}" in capsys.readouterr().err


def test_a_file_that_lies_there_packed_too_is_refused(tmp_path, capsys):
    for name in ("a.jsonl", "a.jsonl.gz"):
        (tmp_path / name).touch()
    with pytest.raises(UserError, match=r"a\.jsonl and, packed, a\.jsonl\.gz"):
        registry.files(tmp_path)
    (tmp_path / "a.jsonl.gz").rename(tmp_path / "a.parquet")
    assert len(registry.files(tmp_path)) == 2
    assert "a.jsonl and a.parquet" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("names", "told"),
    [
        (["test-00000-of-00001", "train-00000-of-00001"], "test, train"),
        (["x.dev", "x_train"], "train, validation"),
        (["train-a", "training-b"], ""),
        (["train", "latest", "contest"], ""),
        (["train", "train_and_test"], ""),
    ],
)
def test_several_splits_in_one_folder_are_told(tmp_path, capsys, names, told):
    for name in names:
        (tmp_path / f"{name}.jsonl").touch()
    assert len(registry.files(tmp_path)) == len(names)
    err = capsys.readouterr().err
    assert f"of the splits {told} as one set" in err if told else not err


def test_a_link_to_nothing_in_a_folder_is_no_file_less(tmp_path):
    (tmp_path / "a.jsonl").write_text("{}\n")
    (tmp_path / "b.jsonl").symlink_to(tmp_path / "gone.jsonl")
    with pytest.raises(UserError, match=r"b\.jsonl: is named as a file of rows"):
        registry.files(tmp_path)
