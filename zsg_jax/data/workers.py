"""Worker processes that lay batches ahead of the steps, started so that they end with the run.

A worker is a fresh interpreter (spawned, since a process in which JAX runs threads must not be
forked). It gets the steps pickled, reads tokens from the files they name, and touches no device.
"""

import multiprocessing
import os
import signal
import sys
import threading
from collections.abc import Iterator
from concurrent.futures import Future
from multiprocessing import resource_tracker, spawn
from typing import Any, TypeVar

import grain
from absl import flags

T = TypeVar("T")

# What grain calls its worker processes.
_NAME = "grain-process-prefetch"


def in_workers(dataset: grain.IterDataset, workers: int, batches_ahead: int) -> grain.IterDataset:
    """The same elements in the same order, made by `workers` processes, each some ahead."""
    options = grain.MultiprocessingOptions(workers, max(1, batches_ahead // workers))
    return dataset.mp_prefetch(options, worker_init_fn=_prepare)


def _prepare(number: int, of: int) -> None:
    """Runs first in a worker."""
    del number, of
    # grain imports JAX; should anything there ask it for devices, these must not be the run's.
    os.environ["JAX_PLATFORMS"] = "cpu"
    if "jax" in sys.modules:
        sys.modules["jax"].config.update("jax_platforms", "cpu")
    threading.Thread(target=_end_with_parent, daemon=True).start()


def _end_with_parent() -> None:
    """A run that is killed cannot tell its workers to stop, so they watch it."""
    parent = multiprocessing.parent_process()
    if parent is not None:
        parent.join()
        os._exit(1)


def first_of(batches: Iterator[T]) -> Future[T]:
    """The first of what `in_workers` gives, which starts them, fetched in a thread of its own."""
    first: Future[T] = Future()

    def fetch() -> None:
        # Threads and processes that start here inherit it: Ctrl-C is the run's to handle.
        signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
        try:
            first.set_result(next(batches))
        except BaseException as error:
            first.set_exception(error)

    # The tracker of shared memory lets Ctrl-C through as it starts, so it has to run before.
    resource_tracker.ensure_running()
    _spare_main()
    _parse_flags()
    threading.Thread(target=fetch, daemon=True).start()
    return first


def _parse_flags() -> None:
    """Where nobody parses flags, as in a notebook or a test, grain's own have their defaults."""
    for name in flags.FLAGS:
        if name.startswith("grain_") and not flags.FLAGS.is_parsed():
            flags.FLAGS[name].present = True


def _spare_main() -> None:
    """Keeps grain's workers from running the program's main module once more.

    That takes time, and a script that does not ask `if __name__ == "__main__"` would not survive
    it; what a worker needs, it imports as it is unpickled.
    """
    known = spawn.get_preparation_data
    if hasattr(known, "spares_main"):
        return

    def without_main(name: str) -> dict[str, Any]:
        data = known(name)
        if name.startswith(_NAME):
            data.pop("init_main_from_name", None)
            data.pop("init_main_from_path", None)
        return data

    without_main.spares_main = True  # type: ignore[attr-defined]
    spawn.get_preparation_data = without_main
