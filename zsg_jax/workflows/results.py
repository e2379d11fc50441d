"""Studies from Python: run by a name and settings, their curves as arrays."""

import inspect
import os
from collections.abc import Mapping
from dataclasses import dataclass
from importlib.machinery import SourceFileLoader
from importlib.util import module_from_spec, spec_from_loader
from pathlib import Path
from typing import Any

import numpy as np
from ml_collections import ConfigDict

from zsg_jax.arrangement.arrangement import load_arrangement
from zsg_jax.arrangement.epochs import ORDERED, epochs, read_anew
from zsg_jax.runtime.cli import no_config, not_loaded, packaged_configs, study_name
from zsg_jax.runtime.errors import UserError, check, did_you_mean
from zsg_jax.runtime.files import at_home, need_json
from zsg_jax.training.finished import finished
from zsg_jax.training.metrics import read_run
from zsg_jax.workdir.layout import CONFIG, arrangement_folder, run_folder


@dataclass(frozen=True)
class StudyResult:
    """A finished study.

    Attributes:
        workdir: its folder; checkpoints lie in `workdir/runs/NAME-seedK/checkpoints`.
        page: the report.
        summary: what report/summary.json holds.
    """

    workdir: Path
    page: Path
    summary: Mapping[str, Any]

    @property
    def arrangements(self) -> list[str]:
        """Their names."""
        return list(self.summary["arrangements"])

    def curve(self, arrangement: str) -> tuple[np.ndarray, np.ndarray]:
        """Test loss along training: steps, (P,) int64, and losses, (seeds, P) float64, in nats.

        The seeds ascend.

        Raises:
            UserError: there is no such arrangement.
        """
        entry = self._entry(arrangement)
        by_seed = entry["loss_by_seed"]
        return np.array(entry["steps"]), np.array([by_seed[seed] for seed in by_seed], float)

    def records(self, arrangement: str, seed: int = 0) -> list[dict[str, Any]]:
        """What one run has measured, a dict for each record: metrics.jsonl, and what came later.

        Raises:
            UserError: there is no such run, or its records are not those that it finished with.
        """
        seeds = list(self._entry(arrangement)["loss_by_seed"])
        check(
            str(seed) in map(str, seeds), f"seed={seed!r} is none of {', '.join(map(str, seeds))}"
        )
        folder = run_folder(self.workdir, arrangement, seed)
        check(
            finished(folder) is not None,
            f"{folder}: holds no finished run; run the study again, which goes on with it",
        )
        return read_run(folder)

    def order(self, arrangement: str) -> np.ndarray:
        """(n,) int64 numbers of the training examples in the order of the first epoch.

        Raises:
            UserError: there is no such arrangement, it is damaged, or each run arranged what was
                left anew.
        """
        self._entry(arrangement)
        config = need_json(self.workdir / CONFIG)
        rules = config.get("training.epochs", (ORDERED,))
        check(
            not read_anew(rules).steps,
            f"{arrangement}: every run arranged what was left anew; the ids of its whole order are "
            f"in {self.workdir}/runs/{arrangement}-seedK/rearranged/STEP/ids.txt",
        )
        order = load_arrangement(arrangement_folder(self.workdir, arrangement))[0].order
        return epochs(order, rules[:1], config["arrangement.seed"])

    def _entry(self, arrangement: str) -> Mapping[str, Any]:
        entries, name = self.summary["arrangements"], str(arrangement)
        check(
            name in entries,
            f"{name!r} is none of {', '.join(entries)}{did_you_mean(name, entries)}",
        )
        return entries[name]

    def __repr__(self) -> str:
        ends = {name: self.curve(name)[1][:, -1].mean() for name in self.arrangements}
        told = ", ".join(f"{name} {loss:.3f}" for name, loss in ends.items())
        return f"<study in {self.workdir}: test loss at the end: {told}>"


def run_study(
    config: ConfigDict | str = "tmta", workdir: str | os.PathLike[str] = "", **settings: Any
) -> StudyResult:
    """Runs a study of arrangements, or goes on with the one that is in `workdir`.

    Args:
        config: a ConfigDict as `config.default_config` gives it, or NAME[:PRESET] of a packaged
            config or of a file with `get_config`.
        workdir: a folder; "": workdir/NAME[-PRESET], as the command.
        settings: changes of the config: a value for a key, a dict for a group, as in
            `run_study("tmta", seeds=(0,), training={"steps": 20})`.

    Raises:
        UserError: for every mistake that a user can mend.
    """
    # Imported here: results of finished studies can be read without JAX's start.
    from zsg_jax.workflows import study

    name = "study"
    if isinstance(config, str):
        file, _, preset = config.partition(":")
        name = study_name(file, preset)
        config = _loaded(file, preset)
    check(
        isinstance(config, ConfigDict),
        f"config={config!r}: give a ConfigDict, or NAME[:PRESET] of a config",
    )
    config = ConfigDict(config.to_dict())
    _change(config, settings)
    check("seeds" in config, f"{name}: is no study of arrangements; run it by zsg_jax.main")
    folder = at_home(Path(workdir or Path("workdir") / name))
    page = study.run(config, folder, command=f"zsg_jax.run_study({name!r}, {str(folder)!r})")
    return StudyResult(folder, page, need_json(page.parent / "summary.json"))


def _loaded(file: str, preset: str) -> ConfigDict:
    path = Path(file) if Path(file).is_file() else packaged_configs().get(file)
    if path is None:
        raise no_config(f"config {file!r}", file)
    loader = SourceFileLoader(path.stem, str(path))
    spec = spec_from_loader(path.stem, loader)
    assert spec is not None
    module = module_from_spec(spec)
    try:
        loader.exec_module(module)
        takes_one = preset or inspect.signature(module.get_config).parameters
        return module.get_config(*([preset] if takes_one else []))
    except Exception as error:  # anything may come out of a user's file
        raise UserError(not_loaded(f"config {file!r}", error)) from error


def _change(config: ConfigDict, settings: Mapping[str, Any], group: str = "") -> None:
    for key, value in settings.items():
        check(key in config, f"{group}{key}: a key that nothing reads{did_you_mean(key, config)}")
        if isinstance(config[key], ConfigDict):
            check(
                isinstance(value, Mapping),
                f"{group}{key}={value!r}: is a group of keys; give a dict of them",
            )
            _change(config[key], value, f"{group}{key}.")
            continue
        try:
            config[key] = value
        except (TypeError, ValueError) as error:
            raise UserError(f"{group}{key}={value!r}: {error}") from None
