"""Studies that leave out training rows that leak test rows, against plain loops over all pairs."""

import hashlib
import json
import shutil
from pathlib import Path

import numpy as np
import pytest

from zsg_jax.arrangement.spaces import open_encoder
from zsg_jax.runtime.errors import UserError
from zsg_jax.similarity.encoders.hashing import HashingEncoder
from zsg_jax.training.trainer import Trainer
from zsg_jax.workflows import study

METHODS = ("tmta-nft", "random")
DROP = {"arrangement.drop_leaks": 0.95}
WORDS = [f"{one}{two}" for one in "bcdfgklmnprst" for two in ("ako", "ilu", "ema", "oti")]


def run(config, workdir):
    return study.run(config, workdir, command="test")


def stop(*_):
    raise KeyboardInterrupt


def write(path, rows):
    turns = ("user", "assistant")
    path.write_text(
        "".join(
            json.dumps(
                {
                    "id": name,
                    "task": task,
                    "messages": [
                        {"role": role, "content": text}
                        for role, text in zip(turns, texts, strict=True)
                    ],
                }
            )
            + "\n"
            for name, task, *texts in rows
        )
    )
    return str(path)


@pytest.fixture(scope="module")
def rows():
    """88 training rows, 16 of which are made of one of 8 test rows each, in one of four ways."""
    rng = np.random.default_rng(0)

    def text(length):
        return " ".join(rng.choice(WORDS, length))

    test = [(f"test {i}", "de"[i % 2], text(18), text(2)) for i in range(8)]
    train = [(f"train {i}", "abc"[i % 3], text(18), text(2)) for i in range(72)]
    for i, (_, _, prompt, answer) in enumerate(test):
        words = prompt.split()
        one = [
            (prompt.upper(), answer),
            (prompt, text(2)),
            (f"{text(9)} {' '.join(words[2:15])} {text(9)}", text(2)),
            (" ".join([*words[:9], text(1), *words[9:]]), answer),
        ][i % 4]
        train += [(f"leak {i}", "abc"[i % 3], *one), (f"more {i}", "leaks", *one)]
    # Where a row stands says nothing.
    return {"train": [train[i] for i in rng.permutation(len(train))], "test": test}


def cosines(rows):
    """(N, T), of prompt and answer of each row."""
    encoder = open_encoder("hashing", Path())
    train, test = (
        np.asarray(encoder.encode([f"{prompt} {answer}" for _, _, prompt, answer in rows[side]]))
        for side in ("train", "test")
    )
    return train @ test.T


def leaks(rows, similarity=0.95):
    """The ids of the training rows that leak, by looking at each pair."""
    near, found = cosines(rows), set()
    for i, (name, _, prompt, answer) in enumerate(rows["train"]):
        for j, (_, _, other, expected) in enumerate(rows["test"]):
            runs = [
                {tuple(text.lower().split()[at : at + 13]) for at in range(len(text.split()) - 12)}
                for text in (f"{prompt} {answer}", f"{other} {expected}")
            ]
            if prompt.lower() == other.lower() or runs[0] & runs[1] or near[i, j] >= similarity:
                found.add(name)
    return found


@pytest.fixture
def files(rows, tmp_path):
    return {f"data.{side}": write(tmp_path / f"{side}.jsonl", rows[side]) for side in rows}


def ids(workdir, name):
    return (workdir / "arrangements" / name / "ids.txt").read_text().splitlines()


@pytest.mark.parametrize("more", [{}, {"data.report_fraction": 0.5}])
def test_it_is_the_study_of_the_pool_without_them(
    rows, files, make_config, small_config, read_metrics, tmp_path, more
):
    found = leaks(rows)
    assert len(found) == 16
    chosen = {"arrangement.methods": METHODS, "arrangement.budget": 56, **more}
    page = run(small_config(**files, **chosen, **DROP), tmp_path / "w").read_text()
    clean = [row for row in rows["train"] if row[0] not in found]
    other = files | {"data.train": write(tmp_path / "clean.jsonl", clean)}
    run(small_config(**other, **chosen), tmp_path / "clean")
    for name in METHODS:
        assert not found & set(ids(tmp_path / "w", name))
        assert ids(tmp_path / "w", name) == ids(tmp_path / "clean", name)
        # What was trained on, by the ids that the devices returned, and what came of it.
        one, made = f"runs/{name}-seed0", tmp_path / "w" / "arrangements" / name
        assert read_metrics(tmp_path / "w" / one) == read_metrics(tmp_path / "clean" / one)
        facts = json.loads((made / "arrangement.json").read_text())
        assert facts["provenance"]["rows_left_out_as_leaks"] == 16
    told = json.loads((tmp_path / "w" / "leakage.json").read_text())
    assert [rows["train"][at][0] in found for at in told["left_out"]] == [True] * 16
    assert told["counts"]["leaking_train_rows"] == 16
    assert "16 that leak test rows" in page
    assert "touch 8 of 8 test rows; they are left out." in page
    assert "that leak test rows" not in (tmp_path / "clean" / "report" / "index.html").read_text()


def test_a_split_and_a_lower_cosine(rows, small_config, tmp_path):
    path = write(tmp_path / "all.jsonl", rows["train"])
    both = {"data.train": path, "data.test": path, "data.split": "held-out:1"}
    run(small_config(**both, **DROP), tmp_path / "w")
    tested = set(json.loads((tmp_path / "w" / "data.json").read_text())["test_ids"])
    sides = {
        "train": [row for row in rows["train"] if row[0] not in tested],
        "test": [row for row in rows["train"] if row[0] in tested],
    }
    everyone, found = {row[0] for row in sides["train"]}, leaks(sides)
    assert found
    assert set(ids(tmp_path / "w", "tmta-nft")) == everyone - found
    largest = np.sort(cosines(sides).max(1))
    middle = float(largest[39:41].mean())  # between two, whatever the last bit
    run(small_config(**both, **{"arrangement.drop_leaks": middle}), tmp_path / "half")
    more = leaks(sides, middle)
    assert found < more
    assert set(ids(tmp_path / "half", "tmta-nft")) == everyone - more


def test_it_goes_on_and_grows_without_them_and_is_refused_with_them(
    rows, files, small_config, tmp_path
):
    found, first = leaks(rows), {"arrangement.methods": METHODS[:1]}
    run(small_config(**files, **first, **DROP), tmp_path / "w")
    grown = small_config(**files, **DROP, **{"arrangement.methods": METHODS})
    # Whether the search is there or gone, and with an order that is made again.
    shutil.copytree(tmp_path / "w", tmp_path / "gone")
    (tmp_path / "gone" / "leakage.json").unlink()
    shutil.rmtree(tmp_path / "gone" / "arrangements" / "tmta-nft")
    for name in ("w", "gone"):
        run(grown, tmp_path / name)
    for name in METHODS:
        assert ids(tmp_path / "w", name) == ids(tmp_path / "gone", name)
        assert not found & set(ids(tmp_path / "w", name))
        digest = hashlib.sha256("".join(f"{one}\n" for one in ids(tmp_path / "w", name)).encode())
        last = (tmp_path / "w" / "runs" / f"{name}-seed0" / "metrics.jsonl").read_text()
        assert digest.hexdigest() in last
    leakage = [(tmp_path / one / "leakage.json").read_bytes() for one in ("w", "gone")]
    assert leakage[0] == leakage[1]
    with pytest.raises(UserError, match=r"drop_leaks is 0.95 there, None here"):
        run(small_config(**files, **first), tmp_path / "w")


def test_nothing_that_leaks_comes_back_when_the_pool_is_arranged_anew(
    rows, files, small_config, tmp_path
):
    anew = {"training.epochs": ("anew@3,pooling=mean",)}
    run(small_config(**files, **anew, **DROP), tmp_path / "w")
    order = tmp_path / "w" / "runs" / "tmta-nft-seed0" / "rearranged" / "3" / "ids.txt"
    kept = {row[0] for row in rows["train"]} - leaks(rows)
    assert sorted(order.read_text().splitlines()) == sorted(kept)


def test_what_cannot_be_done_is_refused(rows, files, small_config, tmp_path):
    same = files | {"data.test": files["data.train"]}
    for given, message in (
        (same | DROP, "every training row leaks"),
        (files | DROP | {"training.steps": 10}, "holds rows for 9 steps"),
        (files | {"arrangement.drop_leaks": 0.0}, "a cosine above 0"),
    ):
        with pytest.raises(UserError, match=message):
            run(small_config(**given), tmp_path / message)


@pytest.mark.ci
@pytest.mark.slow
def test_orders_by_numbers_that_have_changed_are_not_compared(small_config, tmp_path, monkeypatch):
    def with_numbers(shift, better=0):
        rows = [
            {
                "prompt": f"say {i}",
                "completion": "a",
                "quality": (i + shift) % 5,
                "better": (i + better) % 3,
            }
            for i in range(8)
        ]
        (tmp_path / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))

    def again(*methods):
        source = str(tmp_path / "rows.jsonl")
        given = {"data.train": source, "data.test": source, "tokenizer": "bytes"}
        given |= {"training.steps": 1, "model.pretraining.steps": 0}
        run(small_config(**given, **{"arrangement.methods": methods}), tmp_path / "w")

    with_numbers(0)
    again("score-ascending:quality")
    with_numbers(1)
    with pytest.raises(UserError, match=r"the numbers 'quality' .* changed since"):
        again("score-ascending:quality", "score-descending:quality")
    assert not (tmp_path / "w" / "arrangements" / "score-descending:quality").exists()
    with_numbers(0)
    again("score-ascending:quality", "score-descending:quality")
    # A growth that was stopped after its order was made binds nobody, but neither is that order
    # taken for one of numbers that were corrected.
    methods = ("score-ascending:quality", "score-descending:quality", "score-descending:better")
    with monkeypatch.context() as patch:
        patch.setattr(study, "_train_run", stop)
        with pytest.raises(KeyboardInterrupt):
            again(*methods)
    with_numbers(0, better=1)
    with pytest.raises(UserError, match=r"was made with other numbers 'better'; delete it"):
        again(*methods)
    shutil.rmtree(tmp_path / "w" / "arrangements" / "score-descending:better")
    again(*methods)


def test_an_order_that_other_settings_have_made_is_refused(small_config, finished, tmp_path):
    given = {"arrangement.methods": ("random",), "arrangement.seed": 7}
    run(small_config(**given), tmp_path / "other")
    shutil.copytree(finished, workdir := tmp_path / "w")
    made = Path("arrangements") / "random"
    shutil.copytree(tmp_path / "other" / made, workdir / made)
    known = json.loads((workdir / "config.json").read_text())["arrangement.methods"]
    with pytest.raises(UserError, match=r"was made with arrangement\.seed=7, the study has 0"):
        run(small_config(**{"arrangement.methods": (*known, "random")}), workdir)


def test_a_run_binds_nobody_before_its_first_state_is_made(
    small_config, finished, tmp_path, monkeypatch
):
    shutil.copytree(finished, workdir := tmp_path / "w")
    before = (workdir / "config.json").read_bytes()
    with monkeypatch.context() as patch:
        patch.setattr(Trainer, "initial_state", stop)
        with pytest.raises(KeyboardInterrupt):
            run(small_config(seeds=(0, 11)), workdir)
    assert (workdir / "config.json").read_bytes() == before
    run(small_config(), workdir)


@pytest.mark.parametrize("lost", ["leakage.json", "leakage.jsonl"])
def test_leaks_are_not_looked_for_by_another_encoder_than_orders(
    small_config, tmp_path, monkeypatch, lost
):
    begin = HashingEncoder.__init__

    def other(self):
        begin(self)
        self.fingerprint = "other"

    config, workdir = small_config(), tmp_path / "w"
    run(config, workdir)
    told = (workdir / "leakage.json").read_text()
    (workdir / lost).unlink()
    with monkeypatch.context() as patch:
        patch.setattr(HashingEncoder, "__init__", other)
        with pytest.raises(UserError, match="not all were made with the same encoder"):
            run(config, workdir)
    run(config, workdir)
    assert (workdir / "leakage.json").read_text() == told
