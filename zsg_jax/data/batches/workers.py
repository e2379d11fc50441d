"""Worker processes that lay batches ahead of the steps, started so that they end with the run.

A worker is a fresh interpreter (spawned, since a process in which JAX runs threads must not be
forked). It gets the steps pickled, reads tokens from the files they name, and touches no device.
"""

import multiprocessing
import os
import signal
import sys
import threading
from concurrent.futures import ThreadPoolExecutor
from multiprocessing import resource_tracker, spawn
from typing import Any

import grain
from absl import flags

# What grain calls its worker processes.
_NAME = "grain-process-prefetch"
PATIENCE = 20.0  # seconds that workers have to end by themselves
_DEAF = (signal.SIG_BLOCK, (signal.SIGINT, signal.SIGTERM))


def in_workers(steps: grain.MapDataset, workers: int, ahead: int) -> grain.IterDataset:
    """The elements of `steps` in their order, made by `workers` processes, `ahead` of them before.

    The first must be asked for in a `thread_that_starts_workers`.
    """
    # A worker needs no threads of its own, which would only take turns.
    alone = steps.to_iter_dataset(grain.ReadOptions(num_threads=0, prefetch_buffer_size=0))
    options = grain.MultiprocessingOptions(workers, max(1, ahead // workers))
    return alone.mp_prefetch(options, worker_init_fn=_prepare)


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


def thread_that_starts_workers() -> ThreadPoolExecutor:
    """One thread, in which processes can be started that do not hear Ctrl-C and SIGTERM.

    A terminal or a scheduler tells all processes of a run, but it is the run's to handle.
    """
    # The tracker of shared memory lets Ctrl-C through as it starts, so it has to run before.
    resource_tracker.ensure_running()
    _spare_main()
    _parse_flags()
    # Threads and processes inherit what the thread that starts them blocks.
    return ThreadPoolExecutor(1, "batches", signal.pthread_sigmask, _DEAF)


def ended_at_last() -> threading.Timer:
    """Kills workers that are still there after `PATIENCE` seconds, unless it is cancelled.

    Whoever waits for them then goes on; they hold nothing that could be lost.
    """

    def kill() -> None:
        for child in multiprocessing.active_children():
            if child.name.startswith(_NAME):
                child.kill()

    timer = threading.Timer(PATIENCE, kill)
    timer.daemon = True
    timer.start()
    return timer


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
