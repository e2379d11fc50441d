"""The page of an order: its numbers by plain NumPy, its texts as texts, and what it leaves out."""

import dataclasses

import numpy as np
import pytest

from zsg_jax.arrangement import Arrangement, tmta
from zsg_jax.arrangement.embedded import EmbeddedPair
from zsg_jax.data.dataset import from_list
from zsg_jax.data.instance import Instance, Turn
from zsg_jax.report.explain import explain, maps, tables
from zsg_jax.report.explain.measures import resembling
from zsg_jax.runtime.errors import UserError
from zsg_jax.similarity.search.options import Search

EVIL = "<script>alert('x')</script> & \"more\""


def dataset(side, count, tasks):
    def instance(row):
        turns = (Turn("user", f"ask {row}"), Turn("assistant", f"say {row}"))
        return Instance(f"{side}-{row}", f"{side}_{row % tasks}", turns, (turns[-1].content,))

    return from_list([instance(row) for row in range(count)])


def make(n=60, tests=5, columns=6, tasks=4, test_tasks=2, seed=0):
    """An order of TMTA, and what it is an order of."""
    generator = np.random.default_rng(seed)
    train = generator.normal(size=(n, columns)).astype(np.float32)
    test = generator.normal(size=(tests, columns)).astype(np.float32)
    datasets = dataset("task", n, tasks), dataset("unseen", tests, test_tasks)
    pair = EmbeddedPair(*datasets, train, test, np.arange(n), np.arange(tests), {})
    return tmta(train, test), pair


def leakage(exact=0, pairs=0, rule="same texts"):
    touched = 3 if exact else 0
    counts = {
        **{"train_rows": 5000, "test_rows": 7},
        **{"leaking_train_rows": exact, "touched_test_rows": touched},
        **{"exact_train_rows": exact, "exact_test_rows": touched, "exact_pairs": pairs},
        **{"near_train_rows": 0, "near_test_rows": 0, "near_pairs": 0},
    }
    return {"counts": counts, "rules": {"exact": rule, "near": "cosine"}, "words": 13}


@pytest.fixture
def explained(read_page, tmp_path):
    """Explains an order and reads the page strictly."""

    def run(arrangement, pair, title="An order", facts=(), found=None, **more):
        path = tmp_path / "page.html"
        more = {"leakage": found, "facts": dict(facts), "title": title, **more}
        return read_page(explain(path, arrangement, pair, **more))

    return run


def test_the_numbers_are_those_of_the_whole_matrix(explained):
    _, pair = make()
    order = np.random.default_rng(1).permutation(60)[:47]
    read = explained(Arrangement(order, [1] * 47), pair)
    read.check()
    (rule,) = [m["content"] for m in read.all("meta") if "http-equiv" in m]
    assert rule.startswith("default-src 'none';")
    train, test = (
        x / np.linalg.norm(x, axis=1, keepdims=True)
        for x in (pair.train_embeddings.astype(float), pair.test_embeddings.astype(float))
    )
    table = train[order] @ test.T
    best, task = table.max(axis=1), pair.train.task_index[order]
    parts = [slice(0, 4), slice(21, 25), slice(43, 47), slice(0, 47)]
    for line, part in zip(read.table("stretches")[1:], parts, strict=True):
        assert line[1] == f"{part.start + 1} – {part.stop}"
        assert [float(cell) for cell in line[2:4]] == pytest.approx(
            [table[part].mean(), best[part].mean()], abs=6e-5
        )
    for name, rows, share, median, cosine in read.table("train-tasks")[1:]:
        of = np.flatnonzero(task == int(name[-1]))
        told = [int(rows), float(share), float(median), float(cosine)]
        share = 100 * len(of) / 47
        expected = [len(of), share, np.median(of) + 1, best[of].mean()]
        assert (np.abs(np.subtract(told, expected)) < [1e-9, 0.006, 1e-9, 6e-5]).all()
    for name, rows, cosine, median, served in read.table("test-tasks")[1:]:
        of = np.flatnonzero(pair.test.task_index == int(name[-1]))
        assert int(rows) == len(of)
        assert float(cosine) == pytest.approx(table[:, of].max(axis=0).mean(), abs=6e-5)
        assert float(median) == pytest.approx(np.median(table[:, of].argmax(axis=0)) + 1)
        near = np.isin(table.argmax(axis=1), of).mean()
        assert float(served) == pytest.approx(100 * near, abs=0.06)
    medians = [float(line[3]) for line in read.table("train-tasks")[1:]]
    assert medians == sorted(medians)
    ranked = sorted(range(5), key=lambda j: -table[:, j].max())
    lines = read.table("test-rows")[1:]
    assert [line[0][:8] for line in lines] == [f"unseen-{j}" for j in ranked]
    for line, j in zip(lines, ranked, strict=True):
        for cell, place in zip(line[1:], np.argsort(-table[:, j])[:3], strict=True):
            told = f"{table[place, j]:.3f}task-{order[place]}position {place + 1}, turn 1"
            assert cell.startswith(told)
    met, said = np.sort(table.argmax(axis=0)) + 1, read.said()
    assert f"have met theirs by position {met[2]}, all of them by position {met[4]}" in said
    assert "lists 47 of 60 training rows in 1 turn," in said
    assert "Not looked for" in said

    # Pairs stand side by side with their texts, the most and the least alike.
    place, j = np.unravel_index(table.argmax(), table.shape)
    row = order[place]
    pair_said = f"cosine {table.max():.3f} · position {place + 1} of 47 · turn 1 Training row "
    pair_said += f"task-{row} task_{row % 4} user ask {row} answer say {row} Test row unseen-{j} "
    assert pair_said in said
    count = int((table.max(axis=0) < resembling(train, test).cosine).sum())
    assert f"{count or 'None'} of {table.shape[1]} test rows ha" in said
    unlike = said[said.index("is farthest, beside that row") :]
    worst = int(table.max(axis=0).argmin())
    place = int(table[:, worst].argmax())
    first = unlike[: unlike.index("cosine", unlike.index("cosine") + 1)]
    assert f"cosine {table[:, worst].max():.3f} · position {place + 1} of 47" in first
    assert f"Training row task-{order[place]} " in first
    assert f"Test row unseen-{worst} " in first
    assert f"is {np.median(best[36:]):.3f} in the median" in said


def test_the_same_input_gives_the_same_bytes_and_few_examples_are_read(explained):
    arrangement, pair = make(n=700, tests=300)
    asked = []
    part = pair.train.parts[0]
    counted = part._replace(instance=lambda row: (asked.append(row), part.instance(row))[1])
    pair = dataclasses.replace(pair, train=dataclasses.replace(pair.train, parts=[counted]))
    first = explained(arrangement, pair).path.read_bytes()
    assert len(asked) < 200
    assert explained(arrangement, pair, search=Search(block_size=256)).path.read_bytes() == first
    assert len(first) < 1_000_000


def test_texts_and_names_are_never_markup_and_long_ones_open(explained):
    arrangement, pair = make()
    turns = (Turn("system", EVIL), Turn("user", EVIL), Turn("assistant", "</details>" + EVIL * 30))
    evil = from_list([Instance(EVIL, EVIL, turns, (EVIL,))] * 60)
    pair = dataclasses.replace(pair, train=evil, test=evil.select(range(5)))
    read = explained(arrangement, pair, title=EVIL, facts={EVIL: EVIL}, found=leakage(rule=EVIL))
    assert len(read.all("script")) == 1
    assert "Test data stands" not in read.said()
    assert [EVIL, EVIL] in read.tables[-1]
    assert read.table("train-tasks")[1][0] == EVIL
    assert any("<script>" in told for told in read.drawn())
    assert len(read.all("details")) == len(read.all("summary")) > 8
    assert (EVIL * 30).strip() in "".join(read.spoken)


def test_leakage_is_a_warning_where_something_leaked(explained):
    read = explained(*make(n=4), found=leakage(exact=1200, pairs=4000))
    cells = [attrs.get("class", "") for tag, attrs in read.tags if tag == "td"]
    assert sum("leaked" in cell for cell in cells) == 3
    assert ["exact", "1,200", "3", "4,000", "same texts"] in read.table("leakage")
    assert "1,200 of 5,000 training rows leak 3 of 7 test rows" in read.said()
    assert "may be memory" in read.said()
    assert "no run of words" not in read.said()
    short = leakage() | {"test_rows_without_ngrams": 5}
    assert "Of 7 test rows 5 hold no run of words" in explained(*make(n=4), found=short).said()
    out = explained(*make(n=4), found=leakage(exact=1200, pairs=4000), leaks_left_out=True).said()
    assert "left out of this order" in out
    assert "may be memory" not in out


def test_of_few_rows_it_is_told_how_many_pairs_do_not_resemble(explained):
    arrangement, pair = make(n=3, tests=1)
    drawn = np.random.default_rng(0).integers(3, size=10_000)
    unit = [
        x / np.linalg.norm(x, axis=1, keepdims=True)
        for x in (pair.train_embeddings, pair.test_embeddings)
    ]
    share = (drawn != (unit[0] @ unit[1][0]).argmax()).mean()
    assert (
        f"which {100 * share:.3g} % of 10,000 random pairs" in explained(arrangement, pair).said()
    )


def test_what_is_left_out_is_told(explained, monkeypatch):
    monkeypatch.setattr(tables, "MAX_TASKS", 20)
    monkeypatch.setattr(maps, "NAMED_TEST_TASKS", 3)
    read = explained(*make(n=900, tests=60, tasks=276, test_tasks=50))
    said = read.said()
    for told in ("The 12 of 276 tasks", "20 most frequent of 276", "20 least resembled of 50"):
        assert told in said
    assert "47 more, to which" in said
    assert "40 of 60 test rows, evenly spaced" in said
    assert any("264 other tasks" in told for told in read.drawn())
    assert len(read.table("train-tasks")) == 21


@pytest.mark.parametrize(
    ("sizes", "value"),
    [
        ({"n": 1, "tests": 1, "tasks": 1, "test_tasks": 1, "columns": 1}, None),
        ({"n": 9, "tests": 12, "tasks": 9, "test_tasks": 12}, 0.0),
        ({"n": 12, "tests": 3}, 1.0),
    ],
)
def test_small_and_odd_sizes_and_rows_all_alike(explained, sizes, value):
    arrangement, pair = make(**sizes)
    if value is not None:
        pair.train_embeddings[:] = pair.test_embeddings[:] = value
    read = explained(arrangement, pair)
    assert " nan " not in read.said().lower()
    assert "inf " not in read.said()
    assert len(read.drawn()) >= 4
    if value is not None:
        assert float(read.table("stretches")[1][2]) == value


def test_what_does_not_fit_is_refused_before_anything_is_written(explained, tmp_path):
    arrangement, pair = make()
    few = np.arange(50)
    poisoned = np.where(np.arange(60)[:, None] == 37, np.nan, pair.train_embeddings)
    for message, given, of in (
        ("arrangement is empty", Arrangement(few[:0], few[:0]), pair),
        ("test set is empty", arrangement, pair.select(np.arange(60), few[:0])),
        ("names row 59, but there are 50 training", arrangement, pair.select(few, few[:5])),
        ("row 37 holds a NaN", arrangement, dataclasses.replace(pair, train_embeddings=poisoned)),
        (
            "train has 6 columns and test has 4",
            arrangement,
            dataclasses.replace(pair, test_embeddings=np.ones((5, 4), np.float32)),
        ),
    ):
        with pytest.raises(UserError, match=message):
            explained(given, of)
    assert not list(tmp_path.iterdir())


@pytest.mark.ci
@pytest.mark.slow
def test_pairs_are_searched_in_a_browser(explained, browse):
    page = explained(*make()).path
    content = page.read_text()
    row = content[content.index('data-search>\n<h2 id="alike"') :]
    name = row[row.index("Training row <bdi>") + 18 :].partition("</bdi>")[0]
    typed = (
        "const field = document.querySelectorAll('input[type=search]')[1];"
        f"field.value = {name!r}; field.dispatchEvent(new Event('input'));"
    )
    # What a reader types, and no rule against it.
    rule = content.index("<meta http-equiv")
    without = content[:rule] + content[content.index(">", rule) + 1 :]
    page.write_text(without.replace("</body>", f"<script>{typed}</script></body>"))
    held, errors = browse(page)
    assert errors == []
    alike = held[held.index('<h2 id="alike"') : held.index('<h2 id="words"')]
    shown = [one for one in alike.split("<article")[1:] if not one.startswith(" hidden")]
    assert shown
    assert all(name in one for one in shown)
    assert len(shown) < alike.count("<article")
    assert f" {len(shown)} found" in alike
    assert '<details class="fold" open="">' in alike
