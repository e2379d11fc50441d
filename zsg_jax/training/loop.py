"""One run: trains in the order of an arrangement, measures as it goes, can be killed any time."""

import math
import time
from collections.abc import Callable, Sequence
from contextlib import closing
from functools import partial
from itertools import zip_longest
from pathlib import Path
from typing import Any, NamedTuple

import jax

from zsg_jax.data.batches.packing import consumed
from zsg_jax.data.batches.pipeline import Batches
from zsg_jax.data.batches.steps import Steps
from zsg_jax.runtime.appended import mend
from zsg_jax.runtime.ballot import Ballot
from zsg_jax.runtime.errors import UserError
from zsg_jax.runtime.files import remove
from zsg_jax.runtime.order_digest import OrderDigest
from zsg_jax.runtime.processes import is_first, once
from zsg_jax.runtime.progress import bar, duration, say, working
from zsg_jax.runtime.settings import setting
from zsg_jax.runtime.signals import Terminated, deferred
from zsg_jax.training import metrics
from zsg_jax.training.belongs import Belongs
from zsg_jax.training.checkpoint import Checkpoints
from zsg_jax.training.finished import FINISHED, record_files
from zsg_jax.training.finished import finish as write_finished
from zsg_jax.training.loggers import TENSORBOARD_ALONE, Logging
from zsg_jax.training.profile import FOLDER, Profile
from zsg_jax.training.sharding import place_batch
from zsg_jax.training.step import FROZEN
from zsg_jax.training.trainer import Trainer

# As `evaluation.evaluator.Evaluator`.
Evaluate = Callable[[Any, int, Path], dict[str, Any]]
DEVICES = "Devices"  # the fact of a run that may change on the way


class TrainingRun(NamedTuple):
    """What differs between the runs of a study.

    Attributes:
        folder: NAME-seedK; holds metrics.jsonl and, at the end, finished.json.
        checkpoints: a folder of its own or gs://…, where the states are kept.
        seed: of the weights or adapters.
        steps: the batches, by step, in the order of an arrangement.
        total: how many of them to take.
        place: which run this is, and of how many.
        until: the step to stop after, although it is not the last; None: go on to that.
        measured: steps at which all evaluators are due besides.
    """

    folder: Path
    checkpoints: Path | str
    seed: int
    steps: Steps
    total: int
    place: tuple[int, int] = (1, 1)
    until: int | None = None
    measured: Sequence[int] = ()

    @property
    def end(self) -> int:
        """The step to stop after."""
        return self.total if self.until is None else self.until


class Recipe(NamedTuple):
    """What all runs of a study share.

    Attributes:
        trainer: the model on its mesh.
        ids: the id of every training instance.
        evaluators: (evaluator, every): each is due at step 0, every so many steps and at the last;
            records of examples go into the run's folder.
        checkpoint_every: steps from one checkpoint to the next.
        checkpoints_kept: how many stay, the newest; 2 at least, of which one may be damaged.
        speed: (instances that a step consumed, its seconds) -> more fields of a training record.
        profile_steps: the first and the last step to trace, or nothing.
        workers: processes that lay the batches; if 0, a thread does.
        logging: where the numbers go besides metrics.jsonl.
        belongs: what the runs follow from; a run that follows from something else is refused.
    """

    trainer: Trainer
    ids: Sequence[str]
    evaluators: Sequence[tuple[Evaluate, int]]
    checkpoint_every: int
    speed: Callable[[Sequence[int], float], dict[str, Any]]
    checkpoints_kept: int = 2
    profile_steps: Sequence[int] = ()
    workers: int = 0
    logging: Logging = TENSORBOARD_ALONE
    belongs: Belongs = Belongs()


def train(run: TrainingRun, recipe: Recipe, *, facts: dict[str, str]) -> None:
    """Takes steps 1 to `run.end`, going on from the newest good checkpoint.

    The metrics file afterwards holds the same numbers (those of `metrics.CLOCKS` aside) whether or
    not the run was stopped on the way. `facts` are kept in finished.json for the report; where
    the run went on elsewhere, its `DEVICES` are told one after another.

    Raises:
        UserError: if a loss or a gradient is not finite (step and instances named), if what a step
            or a checkpoint consumed is not what the arrangement lists, if the run belongs to
            something else, or if checkpoints or metrics
            that were written before are gone.
        Terminated: after a checkpoint of the step at work, if any process has had SIGTERM.
    """
    transfer = partial(place_batch, mesh=recipe.trainer.mesh)
    with (
        closing(Batches(run.steps, workers=recipe.workers, transfer=transfer)) as batches,
        closing(Profile(run.folder / FOLDER, recipe.profile_steps)) as profile,
        deferred(),
    ):
        loop = _Loop(run, recipe, batches, profile, facts.get(DEVICES, ""))
        digest = loop.run()

        def finish() -> None:
            shown = facts | ({DEVICES: ", then ".join(loop.devices)} if DEVICES in facts else {})
            told = {"steps": run.total, "instances": digest.instances, "facts": shown}
            told |= {"order_digest": digest.feed(()), **recipe.belongs.told()}
            write_finished(run.folder, told)

        # A run that stops earlier is to be gone on with.
        if run.end == run.total:
            once(f"finish {run.folder.name}", finish)


class _Loop:
    """A run between two steps: its state, what it has consumed, and the record not yet written."""

    def __init__(
        self, run: TrainingRun, recipe: Recipe, batches: Batches, profile: Profile, devices: str
    ) -> None:
        self._run, self._recipe, self._batches, self._profile = run, recipe, batches, profile
        self._name, self._trainer = run.folder.name, recipe.trainer
        self._compiled = self._trainer.compiled_step(
            run.total, run.steps.length, run.steps.shapes(run.total)
        )
        self._checkpoints = Checkpoints(run.checkpoints, keep=recipe.checkpoints_kept)
        self._digest = OrderDigest(recipe.ids)
        self._ballot = Ballot(self._trainer.mesh)
        self.devices = [devices]  # on which steps were taken, one after another
        # The step at work: its number, its metrics on the devices, the seconds its batch took.
        self._pending: tuple[int, Any, float] | None = None

    def run(self) -> OrderDigest:
        """Takes all steps that are left; returns the digest of all instances consumed."""
        done, total = self._begin(), self._run.end
        self._clock = begun = time.perf_counter()
        self._first = self._digest.instances
        with bar(total, self._name, "step", initial=done) as progress:
            for step in range(done + 1, total + 1):
                self._take(step)
                if measured := self._evaluate(step):
                    progress.note(self._told(step, measured, step - done, begun))
                stops = self._ballot.stops() and step < total
                if step % self._recipe.checkpoint_every == 0 or step == total or stops:
                    self._save(step)
                progress.update()
                if stops:
                    self._log.close()
                    say(f"{self._name}: stopping after step {step}")
                    raise Terminated(everywhere=True)
        self._log.close()
        return self._digest

    def _begin(self) -> int:
        """Restores the newest good checkpoint or makes the first state; the steps it has taken."""
        run, trainer = self._run, self._trainer
        self._recipe.belongs.check_begun(run.folder)
        restored = self._checkpoints.restore(_kept(trainer.abstract_state))
        records = metrics.read_records(run.folder)
        if restored is None:
            _check_new(run, records, self._recipe.checkpoint_every)
            self._mend({})
            self._batches.start()
            with working(f"{self._name}: making the first state"):
                self._state = trainer.initial_state(run.seed)
            self._log = self._open_log(-1)  # until now the run binds nothing
            if records:
                say(f"{self._name}: starts at step 0, since no checkpoint was kept")
            self._evaluate(0)
            return 0
        done, kept, position = restored
        self._check_consumed(position)
        _check_records(run, records, position, self._due)
        self._mend(position.get("records"))
        # A run that had ended goes on: what it ends with is another.
        once(f"go on with {self._name}", lambda: remove(run.folder / FINISHED))
        self._log = self._open_log(done)
        self._batches.set_state(position["data"])
        before = position.get("devices") or self.devices
        self.devices = before + [
            one for one in self.devices if one != before[-1] and done < run.end
        ]
        if done < run.end:
            self._batches.start()
        self._state = kept | trainer.frozen(run.seed)
        say(f"{self._name}: going on after step {done}")
        return done

    def _mend(self, told: dict[str, tuple[int, str]] | None) -> None:
        """Cuts damaged records of examples down to what a checkpoint has `told` of them."""

        def cut() -> None:
            for path in record_files(self._run.folder):
                mend(path, told[path.name][0] if told and path.name in told else 0)

        if told is not None:
            once(f"records of {self._name}", cut)

    def _open_log(self, after_step: int) -> metrics.MetricsLog:
        folder, logging, belongs = self._run.folder, self._recipe.logging, self._recipe.belongs
        once(f"begin {self._name}", lambda: belongs.begin(folder))
        return metrics.MetricsLog(folder, after_step=after_step, active=is_first(), logging=logging)

    def _take(self, step: int) -> None:
        """Takes one step; its record is written later, while the next one is at work."""
        if self._profile.due(step):
            self._settle()
            self._profile.start()
            self._clock = time.perf_counter()
        # Every transfer of a step is asked for by name; one that slips in raises.
        with self._profile.step(step), jax.transfer_guard("disallow"):
            self._ballot.cast()
            asked = time.perf_counter()
            batch = next(self._batches)
            waited = time.perf_counter() - asked
            self._state, pending = self._compiled(self._state, batch)
            if step < self._run.end:
                self._batches.start()
            # The record of the step before is written while the devices are at work on this one.
            self._settle()
        self._pending = step, pending, waited
        if self._profile.over(step):
            self._settle()
            self._profile.close()
            self._clock = time.perf_counter()

    def _settle(self) -> None:
        """Fetches the metrics of the step at work, if there is one, and writes its record."""
        if self._pending is None:
            return
        step, pending, waited = self._pending
        fetched = jax.device_get(pending)
        self._check_finite(step, fetched)
        now = time.perf_counter()
        index = consumed(fetched)
        self._check_listed(step, index)
        record = {
            "step": step,
            "kind": "train",
            "loss": float(fetched["loss"]),
            "learning_rate": float(fetched["learning_rate"]),
            "grad_norm": float(fetched["grad_norm"]),
            "tokens": int(fetched["tokens"]),
            "fill": round(float(fetched["fill"]), 4),
            "seconds": round(now - self._clock, 6),
            "data_wait": round(waited, 6),
            **self._recipe.speed(index, now - self._clock),
            "order_digest": self._digest.feed(index),
        }
        self._log.write(record)
        self._clock, self._pending = now, None

    def _due(self, step: int) -> list[Evaluate]:
        """The evaluators that are due at a step."""
        last = step == self._run.end or step in self._run.measured
        return [one for one, every in self._recipe.evaluators if step % every == 0 or last]

    def _told(self, step: int, measured: dict[str, Any], taken: int, begun: float) -> str:
        """Where the run is after an evaluation, and how long all runs that are left will take."""
        run, seconds = self._run, time.perf_counter() - begun
        number, runs = run.place
        a_second = (self._digest.instances - self._first) / max(seconds, 1e-9)
        loss = f"test loss {measured['loss']:.3f}, " if "loss" in measured else ""
        left = seconds / taken * (run.total - step + run.total * (runs - number))
        return (
            f"run {number} of {runs}, step {step} of {run.total}, {loss}"
            f"{a_second:.3g} examples/s, {duration(left)} left"
        )

    def _evaluate(self, step: int) -> dict[str, Any] | None:
        """Writes the test record of a step, and gives it, if an evaluator is due."""
        due = self._due(step)
        if not due:
            return None
        self._settle()
        record: dict[str, Any] = {"step": step, "kind": "test"}
        params = self._trainer.model_params(self._state)
        try:
            for evaluator in due:
                record |= evaluator(params, step, self._run.folder)
        except UserError as error:
            raise UserError(f"{self._name}: {error}") from None
        self._log.write(record)
        self._log.flush()
        self._clock = time.perf_counter()
        return record

    def _save(self, step: int) -> None:
        self._settle()
        self._log.flush()
        position = {
            "run": self._name,
            **self._recipe.belongs.told(),
            "step": step,
            "instances": self._digest.instances,
            "order_digest": self._digest.feed(()),
            "data": self._batches.get_state(),
            "devices": self.devices,
            "records": {
                path.name: [path.stat().st_size, metrics.digest(path)]
                for path in (self._run.folder / metrics.FILE, *record_files(self._run.folder))
                if path.exists()
            },
        }
        self._checkpoints.save(step, _kept(self._state), position)
        self._clock = time.perf_counter()

    def _check_listed(self, step: int, index: list[int]) -> None:
        """What the devices took for a step is what the arrangement lists for it."""
        listed = self._run.steps.listed(step - 1).tolist()
        if index != listed:
            wrong = next(i for i, pair in enumerate(zip_longest(index, listed)) if len({*pair}) > 1)
            raise UserError(
                f"{self._name}: at step {step} the devices took other instances than its "
                f"arrangement lists, from place {wrong + 1} of {len(listed)} on; nothing of the "
                "step is kept. This is a fault of the program or the machine: please report it"
            )

    def _check_consumed(self, position: dict[str, Any]) -> None:
        self._recipe.belongs.check(self._run.folder, position)
        listed = self._run.steps.order[: position["instances"]].tolist()
        if self._digest.feed(listed) != position["order_digest"]:
            raise UserError(
                f"{self._name}: the checkpoint of step {position['step']} has consumed other "
                f"instances than its arrangement lists; delete {self._run.folder} to train this "
                "run from the start"
            )

    def _check_finite(self, step: int, fetched: dict[str, Any]) -> None:
        for name in ("loss", "grad_norm"):
            value = float(fetched[name])
            if not math.isfinite(value):
                ids = [self._recipe.ids[i] for i in consumed(fetched)]
                raise UserError(
                    f"{self._name}: {name} is {value} at step {step}; its instances are "
                    f"{', '.join(ids[:4])} and {max(0, len(ids) - 4)} more; a lower "
                    f"{setting('training.learning_rate')} may help"
                )


def _kept(state: dict[str, Any]) -> dict[str, Any]:
    """What a checkpoint holds of a state."""
    return {name: part for name, part in state.items() if name != FROZEN}


def _check_new(run: TrainingRun, records: list[dict[str, Any]], checkpoint_every: int) -> None:
    """A run without a checkpoint is a new one, unless its metrics went past the first."""
    last = max((one["step"] for one in records if one["kind"] == "train"), default=0)
    if last > checkpoint_every:
        raise UserError(
            f"{run.checkpoints}: holds no whole checkpoint, although the run had taken "
            f"step {last}; restore one, or delete {run.folder} to train this run from the start"
        )


def _check_records(
    run: TrainingRun,
    records: list[dict[str, Any]],
    position: dict[str, Any],
    due: Callable[[int], Sequence[Any]],
) -> None:
    """What was written up to a checkpoint must still be there, as it was."""
    done = position["step"]
    train = [one for one in records if one["kind"] == "train" and one["step"] <= done]
    test = [one["step"] for one in records if one["kind"] == "test" and one["step"] <= done]
    if (
        [one["step"] for one in train] != list(range(1, done + 1))
        # One that had ended earlier was measured there besides.
        or not set(test).issuperset(step for step in range(done + 1) if due(step))
        or train[-1].get("order_digest") != position["order_digest"]
    ):
        raise UserError(
            f"{run.folder / metrics.FILE}: does not hold the records of steps 0 to {done} that the "
            f"checkpoint of step {done} follows; restore it, or delete {run.folder} to train this "
            "run from the start"
        )
    for name, (size, digest) in position.get("records", {}).items():
        if metrics.digest(run.folder / name, size) != digest:
            raise UserError(
                f"{run.folder / name}: does not hold the records that the checkpoint of step "
                f"{done} follows, as they were written; restore it, or delete {run.folder} to "
                "train this run from the start"
            )
