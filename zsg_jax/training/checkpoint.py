"""Checkpoints: state and data position together, checked by digests; the only user of orbax.

A checkpoint is the folder `STEP/` with `state/` (orbax), `position.json` and, written last,
`manifest.json` with the digest of every file. A folder without a manifest was never finished;
one whose files do not agree with it is damaged. Both are named and stepped over.
"""

import logging
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import Any

import jax
from jax.sharding import SingleDeviceSharding
from orbax.checkpoint import v1 as ocp

from zsg_jax.runtime.buckets import is_address, store_errors
from zsg_jax.runtime.errors import UserError, check
from zsg_jax.runtime.files import file_digest
from zsg_jax.runtime.processes import once
from zsg_jax.runtime.progress import say
from zsg_jax.training import checkpoint_files as files
from zsg_jax.training.checkpoint_files import MANIFEST, Folder, digests, problem_of

POSITION = "position.json"
STATE = "state"


def _not_raised_too(record: logging.LogRecord) -> bool:
    """Not what orbax's threads log, a trace each, and raise as well: that is told in a line."""
    return "orbax" not in record.pathname or "raised an exception" not in str(record.msg)


logging.getLogger("absl").addFilter(_not_raised_too)


class Checkpoints:
    """The checkpoints of one run, newest kept, older ones deleted."""

    def __init__(self, folder: Folder, *, keep: int = 2) -> None:
        """Takes the folder `checkpoints/` of a run; `keep` ≥ 2 leaves a spare for a damaged one.

        Args:
            folder: of this machine, or gs://….
        """
        self._folder = files.whole_path(folder)
        self._keep = keep
        self._read_back = False

    def save(self, step: int, state: Any, position: dict[str, Any]) -> None:
        """Writes `state` and `position` (JSON) as of `step`; returns when they are kept."""
        target = self._of(step)

        def finish() -> None:
            files.write_json(target, POSITION, position)
            files.write_json(target, MANIFEST, digests(target))
            if not self._read_back:
                self._check_readable(target)
            self._delete_old(step)

        once(f"clear {step}", lambda: files.begin(target))
        with self._errors("cannot be written"), files.plainly_named(target) as plain:
            ocp.save(files.within(plain, STATE), state, overwrite=True)
        once(f"finish {step}", finish)
        self._read_back = True

    def _check_readable(self, target: Folder) -> None:
        """A run whose checkpoints cannot be read ends at the first of them, not after the last."""
        problem = problem_of(target, POSITION)
        if problem is None:
            with self._errors("cannot be read"):
                parameter_shapes(target)
        check(
            problem is None,
            f"{target}: cannot be read back ({problem}); check the disk, or give another --workdir",
        )

    def _of(self, step: int) -> Folder:
        return files.within(self._folder, f"{step:08d}")

    def _errors(self, what: str) -> AbstractContextManager[None]:
        return store_errors(self._folder, what) if is_address(self._folder) else nullcontext()

    def restore(self, abstract_state: Any) -> tuple[int, Any, dict[str, Any]] | None:
        """The newest checkpoint that is whole: step, state on its shardings, and position.

        Returns:
            None if there is no checkpoint yet.

        Raises:
            UserError: if there are checkpoints but every one is damaged.
        """
        damaged = []
        for step, finished in reversed(files.steps(self._folder).items()):
            folder = self._of(step)
            if not finished:
                say(f"{folder}: was never finished; stepping over it")
                continue
            problem = problem_of(folder, POSITION)
            if problem is None:
                # Another mesh may ask for more or less padding of the vocabulary, which is zeros.
                with self._errors("cannot be read"):
                    state = _load(files.within(folder, STATE), abstract_state)
                return step, state, files.read_json(folder, POSITION)
            damaged.append(step)
            say(f"{folder}: is damaged: {problem}; stepping over it")
        if damaged:
            run = str(self._folder).rpartition("/")[0]
            raise UserError(
                f"{self._folder}: every checkpoint is damaged (steps {damaged}); restore one, or "
                f"delete {run} to train this run from the start"
            )
        return None

    def parameters(self, step: int | None = None) -> tuple[int, Any]:
        """The parameters alone of one checkpoint, in this process's memory.

        Returns:
            The step, and the nested dict of arrays.

        Raises:
            UserError: as `whole`.
        """
        folder = self.whole(step)
        return int(folder.name), load_parameters(folder, _here(parameter_shapes(folder)))

    def optimized(self, step: int, init: Callable[[Any], Any]) -> tuple[Any, Any]:
        """The parameters and the optimizer's state of one checkpoint, as `parameters`.

        Args:
            init: makes the optimizer's first state of parameters.
        """
        folder = self.whole(step)
        params = _here(parameter_shapes(folder))
        wanted = {"params": params, "opt_state": _here(jax.eval_shape(init, params))}
        found = _load(files.within(folder, STATE), wanted)
        return found["params"], found["opt_state"]

    def all_whole(self) -> list[int]:
        """The steps of the checkpoints that are whole, ascending; damaged ones are named."""
        found = []
        for step in self._finished():
            problem = problem_of(self._of(step), POSITION)
            if problem is None:
                found.append(step)
            else:
                say(f"{self._of(step)}: is damaged: {problem}")
        return found

    def trained(self, step: int, abstract: Any) -> Any:
        """The trained parameters alone of a whole checkpoint; `abstract` as `load_parameters`."""
        with self._errors("cannot be read"):
            return load_parameters(self._of(step), abstract)

    def _finished(self) -> list[int]:
        return [step for step, finished in files.steps(self._folder).items() if finished]

    def whole(self, step: int | None = None) -> Path:
        """The folder of one checkpoint on this machine, every file of it checked.

        Args:
            step: the step it was written after; None: the newest that is whole.

        Raises:
            UserError: there is no such checkpoint, or it is damaged.
        """
        steps = self._finished()
        wanted = steps[::-1] if step is None else [step]
        if not steps or wanted[0] not in steps:
            which = "" if step is None else f" of step {step}"
            kept = f"; kept are {', '.join(map(str, steps))}" if steps else ", train the run first"
            raise UserError(f"{self._folder}: no whole checkpoint{which}{kept}")
        for at in wanted:
            folder = self._of(at)
            problem = problem_of(folder, POSITION)
            if problem is None:
                return Path(folder)
            say(f"{folder}: is damaged: {problem}")
        raise UserError(f"{self._folder}: step {', '.join(map(str, wanted))}: damaged; restore it")

    def _delete_old(self, step: int) -> None:
        """Keeps `step` and the newest finished ones before it; what came after is void."""
        found = files.steps(self._folder)
        kept = [other for other, finished in found.items() if finished and other <= step]
        for other in found:
            # A listing that lacks what has just been written would tell nothing of the others.
            if step in kept and other not in kept[-self._keep :]:
                files.delete(self._of(other))


def is_one(folder: str | Path) -> bool:
    """Whether a folder holds a finished checkpoint, whole or not."""
    return (Path(folder) / MANIFEST).is_file()


def check_whole(folder: Path) -> None:
    """Refuses a checkpoint of which a file is not as it was written."""
    problem = problem_of(folder, POSITION)
    if problem is not None:
        raise UserError(f"{folder}: is damaged: {problem}; restore it, or give another checkpoint")


def digest(folder: Path) -> str:
    """SHA-256 over the digests of all its files, which `check_whole` compares with the files."""
    return file_digest(folder / MANIFEST)


def parameter_shapes(folder: Folder) -> Any:
    """Nested dict of what has the `shape` and `dtype` of every parameter in a checkpoint."""
    with files.plainly_named(folder) as plain:
        found = ocp.metadata(files.within(plain, STATE)).metadata
    check(
        isinstance(found, dict) and "params" in found,
        f"{folder}: is damaged: it names no parameters; restore it, or give another checkpoint",
    )
    return found["params"]


def _here(shapes: Any) -> Any:
    """`shapes` of arrays in this process's memory."""
    where = SingleDeviceSharding(jax.local_devices(backend="cpu")[0])
    return jax.tree.map(
        lambda leaf: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=where), shapes
    )


def _load(folder: Folder, abstract: Any) -> Any:
    """A state, or a part of it, its arrays cut or filled with zeros at their ends to fit."""
    context = ocp.Context()
    context.array.loading.enable_padding_and_truncation = True
    context.pytree.loading.partial_load = True
    with context, files.plainly_named(folder) as plain:
        return ocp.load(plain, abstract)


def load_parameters(folder: Folder, abstract: Any) -> Any:
    """The parameters alone of a checkpoint, each device reading its own part.

    Args:
        folder: of one checkpoint, found whole.
        abstract: nested dict of `jax.ShapeDtypeStruct` with shardings; where a dimension is longer
            than what was written, zeros are added at its end, where it is shorter, the rest is
            left out.
    """
    return _load(files.within(folder, STATE), {"params": abstract})["params"]
