"""A flipped bit anywhere in a workdir is refused by name, mended, or changes no number."""

import collections
import json
import shutil
import signal
from pathlib import Path

import numpy as np
import pytest

from zsg_jax.evaluation.records import GENERATIONS
from zsg_jax.runtime.errors import UserError
from zsg_jax.workflows import compare, evaluate, study
from zsg_jax.workflows.compare_options import CompareOptions
from zsg_jax.workflows.evaluate_options import EvaluateOptions

RUN = "runs/tmta-nft-seed0"


def files_of(folder):
    return sorted(path for path in folder.rglob("*") if path.is_file())


def flip(path, rng):
    content = bytearray(path.read_bytes())
    content[rng.integers(len(content))] ^= 1 << int(rng.integers(8))
    path.write_bytes(content)


def numbers(workdir, read_metrics):
    """All that a reader takes from a workdir, without clocks and paths."""
    told = [read_metrics(workdir / RUN)]
    for path in files_of(workdir):
        name = path.relative_to(workdir).as_posix()
        kept = name.startswith("arrangements/") or name in ("data.json", "leakage.jsonl")
        if kept or name == f"{RUN}/{GENERATIONS}":
            told.append((name, path.read_bytes()))
    told.append(json.loads((workdir / "leakage.json").read_bytes()))
    for clock in ("seconds",):
        told[-1].pop(clock, None)
    summary = json.loads((workdir / "report" / "summary.json").read_bytes())
    return [*told, summary]


def outcome(workdir, name, command, expected):
    try:
        found = command(workdir)
    except UserError as error:
        told = str(error)
    else:
        assert found == expected, name
        return "no effect on any number"
    assert "\n" not in told
    assert str(workdir) in told or "model." in told, (name, told)
    return "refused"


def check(whole, tmp_path, command, names, harm=lambda workdir: None, flips=1):
    """What comes of a flip in each of `names`.

    Args:
        whole: a workdir, which stays as it is.
        command: what is done with a copy; gives its numbers.
        names: gives the files of a workdir.
        harm: is done to the copy before.
    """
    rng, told = np.random.default_rng(0), collections.Counter()
    expected = command(shutil.copytree(whole, tmp_path / "whole"))
    for name in names(tmp_path / "whole") * flips:
        workdir = shutil.copytree(whole, tmp_path / "w")
        harm(workdir)
        if (workdir / name).exists() and (workdir / name).stat().st_size:
            flip(workdir / name, rng)
            told[outcome(workdir, name, command, expected)] += 1
        shutil.rmtree(workdir)
    print(dict(told))
    return told


@pytest.fixture
def again(read_metrics):
    """Gives what runs a study in a workdir and gives its numbers."""

    def of(config):
        def command(workdir):
            study.run(config, workdir, command="test")
            return numbers(workdir, read_metrics)

        return command

    return of


def unfinish(workdir):
    (workdir / RUN / "finished.json").unlink()


def kept(workdir):
    return [
        name
        for path in files_of(workdir)
        if "checkpoints/" not in (name := path.relative_to(workdir).as_posix())
        and not name.startswith(("report/", "embeddings/", "tokens/", RUN + "/tensorboard"))
    ]


def every(workdir):
    return [path.relative_to(workdir).as_posix() for path in files_of(workdir)]


def test_what_a_finished_study_keeps(finished, small_config, again, tmp_path):
    told = check(finished, tmp_path, again(small_config()), kept)
    assert told["refused"] >= 8


@pytest.mark.slow
@pytest.mark.parametrize("harm", [lambda workdir: None, unfinish])
def test_every_file_of_a_workdir(finished, small_config, again, tmp_path, harm):
    told = check(finished, tmp_path, again(small_config()), every, harm, flips=2)
    assert sum(told.values()) > 60


@pytest.mark.slow
def test_every_file_of_a_killed_workdir(finished, commands, small_config, again, tmp_path):
    flags = [tmp_path / "killed", finished / "config.json", "saved", 2]
    ((code, _, _),) = commands("killed", flags, cwd=Path(__file__).parent)
    assert code == -signal.SIGKILL
    told = check(tmp_path / "killed", tmp_path, again(small_config()), every)
    assert sum(told.values()) > 30


@pytest.mark.slow
def test_every_record_of_a_study_with_texts(small_config, again, tmp_path):
    texts = {
        "training.steps": 2,
        "evaluation.metrics": ("loss", "rouge_unicode", "exact_match_unicode"),
        "evaluation.texts.decoding": "study,max_new_tokens=6,samples=2",
    }
    config = small_config(**texts)
    study.run(config, tmp_path / "made", command="test")
    for harm in (lambda workdir: None, unfinish):
        folder = tmp_path / harm.__name__.strip("<>")
        folder.mkdir()
        told = check(tmp_path / "made", folder, again(config), kept, harm)
        assert told["refused"] >= 8


def test_what_reads_a_workdir_without_its_command(finished, small_config, tmp_path):
    """Studies that are compared."""
    small_config()  # without pictures
    other = shutil.copytree(finished, tmp_path / "other")

    def command(workdir):
        output = workdir.with_name("compared")
        shutil.rmtree(output, ignore_errors=True)
        named = workdir.rename(workdir.with_name("this"))
        try:
            compare.run(CompareOptions((str(named), str(other)), output))
        except UserError as error:
            raise UserError(str(error).replace(str(named), str(workdir))) from None
        finally:
            named.rename(workdir)
        return (output / "summary.json").read_bytes()

    told = check(finished, tmp_path, command, kept)
    assert told["refused"] >= 8


@pytest.mark.slow
def test_a_checkpoint_that_is_evaluated_alone(finished, tmp_path):
    def command(workdir):
        output = workdir.with_name("evaluated")
        shutil.rmtree(output, ignore_errors=True)
        # Of a run without a step another one would be taken, and told, where the last is damaged.
        checkpoint = workdir / RUN / "checkpoints" / "00000010"
        evaluate.run(EvaluateOptions(output, checkpoint=(str(checkpoint),), mesh=(1, 1, 1)))
        (record,) = map(json.loads, (output / "evaluation.jsonl").read_text().splitlines())
        return {name: one for name, one in record.items() if name != "workdir"}

    def read(workdir):
        return [
            name
            for name in every(workdir)
            if "/checkpoints/" in name or name.startswith("tokens/test/") or "/" not in name
        ]

    told = check(finished, tmp_path, command, read)
    assert told["refused"] >= 4


@pytest.mark.slow
def test_every_file_of_a_cache_that_studies_share(small_config, tmp_path):
    changes = {"similarity.cache": str(tmp_path / "cache"), "training.steps": 1}
    study.run(small_config(**changes), tmp_path / "first", command="test")

    def command(cache):
        workdir = cache.with_name("second")
        changes = {"similarity.cache": str(cache), "training.steps": 1}
        study.run(small_config(**changes), workdir, command="test")
        made = workdir / "arrangements" / "tmta-nft" / "order.npy"
        tokens = sorted((workdir / "tokens").rglob("*.npy"))
        found = [path.read_bytes() for path in (made, *tokens)]
        shutil.rmtree(workdir)
        return found

    told = check(tmp_path / "cache", tmp_path, command, every)
    assert told["no effect on any number"] >= 8


def test_one_bit_of_metrics_before_a_resume(finished, small_config, tmp_path):
    path = shutil.copytree(finished, tmp_path / "w") / RUN / "metrics.jsonl"
    unfinish(tmp_path / "w")
    whole = path.read_bytes()
    place = whole.index(b'"loss": ') + 11
    path.write_bytes(whole[:place] + bytes([whole[place] ^ 1]) + whole[place + 1 :])
    with pytest.raises(UserError, match=r"metrics\.jsonl: does not hold the records"):
        study.run(small_config(), tmp_path / "w", command="test")


def test_what_follows_from_the_rest_is_made_again(finished, small_config, tmp_path, capsys):
    workdir = shutil.copytree(finished, tmp_path / "w")
    ids = workdir / "arrangements" / "tmta-nft" / "ids.txt"
    whole = ids.read_bytes()
    for harm in (lambda: ids.write_bytes(whole[:-3]), ids.unlink):
        harm()
        study.run(small_config(), workdir, command="test")
        assert ids.read_bytes() == whole
    assert f"{ids}: is damaged" in capsys.readouterr().err


def test_a_workdir_of_an_earlier_version_is_taken_as_it_is_once(
    finished, small_config, tmp_path, capsys
):
    workdir = shutil.copytree(finished, tmp_path / "w")
    (workdir / "manifest.json").unlink()
    for told in (1, 0):
        study.run(small_config(), workdir, command="test")
        assert capsys.readouterr().err.count("has no manifest.json") == told
    for content in ("", "{}", '{"files": {"/etc/passwd": []}, "sha256": ""}'):
        (workdir / "manifest.json").write_text(content)
        with pytest.raises(UserError, match=r"manifest\.json: is damaged; put it back, or delete"):
            study.run(small_config(), workdir, command="test")
