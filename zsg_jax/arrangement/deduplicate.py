"""What of a pool is left out because it is nearly another training example, and how it is told."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

from zsg_jax.arrangement.embedded import EmbeddedPair
from zsg_jax.runtime.errors import UserError, check
from zsg_jax.runtime.files import replacing
from zsg_jax.runtime.progress import bar, passes, say
from zsg_jax.runtime.settings import setting
from zsg_jax.similarity.duplicates import Duplicates, duplicates
from zsg_jax.similarity.search.options import Search

FILE = "duplicates.jsonl"


class Deduplicated(NamedTuple):
    """The duplicates of a pair's training examples.

    Attributes:
        pair: all examples.
        threshold: the cosine that was asked for.
        found: by their places in the pair.
    """

    pair: EmbeddedPair
    threshold: float
    found: Duplicates

    @property
    def facts(self) -> dict[str, Any]:
        """JSON values: what was asked for, and what came of it."""
        return {
            "deduplicate": self.threshold,
            "rows_left_out_as_duplicates": len(self.found.rows),
        }

    def pairs(self) -> Iterator[dict[str, Any]]:
        """Of every duplicate, by the numbers of all examples that were read, what it is one of."""
        ids, numbers = self.pair.train, self.pair.train_indices
        for row, kept, cosine in zip(*self.found, strict=True):
            yield {
                "row": int(numbers[row]),
                "id": ids[int(row)].id,
                "kept_row": int(numbers[kept]),
                "kept_id": ids[int(kept)].id,
                "cosine": float(str(cosine)),  # float32's own digits
            }

    def check_same(self, folder: Path) -> None:
        """Refuses others than those that `duplicates.jsonl` tells of, where it is there.

        Raises:
            UserError: it tells of others, or cannot be read.
        """
        path = folder / FILE
        if not path.exists():
            return
        try:
            known = [json.loads(line)["row"] for line in path.read_bytes().splitlines()]
        except (ValueError, KeyError, TypeError) as error:
            raise UserError(f"{path}: cannot be read: {error}; put it back") from None
        numbers = self.pair.train_indices[self.found.rows].tolist()
        check(
            known == numbers,
            f"{path}: other rows were left out as duplicates for the orders that are there than "
            f"would be now; give another {setting('workdir')}",
        )

    def write(self, folder: Path) -> None:
        """Writes `duplicates.jsonl`, an object of `pairs` a line."""
        with replacing(folder / FILE) as partial, partial.open("wb") as file:
            for one in self.pairs():
                file.write(f"{json.dumps(one, ensure_ascii=False)}\n".encode())


def deduplicate(pair: EmbeddedPair, threshold: float, search: Search) -> Deduplicated:
    """Looks for duplicates, and says how many there are."""
    with bar(None, "duplicates") as progress:
        found = duplicates(
            pair.train_embeddings, threshold, search=search.with_progress(passes(progress))
        )
    count, total = len(found.rows), len(pair.train)
    say(
        f"duplicates: {count:,} of {total:,} training rows have a cosine of {threshold:g} or more "
        "with one that stays, and are left out"
    )
    return Deduplicated(pair, threshold, found)
