"""The settings of the export command."""

from dataclasses import dataclass
from pathlib import Path

from zsg_jax.models.dtypes import SAME


@dataclass(frozen=True)
class ExportOptions:
    """What to export.

    Attributes:
        workdir: of a study; gs://… and s3://… are fetched first.
        run: one of its runs, as NAME-seedK.
        output: a folder that does not exist yet.
        step: a step that a checkpoint is kept of; None: the last.
        dtype: of the weights, from `DTYPES`; "same": as in the folder that training started from,
            or as they were trained.
        file_gb: gigabytes at most of a file of weights.
        adapters: write the adapters alone, as PEFT loads them, and not the weights with them.
    """

    workdir: Path | str
    run: str
    output: Path
    step: int | None = None
    dtype: str = SAME
    file_gb: float = 5.0
    adapters: bool = False
