"""What several processes of one study do once, what they share, and where they wait."""

import hashlib
import json
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np

from zsg_jax.runtime.errors import UserError

if TYPE_CHECKING:  # at run time JAX is imported where it is called: every command imports this file
    from jax.sharding import Mesh


class Exchange(Protocol):
    """A way for processes that see no folder in common to see one another's files."""

    def check(self) -> None:
        """Makes sure, on the first process, that what is written is still this study's."""

    def push(self, *, sparing: bool = False) -> None:
        """Gives away what the processes of this machine have written; `sparing`: now and then."""

    def pull(self) -> object:
        """Takes what all others have given."""


_exchange: Exchange | None = None


@contextmanager
def exchanging(exchange: Exchange) -> Iterator[None]:
    """Inside, files go through `exchange` wherever processes wait for one another."""
    global _exchange
    _exchange = exchange
    try:
        yield
    finally:
        _exchange = None


_owned: list[Callable[[], object]] = []


@contextmanager
def owning(check: Callable[[], object]) -> Iterator[None]:
    """Inside, `check` says, before anything is put in place, whether that is still ours to do."""
    _owned.append(check)
    try:
        yield
    finally:
        _owned.remove(check)


def check_owned() -> None:
    """Makes sure that no other process has gone on with what this one works in.

    Raises:
        UserError: one has, as while this one was stopped.
    """
    for check in _owned:
        check()


def keep() -> None:
    """Gives away, now and then, what has been written, which would be lost with this machine."""
    if _exchange is not None:
        _exchange.push(sparing=True)


def index() -> int:
    """The number of this process."""
    import jax

    return jax.process_index()


def count() -> int:
    """How many processes there are."""
    import jax

    return jax.process_count()


def is_first() -> bool:
    """Whether this process writes the shared files and speaks to the user."""
    return index() == 0


def wait_for_all(name: str) -> None:
    """Returns when every process has come here and sees the others' files.

    Args:
        name: the same on all of them, so without paths, which may differ.
    """
    several = count() > 1
    if several:
        _meet(name)
    if _exchange is not None:
        # All wait, so that no machine gives away what one of its processes has half written.
        _exchange.push()
        if several:
            _meet(f"{name}: given")
            _exchange.pull()
            _meet(f"{name}: seen")


def once(name: str, work: Callable[[], object]) -> None:
    """Runs `work` on the first process; the others wait until it is done."""
    if is_first():
        check_owned()
        if _exchange is not None:
            _exchange.check()
        work()
    wait_for_all(name)


def of_all(value: Any) -> list[Any]:
    """What every process gives, in their order; JSON holds it."""
    if count() == 1:
        return [value]
    own = np.frombuffer(json.dumps(value, sort_keys=True).encode(), np.uint8)
    sizes = _gathered(np.asarray([own.size], np.int32)).ravel()
    padded = np.zeros(sizes.max(), np.uint8)
    padded[: own.size] = own
    texts = _gathered(padded).reshape(len(sizes), -1)
    return [json.loads(bytes(text[:size])) for text, size in zip(texts, sizes, strict=True)]


def by_first(look: Callable[[], Any]) -> Any:
    """What the first process sees, for all: another's file system may lag behind.

    Args:
        look: runs on the first process alone; JSON holds what it gives.
    """
    return of_all(look() if is_first() else None)[0]


def same_everywhere(values: dict[str, Any], way_out: str = "give all processes the same") -> None:
    """Makes sure that every process was given the same, before any of it is used.

    Each would else train its own shards by its own settings, or wait for steps that no other takes.

    Args:
        values: by name, as JSON holds them.
        way_out: what to do where they are not.

    Raises:
        UserError: on all processes, naming what differs and between which of them.
    """
    every = of_all(values)
    for process, theirs in enumerate(every):
        different = [
            f"{name}={theirs.get(name)!r}, process 0 {name}={every[0].get(name)!r}"
            for name in sorted(theirs.keys() | every[0].keys())
            if theirs.get(name) != every[0].get(name)
        ]
        if different:
            raise UserError(f"process {process} was given {'; '.join(different)}; {way_out}")


def same_files(digests: dict[str, Any]) -> None:
    """Makes sure that what lies under one path is the same wherever processes read it.

    Args:
        digests: by what they are of.

    Raises:
        UserError: as `same_everywhere`.
    """
    # Not all are digests, so that their beginnings might be alike.
    short = {
        f"{what} (SHA-256)": hashlib.sha256(str(one).encode()).hexdigest()[:12]
        for what, one in digests.items()
    }
    same_everywhere(short, "put the same files where each of them reads")


def from_all(part: np.ndarray, mesh: "Mesh") -> list[np.ndarray]:
    """The part of each process that computes on `mesh`, all of one shape and of 32 or 64 bits."""
    if len({device.process_index for device in mesh.devices.flat}) == 1:
        return [part]
    # JAX would make 32 bits of 64.
    parts = _gathered(np.ascontiguousarray(part).view(np.int32))
    return [np.asarray(one).view(part.dtype) for one in parts]


def _meet(name: str) -> None:
    from jax.experimental import multihost_utils

    try:
        multihost_utils.sync_global_devices(name)
    except AssertionError:
        raise UserError(
            f"processes have gone different ways: this one has come to {name!r}, another is "
            "elsewhere, as where they see different files; the same command on all of them goes on"
        ) from None


def _gathered(part: np.ndarray) -> Any:
    from jax.experimental import multihost_utils

    return multihost_utils.process_allgather(part)
