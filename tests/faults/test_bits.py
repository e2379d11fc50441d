"""A flipped bit anywhere in a workdir is refused by name, mended, or changes no number."""

import collections
import json
import shutil

import numpy as np
import pytest

from zsg_jax.runtime.errors import UserError
from zsg_jax.workflows import study

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
        if name.startswith("arrangements/") or name in ("data.json", "leakage.jsonl"):
            told.append((name, path.read_bytes()))
    told.append(json.loads((workdir / "leakage.json").read_bytes()))
    for clock in ("seconds",):
        told[-1].pop(clock, None)
    summary = json.loads((workdir / "report" / "summary.json").read_bytes())
    return [*told, summary]


def outcome(workdir, name, config, expected, read_metrics):
    try:
        study.run(config, workdir, command="test")
    except UserError as error:
        told = str(error)
    else:
        assert numbers(workdir, read_metrics) == expected, name
        return "no effect on any number"
    assert "\n" not in told
    assert str(workdir) in told or "model." in told, (name, told)
    return "refused"


def check(finished, tmp_path, config, read_metrics, names, harm, flips=1):
    """The outcome of a flip in each of `names`; `harm` is done to the workdir before it."""
    rng, told = np.random.default_rng(0), collections.Counter()
    whole = shutil.copytree(finished, tmp_path / "whole")
    study.run(config, whole, command="test")
    expected = numbers(whole, read_metrics)
    for name in names(whole) * flips:
        workdir = shutil.copytree(finished, tmp_path / "w")
        harm(workdir)
        if (workdir / name).exists() and (workdir / name).stat().st_size:
            flip(workdir / name, rng)
            told[outcome(workdir, name, config, expected, read_metrics)] += 1
        shutil.rmtree(workdir)
    print(dict(told))
    return told


def nothing(workdir):
    pass


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


def test_what_a_finished_study_keeps(finished, small_config, read_metrics, tmp_path):
    told = check(finished, tmp_path, small_config(), read_metrics, kept, nothing)
    assert told["refused"] >= 8


@pytest.mark.slow
@pytest.mark.parametrize("harm", [nothing, unfinish])
def test_every_file_of_a_workdir(finished, small_config, read_metrics, tmp_path, harm):
    told = check(finished, tmp_path, small_config(), read_metrics, every, harm, flips=2)
    assert sum(told.values()) > 60


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
