"""Batches in the order of the steps, laid ahead of them by a grain pipeline or by workers."""

from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any

import grain

from zsg_jax.data.batches.packing import Batch
from zsg_jax.data.batches.steps import Steps
from zsg_jax.data.batches.workers import Workers


class Batches(Iterator[Any]):
    """Iterates over steps in order, laying some ahead; `get_state` tells where it stands.

    The state counts the batches handed out, not those laid ahead, so one saved after step s goes on
    at step s + 1, whatever the threads, the workers and how far ahead they are, then and now.
    """

    def __init__(
        self,
        steps: Steps,
        *,
        workers: int = 0,
        threads: int = 1,
        ahead: int = 8,
        transfer: Callable[[Batch], Any] = lambda batch: batch,
    ) -> None:
        """Takes `steps`.

        Args:
            workers: processes that lay batches, one ahead each; if 0, `threads` of this process do.
            ahead: batches that threads lay before they are asked for.
            transfer: what is done to a batch before it is handed out, while the one before it is at
                work.
        """
        self._steps, self._workers, self._transfer = steps, workers, transfer
        self._options = grain.ReadOptions(num_threads=threads, prefetch_buffer_size=ahead)
        self._next = 0
        self._laid: Workers | grain.DatasetIterator | None = None
        self._thread: ThreadPoolExecutor | None = None
        self._coming: Future[Any] | None = None

    def start(self) -> None:
        """Begins with the next batch, which is else begun, and waited for, when it is asked for.

        To be called once the devices are at work: only one thread at a time runs Python.
        """
        if self._coming is not None or self._next >= len(self._steps):
            return
        if self._thread is None:
            self._thread = ThreadPoolExecutor(1, "batches")
        self._coming = self._thread.submit(self._fetch, self._next)

    def __next__(self) -> Any:
        if self._next >= len(self._steps):
            raise StopIteration
        self.start()
        assert self._coming is not None
        batch = self._coming.result()
        self._next, self._coming = self._next + 1, None
        return batch

    def get_state(self) -> dict[str, int]:
        """The number of batches handed out."""
        return {"next_index": self._next}

    def set_state(self, state: dict[str, int]) -> None:
        """Goes on where `get_state` gave `state`."""
        self.close()
        self._next = state["next_index"]

    def close(self) -> None:
        """Ends threads and workers; the next batch would start others."""
        if self._thread is not None:
            self._thread.shutdown()
        if self._laid is not None:
            self._laid.close()
        self._laid = self._thread = self._coming = None

    def _fetch(self, step: int) -> Any:
        if self._laid is None and self._workers:
            self._laid = Workers(self._steps, step, min(self._workers, len(self._steps) - step))
        elif self._laid is None:
            rest = grain.MapDataset.source(self._steps)[step:]
            self._laid = iter(rest.to_iter_dataset(self._options))
        return self._transfer(next(self._laid))
