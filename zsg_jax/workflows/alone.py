"""The workdir of a study that runs in one process, taken for it."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import jax
from ml_collections import ConfigDict

from zsg_jax.config import flatten
from zsg_jax.runtime.errors import check
from zsg_jax.workdir import begun, claims, lock, manifest


@contextmanager
def claimed_alone(config: ConfigDict, workdir: Path | str, command: str) -> Iterator[Path]:
    """`workdir`, made if missing, locked and claimed for `config` by this one process.

    Raises:
        UserError: there are several processes, or the workdir is in use or another config's.
    """
    check(
        jax.process_count() == 1,
        f"study={config.study} runs in one process, not {jax.process_count()}; it uses all its "
        "devices",
    )
    claims.refuse_foreign(folder := Path(workdir))
    with lock.locked(folder), manifest.claimed(folder, flatten(config)) as new:
        if new:
            begun.begin(folder, command)
        yield folder
