"""What the prepare command is asked for, and what of it nothing could serve."""

from dataclasses import dataclass
from pathlib import Path

from zsg_jax.data.formats.fields import parse_fields
from zsg_jax.data.formats.jsonl import MAX_ROW_BYTES
from zsg_jax.data.formats.natural_instructions.options import check_untokenized, from_text
from zsg_jax.data.formats.tfds.layout import NAME, VERSION
from zsg_jax.data.schemas.registry import AUTO, check_schema
from zsg_jax.data.sources import refuse_rewrites
from zsg_jax.data.splits import check_split
from zsg_jax.runtime.errors import check
from zsg_jax.runtime.settings import READING, check_least

# Keys of a config that messages name, by the flag that says the same here.
FLAGS = READING | {"data.split": "--split"}


@dataclass(frozen=True)
class PrepareOptions:
    """One data set; `python -m zsg_jax.prepare --help` says what each field means."""

    train: str
    output: Path
    test: str = ""
    version: str = "1.0.0"
    shard_mb: float = 256.0
    shard_rows: int | None = None
    split: str = ""
    train_per_task: int | None = None
    test_per_task: int | None = None
    seed: int = 0
    bad_rows: str = "refuse"
    max_row_bytes: int = MAX_ROW_BYTES
    data_format: str = AUTO
    data_fields: str = ""
    natural_instructions: str = ""


def check_options(options: PrepareOptions) -> None:
    """Refuses what nothing could write, before any file is read.

    Raises:
        UserError: naming the flag, its value and what would do.
    """
    output = str(options.output)
    # A path such as gs://… becomes gs:/… as a Path.
    check(
        ":/" not in output,
        f"--output {output}: is no folder of this machine; write to one, then copy it there",
    )
    name = options.output.name
    check(
        bool(NAME.fullmatch(name)),
        f"--output {output}: the folder's name is the data set's, so it must be of a-z, 0-9 and _, "
        f"with a letter first{_suggestion(name)}",
    )
    check(
        bool(VERSION.fullmatch(options.version)),
        f"--version {options.version!r}: must be three numbers, as 1.0.0",
    )
    check(options.shard_mb > 0, f"--shard-mb {options.shard_mb}: it must be above 0")
    check_least(options, shard_rows=1, max_row_bytes=1, train_per_task=1, test_per_task=1, seed=0)
    for side in ("train", "test"):
        refuse_rewrites(side, getattr(options, side))
    check(
        bool(options.test) or not options.split,
        f"--split {options.split}: parts the tasks of two sides; give --test too, which may be the "
        "same source",
    )
    check(
        bool(options.test) or options.test_per_task is None,
        f"--test-per-task {options.test_per_task}: there are no test rows; give --test too",
    )
    check_split(options.split)
    check_schema(options.data_format)
    parse_fields(options.data_fields)
    check_untokenized(from_text(options.natural_instructions))


def _suggestion(name: str) -> str:
    plain = "".join(letter if letter.isalnum() else "_" for letter in name.lower())
    return f", as {plain}" if NAME.fullmatch(plain) else ""
