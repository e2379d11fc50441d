"""A workdir of a bucket to read from, for commands that write elsewhere."""

import tempfile
from collections.abc import Callable, Collection, Iterator
from contextlib import contextmanager
from pathlib import Path

from zsg_jax.runtime.buckets import Store, naming
from zsg_jax.runtime.mirror import cache


@contextmanager
def fetched(
    address: Path | str, wanted: Callable[[Collection[str]], Collection[str]]
) -> Iterator[Path]:
    """A folder with objects below an address, in this machine's cache, removed at the end.

    Args:
        address: gs://… or s3://….
        wanted: of the names of all, those to fetch; of the others the folders alone are there.

    Raises:
        UserError: as `Store`; one of what is done inside names the address, not the folder.
    """
    store = Store(address)
    names = list(store.list())
    cache().mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=cache(), prefix="fetched-") as temporary:
        folder = Path(temporary)
        for name in names:
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
        store.download(folder, wanted(names))
        with naming(store.address, folder):
            yield folder
