"""Addresses of string rewriting, against the rows of the study's cells."""

import itertools
import json
from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from zsg_jax.data.reading import ReadOptions, open_dataset
from zsg_jax.data.rewriting.address import Text, read_address
from zsg_jax.data.rewriting.drawing import Drawing, Scoring
from zsg_jax.data.sources import open_source
from zsg_jax.diversity.cells import Cell, CellData
from zsg_jax.runtime.errors import UserError


def apart(line):
    """The same with a blank between every two letters beside each other."""
    blanks = (" " * (a.isalnum() and b.isalnum()) for a, b in itertools.pairwise(line))
    return "".join(map("".join, zip(line, [*blanks, ""], strict=True)))


def spelled(drawing, scoring, text):
    """An address that asks for these."""
    given = vars(drawing) | {f"test_{k}": v for k, v in vars(scoring).items()} | vars(text)
    keys = (f"{key}={str(value).lower()}" for key, value in given.items())
    return f"rewrites:{','.join(keys)}"


DRAWINGS = st.builds(
    Drawing,
    rules=st.integers(2, 9),
    samples=st.integers(1, 4),
    no_ops=st.sampled_from([0.0, 0.5]),
    exponent=st.sampled_from([0.0, 0.5]),
    occurrences=st.sampled_from(["1", "1+2"]),
    families=st.sampled_from(["free", "repeat:1-4", "period:2+mirror:2"]),
    lengths=st.sampled_from(["4/4/16", "4/3/18"]),
    list_length=st.integers(1, 2),
    limit=st.integers(1, 3),
    encrypted=st.booleans(),
    seed=st.integers(0, 9),
)
SCORINGS = st.builds(
    Scoring,
    rows=st.integers(1, 20),
    rules=st.integers(1, 5),
    families=st.sampled_from(["", "free"]),
    no_ops=st.sampled_from([0.0, 0.5]),
    seed=st.integers(0, 9),
)
TEXTS = st.builds(
    Text,
    form=st.sampled_from(["compact", "lines"]),
    letters=st.integers(20, 40),
    spaced=st.booleans(),
    task=st.sampled_from(["family", "instruction"]),
)


@settings(max_examples=20)
@given(DRAWINGS, SCORINGS, TEXTS)
def test_an_address_gives_the_rows_of_a_cell(tmp_path_factory, drawing, scoring, text):
    folder = tmp_path_factory.mktemp("rows")
    rows = drawing.rules * drawing.samples
    options = {"letters": text.letters, "form": text.form, "steps": 1, "batch_size": rows}
    cell = CellData(Cell(**vars(drawing)), scoring, **options)
    tokens, lengths = cell.steps(0, 1)
    unseen = cell.unseen.encoded
    both = {
        "train": cell.writer.texts(tokens[0], lengths[0]),
        "test": cell.writer.texts(unseen.tokens, unseen.lengths),
    }
    for side, lines in both.items():
        address = spelled(drawing, scoring, replace(text, side=side))
        with open_dataset(address, ReadOptions(folder)) as found:
            records = [json.loads(found.raw(i)) for i in range(len(found))]
            assert [one.id for one in found] == [one["id"] for one in records]
        between = "" if text.form == "compact" else "\n"
        made = [one["prompt"] + between + one["completion"] + "$" for one in records]
        assert made == [apart(line) if text.spaced else line for line in lines]
        if text.task == "family":
            assert [one["task"] for one in records] == [one["family"] for one in records]
        else:
            assert all(one["task"].endswith(f" {one['instruction']}") for one in records)
    assert [one["applied"] > 0 for one in records] == cell.unseen.applied.tolist()
    assert [one["family"] for one in records] == cell.unseen.kinds.tolist()


def test_what_is_not_said_is_as_in_a_cell():
    drawing, scoring, text = read_address("rewrites:pool=9")
    assert (drawing, scoring) == (Drawing(pool=9), Scoring())
    assert text.side == "train"


@pytest.mark.parametrize("keys", ["letters=4,lengths=2/2/4,test_rules=2", "letters=26"])
def test_how_many_rows_differ_is_told(tmp_path, capsys, keys):
    with open_dataset(f"rewrites:rules=1,samples=300,{keys}", ReadOptions(tmp_path)) as found:
        different = len({one.text for one in found})
    told = f"{different} of 300 rows differ" in capsys.readouterr().err
    assert told == (different < 300) == ("letters=4" in keys)


def test_in_a_mixture_both_have_names(tmp_path):
    sources = [{"path": "rewrites:rules=3,samples=2,lengths=3/3/10", "cap": 4}]
    sources.append({"path": "rewrites:rules=2,samples=2", "name": "other"})
    (tmp_path / "a.mix.json").write_text(json.dumps({"sources": sources}))
    with open_source(tmp_path / "a.mix.json", ReadOptions(tmp_path)) as found:
        names = [one.split("/")[0] for one in found.ids]
    assert sorted(names) == ["other"] * 4 + ["rewrites"] * 4


@pytest.mark.parametrize(
    ("keys", "message"),
    [
        ("rulse=3,samples=2", "did you mean rules"),
        ("test_row=3,samples=2", "did you mean test_rows"),
        ("learning_rate=3,samples=2", "nothing reads"),
        ("rules", "must be KEY=VALUE"),
        ("rules=3,rules=4,samples=2", "rules twice"),
        ("rules=3.5,samples=2", "must be a whole number"),
        ("samples=2,no_ops=few", "must be a number"),
        ("samples=2,encrypted=1", "must be true or false"),
        ("samples=2,side=tset", "did you mean test"),
        ("samples=2,task=rule", "choose family or instruction"),
        ("samples=2,form=line", "did you mean lines"),
        ("samples=2,families=fee", "is no family"),
        ("samples=2,pool=3", "set one of them to 0"),
        ("rules=3", "samples=S"),
        ("", "samples=S"),
        ("samples=2,test_rules=0", "test_rules=0 must be at least 1"),
        ("samples=2,lengths=3/3", "3/3/10"),
    ],
)
def test_what_is_wrong_is_told_with_the_address(tmp_path, keys, message):
    with pytest.raises(UserError, match=message) as told:
        open_dataset(f"rewrites:{keys}", ReadOptions(tmp_path))
    assert str(told.value).startswith("rewrites:")
