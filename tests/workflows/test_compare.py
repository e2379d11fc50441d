"""One page of several studies, and those that are not to be compared."""

import html
import json
import shutil
from pathlib import Path

import numpy as np
import pytest

from zsg_jax.runtime.errors import UserError
from zsg_jax.training.finished import finish
from zsg_jax.training.metrics import read_records
from zsg_jax.workdir.lock import locked
from zsg_jax.workflows import compare
from zsg_jax.workflows.compare_options import CompareOptions


@pytest.fixture
def studies(finished, tmp_path, monkeypatch):
    """Makes copies of a finished study that differ as told: {name: {file: {key: value}}}."""
    monkeypatch.setattr("zsg_jax.report.page._draw", lambda *given: [])

    def make(**changes):
        for name, files in changes.items():
            folder = tmp_path / name
            shutil.copytree(finished, folder)
            (folder / "manifest.json").unlink()
            # What its runs were trained with goes as told, too.
            told = {"config": files.get("config.json", {})}
            of_run = {f"runs/tmta-nft-seed0/{one}.json": told for one in ("belongs", "finished")}
            files = files | of_run
            for file, values in files.items():
                path = folder / file
                path.write_text(json.dumps(json.loads(path.read_text()) | values))
        return [str(tmp_path / name) for name in changes]

    return make


def test_a_page_of_two_studies(studies, finished, tmp_path):
    given = studies(one={}, two={"config.json": {"training.learning_rate": 0.5, "mesh.data": 1}})
    page = compare.run(CompareOptions(tuple(given), tmp_path / "out", window=3))
    summary = json.loads((tmp_path / "out" / "summary.json").read_text())
    tests = [
        (one["step"], one["loss"])
        for one in read_records(finished / "runs" / "tmta-nft-seed0")
        if one["kind"] == "test"
    ]
    assert list(summary["arrangements"]) == ["one: tmta-nft", "two: tmta-nft"]
    for entry in summary["arrangements"].values():
        assert list(zip(entry["steps"], entry["loss_mean"], strict=True)) == tests
        assert entry["window"]["loss"]["mean"] == dict(tests)[3]
    # Of the same numbers no difference is made.
    for compared in summary["differences"]["loss"].values():
        (pair,) = compared
        assert (pair["first"], pair["second"]) == ("one: tmta-nft", "two: tmta-nft")
        assert pair["low"] == pair["mean"] == pair["high"] == 0
    text = page.read_text().replace("<wbr>", "")
    assert "training.learning_rate" in text
    assert "mesh.data" not in text
    # Again, into what it wrote.
    again = compare.run(CompareOptions(tuple(given), tmp_path / "out"))
    assert again == page
    assert json.loads((tmp_path / "out" / "summary.json").read_text())["window"] is None


def test_the_page_tells_where_runs_were_and_what_leaks(studies, tmp_path):
    given = studies(one={}, two={})
    path = Path(given[1]) / "runs" / "tmta-nft-seed0" / "finished.json"
    ended = json.loads(path.read_text())
    path.write_text(json.dumps(ended | {"facts": ended["facts"] | {"Devices": "8 of a kind"}}))
    same = compare.run(CompareOptions(tuple(given), tmp_path / "out")).read_text()
    assert "8 of a kind" in same
    leaks = json.loads((Path(given[0]) / "leakage.json").read_text())["sentence"]
    assert same.count(html.escape(leaks)) == 1
    (Path(given[1]) / "leakage.json").write_text(json.dumps({"sentence": "7 rows leak"}))
    other = compare.run(CompareOptions(tuple(given), tmp_path / "out")).read_text()
    assert "two: 7 rows leak." in other
    assert f"one: {html.escape(leaks)}" in other


def test_what_a_path_held_is_told_where_it_differs(studies, tmp_path):
    given = studies(one={}, two={"data.json": {"shares_digest": "5" * 64}})
    path = Path(given[1]) / "arrangements" / "tmta-nft" / "arrangement.json"
    facts = json.loads(path.read_text())
    facts["provenance"]["encoder_digest"] = "7" * 64
    path.write_text(json.dumps(facts))
    page = compare.run(CompareOptions(tuple(given), tmp_path / "out")).read_text()
    for what, digest in (("the encoder", "7" * 8), ("the shares of the target sets", "5" * 8)):
        assert f"{what}, by digest" in page
        assert digest in page
    assert "the texts that are embedded" not in page


def test_pairs_of_different_studies_are_compared_and_corrected_for_one_another(studies, tmp_path):
    given = studies(one={}, two={}, three={})
    for place, folder in enumerate(given):
        for name in ("tmta-nft", "tmta-rt"):
            runs = Path(folder) / "runs"
            if name == "tmta-rt":
                shutil.copytree(runs / "tmta-nft-seed0", runs / "tmta-rt-seed0")
                (runs / "tmta-rt-seed0" / "belongs.json").unlink()
            path = runs / f"{name}-seed0" / "metrics.jsonl"
            rows = [json.loads(line) for line in path.read_text().splitlines()]
            for row in rows:
                if "losses" in row:
                    more = np.random.default_rng(place + (name == "tmta-rt")).normal(
                        0.02 * place, 0.05, len(row["losses"])
                    )
                    row["losses"] = (np.array(row["losses"]) + more).tolist()
            path.write_text("".join(f"{json.dumps(row)}\n" for row in rows))
            finish(path.parent, json.loads((path.parent / "finished.json").read_text()))
        config = Path(folder) / "config.json"
        methods = {"arrangement.methods": ["tmta-nft", "tmta-rt"]}
        config.write_text(json.dumps(json.loads(config.read_text()) | methods))
    page = compare.run(CompareOptions(tuple(given), tmp_path / "out"))
    shown = map(json.loads, (Path(given[0]) / "shown.jsonl").read_text().splitlines())
    assert any(html.escape(one["prompt"]) in page.read_text() for one in shown)
    summary = json.loads((tmp_path / "out" / "summary.json").read_text())
    for pairs in summary["differences"]["loss"].values():
        assert len(pairs) == 3 * 2 * 2
        assert all(one["first"].split(":")[0] != one["second"].split(":")[0] for one in pairs)
        # Holm's rule by its words: the smallest p times their number, and so on, never falling.
        least = 0.0
        for place, one in enumerate(sorted(pairs, key=lambda one: one["p"])):
            least = min(1.0, max(least, one["p"] * (len(pairs) - place)))
            assert one["p_holm"] == pytest.approx(least)


@pytest.mark.parametrize(
    ("file", "values", "match"),
    [
        ("data.json", {"test_digest": "0"}, "the test instances"),
        ("data.json", {"test_ids": ["a"]}, "test rows that are scored"),
        ("data.json", {"tokenizer_digest": "0"}, "the tokenizer"),
        ("data.json", {"template_digest": "0"}, "the chat template"),
        ("config.json", {"evaluation.max_length": 7}, r"evaluation\.max_length is 256 .* and 7"),
        ("config.json", {"study": "diversity"}, "grid of cells"),
        ("config.json", {"seeds": [0, 5]}, "tmta-nft-seed5: has not finished"),
    ],
)
def test_what_cannot_be_compared_is_refused_with_why(studies, tmp_path, file, values, match):
    given = studies(one={}, two={file: values})
    with pytest.raises(UserError, match=match):
        compare.run(CompareOptions(tuple(given), tmp_path / "out"))
    assert not (tmp_path / "out").exists()


def test_scores_of_texts_are_compared_where_both_have_them_alike(studies, tmp_path):
    texts = {"evaluation.metrics": ["loss", "rouge"], "evaluation.texts.decoding": "study"}
    loss_alone, both, greedy = studies(
        loss_alone={},
        both={"config.json": texts},
        greedy={"config.json": texts | {"evaluation.texts.decoding": "greedy"}},
    )
    page = compare.run(CompareOptions((loss_alone, both), tmp_path / "out"))
    assert "Not measured in every study: rouge." in page.read_text()
    for given in ((both, greedy), (loss_alone, both, greedy)):
        with pytest.raises(UserError, match=r"evaluation\.texts\.decoding"):
            compare.run(CompareOptions(given, tmp_path / "x"))
    named = texts | {"evaluation.texts.rouge_tokenizer": "a"}
    told = {"data.json": {"rouge_tokenizer_digest": "1"}}
    elsewhere = named | {"evaluation.texts.rouge_tokenizer": "b"}
    match_alone = texts | {"evaluation.metrics": ["loss", "exact_match"]}
    spelled = match_alone | {"evaluation.texts.decoding": "study,seed=0"}
    here, there, alone, respelled = studies(
        here={"config.json": named} | told,
        there={"config.json": elsewhere} | told,
        alone={"config.json": match_alone},
        respelled={"config.json": spelled | {"evaluation.texts.rouge_tokenizer": "c"}},
    )
    for number, pair in enumerate(((here, there), (alone, respelled), (alone, here))):
        compare.run(CompareOptions(pair, tmp_path / f"same{number}"))
    words = {"data.json": {"rouge_tokenizer_digest": "other"}}
    given = studies(**{"other": {"config.json": texts} | words, "earlier": {"config.json": texts}})
    compare.run(CompareOptions(tuple(given), tmp_path / "y"))
    mine = {"data.json": {"rouge_tokenizer_digest": "mine"}}
    given = studies(another={"config.json": texts} | words, mine={"config.json": texts} | mine)
    with pytest.raises(UserError, match="the tokenizer whose words ROUGE counts of one is not"):
        compare.run(CompareOptions(tuple(given), tmp_path / "z"))


def test_a_killed_comparison_is_made_again_and_two_at_once_are_not(studies, tmp_path, monkeypatch):
    given, out = tuple(studies(one={}, two={})), tmp_path / "out"

    def dies(*given, **named):
        (out / "loss.svg").write_text("drawn")
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr("zsg_jax.report.page.render", dies)
        with pytest.raises(KeyboardInterrupt):
            compare.run(CompareOptions(given, out))
    with locked(out), pytest.raises(UserError, match=r"--output .* another process is at work"):
        compare.run(CompareOptions(given, out))
    assert compare.run(CompareOptions(given, out)).exists()
    (out / "thesis.txt").write_text("years of work")
    with pytest.raises(UserError, match=r"holds thesis\.txt, which no comparison wrote"):
        compare.run(CompareOptions(given, out))


def test_names_and_folders(studies, tmp_path):
    one, two = studies(one={}, two={})
    for given in ((one,), (one, one), (one, one + "/")):
        with pytest.raises(UserError, match="two workdirs or more"):
            compare.run(CompareOptions(given, tmp_path / "out"))
    (tmp_path / "link").symlink_to("nowhere")
    for output in (one, f"{one}/report", tmp_path, tmp_path / "link"):
        with pytest.raises(UserError, match="--output"):
            compare.run(CompareOptions((one, two), type(tmp_path)(output)))
    with pytest.raises(UserError, match="--window -5: it must be at least 1"):
        compare.run(CompareOptions((one, two), tmp_path / "out", window=-5))
    (tmp_path / "b").mkdir()
    shutil.move(two, tmp_path / "b" / "one")
    compare.run(CompareOptions((one, str(tmp_path / "b" / "one")), tmp_path / "out"))
    summary = json.loads((tmp_path / "out" / "summary.json").read_text())
    assert "b/one: tmta-nft" in summary["arrangements"]
