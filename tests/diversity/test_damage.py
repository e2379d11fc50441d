"""A flipped bit anywhere in a workdir of cells is refused by name, mended, or changes nothing."""

import collections
import shutil

import numpy as np
import pytest

from zsg_jax.config_diversity import diversity_config
from zsg_jax.diversity import runs, sweep
from zsg_jax.models.decoder import DecoderConfig
from zsg_jax.report import diversity as report
from zsg_jax.report.diversity import results
from zsg_jax.runtime.errors import UserError
from zsg_jax.workflows import diversity

SMALL = {
    "grid.rules": (4, 9),
    "grid.lengths": ("2/2/5",),
    "grid.seed": (0,),
    "training.batch_size": 8,
    "training.steps": 6,
    "training.warmup_steps": 1,
    "training.checkpoint_every": 2,
    "evaluation.every": 2,
    "evaluation.rows": 10,
    "evaluation.rules": 10,
}


@pytest.fixture(autouse=True)
def small(monkeypatch):
    def tiny(name, vocab_size, length):
        return DecoderConfig("llama", vocab_size, 16, 16, 1, 1, 1, 16, length)

    monkeypatch.setattr(sweep, "model_config", tiny)
    # Pictures take as long as all else.
    monkeypatch.setattr(report, "build", lambda workdir, cells, **_: results.read(workdir, cells))


def run(workdir, **changes):
    config = diversity_config()
    config.update_from_flattened_dict(SMALL | changes)
    return diversity.run(config, workdir, command="test")


def files_of(workdir):
    paths = sorted(path for path in workdir.rglob("*") if path.is_file() and path.stat().st_size)
    return [path.relative_to(workdir) for path in paths]


@pytest.mark.parametrize(
    "stopped", [False, pytest.param(True, marks=[pytest.mark.slow, pytest.mark.ci])]
)
def test_every_file_of_a_workdir(tmp_path, monkeypatch, stopped):
    whole = tmp_path / "whole"
    with monkeypatch.context() as patch:
        if stopped:
            patch.setattr(runs.CellRun, "finish", lambda self: None)
            with pytest.raises(UserError, match="has not finished"):
                run(whole)
        else:
            run(whole)
    expected = run(shutil.copytree(whole, tmp_path / "expected"))
    rng, told = np.random.default_rng(0), collections.Counter()
    names = [name for name in files_of(whole) if "rules9" not in str(name)]
    assert len(names) == 4 + (3 if stopped else 2)
    for name in names * (1 if stopped else 2):
        workdir = shutil.copytree(whole, tmp_path / "w")
        content = bytearray((workdir / name).read_bytes())
        content[rng.integers(len(content))] ^= 1 << int(rng.integers(8))
        (workdir / name).write_bytes(content)
        try:
            found, error = run(workdir), ""
        except UserError as refusal:
            found, error = None, str(refusal)
        assert found == expected or str(workdir) in error, name
        assert "\n" not in error
        told["refused" if error else "no effect"] += 1
        shutil.rmtree(workdir)
    assert told["refused"] >= (2 if stopped else 7)
    assert told["no effect"] >= 1


def test_cells_of_an_earlier_version_are_taken_as_they_are_once(tmp_path, capsys):
    run(tmp_path)
    (tmp_path / "manifest.json").unlink()
    for told in (1, 0):
        run(tmp_path)
        assert capsys.readouterr().err.count("has no manifest.json") == told
    more = {"grid.rules": (4, 9, 12)}
    run(tmp_path, **more)
    lines = next(tmp_path.glob("runs/rules12*/metrics.jsonl"))
    lines.write_bytes(lines.read_bytes().replace(b'"loss": ', b'"loss": 1', 1))
    with pytest.raises(UserError, match=r"metrics\.jsonl: is not what the cell ended with"):
        run(tmp_path, **more)


def test_a_cell_copied_under_another_name_is_not_taken_for_that(tmp_path):
    run(tmp_path / "w")
    cells = tmp_path / "w" / "runs"
    (cell,) = cells.glob("rules4,*")
    shutil.copytree(cell, cells / cell.name.replace("seed0", "seed1"))
    with pytest.raises(UserError, match=r"seed1: holds what rules4,.*seed0 has written"):
        run(tmp_path / "w", **{"grid.seed": (0, 1)})


def test_a_cell_of_another_grid_is_not_taken_for_one_of_this(tmp_path):
    run(tmp_path / "w")
    run(tmp_path / "other", **{"grid.seed": (1,), "training.warmup_steps": 2})
    (cell,) = (tmp_path / "other" / "runs").glob("rules4,*")
    shutil.copytree(cell, tmp_path / "w" / "runs" / cell.name)
    with pytest.raises(UserError, match="seed1: was trained with other settings"):
        run(tmp_path / "w", **{"grid.seed": (0, 1)})


@pytest.mark.parametrize("changes", [{"training.weight_decay": 0.5}, {"training.steps": 8}])
def test_a_half_trained_cell_of_other_settings_is_refused(tmp_path, monkeypatch, changes):
    def half(workdir, **changes):
        with monkeypatch.context() as patch:
            patch.setattr(runs.CellRun, "finish", lambda self: None)
            with pytest.raises(UserError, match="has not finished"):
                run(workdir, **{"grid.seed": (1,)} | changes)
        (cell,) = (workdir / "runs").glob("rules4,*")
        shutil.copytree(cell, tmp_path / "w" / "runs" / cell.name)
        return tmp_path / "w" / "runs" / cell.name

    both = {"grid.seed": (0, 1)}
    run(tmp_path / "w")
    folder = half(tmp_path / "other", **changes)
    with pytest.raises(UserError, match="seed1: was trained with other settings"):
        run(tmp_path / "w", **both)
    shutil.rmtree(folder)
    # What changes no record of a cell may be another.
    half(tmp_path / "same", **{"training.checkpoint_every": 4})
    assert run(tmp_path / "w", **both) == run(tmp_path / "whole", **both)
