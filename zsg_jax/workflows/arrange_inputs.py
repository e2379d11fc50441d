"""Both sides of an arrangement as the command reads them: rows on disk, embeddings on disk."""

from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jax
import numpy as np
from jax.sharding import Mesh

from zsg_jax.data.dataset import Dataset
from zsg_jax.data.splits import report_split
from zsg_jax.runtime.errors import check
from zsg_jax.runtime.files import file_digest
from zsg_jax.runtime.progress import count, say
from zsg_jax.similarity.embeddings import Embeddings, check_finite, open_embeddings
from zsg_jax.similarity.encoders.choose import choose_encoder
from zsg_jax.similarity.encoders.embed import embed
from zsg_jax.similarity.search.options import Search
from zsg_jax.workdir.claims import locked
from zsg_jax.workflows.arrange_options import Request
from zsg_jax.workflows.arrange_output import OutFolder


@dataclass(frozen=True)
class Both:
    """Training and test rows with their embeddings.

    Attributes:
        train, test: N and T rows.
        train_rows, test_rows: their embeddings, (N, D) and (T, D).
        encoder: the encoder's name and digest, or digests of the embeddings given.
        scored: (T,) bool, test rows kept for scoring only.
        search: the devices to compute on, and the block size.
    """

    train: Dataset
    test: Dataset
    train_rows: Embeddings
    test_rows: Embeddings
    encoder: dict[str, Any]
    scored: np.ndarray
    search: Search


def embedded(request: Request, train: Dataset, test: Dataset, folder: OutFolder) -> Both:
    """Embeds both sides, or opens the embeddings given, and splits the test rows if asked to.

    Raises:
        UserError: embeddings that do not fit the rows, or hold a NaN; an encoder that fails.
    """
    if request.train_embeddings and request.test_embeddings:
        train_rows, train_digest = _given("--train-embeddings", request.train_embeddings, train)
        test_rows, test_digest = _given("--test-embeddings", request.test_embeddings, test)
        encoder = {
            "encoder": "given embeddings",
            "encoder_digest": {"train": train_digest, "test": test_digest},
        }
    else:
        chosen = choose_encoder(request.encoder)
        kept = Path(request.embeddings) if request.embeddings else folder.embeddings
        with locked(kept, flag="--embeddings") if request.embeddings else nullcontext():
            train_rows, test_rows = (
                embed(
                    dataset.texts,
                    chosen,
                    kept / side,
                    dtype=request.dtype,
                    description=f"embedding {side}",
                )
                for side, dataset in (("train", train), ("test", test))
            )
        encoder = {
            "encoder": chosen.name,
            "encoder_digest": chosen.fingerprint,
            "dtype": request.dtype,
        }
    scored = np.zeros(len(test), bool)
    if request.report_split:
        scored = report_split(test.task_index, request.report_split, request.seed)
        say(f"test rows: {(~scored).sum():,} to arrange toward, {scored.sum():,} to score on")
    mesh = Mesh(np.asarray(jax.local_devices()), ("rows",))
    search = Search(mesh, request.block_rows)
    return Both(train, test, train_rows, test_rows, encoder, scored, search)


def _given(flag: str, path: str, dataset: Dataset) -> tuple[Embeddings, str]:
    rows = open_embeddings(path)
    skipped = f" without the {dataset.skipped_count:,} skipped" if dataset.skipped_count else ""
    check(
        len(rows) == len(dataset),
        f"{flag} {path}: {count(len(rows), 'row')}, but {dataset.path} holds {len(dataset):,} "
        f"instances{skipped}; each needs its own, in the same order",
    )
    # A NaN is told by the file it stands in, before anything is computed from it.
    check_finite(rows, f"{flag} {path}")
    return rows, file_digest(Path(path))
