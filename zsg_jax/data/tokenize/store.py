"""Tokenizes a data set once, in shards on disk, which `examples.StoredExamples` reads."""

import hashlib
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jinja2
import numpy as np
import tokenizers

from zsg_jax.data.dataset import Dataset
from zsg_jax.data.tokenize.encode import STUDY_FORM, Form, encode
from zsg_jax.data.tokenize.examples import Examples
from zsg_jax.data.tokenize.tokenizer import Tokenizer
from zsg_jax.runtime.shards import Shards, Shared

# To be raised when the same instances come out as other tokens than before.
FORMAT = 3
SHARD_ROWS = 32_768


def store(
    instances: Dataset,
    tokenizer: Tokenizer,
    max_length: int,
    folder: Path,
    on_progress: Callable[[int], object] = lambda examples: None,
    form: Form = STUDY_FORM,
    shard_rows: int = SHARD_ROWS,
    cache: str | Path | None = None,
) -> None:
    """Puts what `encode` gives for `instances` into `folder`, unless it lies there already.

    A shard is written as soon as it is computed, so a killed run goes on after its last whole one.
    What was made of other instances, by another tokenizer, in another form or with other limits is
    replaced. A shard that is gone or whose checksum differs is named and computed again.

    Where studies share a folder as `cache`, what one of them has made is copied by the others.

    It pays for any number: 10,796 examples of P3 take 3.7 s to tokenize, 0.04 s more to keep and
    0.01 s to check and open.
    """
    dtype = "uint16" if tokenizer.vocab_size <= 1 << 16 else "int32"
    head = {
        "format": FORMAT,
        "digest": _digest(instances, tokenizer, max_length, form),
        "dtype": dtype,
        "rows": len(instances),
        "shard_rows": shard_rows,
    }
    shared = Shared(cache, "tokens", head) if cache else None
    if shared:
        shared.fetch(folder)
    shards = Shards(folder, head)
    made = False
    for number, start in enumerate(range(0, len(instances), shard_rows)):
        stop = min(start + shard_rows, len(instances))
        entry: dict[str, Any] = {"folder": f"{number:05d}", "start": start, "stop": stop}
        if shards.find(entry) is not None:
            on_progress(stop - start)
            continue
        part = instances.select(np.arange(start, stop))
        examples = encode(part, tokenizer, max_length, on_progress, form)
        entry["refused"] = {str(index): reason for index, reason in examples.refused.items()}
        with shards.writing(entry) as path:
            _write(examples, path, dtype)
        made = True
    shards.finish(prune=True)
    if shared and made:
        shared.offer(folder)


def _digest(instances: Dataset, tokenizer: Tokenizer, max_length: int, form: Form) -> str:
    """SHA-256 over all that decides the tokens."""
    content = [instances.digest, tokenizer.fingerprint, form.fingerprint, *form[1:], max_length]
    content += [tokenizers.__version__, jinja2.__version__]
    return hashlib.sha256(json.dumps(content).encode()).hexdigest()


def _write(examples: Examples, folder: Path, dtype: str) -> None:
    folder.mkdir()
    np.save(folder / "tokens.npy", examples.tokens.astype(dtype))
    np.save(folder / "mask.npy", np.packbits(examples.loss_mask))
    np.save(folder / "counts.npy", examples.counts)
