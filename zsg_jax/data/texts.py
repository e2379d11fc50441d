"""The texts of instances that are read one by one: a sequence that holds none of them."""

from collections.abc import Sequence
from typing import Protocol, overload

import numpy as np

from zsg_jax.data.instance import Instance


class Reader(Protocol):
    """What instances are read from by their number, such as a `Corpus`."""

    def instance(self, row: int, /) -> Instance:
        """The instance of a row."""


class Texts(Sequence[str]):
    """`Instance.text` of the rows `rows` of `reader`, read each time it is asked for."""

    def __init__(self, reader: Reader, rows: Sequence[int] | np.ndarray) -> None:
        self._reader = reader
        self._rows = rows

    def __len__(self) -> int:
        return len(self._rows)

    @overload
    def __getitem__(self, index: int) -> str: ...
    @overload
    def __getitem__(self, index: slice) -> list[str]: ...
    def __getitem__(self, index: int | slice) -> str | list[str]:
        if isinstance(index, slice):
            return [self._reader.instance(int(row)).text for row in self._rows[index]]
        return self._reader.instance(int(self._rows[index])).text
