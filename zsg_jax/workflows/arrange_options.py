"""The settings of the arrange command, and those that nothing could serve."""

from dataclasses import dataclass
from pathlib import Path

import numpy as np

from zsg_jax.arrangement.methods import parse
from zsg_jax.data.export import check_format
from zsg_jax.data.formats.fields import parse_fields
from zsg_jax.data.formats.jsonl import MAX_ROW_BYTES
from zsg_jax.data.formats.natural_instructions.options import check_untokenized, from_text
from zsg_jax.data.mixture import is_mixture, read_mixture
from zsg_jax.data.schemas.registry import AUTO, check_schema
from zsg_jax.data.views import BOTH, choose_view
from zsg_jax.leakage.options import MOST_WORDS
from zsg_jax.runtime.errors import UserError, check
from zsg_jax.runtime.files import at_home
from zsg_jax.runtime.settings import READING, check_least, flag
from zsg_jax.similarity.encoders.address import read_encoder
from zsg_jax.similarity.names import check_cosine

_EMBEDDED_HERE = ("encoder", "text", "train_prompt", "test_prompt", "dtype", "embeddings", "cache")
# Keys of a config that messages name, by the flag that says the same here.
FLAGS = READING | {
    **{f"similarity.{one}": flag(one) for one in ("encoder", "text", "cache")},
    **{f"similarity.{side}_prompt": flag(f"{side}_prompt") for side in ("train", "test")},
    "arrangement.drop_leaks": "--drop-leaks",
}


@dataclass(frozen=True)
class ArrangeOptions:
    """One arrangement; `python -m zsg_jax.arrange --help` says what each field means."""

    train: str
    test: str
    output: Path
    method: str = "tmta-min"
    budget: int | None = None
    seed: int = 0
    encoder: str = "hashing"
    text: str = BOTH
    train_prompt: str | None = None
    test_prompt: str | None = None
    dtype: str = "float32"
    embeddings: str | None = None
    cache: str | None = None
    train_embeddings: str | None = None
    test_embeddings: str | None = None
    distance: str = "cosine"
    w_min: float = 1.0
    w_avg: float | None = None
    format: str = "jsonl"
    explain: bool = False
    drop_leaks: bool = False
    deduplicate: float | None = None
    leak_similarity: float | None = None
    leak_words: int = 13
    report_split: float = 0.0
    bad_rows: str = "refuse"
    max_row_bytes: int = MAX_ROW_BYTES
    data_format: str = AUTO
    data_fields: str = ""
    natural_instructions: str = ""
    block_rows: int = 8192


def check_options(options: ArrangeOptions) -> None:
    """Refuses what no stage could use, before any file is read.

    Raises:
        UserError: naming the flag, its value and what would do.
    """
    try:
        parse(options.method, options.seed)
    except UserError as error:
        raise UserError(f"--method: {error}") from None
    check_least(options, budget=1, seed=0, leak_words=1, block_rows=1, max_row_bytes=1)
    check(
        options.leak_words <= MOST_WORDS,
        f"--leak-words {options.leak_words}: it must be at most {MOST_WORDS}",
    )
    check(
        0 <= options.report_split < 1,
        f"--report-split {options.report_split}: it must be a share from 0 up to, but below, 1",
    )
    check_cosine(f"--leak-similarity {options.leak_similarity}", options.leak_similarity)
    check_cosine(f"--deduplicate {options.deduplicate}", options.deduplicate)
    check(
        bool(np.isfinite([options.w_min, options.w_avg or 0.0]).all()),
        f"--w-min {options.w_min} and --w-avg {options.w_avg} must be finite",
    )
    check(
        options.w_min != 0 or options.w_avg != 0,
        "--w-min and --w-avg are both 0, which makes all rows equally far; set one",
    )
    given = [options.train_embeddings, options.test_embeddings]
    check(
        all(given) or not any(given),
        "--train-embeddings and --test-embeddings go together, both from the same encoder; give "
        "both or neither",
    )
    check(
        not any(given)
        or all(getattr(options, name) == getattr(ArrangeOptions, name) for name in _EMBEDDED_HERE),
        "--encoder, --text, prompts, --dtype, --embeddings and --cache are for rows embedded here; "
        "leave them out beside --train-embeddings",
    )
    read_encoder(options.encoder)
    choose_view(options.text)
    output = Path(options.output).resolve()
    check(
        not options.embeddings or at_home(options.embeddings).resolve() != output,
        f"--embeddings {options.embeddings}: is the --output too; give it a folder of its own",
    )
    for name in ("train", "test", "train_embeddings", "test_embeddings"):
        path = getattr(options, name)
        mixed = [one.path for one in read_mixture(path).entries] if is_mixture(path or "") else []
        for part in [path, *mixed] if path else ():
            check(
                output not in Path(part).resolve().parents,
                f"{flag(name)} {part}: lies in the output folder, whose files the new arrangement "
                "replaces; give another --output",
            )
    check_format(options.format)
    check_untokenized(from_text(options.natural_instructions))
    check_schema(options.data_format)
    parse_fields(options.data_fields)
