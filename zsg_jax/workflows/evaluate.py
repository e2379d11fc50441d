"""Evaluates checkpoints of runs alone, with the evaluators and the test data of their study."""

import json
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from itertools import groupby
from pathlib import Path
from typing import Any

from zsg_jax.config import from_flat
from zsg_jax.evaluation.evaluator import evaluate_checkpoint
from zsg_jax.runtime.errors import UserError, check
from zsg_jax.runtime.files import need_json
from zsg_jax.runtime.progress import say
from zsg_jax.training import sharding
from zsg_jax.workdir import claims, trained
from zsg_jax.workflows.evaluators import make_evaluators, scored
from zsg_jax.workflows.study_data import claim_data, open_pool
from zsg_jax.workflows.study_model import find_origin, make_trainer

FILE = "evaluation.jsonl"


def run(checkpoints: Sequence[str], output: Path, *, mesh: tuple[int, int, int]) -> Path:
    """Evaluates every checkpoint named and writes a record of each into `output`.

    A record holds the fields of the run's own test record of that step; another mesh gives the
    same but for rounding.

    Args:
        checkpoints: WORKDIR/runs/NAME-seedK for its last checkpoint, or …/checkpoints/STEP.
        output: a folder, made if missing, in which no evaluation stands yet.
        mesh: devices along data, fsdp and tensor; -1: all that are left.

    Returns:
        The file of records, one JSON object a line in the order of `checkpoints`.

    Raises:
        UserError: a path that is no run or checkpoint, a checkpoint that is damaged, or a study
            whose data, tokenizer or first weights are no longer what it was made from.
    """
    path = output / FILE
    # One without a record is what a mistake left, which the corrected command need not mind.
    check(
        not path.exists() or not path.stat().st_size,
        f"--output {output}: holds an {FILE} already; give another folder",
    )
    runs = [_run_of(given) for given in checkpoints]
    devices = sharding.make_mesh(*mesh)
    output.mkdir(parents=True, exist_ok=True)
    with path.open("w") as file:
        # Runs of one study that follow one another share its data and its compiled step.
        for workdir, several in groupby(runs, lambda one: one.workdir):
            for record in _records(workdir, list(several), devices):
                file.write(json.dumps(record) + "\n")
                file.flush()
                say(f"{record['run']}, step {record['step']}: test loss {record['loss']:.4f}")
    return path


def _run_of(given: str) -> trained.TrainedRun:
    run = trained.run_of(given)
    if run is None:
        raise UserError(
            f"--checkpoint {given}: is no run of a study; give WORKDIR/runs/NAME-seedK, or "
            "…/checkpoints/STEP below it"
        )
    return run


def _records(workdir: Path, runs: list[trained.TrainedRun], mesh: Any) -> Iterator[dict[str, Any]]:
    flat = need_json(workdir / claims.CONFIG, ("seeds",), "give a run of a study that has trained")
    config = from_flat(flat)
    with ExitStack() as stack:
        stack.enter_context(claims.locked(workdir))
        reading, pool = open_pool(config, workdir, stack)
        origin = find_origin(config, reading.tokenizer, workdir)
        claim_data(config, workdir, pool, origin)
        trainer = make_trainer(config, reading.tokenizer, mesh, origin)
        measures = [
            evaluator
            for evaluator, _ in make_evaluators(config, scored(pool), reading, trainer, origin)
        ]
        for run in runs:
            kept = trained.checkpoints(run, "--checkpoint")
            seed = int(run.name.rpartition("-seed")[2])
            fields = evaluate_checkpoint(measures, trainer, kept, step=run.step, seed=seed)
            yield {"run": run.name, "workdir": str(workdir), **fields}
