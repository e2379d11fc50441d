import gzip
import json
import subprocess

import numpy as np
import pytest
import tensorflow_datasets as tfds
from array_record.python.array_record_module import ArrayRecordReader
from hypothesis import given, settings
from hypothesis import strategies as st

from zsg_jax import prepare
from zsg_jax.data.export.examples import Example
from zsg_jax.data.formats.tfds.write import MEGABYTE
from zsg_jax.data.instance import instances_digest
from zsg_jax.data.reading import ReadOptions, open_dataset
from zsg_jax.runtime import cli as command_line
from zsg_jax.runtime.errors import UserError
from zsg_jax.workflows import arrange as arranging
from zsg_jax.workflows import prepare as command
from zsg_jax.workflows.arrange_options import ArrangeOptions
from zsg_jax.workflows.prepare_options import PrepareOptions

WRITTEN = "{}.array_record-{:05d}-of-{:05d}"


def row(number, task="abc", **more):
    turns = [
        {"role": "user", "content": f"Ask {number} é"},
        {"role": "assistant", "content": f"answer {number % 7}"},
    ]
    return {"id": f"i{number}", "task": task[number % len(task)], "messages": turns, **more}


def write(path, count, **more):
    text = "".join(json.dumps(row(number, **more)) + "\n" for number in range(count))
    path.write_bytes(gzip.compress(text.encode()) if path.suffix == ".gz" else text.encode())
    return str(path)


@pytest.fixture
def make(tmp_path):
    """Prepares 50 training and 9 test rows, in shards of 8, in the folder `made`."""
    train = write(tmp_path / "train.jsonl", 50, references=["other"])
    test = write(tmp_path / "test.jsonl.gz", 9, task="de")

    def prepared(**changes):
        given = {"train": train, "test": test, "output": tmp_path / "made", "shard_rows": 8}
        return command.run(PrepareOptions(**given | changes))

    return prepared


def contents(folder):
    return {path.name: path.read_bytes() for path in sorted(folder.iterdir())}


def records(path):
    reader = ArrayRecordReader(str(path))
    return reader.read_all()


def decoded(record):
    """An instance's fields by the rules of TFDS, read without what wrote it."""
    feature = Example.FromString(record).features.feature
    values = {name: [one.decode() for one in feature[name].bytes_list.value] for name in feature}
    turns = zip(values["messages/role"], values["messages/content"], strict=True)
    return {
        "id": values["id"][0],
        "task": values["task"][0],
        "messages": [{"role": role, "content": content} for role, content in turns],
        "references": values["references"],
    }


def test_every_row_stands_in_its_shard_in_order(make):
    folder = make()
    names = [WRITTEN.format("made-train", k, 7) for k in range(7)]
    names += [WRITTEN.format("made-test", k, 2) for k in range(2)]
    assert set(contents(folder)) == {*names, "features.json", "dataset_info.json", "manifest.json"}
    sizes = [len(records(folder / name)) for name in names]
    assert sum(sizes[:7]) == 50
    assert max(sizes) <= 8
    assert max(sizes[:7]) - min(sizes[:7]) <= 1
    found = [decoded(record) for name in names[:7] for record in records(folder / name)]
    assert found == [
        row(number) | {"references": [f"answer {number % 7}", "other"]} for number in range(50)
    ]
    info = json.loads((folder / "dataset_info.json").read_text())
    assert [split["shardLengths"] for split in info["splits"]] == [
        [str(size) for size in sizes[:7]],
        [str(size) for size in sizes[7:]],
    ]
    assert [int(split["numBytes"]) for split in info["splits"]] == [
        sum(len(record) for name in part for record in records(folder / name))
        for part in (names[:7], names[7:])
    ]


def test_the_manifest_tells_counts_and_digests(make, tmp_path, read_source):
    folder = make()
    manifest = json.loads((folder / "manifest.json").read_text())
    for side, count, tasks in (("train", 50, "abc"), ("test", 9, "de")):
        told = manifest["splits"][side]
        path = tmp_path / ("train.jsonl" if side == "train" else "test.jsonl.gz")
        assert told["rows"] == count
        assert told["tasks"] == {
            task: sum(tasks[number % len(tasks)] == task for number in range(count))
            for task in tasks
        }
        assert told["instances_digest"] == instances_digest(read_source(path)[0])
        assert told["source"]["path"] == str(path)
        sums = subprocess.run(
            ["sha256sum", path, *(folder / one["file"] for one in told["shards"])],
            capture_output=True,
            text=True,
            check=True,
        )
        digests = [line.split()[0] for line in sums.stdout.splitlines()]
        assert [told["source"]["digest"], *(one["digest"] for one in told["shards"])] == digests


TEXT = st.text(st.characters(exclude_categories=["Cs"]), min_size=1, max_size=9).filter(str.strip)


@settings(max_examples=20)
@given(
    st.lists(st.tuples(TEXT, TEXT, st.lists(TEXT, max_size=2), st.booleans()), min_size=1),
    st.integers(1, 5),
    st.booleans(),
    st.sampled_from(["", "Sentiment"]),
)
def test_what_is_written_is_read_back(
    tmp_path_factory, read_source, texts, shard_rows, choose, category
):
    folder = tmp_path_factory.mktemp("prepared")
    source = folder / "x.jsonl"
    with source.open("w") as file:
        for number, (ask, answer, references, system) in enumerate(texts):
            turns = [("system", ask)] * system + [("user", ask), ("assistant", answer)]
            made = row(number, references=references)
            if choose and references:
                made["choices"] = [*references, answer]
            if category and number % 3 == 0:
                made["category"] = category
            made["messages"] = [{"role": role, "content": text} for role, text in turns]
            if number % 2:
                del made["task"]
            file.write(json.dumps(made) + "\n")
    expected, _ = read_source(source)
    made = command.run(PrepareOptions(str(source), folder / "made", shard_rows=shard_rows))
    for path in (f"{made}:train", folder / "made", f"tfds:made@{folder}"):
        with open_dataset(path, ReadOptions(folder / "none")) as dataset:
            order = np.random.default_rng(0).permutation(len(expected))
            assert [dataset[k] for k in order] == [expected[k] for k in order]
            assert dataset.digest == instances_digest(expected)
    # Nothing was unpacked.
    assert not (folder / "none").exists()
    # Others read the choices too, and an empty list where there are none.
    source = tfds.builder_from_directory(str(made)).as_data_source(split="train")
    for one, instance in zip(source, expected, strict=True):
        assert ("choices" in one) == any(one.choices for one in expected)
        assert tuple(text.decode() for text in one.get("choices", ())) == instance.choices
        assert one.get("category", b"").decode() == instance.category


def test_the_same_rows_have_the_same_bytes(make, tmp_path):
    first = contents(make())
    assert contents(make(output=tmp_path / "other" / "made")) == first


def test_shards_hold_so_many_bytes_of_text(make):
    folder = make(shard_rows=None, shard_mb=200 / MEGABYTE, test="")
    sizes = [len(records(path)) for path in sorted(folder.glob("*record*"))]
    total = sum(
        len(text.encode())
        for path in folder.glob("*record*")
        for one in map(decoded, records(path))
        for text in (
            one["id"],
            one["task"],
            *(turn["content"] for turn in one["messages"]),
            *one["references"],
        )
    )
    assert len(sizes) == -(-total // 200)
    assert max(sizes) - min(sizes) <= 1


def test_a_killed_command_goes_on_and_writes_the_same_bytes(tmp_path, capsys, killed_at):
    train = write(tmp_path / "train.jsonl", 60)
    whole = contents(command.run(PrepareOptions(train, tmp_path / "whole" / "made", shard_rows=20)))
    # Its files in order: each shard and the plan, then features, info and manifest.
    for number, kept in ((1, 0), (3, 1), (4, 1), (5, 2), (6, 2), (8, 3), (9, 3)):
        options = PrepareOptions(train, tmp_path / str(number) / "made", shard_rows=20)
        assert killed_at(number, lambda options=options: command.run(options))
        unfinished = options.output / "incomplete.1.0.0"
        assert not (options.output / "1.0.0").exists()
        written = {
            path.name: path.stat().st_mtime_ns for path in sorted(unfinished.glob("*-of-00003"))
        }
        capsys.readouterr()
        folder = command.run(options)
        assert contents(folder) == whole
        same = [
            name for name, time in written.items() if (folder / name).stat().st_mtime_ns == time
        ]
        assert len(same) == kept
        assert ("were there whole" in capsys.readouterr().err) == bool(kept)
    assert not killed_at(20, lambda: command.run(options))


@pytest.mark.parametrize("finished", [False, True])
def test_a_damaged_shard_is_named_and_written_again(make, tmp_path, capsys, killed_at, finished):
    whole = contents(make())
    output = tmp_path / "second" / "made"
    if finished:
        folder = make(output=output)
        (folder / "features.json").unlink()
        (folder / "dataset_info.json").write_text("{")
    else:
        assert killed_at(19, lambda: make(output=output))
        folder = output / "incomplete.1.0.0"
    damaged, gone = (WRITTEN.format("made-train", k, 7) for k in (2, 5))
    content = bytearray((folder / damaged).read_bytes())
    content[len(content) // 2] ^= 1
    (folder / damaged).write_bytes(content)
    (folder / gone).unlink()
    capsys.readouterr()
    assert contents(make(output=output)) == whole
    told = capsys.readouterr().err
    assert f"{damaged} does not have the checksum it was written with; it is made again" in told
    assert f"{gone} is missing; it is made again" in told
    assert told.count("made again") == 2


def test_a_version_that_holds_something_else_is_refused(make, tmp_path, read_source):
    first = make()
    before = contents(first)
    other = write(tmp_path / "other.jsonl", 49, references=["other"])
    kinds = write(tmp_path / "kinds.jsonl", 50, references=["other"], category="x")
    for changes, told in (
        ({"train": other}, "its train has other rows"),
        ({"train": write(tmp_path / "o.jsonl", 50)}, "its train has other instances"),
        ({"train": kinds}, "its train has other categories"),
        ({"shard_rows": 9}, "its test has other shards; give the --shard-mb"),
        ({"test": ""}, "test is there"),
    ):
        with pytest.raises(UserError, match=rf"--version 1\.0\.0: .*{told}.*--version 1\.0\.1"):
            make(**changes)
        assert contents(first) == before
    second = make(train=other, version="1.0.1")
    assert contents(first) == before
    assert len(read_source(f"{first}:train")[0]) == 50
    # The folder above names its newest version.
    newest = read_source(f"{tmp_path}/made:train")[0]
    assert newest == read_source(f"{second}:train")[0] == read_source(other)[0]


def test_a_shard_of_another_version_is_named(make, tmp_path, read_source):
    first = make()
    other = write(tmp_path / "other.jsonl", 50)
    second = make(train=other, version="1.0.1")
    file = WRITTEN.format("made-train", 2, 7)
    (first / file).write_bytes((second / file).read_bytes())
    assert len(read_source(f"{first}:test")[0]) == 9
    with pytest.raises(UserError, match=rf"manifest\.json: .* of 1\.0\.0:train: {file} does not"):
        read_source(f"{first}:train")
    # Of a part, or of rows with other fields, nothing is told.
    assert len(read_source(f"{first}:train[:50%]")[0]) == 25
    with open_dataset(f"{first}:train", ReadOptions(tmp_path, fields={"task": "id"})) as renamed:
        assert len(renamed) == 50
    (first / "manifest.json").unlink()
    assert len(read_source(f"{first}:train")[0]) == 50


def test_what_was_begun_of_other_rows_is_begun_again(make, tmp_path, capsys, killed_at):
    assert killed_at(19, lambda: make(train=write(tmp_path / "o.jsonl", 70)))
    assert contents(make()) == contents(make(output=tmp_path / "new" / "made"))
    assert "plan.json: was made of something else (splits)" in capsys.readouterr().err


def test_bad_rows_are_refused_or_counted(make, tmp_path):
    path = tmp_path / "bad.jsonl"
    path.write_text(json.dumps(row(0)) + "\n{\n" + json.dumps(row(1)) + "\n")
    with pytest.raises(UserError, match=r"bad\.jsonl:2: is not JSON.*pass --bad-rows=skip"):
        make(train=str(path))
    folder = make(train=str(path), bad_rows="skip")
    manifest = json.loads((folder / "manifest.json").read_text())
    assert manifest["skipped"] == 1
    assert manifest["skipped_rows"][0]["line"] == 2
    assert manifest["splits"]["train"]["rows"] == 2


def test_splits_and_caps_decide_what_is_written(make, tmp_path):
    train = write(tmp_path / "all.jsonl", 60, task="abcdef")
    folder = make(train=train, test=train, split="held-out:2", train_per_task=5, test_per_task=3)
    tasks = {
        side: facts["tasks"]
        for side, facts in json.loads((folder / "manifest.json").read_text())["splits"].items()
    }
    assert sorted([*tasks["train"], *tasks["test"]]) == list("abcdef")
    assert set(tasks["train"].values()) == {5}
    assert set(tasks["test"].values()) == {3}


def test_a_mixture_is_written(make, tmp_path, read_source):
    path = tmp_path / "m.mix.json"
    sources = [{"path": "train.jsonl", "cap": 5}, {"path": "test.jsonl.gz"}]
    path.write_text(json.dumps({"sources": sources}))
    found, _ = read_source(make(train=str(path), test=""))
    assert len(found) == 14
    assert {one.id.partition("/")[0] for one in found} == {"train", "test"}


def test_what_was_prepared_is_arranged_alike(make, tmp_path):
    folder = make()
    orders = []
    for number, (train, test) in enumerate(
        [
            (tmp_path / "train.jsonl", tmp_path / "test.jsonl.gz"),
            (f"{folder}:train", f"tfds:made:1.0.0:test@{tmp_path}"),
        ]
    ):
        output = tmp_path / f"arranged{number}"
        arranging.run(ArrangeOptions(str(train), str(test), output))
        ids = [json.loads(line)["id"] for line in (output / "arranged.jsonl").open()]
        orders.append((np.load(output / "order.npy").tolist(), ids))
    assert orders[0] == orders[1]
    assert len(orders[0][0]) == 50


@pytest.mark.parametrize(
    ("changes", "told"),
    [
        ({"version": "1.0"}, "--version '1.0': must be three numbers"),
        ({"output": "x/flan-mini"}, "as flan_mini"),
        ({"output": "gs://bucket/p3"}, "is no folder of this machine"),
        ({"shard_mb": 0.0}, "--shard-mb 0.0"),
        ({"shard_rows": 0}, "--shard-rows 0"),
        ({"train": "rewrites"}, "--train rewrites"),
        ({"test": "", "split": "held-out:1"}, "give --test too"),
        ({"test": "", "test_per_task": 3}, "--test-per-task 3: there are no test rows"),
        ({"split": "held-out:x"}, "--split='held-out:x': 'x' is neither a number"),
        ({"data_fields": "a"}, "--data-fields='a'"),
        ({"data_format": "alpace"}, "--data-format='alpace' is unknown.*alpaca"),
    ],
)
def test_what_nothing_can_write_is_told_first(make, changes, told):
    if "output" in changes:
        changes = {"output": command.Path(changes["output"])}
    with pytest.raises(UserError, match=told):
        make(**changes)


def test_the_command_tells_where_it_wrote(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    write(tmp_path / "x.jsonl", 3)
    prepare.main(["prepare", "--train", "x.jsonl", "--output", "out/three"])
    assert capsys.readouterr().out == "prepared: out/three/1.0.0\n"
    with pytest.raises(SystemExit):
        command_line.guard(prepare.main)(
            ["prepare", "--train", "x", "--output", "y", "--verson", "1"]
        )
    assert "did you mean --version?" in capsys.readouterr().err
