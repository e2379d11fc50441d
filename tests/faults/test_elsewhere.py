"""Commands on a study from another folder than it was run in, and on what killed ones have left."""

import json
import os
import shutil
from pathlib import Path

import pytest

from zsg_jax.data.tokenize.tokenizer import ByteTokenizer
from zsg_jax.runtime.errors import UserError
from zsg_jax.workdir import layout
from zsg_jax.workflows import evaluate, export, study
from zsg_jax.workflows.evaluate_options import EvaluateOptions
from zsg_jax.workflows.export import ExportOptions

RUN = "tmta-nft-seed0"


@pytest.fixture
def relative(uneven, small_config, tmp_path, monkeypatch):
    """A workdir whose study names its rows and its tokenizer from the folder `home`."""
    (home := tmp_path / "home").mkdir()
    for path in uneven.values():
        shutil.copy(path, home)
    ByteTokenizer().save(home / "words")
    monkeypatch.chdir(home)
    given = {"data.train": "train.jsonl", "data.test": "test.jsonl", "tokenizer": "words"}
    given["report.title"] = "no file has so long a name " * 20
    study.run(small_config(**given, **{"training.steps": 1}), tmp_path / "w", command="test")
    (tmp_path / "away").mkdir()
    monkeypatch.chdir(tmp_path / "away")
    return tmp_path / "w"


def test_relative_paths_of_a_study_are_told_from_where_they_go(relative, tmp_path):
    asked = EvaluateOptions(tmp_path / "e", checkpoint=(str(relative / "runs" / RUN),))
    exported = ExportOptions(relative, RUN, tmp_path / "x")
    for command in (lambda: evaluate.run(asked), lambda: export.run(exported)):
        with pytest.raises(UserError, match=rf"go from {tmp_path / 'home'}, where it was first"):
            command()
        # The same name means something else here.
        Path("train.jsonl").write_text('{"id": "a", "prompt": "x", "completion": "y"}\n')
    os.chdir(tmp_path / "home")
    evaluate.run(asked)
    export.run(exported)
    # Workdirs of earlier versions do not tell the folder; nor is it there on another machine.
    told = json.loads((relative / layout.BEGUN).read_text())
    (relative / layout.BEGUN).unlink()
    os.chdir(tmp_path / "away")
    Path("train.jsonl").unlink()
    with pytest.raises(UserError, match="go from the folder in which it was first run"):
        evaluate.run(EvaluateOptions(tmp_path / "f", checkpoint=asked.checkpoint))
    assert told["folder"] == str(tmp_path / "home")


def test_what_a_killed_export_left_beside_its_folder_goes(relative, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path / "home")
    out, beside = tmp_path / "out", tmp_path / ".out.exporting"
    beside.mkdir()
    export.run(ExportOptions(relative, RUN, out))
    assert not beside.exists()
    # Killed when the folder was in place.
    beside.mkdir()
    with pytest.raises(UserError, match="exists already"):
        export.run(ExportOptions(relative, RUN, out))
    assert not beside.exists()
