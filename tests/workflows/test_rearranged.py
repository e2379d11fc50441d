"""Runs whose pool is arranged anew as they train, killed at any point, against TMTA by hand."""

import hashlib
import json
import re
import shutil

import numpy as np
import pytest

from zsg_jax.arrangement import tmta
from zsg_jax.arrangement.spaces import open_encoder
from zsg_jax.runtime.errors import UserError
from zsg_jax.similarity.encoders.hashing import HashingEncoder
from zsg_jax.similarity.encoders.registry import ENCODERS
from zsg_jax.training import loop
from zsg_jax.workflows import rearranged, study
from zsg_jax.workflows.results import StudyResult

AT = (3, 6)
ANEW = {"training.epochs": ("anew@3+6,pooling=mean",)}


def run(config, workdir):
    return study.run(config, workdir, command="test")


def order_of(folder):
    return np.load(folder / "order.npy").tolist()


def embeddings(folder):
    return np.concatenate([np.load(path) for path in sorted(folder.glob("*.npy"))])


def stopping_at(monkeypatch, step):
    """Ends a run as step `step` is about to be taken, as a kill would."""
    real, taken = loop.place_batch, []

    def place(batch, mesh):
        taken.append(1)
        if len(taken) == step:
            raise KeyboardInterrupt
        return real(batch, mesh)

    monkeypatch.setattr(loop, "place_batch", place)


@pytest.fixture(scope="module")
def whole(make_config, tmp_path_factory):
    """The workdir of a run that nothing has stopped, of 60 of 80 rows."""
    workdir = tmp_path_factory.mktemp("whole") / "w"
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("zsg_jax.report.page._draw", lambda *given: [])
        patch.setattr("zsg_jax.workflows.study_orders.explainer", lambda *given: lambda *made: None)
        page = run(make_config(**ANEW, **{"arrangement.budget": 60}), workdir).read_text()
    assert ANEW["training.epochs"][0] in page
    return workdir


def test_each_part_is_tmta_of_what_was_left(whole, read_metrics):
    one = whole / "runs" / "tmta-nft-seed0"
    order, met = order_of(whole / "arrangements" / "tmta-nft"), []
    for step in AT:
        met = order[: 8 * step]
        folder = one / "rearranged" / str(step)
        left = [row for row in range(80) if row not in met]
        sides = [embeddings(folder / "embeddings" / side) for side in ("train", "test")]
        assert [len(side) for side in sides] == [len(left), 12]
        expected = tmta(*sides, budget=len(order) - len(met))
        assert order_of(folder) == [left[row] for row in expected.order]
        before, order = order, met + order_of(folder)
        assert order != before
        assert len(set(order)) == len(order)
        facts = json.loads((folder / "arrangement.json").read_text())["provenance"]
        assert facts["after_step"] == step
        assert f"@{step},layer=" in facts["encoder"]
        assert "pooling=mean" in facts["encoder"]
    ids = (one / "rearranged" / "6" / "ids.txt").read_text().splitlines(keepends=True)
    rows = read_metrics(one)
    for row in (row for row in rows if row["kind"] == "train"):
        seen = "".join(ids[: 8 * row["step"]]).encode()
        assert row["order_digest"] == hashlib.sha256(seen).hexdigest()
    assert [row["step"] for row in rows if row["kind"] == "test"] == [0, 3, 6, 8]
    # The similarity of an order that is not gone on with is not told.
    told = json.loads((whole / "arrangements" / "tmta-nft" / "similarity.json").read_text())
    assert told["step"][-1] == 3


def test_the_page_and_the_run_tell_what_was_trained_on(whole):
    page = " ".join((whole / "report" / "index.html").read_text().split())
    assert "the first 24 of them trained on, in 3 steps, and then, in 5 steps, rows that" in page
    assert "(ids.txt in its rearranged/6 has" in page
    assert "all of them trained on" not in page
    one = whole / "runs" / "tmta-nft-seed0"
    told = json.loads((one / "finished.json").read_text())["facts"]["Sequences of a step"]
    length = int(re.search(r"of (\d+) tokens", told)[1])
    rows = [json.loads(line) for line in (one / "metrics.jsonl").read_text().splitlines()]
    steps = [row for row in rows if row["kind"] == "train"]
    tokens = [round(row["tokens_per_second"] * row["seconds"]) for row in steps]
    each = zip(tokens, steps, strict=True)
    computed = [round(real / row["fill"] / length) * length for real, row in each]
    assert f"{sum(tokens) / sum(computed):.1%} of them real tokens" in told


def test_a_run_killed_at_any_point_goes_on_to_the_same_numbers(
    whole, small_config, read_metrics, tmp_path, monkeypatch
):
    config = small_config(**ANEW, **{"arrangement.budget": 60})
    expected = read_metrics(whole / "runs" / "tmta-nft-seed0")
    mine = tmp_path / "w" / "runs" / "tmta-nft-seed0"
    with monkeypatch.context() as patch:
        stopping_at(patch, 3)
        with pytest.raises(KeyboardInterrupt):
            run(config, tmp_path / "w")

    def killed(*given, **more):
        raise KeyboardInterrupt

    for name in ("embed_pair", "save_arrangement"):
        with monkeypatch.context() as patch:
            patch.setattr(rearranged, name, killed)
            with pytest.raises(KeyboardInterrupt):
                run(config, tmp_path / "w")
        assert not (mine / "finished.json").exists()
    # The states are those of the run's checkpoint.
    encoder = open_encoder(f"states:{mine}@3,pooling=mean", tmp_path)
    assert embeddings(mine / "rearranged" / "3" / "embeddings" / "test").shape[0] == 12
    kept = json.loads((mine / "rearranged/3/embeddings/test/manifest.json").read_text())
    assert encoder.fingerprint in json.dumps(kept)
    with monkeypatch.context() as patch:
        stopping_at(patch, 2)
        with pytest.raises(KeyboardInterrupt):
            run(config, tmp_path / "w")
    assert (mine / "rearranged" / "3" / "ids.txt").exists()
    run(config, tmp_path / "w")
    assert read_metrics(mine) == expected


def test_what_a_run_has_gone_on_with_is_arranged_again(
    whole, small_config, read_metrics, tmp_path, monkeypatch
):
    config = small_config(**ANEW, **{"arrangement.budget": 60})
    mine = tmp_path / "w" / "runs" / "tmta-nft-seed0"
    with monkeypatch.context() as patch:
        stopping_at(patch, 6)
        with pytest.raises(KeyboardInterrupt):
            run(config, tmp_path / "w")
    assert sorted(int(one.name) for one in (mine / "checkpoints").iterdir()) == [3, 4]
    shutil.rmtree(mine / "rearranged" / "3")
    run(config, tmp_path / "w")
    assert read_metrics(mine) == read_metrics(whole / "runs" / "tmta-nft-seed0")


@pytest.mark.parametrize(
    ("text", "kept"), [("answer", ["a b c: ", ""]), ("both", ["", ""])], ids=["answer", "both"]
)
def test_prompts_stand_where_they_have_a_place(small_config, tmp_path, monkeypatch, text, kept):
    prompts = {"similarity.train_prompt": "a b c: ", "similarity.test_prompt": "name:query"}

    def encoder():
        made = HashingEncoder()
        made.prompts = {"query": "q: "}
        return made

    monkeypatch.setitem(ENCODERS, "hashing", encoder)
    config = small_config(**ANEW, **prompts, **{"similarity.text": text})
    run(config, tmp_path / "w")
    facts = [
        json.loads(path.read_text())["provenance"]["embedded"]
        for path in (tmp_path / "w").glob("runs/*/rearranged/*/arrangement.json")
    ]
    assert [[one["train_prompt"], one["test_prompt"]] for one in facts] == [kept] * 2
    (first,) = (tmp_path / "w").glob("arrangements/*/arrangement.json")
    assert json.loads(first.read_text())["provenance"]["embedded"]["test_prompt"] == "q: "


def test_metrics_that_are_added_are_measured_where_it_was_arranged_anew(small_config, tmp_path):
    texts = {"evaluation.texts.decoding": "greedy,max_new_tokens=2", "evaluation.scores_every": 2}
    given = ANEW | texts | {"arrangement.budget": 32, "evaluation.every": 1, "training.steps": 4}
    given["training.epochs"] = ("anew@3",)
    run(small_config(**given), tmp_path / "w")
    added = {"evaluation.metrics": ("loss", "exact_match")}
    run(small_config(**given, **added), tmp_path / "w")
    (later,) = (tmp_path / "w").glob("runs/*/later.jsonl")
    measured = [json.loads(line) for line in later.read_text().splitlines()]
    assert [one["step"] for one in measured] == [0, 2, 3, 4]
    assert ["exact_match" in one for one in measured] == [True, False, True, True]


def test_the_order_that_it_began_with_is_not_given_for_that_of_a_run(whole):
    page = whole / "report" / "index.html"
    result = StudyResult(whole, page, json.loads((page.parent / "summary.json").read_text()))
    with pytest.raises(UserError, match="every run arranged what was left anew"):
        result.order("tmta-nft")


def test_what_was_arranged_anew_is_guarded(whole, small_config, tmp_path):
    config = small_config(**ANEW, **{"arrangement.budget": 60})
    workdir = shutil.copytree(whole, tmp_path / "w")
    folder = workdir / "runs" / "tmta-nft-seed0" / "rearranged" / "3"
    for name in ("ids.txt", "order.npy", "turn.npy", "arrangement.json"):
        content = (folder / name).read_bytes()
        (folder / name).write_bytes(content[:-2] + bytes([content[-2] ^ 1]) + content[-1:])
        with pytest.raises(UserError, match=f"rearranged/3/{name}: is damaged"):
            run(config, workdir)
        (folder / name).write_bytes(content)
    run(config, workdir)


def test_by_its_gradients(small_config, tmp_path):
    rule = "anew@4:gradients,dimension=64"
    run(small_config(**{"training.epochs": (rule,), "training.steps": 6}), tmp_path / "w")
    one = tmp_path / "w" / "runs" / "tmta-nft-seed0" / "rearranged" / "4"
    facts = json.loads((one / "arrangement.json").read_text())["provenance"]
    assert facts["encoder"].startswith("gradients:tmta-nft-seed0@4")
    met = order_of(tmp_path / "w" / "arrangements" / "tmta-nft")[:32]
    left = [row for row in range(80) if row not in met]
    expected = tmta(*(embeddings(one / "embeddings" / side) for side in ("train", "test")))
    assert order_of(one) == [left[row] for row in expected.order]


@pytest.mark.parametrize(
    ("epochs", "overrides", "message"),
    [
        (("anew@3+3",), {}, "ascending steps from 1"),
        (("anew@0",), {}, "ascending steps from 1"),
        (("anew@",), {}, "ascending steps from 1"),
        (("anew@4",), {"training.steps": 4}, "ends with step 4, but .*training.steps=4"),
        (("anew@10",), {}, "ends with step 10, but tmta-nft has 10"),
        (("anew@3,layers=1",), {}, r"did you mean layer\?"),
        (("anew@3:gradients,layer=1",), {}, "layer"),
        (("anew@3:gradients,99",), {}, "a step stands behind the space; write anew@STEP"),
        (("anew@3:texts",), {}, "anew@STEP"),
        (("anew@3",), {"arrangement.methods": ("tasks-2",)}, "'tasks-2' counts tasks"),
        (("anew@3",), {"arrangement.methods": ("random", "polar-3+zigzag-2")}, "'polar-3"),
        (("anew@3", "shuffled"), {}, "anew@3 goes once through the pool"),
        (
            ("anew@2",),
            {"arrangement.methods": ("diverse-70",)},
            "'diverse-70' asks for 70 rows of 64 that are left after step 2; ask for fewer",
        ),
    ],
)
def test_what_cannot_be_is_refused_before_a_step_is_trained(
    small_config, tmp_path, epochs, overrides, message, monkeypatch
):
    stopping_at(monkeypatch, 1)
    with pytest.raises(UserError, match=message):
        run(small_config(**{"training.epochs": epochs}, **overrides), tmp_path)


@pytest.mark.parametrize(
    ("rule", "text", "message"),
    [
        ("anew@3,layer=9", "both", "layer=9, but the model has "),
        ("anew@3,tokens=answers,length=2", "both", "tokens=answers, but .* no answer token"),
        ("anew@3:gradients,dimension=64", "prompt", "gradients are of answers, but .* no answer"),
        ("anew@3:gradients,weights=layer/*", "both", "weights=layer.* is the name of no parameter"),
        ("anew@3:gradients,length=2", "both", "no answer token within 2 tokens"),
    ],
)
def test_what_its_eyes_cannot_read_is_refused_before_a_step_is_trained(
    small_config, tmp_path, monkeypatch, rule, text, message
):
    stopping_at(monkeypatch, 1)
    config = small_config(**{"training.epochs": (rule,), "similarity.text": text})
    with pytest.raises(UserError, match=f"training.epochs.*{message}"):
        run(config, tmp_path)
    # So another config may follow in the same workdir.
    with pytest.raises(KeyboardInterrupt):
        run(small_config(**{"training.epochs": ("anew@3",)}), tmp_path)
