"""What a study is asked to measure after its runs, or parts of them, were trained.

Test records are what a run wrote as it went. What is measured of a step later stands beside them
(`metrics.LATER`): the fields that the run would have written itself, from the parameters of that
step. Those are known at step 0, which the seed gives again, and where a checkpoint is kept; texts
that were generated are scored at every step. What cannot be measured any more is said by name.
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

from ml_collections import ConfigDict

from zsg_jax.arrangement.epochs import read_anew
from zsg_jax.evaluation import records
from zsg_jax.evaluation.choices import ChoicesEvaluator
from zsg_jax.evaluation.loss import LossEvaluator
from zsg_jax.evaluation.metrics import FIELDS, TEXTS
from zsg_jax.evaluation.texts import TextEvaluator
from zsg_jax.models.placement import Params
from zsg_jax.runtime.files import write_bytes
from zsg_jax.runtime.processes import of_all, once
from zsg_jax.runtime.progress import say
from zsg_jax.training import metrics
from zsg_jax.training.checkpoint import Checkpoints
from zsg_jax.training.finished import finished, growing, left_open, record_files
from zsg_jax.training.loop import Evaluate, Recipe
from zsg_jax.workflows.evaluators import scores_every

Record = dict[str, Any]


def missing(config: ConfigDict, folder: Path, last: int | None = None) -> dict[int, list[str]]:
    """Which metrics a run lacks at which of its steps, though its config asks for them there.

    Args:
        folder: of a run.
        last: the step up to which its records stay; None: all of them.
    """
    wanted = [name for name in config.evaluation.metrics if name != "loss"]
    if not wanted:
        return {}
    every, ended = scores_every(config), finished(folder)
    besides = {*read_anew(config.training.epochs).steps, *([ended["steps"]] if ended else [])}
    found = {}
    for step, record in _tests(folder).items():
        due = step % every == 0 or step in besides
        if due and (last is None or step <= last):
            gone = record.get(metrics.NOT_KEPT, ())
            found[step] = [n for n in wanted if FIELDS[n] not in record and n not in gone]
    return {step: names for step, names in found.items() if names}


def measure_later(
    config: ConfigDict,
    folder: Path,
    checkpoints: Path | str,
    recipe: Recipe,
    seed: int,
) -> None:
    """Measures what `missing` names of a run, as far as its checkpoints and texts are kept.

    Nothing that is written is changed, but that records of examples of steps beyond the newest
    checkpoint of an unfinished run are dropped, since these steps are taken again.

    Args:
        config: of the study.
        folder, checkpoints, seed: the run's.
        recipe: of its runs.
    """
    # What the first process sees, all of them measure.
    if not of_all(bool(missing(config, folder)) or left_open(folder))[0]:
        return
    kept, ended = Checkpoints(checkpoints), finished(folder)
    steps = of_all(kept.all_whole())[0]
    last = ended["steps"] if ended is not None else max(steps, default=-1)
    wanted = of_all(sorted(missing(config, folder, last).items()))[0]

    def trim() -> None:
        for path in record_files(folder):
            records.cut(path, last)

    if not wanted:
        with growing(folder, recipe.belongs):  # what a kill has left open is closed
            return
    if ended is None:
        once(f"trim {folder.name}", trim)
    run = _Run(folder, kept, steps, recipe, seed)
    lost = []
    with growing(folder, recipe.belongs):
        for step, names in wanted:
            record = run.measure(step, names)
            once(f"later {folder.name}", partial(_append, folder, record))
            lost += [f"{step:,}"] if metrics.NOT_KEPT in record else []
    every = ", ".join(sorted({name for _, names in wanted for name in names}))
    without = f"; no checkpoint is kept of step {', '.join(lost)}" if lost else ""
    say(f"{folder.name}: {every} measured of steps that were trained before{without}")


class _Run(NamedTuple):
    """A run that is measured later; `steps` are those whose checkpoints are whole."""

    folder: Path
    kept: Checkpoints
    steps: Sequence[int]
    recipe: Recipe
    seed: int

    def measure(self, step: int, names: Sequence[str]) -> Record:
        """The record of what is measured of one step."""
        evaluators = [evaluator for evaluator, _ in self.recipe.evaluators]
        generated = FIELDS["generate"] in _tests(self.folder)[step]
        params = partial(self._params, step)
        found = measure(evaluators, names, step, self.folder, params, generated=generated)
        return {"step": step, "kind": "test", **found}

    def _params(self, step: int) -> Params | None:
        """The parameters after a step; None where they are not kept."""
        trainer = self.recipe.trainer
        if step == 0:
            return trainer.first_params(self.seed)
        if step not in self.steps:
            return None
        trained = self.kept.trained(step, trainer.abstract_state["params"])
        return trainer.model_params({"params": trained, **trainer.frozen(self.seed)})


def measure(
    evaluators: Iterable[Evaluate],
    names: Sequence[str],
    step: int,
    folder: Path,
    params: Callable[[], Params | None],
    *,
    generated: bool,
) -> Record:
    """What is measured of one step, in a run or beside it.

    Args:
        evaluators: what measures these and other metrics.
        names: of the metrics.
        step, folder: as an evaluator takes them.
        params: gives the parameters after the step, None where they are not kept.
        generated: whether texts of the step were generated before; they are scored as they are.

    Returns:
        The fields; `metrics.NOT_KEPT` lists the metrics that cannot be measured any more.
    """
    record: Record = {}
    found: Params | None = None
    for evaluator in evaluators:
        own = _names(evaluator, names)
        if not own:
            continue
        if isinstance(evaluator, TextEvaluator) and generated:
            fields = evaluator.score_kept(step, folder, own)
        else:
            found = params() if found is None else found
            fields = None if found is None else evaluator(found, step, folder)
        if fields is None:
            record[metrics.NOT_KEPT] = record.get(metrics.NOT_KEPT, []) + own
        else:
            record |= fields
    return record


def _names(evaluator: Evaluate, names: Sequence[str]) -> list[str]:
    """Those of `names` that an evaluator measures."""
    of: dict[type, Sequence[str]] = {
        LossEvaluator: ("loss",),
        TextEvaluator: TEXTS,
        ChoicesEvaluator: ("choices",),
    }
    return [name for name in names if name in of.get(type(evaluator), ())]


def _tests(folder: Path) -> Mapping[int, Record]:
    return {one["step"]: one for one in metrics.read_run(folder) if one["kind"] == "test"}


def _append(folder: Path, record: Record) -> None:
    """Adds a record; a last line that a kill cut short goes."""
    whole = [*metrics.read_records(folder, metrics.LATER), record]
    write_bytes(folder / metrics.LATER, "".join(map(metrics.as_line, whole)).encode())
