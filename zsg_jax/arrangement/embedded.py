"""Two datasets with their embeddings: what every arrangement is made from."""

import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from zsg_jax.arrangement.spaces import fetched, of_targets, open_encoder
from zsg_jax.data.dataset import Dataset, Texts
from zsg_jax.data.tokenize.encode import ALL
from zsg_jax.data.views import BOTH, check_texts, choose_view, conversations, view_facts
from zsg_jax.runtime.errors import check
from zsg_jax.runtime.files import file_digest, read_json, write_json
from zsg_jax.runtime.processes import is_first, of_all, once, same_everywhere, same_files
from zsg_jax.runtime.progress import count, say
from zsg_jax.runtime.settings import setting
from zsg_jax.similarity.embeddings import (
    Embeddings,
    SelectedEmbeddings,
    check_finite,
    open_embeddings,
)
from zsg_jax.similarity.encoders.cache import CachedEncoder
from zsg_jax.similarity.encoders.embed import embed
from zsg_jax.similarity.encoders.registry import Encoder, prompt_text
from zsg_jax.workdir import hub
from zsg_jax.workdir.layout import COST


@dataclass(frozen=True)
class EmbeddedPair:
    """Training examples that may be chosen, test examples, and the embeddings of both.

    Attributes:
        train, test: N and T examples.
        train_embeddings, test_embeddings: (N, D) and (T, D) floats.
        train_indices, test_indices: (N,) and (T,) int64, ascending: which of all examples that
            were read each of these is; orders and leaks are written by these numbers.
        encoder_facts: the encoder's name and digest, the embeddings' dtype, and what of an example
            is embedded behind which prompts, as JSON values.
    """

    train: Dataset
    test: Dataset
    train_embeddings: Embeddings
    test_embeddings: Embeddings
    train_indices: np.ndarray
    test_indices: np.ndarray
    encoder_facts: dict[str, Any]

    def select(self, train: np.ndarray, test: np.ndarray) -> "EmbeddedPair":
        """A pair of these examples alone; both (k,) int64 ascending."""
        if len(train) == len(self.train) and len(test) == len(self.test):
            return self
        return EmbeddedPair(
            self.train.select(train),
            self.test.select(test),
            SelectedEmbeddings(self.train_embeddings, train),
            SelectedEmbeddings(self.test_embeddings, test),
            self.train_indices[train],
            self.test_indices[test],
            self.encoder_facts,
        )


@dataclass(frozen=True)
class Embedded:
    """What of an example is embedded.

    Attributes:
        text: as `views.choose_view` takes it.
        train_prompt, test_prompt: what stands before, as `registry.prompt_text` takes it.
        answers: as `spaces.open_encoder` takes it.
    """

    text: str = BOTH
    train_prompt: str | None = None
    test_prompt: str | None = None
    answers: str = ALL


def embed_pair(
    train: Dataset,
    test: Dataset,
    encoder: str,
    folder: Path,
    *,
    embedded: Embedded | None = None,
    dtype: str = "float32",
    cache: str | Path | None = None,
    train_indices: np.ndarray | None = None,
    test_indices: np.ndarray | None = None,
    home: Path | None = None,
) -> EmbeddedPair:
    """Embeds both datasets.

    Args:
        train, test: N and T examples.
        encoder: as `spaces.open_encoder` takes it.
        folder: keeps the embeddings, so that they are made once, and in `COST` what they took.
        embedded: what of an example is; None: prompt and answer, as the encoder asks.
        dtype: in which they are kept.
        cache: a folder that studies share, from which texts that are known have their embeddings.
        train_indices, test_indices: of the examples among all that were read; None: they are all.
        home: keeps the commit that a name of the hub stands for; None: `folder` does.

    Raises:
        UserError: an encoder that is none or fails, a prompt that it does not have, a text that
            cannot be made, or none of a side.
    """
    what, home = embedded or Embedded(), home or folder
    hub.fetch(home, **fetched(encoder))
    chosen = open_encoder(encoder, home, what.answers)
    sides = chosen, of_targets(chosen)
    if cache:
        kept = CachedEncoder(chosen, cache)
        sides = kept, kept if sides[1] is chosen else CachedEncoder(sides[1], cache)
    prompts = (
        prompt_text(chosen, what.train_prompt, setting("similarity.train_prompt")),
        prompt_text(chosen, what.test_prompt, setting("similarity.test_prompt")),
    )
    facts = {**view_facts(what.text), "train_prompt": prompts[0], "test_prompt": prompts[1]}
    # Each process embeds shards of its own.
    same_everywhere(facts)
    encoders = zip(("the encoder", "the encoder of test rows"), sides, strict=True)
    same_files({what: one.fingerprint for what, one in encoders})
    for side, dataset in (("training", train), ("test", test)):
        check_texts(what.text, dataset, side, conversations=chosen.conversations)
    cost = _Cost(folder)
    train_embeddings, test_embeddings = (
        embed(
            _texts(dataset, what.text, prompt, own),
            own,
            folder / side,
            dtype=dtype,
            description=f"embedding {side}",
            on_shard=cost.on_shard,
        )
        for side, dataset, prompt, own in zip(
            ("train", "test"), (train, test), prompts, sides, strict=True
        )
    )
    new = any(of_all(cost.new))
    once("cost of embeddings", lambda: cost.note(new=new))
    told = f" behind the prompts {' and '.join(map(repr, prompts))}" if any(prompts) else ""
    rows = f"{len(train) + len(test):,} rows by {chosen.name}{told}"
    say(f"embeddings: {rows}, {cost.seconds:.1f} s{' of this start' if cost.before else ''}")
    return EmbeddedPair(
        train,
        test,
        train_embeddings,
        test_embeddings,
        np.arange(len(train)) if train_indices is None else train_indices,
        np.arange(len(test)) if test_indices is None else test_indices,
        {
            "encoder": chosen.name,
            "encoder_digest": chosen.fingerprint,
            "dtype": dtype,
            "embedded": facts,
        },
    )


class _Cost:
    """What embeddings take, noted with every shard that a kill would leave.

    Attributes:
        before: seconds of earlier starts.
        new: whether this process has embedded anything in this start.
    """

    def __init__(self, folder: Path) -> None:
        self._folder, self._started = folder, time.perf_counter()
        known = read_json(folder / COST) or {}
        self.before, self._bytes = known.get("seconds", 0.0), known.get("bytes")
        self.new = False

    @property
    def seconds(self) -> float:
        """Since this start."""
        return time.perf_counter() - self._started

    def on_shard(self) -> None:
        """Notes a shard that this process has written."""
        self.new = True
        self.note(new=True)

    def note(self, *, new: bool) -> None:
        """Writes the seconds of all starts, and the bytes that are there, on the first process.

        Where nothing is new, the file of whoever embedded them stays as it is, but for a shard
        that a kill has left untold.
        """
        if is_first():
            sides = (self._folder / side for side in ("train", "test"))
            size = sum(one.stat().st_size for side in sides for one in side.rglob("*.npy"))
            if new or size != self._bytes:
                seconds = round(self.before + self.seconds, 3)
                write_json(self._folder / COST, {"seconds": seconds, "bytes": size})


def _texts(dataset: Dataset, text: str, prompt: str, encoder: Encoder) -> Texts:
    """What of each example is embedded, in the form that the encoder takes."""
    if encoder.conversations:
        return Texts(dataset, conversations(text, prompt))
    return Texts(dataset, choose_view(text), prompt)


def open_pair(train: Dataset, test: Dataset, train_path: str, test_path: str) -> EmbeddedPair:
    """Opens embeddings that the user has made: `.npy` files, an embedding for each example.

    Raises:
        UserError: embeddings that do not fit the examples, or hold a NaN.
    """
    train_embeddings, train_digest = _opened("--train-embeddings", train_path, train)
    test_embeddings, test_digest = _opened("--test-embeddings", test_path, test)
    facts = {
        "encoder": "given embeddings",
        "encoder_digest": {"train": train_digest, "test": test_digest},
    }
    indices = np.arange(len(train)), np.arange(len(test))
    return EmbeddedPair(train, test, train_embeddings, test_embeddings, *indices, facts)


def _opened(flag: str, path: str, dataset: Dataset) -> tuple[Embeddings, str]:
    embeddings = open_embeddings(path)
    skipped = f" without the {dataset.skipped_count:,} skipped" if dataset.skipped_count else ""
    check(
        len(embeddings) == len(dataset),
        f"{flag} {path}: {count(len(embeddings), 'row')}, but {dataset.path} holds "
        f"{len(dataset):,} instances{skipped}; each needs its own, in the same order",
    )
    # A NaN is told by the file it stands in, before anything is computed from it.
    check_finite(embeddings, f"{flag} {path}")
    return embeddings, file_digest(Path(path))
