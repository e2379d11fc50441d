"""A workdir of a bucket to read from, for commands that write elsewhere."""

import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from zsg_jax.bucket.store import Store
from zsg_jax.errors import UserError


@contextmanager
def fetched(address: Path | str, wanted: Callable[[str], bool]) -> Iterator[Path]:
    """A folder with the objects below an address, removed at the end.

    Args:
        address: gs://… or s3://….
        wanted: whether the object of this name is; of the others the folders alone are there.

    Raises:
        UserError: as `Store`; one of what is done inside names the address, not the folder.
    """
    store = Store(address)
    names = list(store.list())
    with tempfile.TemporaryDirectory(prefix="zsg_jax-") as temporary:
        folder = Path(temporary)
        for name in names:
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
        store.download(folder, [name for name in names if wanted(name)])
        try:
            yield folder
        except UserError as error:
            raise UserError(str(error).replace(temporary, store.address)) from error
