"""A run's numbers for who watches elsewhere: beside the study, which goes on where these fail."""

import hashlib
import re
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from importlib.util import find_spec
from pathlib import Path
from typing import Any, NamedTuple, Protocol

from zsg_jax.runtime.errors import check, did_you_mean, first_line
from zsg_jax.runtime.progress import say
from zsg_jax.runtime.settings import setting

TENSORBOARD, WANDB, MLFLOW = "tensorboard", "wandb", "mlflow"
LOGGERS = (TENSORBOARD, WANDB, MLFLOW)


class Logging(NamedTuple):
    """Where numbers go besides metrics.jsonl.

    Attributes:
        names: of `LOGGERS`.
        settings: flat, what W&B and MLflow show as the run's configuration.
    """

    names: Sequence[str] = (TENSORBOARD,)
    settings: Mapping[str, Any] = {}


TENSORBOARD_ALONE = Logging()


class Backend(Protocol):
    """What takes the numbers of a run; each call may raise whatever its library raises."""

    def log(self, kind: str, step: int, numbers: Mapping[str, float]) -> None:
        """Takes numbers by name, as "test/loss", of a record of a kind."""

    def flush(self) -> None:
        """Hands on what it holds."""

    def close(self) -> None:
        """Ends the run there."""


class Logger:
    """A backend that is left out, in one line, from the first thing that goes wrong in it."""

    def __init__(self, what: str, begin: Callable[[], Backend]) -> None:
        """Begins; `what` names it in that line."""
        self._what = what
        self._backend: Backend | None = None
        self._try(lambda: setattr(self, "_backend", begin()))

    def write(self, record: Mapping[str, Any]) -> None:
        """Gives the numbers of a record as KIND/NAME, and those of an object as KIND/NAME/PART."""
        backend = self._backend
        if backend is not None:
            kind, numbers = record["kind"], _numbers(record)
            self._try(lambda: backend.log(kind, record["step"], numbers))

    def flush(self) -> None:
        """Hands on all numbers so far."""
        if self._backend is not None:
            self._try(self._backend.flush)

    def close(self) -> None:
        """Flushes and ends."""
        if self._backend is not None:
            self._try(self._backend.close)
            self._backend = None

    def _try(self, work: Callable[[], object]) -> None:
        try:
            work()
        except Exception as error:  # whatever it is, the study does not need it
            backend, self._backend = self._backend, None
            if backend is not None:
                with suppress(Exception):
                    backend.close()
            say(f"{self._what}: left out from here on: {first_line(error)}; the study goes on")


def check_loggers(names: Sequence[str]) -> None:
    """Refuses names that are none of `LOGGERS`.

    Raises:
        UserError: naming it.
    """
    for name in names:
        check(
            name in LOGGERS,
            f"{setting('logging')}: {name!r} is unknown; choose from {', '.join(LOGGERS)}"
            f"{did_you_mean(name, LOGGERS)}",
        )


def check_installed(names: Sequence[str]) -> None:
    """Refuses loggers whose package is not here, before anything is made.

    Raises:
        UserError: with how to install it.
    """
    for name in names:
        check(
            name == TENSORBOARD or find_spec(name) is not None,
            f"{setting('logging')}: {name} is not installed; pip install 'zsg_jax[{name}]', or "
            "leave it out",
        )


def open_loggers(logging: Logging, run: Path, after_step: int) -> list[Logger]:
    """The loggers of a run in the folder `run`, which goes on after a step, or -1: begins."""
    from zsg_jax.training.board import Events

    purge = after_step + 1 if after_step >= 0 else None
    begin: dict[str, tuple[str, Callable[[], Backend]]] = {
        TENSORBOARD: (str(run / "tensorboard"), lambda: Events(run / "tensorboard", purge)),
        WANDB: (f"{run.name}: wandb", lambda: Wandb(run, logging.settings)),
        MLFLOW: (f"{run.name}: mlflow", lambda: MLflow(run, logging.settings)),
    }
    return [Logger(*begin[name]) for name in logging.names]


class Wandb:
    """A run of Weights & Biases, in the group of its workdir, online or as WANDB_MODE says."""

    def __init__(self, run: Path, settings: Mapping[str, Any]) -> None:
        """Begins the run, or goes on with it: of one folder it has one id."""
        import wandb

        self._run = wandb.init(
            project="zsg_jax",
            group=_study(run),
            name=run.name,
            id=hashlib.sha256(str(run.absolute()).encode()).hexdigest()[:16],
            resume="allow",
            dir=str(run),
            config=dict(settings),
            # Its own lines would tear the study's; what it cannot do is told by who calls.
            settings=wandb.Settings(silent=True, console="off", init_timeout=30),
        )

    def log(self, kind: str, step: int, numbers: Mapping[str, float]) -> None:
        """As `Backend`; steps that it has already it leaves as they are."""
        self._run.log(dict(numbers), step=step)

    def flush(self) -> None:
        """It sends by itself."""

    def close(self) -> None:
        """Waits until all is sent."""
        self._run.finish()


class MLflow:
    """A run of MLflow, in the experiment of its workdir, where MLFLOW_TRACKING_URI says."""

    def __init__(self, run: Path, settings: Mapping[str, Any]) -> None:
        """Begins the run, or goes on with the one that was begun for the folder."""
        from mlflow.tracking import MlflowClient

        self._client = client = MlflowClient()
        known = client.get_experiment_by_name(_study(run))
        experiment = known.experiment_id if known else client.create_experiment(_study(run))
        home = str(run.absolute())
        # A value in quotes, in which nothing may end them.
        wanted = "tags.zsg_jax_run = '{}'".format(home.replace("'", "_"))
        found = client.search_runs([experiment], wanted, max_results=1)
        if found:
            self._id = found[0].info.run_id
            client.update_run(self._id, status="RUNNING")
        else:
            tags = {"zsg_jax_run": home.replace("'", "_")}
            self._id = client.create_run(experiment, run_name=run.name, tags=tags).info.run_id
            for key, value in settings.items():
                client.log_param(self._id, key, str(value)[:500])
        # What it has already stays as it is: steps that are taken again give the same numbers.
        self._last = {kind: self._last_of(kind) for kind in ("train", "test")}

    def _last_of(self, kind: str) -> int:
        history = self._client.get_metric_history(self._id, f"{kind}/loss")
        return max((one.step for one in history), default=-1)

    def log(self, kind: str, step: int, numbers: Mapping[str, float]) -> None:
        """As `Backend`."""
        from mlflow.entities import Metric

        if step <= self._last[kind]:
            return
        now = int(time.time() * 1000)
        metrics = [
            # Of names it takes letters, digits and these.
            Metric(re.sub(r"[^\w\-./ ]", "_", name), value, now, step)
            for name, value in numbers.items()
        ]
        for first in range(0, len(metrics), 1000):  # it takes no more at once
            self._client.log_batch(self._id, metrics=metrics[first : first + 1000])

    def flush(self) -> None:
        """It has all of it."""

    def close(self) -> None:
        """Says that nothing more is written for now."""
        self._client.set_terminated(self._id)


def _study(run: Path) -> str:
    """What the workdir of WORKDIR/runs/NAME-seedK is called."""
    return run.absolute().parent.parent.name or "zsg_jax"


def _numbers(record: Mapping[str, Any]) -> dict[str, float]:
    numbers: dict[str, float] = {}
    for name, value in record.items():
        if name != "step" and isinstance(value, int | float):
            numbers[f"{record['kind']}/{name}"] = value
        elif isinstance(value, dict):
            numbers |= {f"{record['kind']}/{name}/{part}": one for part, one in value.items()}
    return numbers
