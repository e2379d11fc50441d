"""One run: trains in the order of an arrangement, measures as it goes, can be killed any time."""

import hashlib
import math
import time
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np
from jax.sharding import Mesh

from zsg_jax.data.pipeline import Steps, batches
from zsg_jax.durable import write_json
from zsg_jax.errors import UserError
from zsg_jax.progress import bar, say
from zsg_jax.training.checkpoint import Checkpoints
from zsg_jax.training.metrics import MetricsLog
from zsg_jax.training.sharding import place_batch

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
        folder: holds metrics.jsonl, checkpoints/ and, at the end, finished.json.
        steps: the batches, by step.
        order: (n,) int64 training rows in the order they are to be met.
        ids: the id of every training row.
        initial_state: makes the state before step 1.
        abstract_state: its shapes and shardings.
        step: compiled (state, batch) -> (state, metrics).
        evaluate: params -> the fields of a test row.
    """

    name: str
    folder: Path
    steps: Steps
    order: np.ndarray
    ids: Sequence[str]
    initial_state: Callable[[], Any]
    abstract_state: Any
    step: Callable[[Any, Any], Any]
    evaluate: Callable[[Any], dict[str, Any]]


def is_finished(folder: Path) -> bool:
    """Whether the run in `folder` has taken all its steps."""
    return (folder / FINISHED).exists()


def train(
    run: Run,
    *,
    total: int,
    evaluate_every: int,
    checkpoint_every: int,
    mesh: Mesh,
    facts: dict[str, str],
) -> float:
    """Takes steps 1 to `total`, going on from the newest good checkpoint.

    Evaluates at step 0, every `evaluate_every` steps and at the end. The metrics file afterwards
    holds the same numbers (`seconds` aside) whether or not the run was stopped on the way.
    `facts` are kept in finished.json for the report.

    Returns:
        The last test loss.

    Raises:
        UserError: if the loss or a gradient is not finite (step and instances named), or if what
            a checkpoint consumed is not what the arrangement now lists.
    """
    first_process = jax.process_index() == 0
    checkpoints = Checkpoints(run.folder / "checkpoints")
    digest = OrderDigest(run.ids)
    iterator = batches(run.steps)
    restored = checkpoints.restore(run.abstract_state)
    log = MetricsLog(run.folder, after_step=restored[0] if restored else -1, active=first_process)
    if restored is None:
        at, state = 0, run.initial_state()
        test: dict[str, Any] = run.evaluate(state["params"])
        log.write({"step": 0, "kind": "test", **test})
        log.flush()
    else:
        at, state, position = restored
        _check_consumed(run, digest, position)
        iterator.set_state(position["data"])
        say(f"{run.name}: going on after step {at}")
        if at == total:
            test = run.evaluate(state["params"])

    clock = time.perf_counter()
    pending: tuple[int, Any] | None = None

    def settle() -> None:
        """Fetches the metrics of the step under way and writes its row."""
        nonlocal clock, pending
        if pending is None:
            return
        number, metrics = pending[0], jax.device_get(pending[1])
        rows = metrics["index"]
        _check_finite(run, number, metrics)
        now = time.perf_counter()
        row = {
            "step": number,
            "kind": "train",
            "loss": float(metrics["loss"]),
            "learning_rate": float(metrics["learning_rate"]),
            "grad_norm": float(metrics["grad_norm"]),
            "tokens": int(metrics["tokens"]),
            "seconds": round(now - clock, 6),
            "order_digest": digest.feed(rows.tolist()),
        }
        log.write(row)
        clock, pending = now, None

    # Every transfer in the loop is asked for by name; one that slips in raises.
    with bar(total, run.name, "step", initial=at) as progress, jax.transfer_guard("disallow"):
        for number in range(at + 1, total + 1):
            batch = place_batch(next(iterator), mesh)
            state, metrics = run.step(state, batch)
            # The row of the step before is written while the devices are at work on this one.
            settle()
            pending = number, metrics
            if number % evaluate_every == 0 or number == total:
                settle()
                test = run.evaluate(state["params"])
                log.write({"step": number, "kind": "test", **test})
                log.flush()
                clock = time.perf_counter()
            if number % checkpoint_every == 0 or number == total:
                settle()
                log.flush()
                position = {
                    "step": number,
                    "instances": digest.instances,
                    "order_digest": digest.feed(()),
                    "data": iterator.get_state(),
                }
                checkpoints.save(number, state, position)
                clock = time.perf_counter()
            progress.update()
    log.close()
    if first_process:
        summary = {"steps": total, "instances": digest.instances, "order_digest": digest.feed(())}
        write_json(run.folder / FINISHED, {**summary, "facts": facts})
    return test["loss"]


def _check_consumed(run: Run, digest: OrderDigest, position: dict[str, Any]) -> None:
    consumed = digest.feed(run.order[: position["instances"]].tolist())
    if consumed != position["order_digest"]:
        raise UserError(
            f"{run.name}: the checkpoint of step {position['step']} has consumed other instances "
            f"than its arrangement lists; delete {run.folder} to train this run from the start"
        )


def _check_finite(run: Run, number: int, metrics: dict[str, Any]) -> None:
    for name in ("loss", "grad_norm"):
        value = float(metrics[name])
        if not math.isfinite(value):
            ids = [run.ids[row] for row in metrics["index"].tolist() if row >= 0]
            raise UserError(
                f"{run.name}: {name} is {value} at step {number}; its instances are "
                f"{', '.join(ids[:4])} and {max(0, len(ids) - 4)} more; a lower "
                "--config.training.learning_rate may help"
            )
