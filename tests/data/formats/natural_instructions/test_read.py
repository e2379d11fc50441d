import json
from collections import Counter

import pytest

from zsg_jax.data.formats.natural_instructions import Options, records
from zsg_jax.data.tokenize.tokenizer import ByteTokenizer
from zsg_jax.runtime.errors import UserError

EXAMPLES = [
    {"input": "2 + 2", "output": "4", "explanation": "Sum."},
    {"input": " 1 + 5 ", "output": "6\n"},
    {"input": "never", "output": "shown"},
]


def write(folder, tasks, split="splits/default/train_tasks.txt"):
    """Writes tasks (names to objects, or bytes as they are) and the list of them."""
    (folder / "tasks").mkdir(exist_ok=True)
    for name, task in tasks.items():
        content = task if isinstance(task, bytes) else json.dumps(task).encode()
        (folder / "tasks" / f"{name}.json").write_bytes(content)
    listed = folder / split
    listed.parent.mkdir(parents=True, exist_ok=True)
    listed.write_text("".join(f"{name}\n" for name in tasks))
    return listed


def task(*instances, **changes):
    return {
        "Definition": ["Add the numbers"],
        "Positive Examples": EXAMPLES,
        "Negative Examples": [{"input": "1 + 1", "output": "3"}],
        "Categories": ["Arithmetic"],
        "Instances": list(instances),
        **changes,
    }


def test_tasks_become_rows_in_the_order_of_the_list(tmp_path, read_source):
    one = task({"id": "a-1", "input": "3 + 4", "output": [" 7", "seven\n"]})
    two = task({"input": "1 + 1", "output": "2"}, {"id": "b-2", "input": "0", "output": ["0", "0"]})
    listed = write(tmp_path, {"b_task": one, "a_task": two})
    listed.write_text("\ufeffb_task\n\n a_task \n", "utf-8")
    instances, skipped = read_source(listed)
    assert not skipped
    assert [(i.id, i.task) for i in instances] == [
        ("a-1", "b_task"),
        ("a_task:1", "a_task"),
        ("b-2", "a_task"),
    ]
    assert instances[0].references == ("7", "seven")
    assert instances[2].references == ("0",)
    assert [turn.role for turn in instances[0].turns] == ["user", "assistant"]
    assert instances[0].turns[0].content == (
        "Definition: Add the numbers.\n\n"
        " Positive Example 1 -\nInput: 2 + 2.\n Output: 4.\n\n"
        " Positive Example 2 -\nInput: 1 + 5.\n Output: 6.\n\n"
        "Now complete the following example -\nInput: 3 + 4.\nOutput: "
    )
    assert instances[0].turns[1].content == "7"


def read(listed, options, side="train", tokenizer=None):
    """The records as objects, without looking into what is refused."""
    return [json.loads(one.raw) for one in records(listed, options, side, tokenizer)]


MANY = [{"id": f"i{k}", "input": str(k), "output": [f"{k}a", f"{k}b", f"{k}c"]} for k in range(40)]
FREE = Options(max_source=0, train_per_task=7, test_per_task=5)


def test_a_side_takes_its_share_of_every_task(tmp_path):
    listed = write(tmp_path, {"a": task(*MANY), "b": task(*MANY[:6]), "c": task(*MANY[:5])})
    test = read(listed, FREE, "test")
    assert [(row["task"], row["id"]) for row in test] == [
        (name, f"i{k}") for name in "abc" for k in range(5)
    ]
    train = read(listed, FREE)
    assert [row["task"] for row in train] == ["a"] * 7 + ["b"] * 6 + ["c"] * 5
    numbers = [int(row["id"][1:]) for row in train[:7]]
    assert numbers == sorted(numbers) != list(range(7))
    # Neither the order of a task's instances nor other tasks have a say in what is drawn.
    alone = read(write(tmp_path, {"a": task(*MANY[::-1])}, "splits/alone/train_tasks.txt"), FREE)
    assert sorted(one["id"] for one in alone) == sorted(one["id"] for one in train[:7])
    write(tmp_path, {"a": task(*MANY)})
    # The same ids in another task are another draw.
    again = write(tmp_path, {"a": task(*MANY), "d": task(*MANY)}, "splits/again/train_tasks.txt")
    drawn = [row["id"] for row in read(again, FREE)]
    assert drawn[:7] == [f"i{number}" for number in numbers]
    assert drawn[7:] != drawn[:7]
    other = read(listed, Options(max_source=0, train_per_task=7, seed=1))
    assert [row["id"] for row in other[:7]] != [row["id"] for row in train[:7]]


def test_a_reference_is_drawn_for_the_answer(tmp_path):
    listed = write(tmp_path, {"a": task(*MANY)})
    first = read(listed, Options(max_source=0, reference="first"))
    assert [row["messages"][1]["content"] for row in first] == [f"{k}a" for k in range(40)]
    drawn = read(listed, Options(max_source=0))
    letters = [row["messages"][1]["content"][-1] for row in drawn]
    # Expectation 13.3, standard deviation 3.
    assert all(abs(letters.count(letter) - 13) < 12 for letter in "abc")
    assert drawn == read(listed, Options(max_source=0))
    assert [row["references"] for row in drawn] == [one["output"] for one in MANY]
    assert read(listed, Options(max_source=0, seed=1)) != drawn


def test_sources_are_held_within_the_limit_and_it_is_said(tmp_path, capsys):
    long = {"id": "long", "input": "x" * 300, "output": "y"}
    listed = write(tmp_path, {"a": task(GOOD, long, {**long, "id": "less", "input": "x" * 100})})
    options = Options(max_source=250)
    prompts = [
        row["messages"][0]["content"] for row in read(listed, options, tokenizer=ByteTokenizer())
    ]
    # 30 bytes of definition, 49 an example, 54 around the input.
    assert [len(prompt) for prompt in prompts] == [183, 250, 233]
    assert prompts[1].startswith("Definition: Add the numbers.\n\nNow complete")
    assert "of 3 prompts 2 lost examples and 1 were cut" in capsys.readouterr().err
    with pytest.raises(UserError, match=r"max_source=250 counts tokens, .* max_source=0"):
        read(listed, options)


def test_an_instance_that_is_left_out_is_not_checked(tmp_path):
    listed = write(
        tmp_path, {"t": task(GOOD, {"id": "2"}, {"id": "3", "input": "x", "output": "y"})}
    )
    only = Options(max_source=0, test_per_task=1)
    assert [row.refusal for row in records(listed, only, "test")] == [""]
    assert [row.refusal for row in records(listed)] == ["", 'has no "input"', ""]


def test_tasks_may_lie_beside_the_list(tmp_path, read_source):
    listed = write(tmp_path, {"t": task({"id": "1", "input": "x", "output": ["y"]})}, "mine.txt")
    assert [one.id for one in read_source(listed)[0]] == ["1"]


GOOD = {"id": "1", "input": "x", "output": ["y"]}


@pytest.mark.parametrize(
    ("bad", "reason"),
    [
        ({"id": "2", "input": "x"}, 'has no "output"'),
        ({"id": "2", "input": "x", "output": []}, 'has no "output"'),
        ({"id": "2", "input": "x", "output": ""}, 'has no "output"'),
        ({"id": "2", "input": "x", "output": [3]}, "JSON number"),
        ({"id": "2", "input": "x", "output": ["y", " "]}, '"references[1]"'),
        ({"id": "2", "output": ["y"]}, 'has no "input"'),
        ("text", "is no JSON object"),
        (GOOD, "instance 1"),
    ],
)
def test_a_bad_instance_is_named_by_file_and_number(tmp_path, read_source, bad, reason):
    listed = write(tmp_path, {"t": task(GOOD, bad, {"id": "3", "input": "x", "output": ["z"]})})
    file = tmp_path / "tasks" / "t.json"
    with pytest.raises(UserError) as caught:
        read_source(listed)
    assert str(caught.value).startswith(f"{file}, instance 2: ")
    assert reason in str(caught.value)
    instances, skipped = read_source(listed, "skip")
    assert [one.id for one in instances] == ["1", "3"]
    assert [(one.path, one.line) for one in skipped] == [(str(file), 2)]


NEGATIVE = "Negative Examples"


@pytest.mark.parametrize(
    ("bad", "reason"),
    [
        (b'{"Definition": ["x"', "is not JSON"),
        (b"\xff", "is not JSON"),
        (b"[]", "is no task"),
        (task(GOOD, Definition=[]), '"Definition"'),
        (task(GOOD, Definition=" "), '"Definition"'),
        (task(GOOD, **{"Positive Examples": [{"input": "x"}]}), "Examples[0]"),
        (task(GOOD, **{"Positive Examples": {"a": 1}}), "must be a list"),
        (task(Instances=None), '"Instances"'),
        (task(GOOD, **{NEGATIVE: "text"}), '"Negative Examples" must be a list'),
        (task(GOOD, **{NEGATIVE: ["text"]}), '"Negative Examples[0]" lacks'),
        (task(GOOD, **{NEGATIVE: [EXAMPLES[0], {"input": "x", "output": 1}]}), '[1]" lacks'),
        (task(GOOD, **{NEGATIVE: [EXAMPLES[0] | {"explanation": []}]}), 'explanation" is no text'),
    ],
)
def test_a_bad_task_is_named_and_never_skipped(tmp_path, read_source, bad, reason):
    listed = write(tmp_path, {"good": task(GOOD | {"id": "0"}), "bad": bad})
    shown = Options(max_source=0, negative_examples=2, explanation=True)
    for bad_rows in ("refuse", "skip"):
        with pytest.raises(UserError) as caught:
            read_source(listed, bad_rows, instructions=shown)
        assert str(caught.value).startswith(f"{tmp_path / 'tasks' / 'bad.json'}: ")
        assert reason in str(caught.value)
    # Negative examples are checked where they are shown.
    if NEGATIVE in reason:
        assert len(read_source(listed)[0]) == 2


def test_a_list_that_cannot_be_followed_is_refused(tmp_path, read_source):
    (tmp_path / "alone").mkdir()
    (tmp_path / "alone" / "alone.txt").write_text("t\n")
    listed = write(tmp_path, {"t": task(GOOD)})
    for path, text, message in (
        (tmp_path / "none.txt", None, "no such file"),
        (tmp_path / "alone" / "alone.txt", "t\n", "there is neither"),
        (listed, "t\nmissing\n", r"names task 'missing', but there is no .*missing\.json"),
        (listed, "t\n\nt\n", r"train_tasks\.txt:3: task 't' was already named"),
        (listed, "\n", "names no task"),
    ):
        if text:
            path.write_text(text)
        with pytest.raises(UserError, match=message):
            read_source(path)


def test_of_real_tasks_the_instances_of_the_study_are_read(assets):
    folder = assets / "data" / "superni" / "splits" / "default"
    if not folder.is_dir():
        pytest.skip("no data/superni in ZSG_JAX_ASSETS")
    train = read(folder / "train_tasks.txt", Options(max_source=0))
    assert Counter(Counter(one["task"] for one in train).values()) == {100: 6}
    assert all(one["messages"][1]["content"] in one["references"] for one in train)
    assert any(one["messages"][1]["content"] != one["references"][0] for one in train)
    test = read(folder / "test_tasks.txt", Options(max_source=0), "test")
    emotion = folder.parents[1] / "tasks" / "task875_emotion_classification.json"
    first = json.loads(emotion.read_text())["Instances"][:100]
    assert [one["id"] for one in test[100:]] == [one["id"] for one in first]
