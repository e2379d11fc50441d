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
from zsg_jax.training import sharding
from zsg_jax.training.checkpoint_files import MANIFEST, Folder, digests, problem_of

POSITION = "position.json"
STATE = "state"


def _not_raised_too(record: logging.LogRecord) -> bool:
    """Not what orbax's threads log, a trace each, and raise as well: that is told in a line."""
    return "orbax" not in record.pathname or "raised an exception" not in str(record.msg)


logging.getLogger("absl").addFilter(_not_raised_too)


class Checkpoints:
    """The checkpoints of one run, newest kept, older ones deleted."""

    def __init__(self, folder: Folder, *, keep: int = 2, end: int | None = None) -> None:
        """Takes the folder `checkpoints/` of a run; `keep` ≥ 2 leaves a spare for a damaged one.

        Args:
            folder: of this machine, or gs://….
            keep: how many stay, the newest.
            end: the step that the run has ended with, which is then the newest; None: it has not.
        """
        self._folder = files.whole_path(folder)
        self._keep, self._end = keep, end
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
            UserError: if there are checkpoints but every one is damaged, or one is of another
                model.
        """
        damaged = []
        for step, finished in reversed(files.steps(self._folder).items()):
            folder = self._of(step)
            if not finished:
                say(f"{folder}: was never finished; stepping over it")
                continue
            problem = problem_of(folder, POSITION)
            if problem is None:
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
        for step in self.finished():
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

    def finished(self) -> list[int]:
        """The steps of the checkpoints that were finished, ascending, damaged or not."""
        return [step for step, finished in files.steps(self._folder).items() if finished]

    def is_whole(self, step: int) -> bool:
        """Whether there is such a checkpoint, as it was written."""
        return step in self.finished() and problem_of(self._of(step), POSITION) is None

    def whole(self, step: int | None = None) -> Path:
        """The folder of one checkpoint on this machine, every file of it checked.

        Args:
            step: the step it was written after; None: the newest. No other stands in for it.

        Raises:
            UserError: there is no such checkpoint, or it is damaged; those that are whole are
                named.
        """
        steps = self.finished()
        check(bool(steps), f"{self._folder}: no whole checkpoint, train the run first")
        at = step if step is not None else steps[-1] if self._end is None else self._end
        check(
            at in steps,
            f"{self._folder}: no whole checkpoint of step {at}; kept are "
            f"{', '.join(map(str, steps))}, to be named as {self._of(steps[-1])}",
        )
        problem = problem_of(self._of(at), POSITION)
        if problem is not None:
            others = [other for other in steps if other != at and self.is_whole(other)]
            instead = f", or name the one that is whole, {self._of(others[-1])}" if others else ""
            raise UserError(f"{self._of(at)}: is damaged: {problem}; restore it{instead}")
        return Path(self._of(at))

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
    """A state, or a part of it, its vocabulary cut or filled with zeros at its end to fit.

    Another mesh may ask for more or less padding of the vocabulary, which is zeros.
    """
    context = ocp.Context()
    context.array.loading.enable_padding_and_truncation = True
    context.pytree.loading.partial_load = True
    with context, files.plainly_named(folder) as plain:
        written, wanted = (_shapes(tree) for tree in (ocp.metadata(plain).metadata, abstract))
        for name, shape in wanted.items():
            found = written.get(name)
            check(
                found is not None and sharding.differ_in_padding(name, found, shape),
                f"{folder}: {name} has shape {found}, and {shape} in the model that is asked for; "
                "give the settings that it was trained with",
            )
        return ocp.load(plain, abstract)


def _shapes(tree: Any) -> dict[str, tuple[int, ...]]:
    """The shape of every array, by its path."""
    leaves, _ = jax.tree_util.tree_flatten_with_path(tree)
    return {sharding.path_name(path): tuple(leaf.shape) for path, leaf in leaves}


def load_parameters(folder: Folder, abstract: Any) -> Any:
    """The parameters alone of a checkpoint, each device reading its own part.

    Args:
        folder: of one checkpoint, found whole.
        abstract: nested dict of `jax.ShapeDtypeStruct` with shardings; where it has more words than
            were written, zeros are added at their end, where it has fewer, the rest is left out.

    Raises:
        UserError: any other dimension differs.
    """
    return _load(files.within(folder, STATE), {"params": abstract})["params"]
