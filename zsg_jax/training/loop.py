"""One run: trains in the order of an arrangement, measures as it goes, can be killed any time."""

import hashlib
import math
import time
from collections.abc import Callable, Iterable, Sequence
from contextlib import closing
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np
from jax.sharding import Mesh

from zsg_jax.data.batches.packing import consumed
from zsg_jax.data.batches.pipeline import Batches, Steps
from zsg_jax.runtime.errors import UserError
from zsg_jax.runtime.files import read_json, write_json
from zsg_jax.runtime.processes import is_first, once
from zsg_jax.runtime.progress import bar, say
from zsg_jax.runtime.signals import Ballot, Terminated, deferred
from zsg_jax.training import metrics
from zsg_jax.training.checkpoint import Checkpoints
from zsg_jax.training.profile import FOLDER, Profile
from zsg_jax.training.sharding import place_batch
from zsg_jax.training.step import FROZEN

FINISHED = "finished.json"


class OrderDigest:
    """Running SHA-256 over the ids of the instances consumed, each followed by a line break.

    So `printf '%s\\n' ID… | sha256sum` over the ids of steps 1 to s gives the digest of step s.
    """

    def __init__(self, ids: Sequence[str]) -> None:
        """Takes the id of every training row."""
        self._ids = ids
        self._hash = hashlib.sha256()
        self.instances = 0

    def feed(self, rows: Iterable[int]) -> str:
        """Adds rows, in order, skipping -1, and returns the digest in hexadecimal."""
        for row in rows:
            if row >= 0:
                self._hash.update(self._ids[row].encode() + b"\n")
                self.instances += 1
        return self._hash.hexdigest()


class Run(NamedTuple):
    """What one run is made of.

    Attributes:
        name: as the run's folder, for messages.
        folder: holds metrics.jsonl and, at the end, finished.json.
        checkpoints: a folder of its own or gs://…, where the states are kept.
        steps: the batches, by step.
        order: (n,) int64 training rows in the order they are to be met.
        ids: the id of every training row.
        test_ids: the id of every test row.
        initial_state: makes the state before step 1.
        abstract_state: its shapes and shardings.
        step: compiled (state, batch) -> (state, metrics).
        evaluate: state -> the fields of a test row.
        frozen: what a state holds that no step changes and no checkpoint keeps.
        speed: (rows a step consumed, its seconds) -> more fields of a training row.
        profile_steps: the first and the last step to trace, or nothing.
    """

    name: str
    folder: Path
    checkpoints: Path | str
    steps: Steps
    order: np.ndarray
    ids: Sequence[str]
    test_ids: Sequence[str]
    initial_state: Callable[[], Any]
    abstract_state: Any
    step: Callable[[Any, Any], Any]
    evaluate: Callable[[Any], dict[str, Any]]
    frozen: Callable[[], dict[str, Any]] = dict
    speed: Callable[[Sequence[int], float], dict[str, Any]] = lambda rows, seconds: {}
    profile_steps: Sequence[int] = ()


def finished(folder: Path) -> dict[str, Any] | None:
    """What finished.json says of the run in `folder`, or None if it still has steps to take.

    Raises:
        UserError: if the metrics are no longer those the run finished with.
    """
    facts = read_json(folder / FINISHED, required=("steps", "metrics_sha256", "facts"))
    if facts is not None and metrics.digest(folder) != facts["metrics_sha256"]:
        raise UserError(
            f"{folder / metrics.FILE}: is not what the run finished with; restore it, or delete "
            f"{folder} to train this run again"
        )
    return facts


def train(
    run: Run,
    *,
    total: int,
    evaluate_every: int,
    checkpoint_every: int,
    mesh: Mesh,
    facts: dict[str, str],
    workers: int = 0,
) -> float:
    """Takes steps 1 to `total`, going on from the newest good checkpoint.

    Evaluates at step 0, every `evaluate_every` steps and at the end. The metrics file afterwards
    holds the same numbers (those of `metrics.CLOCKS` aside) whether or not the run was stopped on
    the way. `facts` are kept in finished.json for the report. `workers` processes lay the batches;
    if 0, a thread does.

    Returns:
        The last test loss.

    Raises:
        UserError: if a loss or a gradient is not finite (step and instances named), if what a
            checkpoint consumed is not what the arrangement now lists, or if checkpoints or metrics
            that were written before are gone.
        Terminated: after a checkpoint of the step at work, if any process has had SIGTERM.
    """
    place = partial(place_batch, mesh=mesh)
    with (
        closing(Batches(run.steps, workers=workers, place=place)) as batches,
        closing(Profile(run.folder / FOLDER, run.profile_steps)) as profile,
        deferred(),
    ):
        every = evaluate_every, checkpoint_every
        return _train(run, batches, Ballot(mesh), profile, total, every, facts)


def _train(
    run: Run,
    batches: Batches,
    ballot: Ballot,
    profile: Profile,
    total: int,
    every: tuple[int, int],
    facts: dict[str, str],
) -> float:
    evaluate_every, checkpoint_every = every
    checkpoints = Checkpoints(run.checkpoints)
    digest = OrderDigest(run.ids)
    restored = checkpoints.restore(_kept(run.abstract_state))
    rows = metrics.read_rows(run.folder)
    if restored is None:
        _check_new(run, rows, checkpoint_every)
        log = metrics.MetricsLog(run.folder, after_step=-1, active=is_first())
        batches.start()
        at, state = 0, run.initial_state()
        test = _measure(run, 0, state, log)
    else:
        at, kept, position = restored
        _check_consumed(run, digest, position)
        _check_rows(run, rows, position, evaluate_every, total)
        log = metrics.MetricsLog(run.folder, after_step=at, active=is_first())
        batches.set_state(position["data"])
        if at < total:
            batches.start()
        state = kept | run.frozen()
        say(f"{run.name}: going on after step {at}")
        if at == total:
            test = run.evaluate(state)

    clock = time.perf_counter()
    pending: tuple[int, Any, float] | None = None

    def settle() -> None:
        """Fetches the metrics of the step under way and writes its row."""
        nonlocal clock, pending
        if pending is None:
            return
        number, taken, waited = pending[0], jax.device_get(pending[1]), pending[2]
        _check_finite(run, number, taken)
        now = time.perf_counter()
        rows = consumed(taken)
        row = {
            "step": number,
            "kind": "train",
            "loss": float(taken["loss"]),
            "learning_rate": float(taken["learning_rate"]),
            "grad_norm": float(taken["grad_norm"]),
            "tokens": int(taken["tokens"]),
            "fill": round(float(taken["fill"]), 4),
            "seconds": round(now - clock, 6),
            "data_wait": round(waited, 6),
            **run.speed(rows, now - clock),
            "order_digest": digest.feed(rows),
        }
        log.write(row)
        clock, pending = now, None

    with bar(total, run.name, "step", initial=at) as progress:
        for number in range(at + 1, total + 1):
            if profile.due(number):
                settle()
                profile.start()
                clock = time.perf_counter()
            # Every transfer of a step is asked for by name; one that slips in raises.
            with profile.step(number), jax.transfer_guard("disallow"):
                ballot.cast()
                asked = time.perf_counter()
                batch = next(batches)
                waited = time.perf_counter() - asked
                state, taken = run.step(state, batch)
                if number < total:
                    batches.start()
                # The row of the step before is written while the devices are at work on this one.
                settle()
            pending = number, taken, waited
            if profile.over(number):
                settle()
                profile.close()
                clock = time.perf_counter()
            if number % evaluate_every == 0 or number == total:
                settle()
                test = _measure(run, number, state, log)
                clock = time.perf_counter()
            stops = ballot.stops() and number < total
            if number % checkpoint_every == 0 or number == total or stops:
                settle()
                log.flush()
                position = {
                    "step": number,
                    "instances": digest.instances,
                    "order_digest": digest.feed(()),
                    "data": batches.get_state(),
                }
                checkpoints.save(number, _kept(state), position)
                clock = time.perf_counter()
            progress.update()
            if stops:
                log.close()
                say(f"{run.name}: stopping after step {number}")
                raise Terminated(everywhere=True)
    log.close()

    def finish() -> None:
        summary = {
            "steps": total,
            "instances": digest.instances,
            "order_digest": digest.feed(()),
            "metrics_sha256": metrics.digest(run.folder),
            "facts": facts,
        }
        write_json(run.folder / FINISHED, summary)

    once(f"finish {run.name}", finish)
    return test["loss"]


def _kept(state: dict[str, Any]) -> dict[str, Any]:
    """What a checkpoint holds of a state."""
    return {name: part for name, part in state.items() if name != FROZEN}


def _measure(run: Run, step: int, state: Any, log: metrics.MetricsLog) -> dict[str, Any]:
    """Evaluates, and writes the test row of `step`."""
    test = run.evaluate(state)
    if not math.isfinite(test["loss"]):
        pairs = zip(run.test_ids, test["losses"], strict=True)
        bad = [name for name, loss in pairs if not math.isfinite(loss)]
        raise UserError(
            f"{run.name}: the test loss is {test['loss']} at step {step}, by {len(bad)} of "
            f"{len(run.test_ids)} test rows, such as {', '.join(bad[:4])}; look at the weights the "
            "run starts from, or lower --config.training.learning_rate"
        )
    log.write({"step": step, "kind": "test", **test})
    log.flush()
    return test


def _check_new(run: Run, rows: list[dict[str, Any]], checkpoint_every: int) -> None:
    """A run without a checkpoint is a new one, unless its metrics went past the first."""
    last = max((row["step"] for row in rows if row["kind"] == "train"), default=0)
    if last > checkpoint_every:
        raise UserError(
            f"{run.checkpoints}: holds no whole checkpoint, although the run had taken "
            f"step {last}; restore one, or delete {run.folder} to train this run from the start"
        )


def _check_rows(
    run: Run, rows: list[dict[str, Any]], position: dict[str, Any], every: int, total: int
) -> None:
    """What was written up to a checkpoint must still be there, as it was."""
    at = position["step"]
    steps = {
        kind: [row["step"] for row in rows if row["kind"] == kind and row["step"] <= at]
        for kind in ("train", "test")
    }
    due = [step for step in range(at + 1) if step % every == 0 or step == total]
    digests = [row.get("order_digest") for row in rows if row["kind"] == "train"]
    if (
        steps["train"] != list(range(1, at + 1))
        or steps["test"] != due
        or digests[at - 1] != position["order_digest"]
    ):
        raise UserError(
            f"{run.folder / metrics.FILE}: does not hold the rows of steps 0 to {at} that the "
            f"checkpoint of step {at} follows; restore it, or delete {run.folder} to train this "
            "run from the start"
        )


def _check_consumed(run: Run, digest: OrderDigest, position: dict[str, Any]) -> None:
    met = digest.feed(run.order[: position["instances"]].tolist())
    if met != position["order_digest"]:
        raise UserError(
            f"{run.name}: the checkpoint of step {position['step']} has consumed other instances "
            f"than its arrangement lists; delete {run.folder} to train this run from the start"
        )


def _check_finite(run: Run, number: int, taken: dict[str, Any]) -> None:
    for name in ("loss", "grad_norm"):
        value = float(taken[name])
        if not math.isfinite(value):
            ids = [run.ids[row] for row in consumed(taken)]
            raise UserError(
                f"{run.name}: {name} is {value} at step {number}; its instances are "
                f"{', '.join(ids[:4])} and {max(0, len(ids) - 4)} more; a lower "
                "--config.training.learning_rate may help"
            )
