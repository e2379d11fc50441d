"""The log-likelihood of given texts after given prompts, of which none is computed twice.

Texts after one prompt are branches of it (`models.branches`); prompts with their branches are
packed into sequences. Logits are made where a text is predicted and nowhere else.
"""

from collections.abc import Sequence
from functools import cache
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jax.sharding import Mesh

from zsg_jax.data.batches.packing import Batch, pack
from zsg_jax.data.tokenize.encode import ChoiceTokens
from zsg_jax.models.branches import mixing
from zsg_jax.models.loss import label_losses
from zsg_jax.models.model import hidden_with
from zsg_jax.models.placement import Params
from zsg_jax.training.sharding import compile_by_rows, place_own, row_devices

NAMES = ("tokens", "positions", "segment_ids", "branch_ids")


class Tree(NamedTuple):
    """A prompt and what may follow it.

    Attributes:
        prompt: (P,) int32, at least one token.
        branches: each one's tokens, (n,) int32, and which of them are scored, (n,) bool.
        slots: the texts, by their numbers, that each branch is; several where they are the same.
    """

    prompt: np.ndarray
    branches: list[tuple[np.ndarray, np.ndarray]]
    slots: list[list[int]]

    @property
    def size(self) -> int:
        """Its tokens."""
        return len(self.prompt) + sum(len(ids) for ids, _ in self.branches)


def trees(texts: Sequence[ChoiceTokens], first: int, most: int) -> list[Tree]:
    """Texts as few trees of at most `most` tokens; what alone is longer is a tree by itself.

    Args:
        texts: whole ones.
        first: the number of the first of them, as `Tree.slots` has it.
    """
    made: list[Tree] = []
    of_prompt: dict[bytes, Tree] = {}
    known: dict[tuple[bytes, bytes], list[int]] = {}
    for slot, text in enumerate(texts, start=first):
        # What a template writes behind the last token that is scored serves nothing.
        end = int(np.flatnonzero(text.scored)[-1]) + 1
        prompt, branch = text.ids[: text.prompt], text.ids[text.prompt : end]
        scored = text.scored[text.prompt : end]
        key = prompt.tobytes()
        whole = key, branch.tobytes() + scored.tobytes()
        if whole in known:
            known[whole].append(slot)
            continue
        tree = of_prompt.get(key)
        if tree is None or tree.size + len(branch) > most:
            tree = of_prompt[key] = Tree(prompt, [], [])
            made.append(tree)
        tree.branches.append((branch, scored))
        tree.slots.append(known.setdefault(whole, [slot]))
    return made


def lay(sequences: Sequence[Sequence[Tree]], length: int, scored: int) -> Batch:
    """Lays trees into sequences of `length` tokens, of which at most `scored` are predicted.

    Returns:
        tokens, positions, segment_ids and branch_ids (R, length) int32, as `branches.mixing` takes
        them; place, label and branch (R, scored) int32: where a token is predicted, which it is,
        and what it belongs to, numbered through the batch; -1 where there is none.
    """
    R = len(sequences)
    batch = {name: np.zeros((R, length), np.int32) for name in NAMES}
    batch |= {name: np.zeros((R, scored), np.int32) for name in ("place", "label")}
    batch["branch"] = np.full((R, scored), -1, np.int32)
    number = 0
    for row, held in enumerate(sequences):
        at = predicted = 0
        for segment, tree in enumerate(held, start=1):
            start, begun = at, len(tree.prompt)
            for branch, (ids, mask) in enumerate([(tree.prompt, None), *tree.branches]):
                here = slice(at, at + len(ids))
                first = begun if branch else 0
                batch["tokens"][row, here] = ids
                batch["positions"][row, here] = np.arange(first, first + len(ids))
                batch["segment_ids"][row, here] = segment
                batch["branch_ids"][row, here] = branch
                if mask is not None:
                    chosen = np.flatnonzero(mask)
                    there = slice(predicted, predicted + len(chosen))
                    before = np.where(chosen == 0, start + begun - 1, at + chosen - 1)
                    batch["place"][row, there] = before
                    batch["label"][row, there] = ids[chosen]
                    batch["branch"][row, there] = number
                    number, predicted = number + 1, predicted + len(chosen)
                at += len(ids)
    return batch


class LogLikelihood:
    """Sums of log-probabilities; compiled once for each shape of batches."""

    def __init__(
        self,
        graphdef: nnx.GraphDef,
        vocab_size: int,
        abstract_params: Any,
        mesh: Mesh,
        *,
        batch_size: int,
        length: int,
    ) -> None:
        """Takes what all texts share; nothing is compiled yet.

        Args:
            graphdef: as `models.model.abstract` has it, with adapters or without.
            vocab_size: words that can be predicted.
            abstract_params: shapes and shardings of the parameters to come.
            batch_size: sequences at once, rounded up to a multiple of `sharding.row_devices`.
            length: tokens a sequence, as many as the largest tree has.
        """
        self._graphdef, self._vocab_size, self._abstract = graphdef, vocab_size, abstract_params
        self._mesh, self._length = mesh, length
        unit = row_devices(mesh)
        self.batch_size = -(-batch_size // unit) * unit
        self._step = cache(self._compile)

    def __call__(self, params: Params, held: Sequence[Tree]) -> dict[int, float]:
        """The log-likelihood of every text of these trees in nats, by its slot.

        Token by token in float32, summed in float64.
        """
        packed = pack([tree.size for tree in held], self._length)
        sequences = [[held[number] for number in one] for one in packed]
        found: dict[int, float] = {}
        under_way: list[Any] = []

        def fetch() -> None:
            losses, branch, slots = under_way.pop(0)
            real = branch >= 0
            nats = np.asarray(jax.device_get(losses), np.float64)
            sums = -np.bincount(branch[real], weights=nats[real], minlength=len(slots))
            found.update(
                {slot: value for own, value in zip(slots, sums, strict=True) for slot in own}
            )

        # Two batches under way keep the devices busy; more would only take memory.
        for start in range(0, len(sequences), self.batch_size):
            part = sequences[start : start + self.batch_size]
            slots = [own for one in part for tree in one for own in tree.slots]
            under_way.append((*self._begin(params, part), slots))
            if len(under_way) == 2:
                fetch()
        while under_way:
            fetch()
        return found

    def _begin(
        self, params: Params, sequences: Sequence[Sequence[Tree]]
    ) -> tuple[jax.Array, np.ndarray]:
        """The nats of the tokens of a batch, and the branch of each."""
        # Few numbers of tokens to predict, so that few shapes are compiled.
        scored = 1 << (max(map(_scored, sequences)) - 1).bit_length()
        filled = [*sequences, *[[]] * (self.batch_size - len(sequences))]
        batch = lay(filled, self._length, scored)
        branch = batch.pop("branch")
        placed = place_own(batch, self._mesh)
        return self._step(scored)(params, placed), branch

    def _compile(self, scored: int) -> jax.stages.Compiled:
        sizes = dict.fromkeys(NAMES, self._length) | {"place": scored, "label": scored}
        batch = {
            name: jax.ShapeDtypeStruct((self.batch_size, size), np.int32)
            for name, size in sizes.items()
        }
        return compile_by_rows(self._losses, self._abstract, batch, self._mesh)

    def _losses(self, params: Params, batch: dict[str, jax.Array]) -> jax.Array:
        """(R, scored) float32 nats of every token that is predicted."""
        mix = mixing(batch["segment_ids"], batch["branch_ids"], batch["positions"])
        x, head, _ = hidden_with(
            self._graphdef, params, batch["tokens"], batch["positions"], mix, None
        )
        x = jnp.take_along_axis(x, batch["place"][:, :, None], axis=1)
        return label_losses(x, head, batch["label"], self._vocab_size)


def _scored(sequence: Sequence[Tree]) -> int:
    return sum(int(mask.sum()) for tree in sequence for _, mask in tree.branches)
