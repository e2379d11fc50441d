"""Runs the instruction-diversity study: a grid of cells, then its page."""

from pathlib import Path

from ml_collections import ConfigDict

from zsg_jax.config import flatten
from zsg_jax.config_diversity import diversity_config
from zsg_jax.data.rewriting.drawing import Scoring
from zsg_jax.diversity import sweep
from zsg_jax.diversity.cells import AXES, Cell, grid
from zsg_jax.diversity.program import LOSSES, Recipe, model_config
from zsg_jax.diversity.runs import Settings
from zsg_jax.models.dtypes import COMPUTED
from zsg_jax.runtime.errors import check
from zsg_jax.runtime.progress import say
from zsg_jax.runtime.settings import setting
from zsg_jax.workflows.alone import claimed_alone
from zsg_jax.workflows.validate import check_keys, check_values

_AT_LEAST = {
    "mesh.stack": 1,
    "training.batch_size": 1,
    "training.steps": 1,
    "training.warmup_steps": 0,
    "training.final_share": 0,
    "training.b2": 0,
    "training.eps": 0,
    "training.weight_decay": 0,
    "training.clip_norm": 0,
    "training.checkpoint_every": 1,
    "evaluation.every": 1,
    "evaluation.rows": 1,
    "evaluation.rules": 1,
    "evaluation.seed": 0,
}


def run(config: ConfigDict, workdir: Path | str, *, command: str) -> Path:
    """Runs or resumes the study `config` in `workdir`.

    Args:
        config: as `config_diversity.diversity_config` documents it.
        workdir: a folder, made if missing; refused if it belongs to another config. Other values
            of `grid` are no other config.
        command: shown on the report page.

    Returns:
        The report page, `workdir/report/index.html`.

    Raises:
        UserError: for every mistake that a user can mend.
    """
    cells, settings = read(config)
    with claimed_alone(config, workdir, command) as folder:
        sweep.run(cells, settings, folder)
        # Imported here: a mistake in the config is told before Matplotlib has been imported.
        from zsg_jax.report import diversity as report

        return report.build(folder, cells, title=config.report.title, command=command)


def read(config: ConfigDict) -> tuple[list[Cell], Settings]:
    """The cells and settings of a config, checked.

    Raises:
        UserError: naming the key, its value and what would do.
    """
    start = diversity_config()
    given = flatten(config)
    check_keys(given, flatten(start), start)
    check_values(given, {"training.loss": LOSSES, "model.dtype": COMPUTED}, _AT_LEAST)
    training, evaluation = config.training, config.evaluation
    every, keep_every = evaluation.every, training.checkpoint_every
    check(
        keep_every % every == 0,
        f"{setting('training.checkpoint_every', keep_every)} must be a multiple of evaluation."
        f"every={every}",
    )
    if training.warmup_steps >= training.steps:
        say(
            f"{setting('training.warmup_steps', training.warmup_steps)}: in "
            f"{training.steps:,} steps the learning rate never falls; give fewer"
        )
    check(training.b2 < 1, f"{setting('training.b2', training.b2)} must be under 1")
    share = training.final_share
    check(share <= 1, f"{setting('training.final_share', share)} must be at most 1")
    recipe = {key: value for key, value in training.items() if key != "checkpoint_every"}
    scoring = {key: value for key, value in evaluation.items() if key != "every"}
    settings = Settings(
        Recipe(**recipe, dtype=config.model.dtype),
        Scoring(**scoring),
        model=config.model.size,
        form=config.data.form,
        letters=config.data.letters,
        every=every,
        keep_every=keep_every,
        stack=config.mesh.stack,
    )
    model_config(settings.model, 2, 2)
    cells = grid({axis: config.grid[axis] for axis in AXES})
    _tell_cut(cells, training.steps * training.batch_size)
    return cells, settings


def _tell_cut(cells: list[Cell], total: int) -> None:
    cut = [cell for cell in cells if cell.different > total]
    if cut:
        say(
            f"{len(cut):,} of {len(cells):,} cells ask for more rows than the {total:,} of a run, "
            f"as {cut[0].name} for {cut[0].different:,}: each meets {total:,}, all of them fresh; "
            "give fewer rows or more steps"
        )
