"""The settings of the compare command."""

from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class CompareOptions:
    """What to compare.

    Attributes:
        workdirs: of finished studies, two or more; gs://… and s3://… are read where they are.
        output: a new or an empty folder, or one with an earlier comparison.
        window: a step up to which areas and losses are told as well; None: that of the studies'
            report.window, where they have the same.
    """

    workdirs: tuple[str, ...]
    output: Path
    window: int | None = None
