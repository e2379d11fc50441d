"""What a run ended with, told in its finished.json and checked at every start."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from zsg_jax.runtime.errors import UserError
from zsg_jax.runtime.files import read_json, remove, write_json
from zsg_jax.runtime.processes import is_first, once
from zsg_jax.training import metrics
from zsg_jax.training.belongs import FILE as BELONGS
from zsg_jax.training.belongs import Belongs

FINISHED = "finished.json"
_DIGESTS, _SIZES = "records_sha256", "records_bytes"


def finished(folder: Path, total: int = 0) -> dict[str, Any] | None:
    """What finished.json says of the run in `folder`, or None if it still has steps to take.

    Args:
        total: the steps that it is to take by now; it may have ended before that was raised.

    Raises:
        UserError: if the metrics are no longer those the run finished with, or it is another run.
    """
    facts = read_json(folder / FINISHED, required=("steps", "metrics_sha256", "facts"))
    if facts is None:
        return None
    Belongs().check(folder, facts)  # its name alone
    sizes = facts.get(_SIZES, {})
    written = {metrics.FILE: facts["metrics_sha256"], **facts.get(_DIGESTS, {})}
    for name, digest in written.items():
        if metrics.digest(folder / name, sizes.get(name)) != digest:
            raise UserError(
                f"{folder / name}: is not what the run finished with; restore it, or delete "
                f"{folder} to train this run again"
            )
    return facts if facts["steps"] >= total else None


def ended(folder: Path, belongs: Belongs) -> dict[str, Any] | None:
    """`finished`, of a run that, be it finished or begun, belongs where it lies.

    Raises:
        UserError: as `finished`, or it belongs elsewhere.
    """
    belongs.check_begun(folder)
    if facts := finished(folder):
        belongs.check(folder, facts)
    return facts


def finish(folder: Path, facts: dict[str, Any]) -> None:
    """Writes finished.json, with the digests of all records of the run.

    Args:
        facts: "steps", "facts", shown in the report, and what else is to be kept.
    """
    digests = {path.name: metrics.digest(path) for path in record_files(folder)}
    content = {
        "run": folder.name,
        "metrics_sha256": metrics.digest(folder / metrics.FILE),
        _DIGESTS: digests,
    }
    write_json(folder / FINISHED, facts | content)


def left_open(folder: Path) -> bool:
    """Whether a finished run was being added to by `growing` when it was killed."""
    return _SIZES in (read_json(folder / FINISHED) or {})


@contextmanager
def growing(folder: Path, belongs: Belongs) -> Iterator[None]:
    """Inside, records of examples may be added to those of a run that may have finished.

    What it finished with stays checked, whenever a kill comes. By what they are measured is told
    first, or a kill would leave records of which nothing tells. Where a `UserError` ends it before
    any was added, nothing has changed.
    """
    names = FINISHED, BELONGS
    before = {name: read_json(folder / name) for name in names}
    facts, sizes = before[FINISHED], _sizes(folder)

    def begin() -> None:
        belongs.begin(folder)
        if facts is not None and _SIZES not in facts:
            write_json(folder / FINISHED, facts | {_SIZES: sizes})

    once(f"open {folder.name}", begin)
    try:
        yield
    except UserError:
        if is_first() and _sizes(folder) == sizes:
            for name, content in before.items():
                if content is None:
                    remove(folder / name)
                else:
                    write_json(folder / name, content)
        raise
    if facts is not None:
        closed = {key: one for key, one in facts.items() if key != _SIZES}
        once(f"close {folder.name}", lambda: finish(folder, closed))


def _sizes(folder: Path) -> dict[str, int]:
    return {path.name: path.stat().st_size for path in record_files(folder)}


def record_files(folder: Path) -> list[Path]:
    """The files of records that were written for a run beside its metrics; others are not ours."""
    names = (metrics.GENERATIONS, metrics.LATER, metrics.SCORES)
    return [path for name in names if (path := folder / name).exists()]
