"""Worker processes that lay batches ahead of the steps, and end with the run.

A worker is a fresh interpreter (spawned, since a process in which JAX runs threads must not be
forked). It gets the steps pickled, reads tokens from the files they name, and touches no device.
"""

import atexit
import multiprocessing
import os
import signal
import sys
import traceback
from collections.abc import Iterator
from multiprocessing import resource_tracker
from multiprocessing.connection import Connection
from typing import Protocol

from zsg_jax.data.batches.packing import Batch
from zsg_jax.runtime.errors import UserError
from zsg_jax.runtime.settings import setting


class Steps(Protocol):
    """The batch of each step, by its number from 0."""

    def __len__(self) -> int: ...

    def __getitem__(self, step: int) -> Batch: ...


class Workers(Iterator[Batch]):
    """Iterates over steps in order; of `count` processes each lays every count-th of them.

    A worker holds one batch until it is asked for, so `count` batches are laid ahead.
    """

    def __init__(self, steps: Steps, first: int, count: int) -> None:
        """Starts the workers with step `first`.

        Raises:
            UserError: a worker did not live long enough to get its steps.
        """
        self._first, self._next, self._count = first, first, count
        self._steps = len(steps)
        self._processes: list[multiprocessing.process.BaseProcess] = []
        self._pipes: list[Connection] = []
        # Before multiprocessing's own end of processes, to which these are deaf.
        atexit.register(self.close)
        context = multiprocessing.get_context("spawn")
        # It lets signals through as it starts, so it has to run before.
        resource_tracker.ensure_running()
        # A terminal or a scheduler tells all processes of a run to stop, but it is the run's to
        # handle. A process inherits what the thread that starts it blocks.
        told = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
        heard = signal.pthread_sigmask(signal.SIG_BLOCK, told)
        try:
            for number in range(count):
                receiver, sender = context.Pipe(duplex=False)
                self._pipes.append(receiver)
                numbers = range(first + number, len(steps), count)
                process = context.Process(target=_lay, args=(sender, steps, numbers), daemon=True)
                self._processes.append(process)
                process.start()
                # The worker's is then the only one, so that its end is the pipe's.
                sender.close()
        except ConnectionError as error:
            raise self._ended() from error
        finally:
            signal.pthread_sigmask(signal.SIG_SETMASK, heard)

    def __next__(self) -> Batch:
        if self._next >= self._steps:
            raise StopIteration
        try:
            batch = self._pipes[(self._next - self._first) % self._count].recv()
        except (EOFError, ConnectionError) as error:
            raise self._ended() from error
        if isinstance(batch, Exception):
            raise batch
        self._next += 1
        return batch

    def close(self) -> None:
        """Ends the workers, which hold nothing that could be lost."""
        atexit.unregister(self.close)
        for process in self._processes:
            if process.pid is not None:
                process.kill()
                process.join()
        for pipe in self._pipes:
            pipe.close()

    def _ended(self) -> UserError:
        return UserError(
            f"a worker process of {setting('data.workers', self._count)} was ended from outside, "
            "as when memory runs out; the same command goes on from what is kept, and fewer need "
            "less "
            '(a script of your own must start its run under if __name__ == "__main__")'
        )


def _lay(pipe: Connection, steps: Steps, numbers: range) -> None:
    """What a worker does; it ends where nobody is left to read what it sends."""
    # Should anything here ask JAX for devices, these must not be the run's.
    os.environ["JAX_PLATFORMS"] = "cpu"
    if "jax" in sys.modules:
        sys.modules["jax"].config.update("jax_platforms", "cpu")
    try:
        for number in numbers:
            pipe.send(steps[number])
    except BrokenPipeError:
        pass
    except Exception as error:
        error.add_note(f"in a worker process:\n{traceback.format_exc()}")
        pipe.send(error)
