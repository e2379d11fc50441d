"""Chosen rows of one or several sources as one source: a mixture, or a part of a file."""

import dataclasses
import json
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import ExitStack
from functools import cached_property
from pathlib import Path
from types import TracebackType
from typing import Any, Protocol

import numpy as np

from zsg_jax.data.instance import Instance, instances_digest
from zsg_jax.data.mixture import Entry, Mixture, mix
from zsg_jax.data.schemas.read import BadRow
from zsg_jax.data.texts import Texts
from zsg_jax.runtime.errors import UserError
from zsg_jax.runtime.progress import count, say


class Opened(Protocol):
    """What of a corpus is needed; see `corpus.Corpus`."""

    path: Path
    kind: str
    tasks: list[str]
    task: np.ndarray
    ids: list[str]
    number: np.ndarray
    skipped: list[BadRow]
    skipped_count: int

    def __len__(self) -> int: ...
    def raw(self, row: int) -> bytes: ...
    def instance(self, row: int) -> Instance: ...
    def close(self) -> None: ...


class Joined:
    """Rows of opened sources, in an order of their own; it has what a `corpus.Corpus` has.

    Attributes:
        path: what the user named.
        kind: of the rows that `raw` gives: the sources', or "messages" where theirs differ.
        tasks, task, number, skipped, skipped_count: as a corpus has them; a task of two sources is
            one task.
        shares: for each source its "name", "path", and how many "rows" it gives "of" how many.
    """

    def __init__(
        self,
        path: Path,
        parts: Sequence[Opened],
        source: np.ndarray,
        row: np.ndarray,
        names: Sequence[str] | None = None,
    ) -> None:
        """Joins `parts`; they are closed with the joined source.

        Args:
            path: what the user named.
            parts: the sources.
            source: (n,) int32, the part that each row is of.
            row: (n,) int64, its row there.
            names: of the parts; an id is then "NAME/ID", so that no two sources share one.
        """
        self.path = path
        self._parts, self._source, self._row, self._names = parts, source, row, names
        kinds = {part.kind for part in parts}
        self.kind = kinds.pop() if len(kinds) == 1 else "messages"
        numbers: dict[str, int] = {}
        self.task = np.empty(len(row), np.int32)
        self.number = np.empty(len(row), np.int64)
        for place, part in enumerate(parts):
            own = source == place
            self.number[own] = part.number[row[own]]
            task = part.task[row[own]]
            # A task none of whose rows is taken is no task here.
            new = np.full(len(part.tasks), -1, np.int32)
            for old in np.unique(task):
                new[old] = numbers.setdefault(part.tasks[old], len(numbers))
            self.task[own] = new[task]
        self.tasks = list(numbers)
        self.skipped = [bad for part in parts for bad in part.skipped]
        self.skipped_count = sum(part.skipped_count for part in parts)
        self.shares: list[dict[str, Any]] = [
            {
                "name": names[place] if names else "",
                "path": str(part.path),
                "rows": int((source == place).sum()),
                "of": len(part),
            }
            for place, part in enumerate(parts)
        ]

    def __len__(self) -> int:
        return len(self._row)

    @cached_property
    def ids(self) -> list[str]:
        """Of each row, where the sources were opened with a full account."""
        return [
            self._named(part, self._parts[part].ids[own])
            for part, own in zip(self._source.tolist(), self._row.tolist(), strict=True)
        ]

    @cached_property
    def digest(self) -> str:
        """What `instance.instances_digest` gives for all instances."""
        return instances_digest(self.instances())

    def raw(self, row: int) -> bytes:
        """The JSON object of a row.

        As it stands in its source, but of a mixture with the new id; where a mixture's sources
        hold several kinds of rows, a `messages` row with what the instance has and no more.
        """
        part, own = self._at(row)
        if not self._names:
            return part.raw(own)
        if part.kind == self.kind:
            named = {"id": self.instance(row).id}
            return json.dumps(json.loads(part.raw(own)) | named, ensure_ascii=False).encode()
        instance = self.instance(row)
        made = {
            "id": instance.id,
            "task": instance.task,
            "messages": [turn._asdict() for turn in instance.turns],
            "references": instance.references,
        }
        return json.dumps(made, ensure_ascii=False).encode()

    def instance(self, row: int) -> Instance:
        """The instance of a row."""
        part, own = self._at(row)
        found = part.instance(own)
        return dataclasses.replace(found, id=self._named(self._source[row], found.id))

    def instances(self, rows: Iterable[int] | None = None) -> Iterator[Instance]:
        """The instances of `rows`, or of all, one at a time."""
        return (self.instance(row) for row in (range(len(self)) if rows is None else rows))

    def texts(self, rows: Sequence[int] | np.ndarray | None = None) -> Texts:
        """The texts of `rows`, or of all, read as they are asked for."""
        return Texts(self, range(len(self)) if rows is None else rows)

    def close(self) -> None:
        """Closes the sources."""
        with ExitStack() as stack:
            for part in self._parts:
                stack.callback(part.close)

    def __enter__(self) -> "Joined":
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    def _named(self, part: int, identity: str) -> str:
        return f"{self._names[part]}/{identity}" if self._names else identity

    def _at(self, row: int) -> tuple[Opened, int]:
        if not 0 <= row < len(self):
            raise IndexError(f"row {row} of {len(self)}")
        return self._parts[self._source[row]], int(self._row[row])


def open_mixture(mixture: Mixture, open_entry: Callable[[Entry], Opened]) -> Joined:
    """Opens every source of a mixture and joins their rows, saying how many each gives.

    Args:
        mixture: as `mixture.read_mixture` gives it.
        open_entry: opens an entry's path in its format.

    Raises:
        UserError: as `open_entry` and `mixture.mix` do, naming mixture and entry.
    """
    with ExitStack() as stack:
        parts = []
        for entry in mixture.entries:
            try:
                parts.append(open_entry(entry))
            except UserError as error:
                raise UserError(f"{entry.place}: {error}") from None
            stack.callback(parts[-1].close)
        source, row = mix(mixture, [len(part) for part in parts])
        joined = Joined(mixture.path, parts, source, row, [entry.name for entry in mixture.entries])
        stack.pop_all()
    told = ", ".join(f"{one['name']} {one['rows']:,} of {one['of']:,}" for one in joined.shares)
    say(f"{mixture.path.name}: {count(len(joined), 'row')} mixed: {told}")
    return joined
