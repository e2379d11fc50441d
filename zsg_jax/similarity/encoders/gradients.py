"""Turns conversations into embeddings by the gradients of a language model's loss.

LESS (arXiv 2402.04333, "Selecting Influential Data for Targeted Instruction Tuning"): how much a
step on one example lowers the loss of another is the inner product of their gradients. The gradient
of a training example becomes the direction that Adam would take, that of a target stays; both are
projected by random signs (section 4.1), and their cosines are summed over a warm-up's checkpoints,
each weighed by its learning rate (equation 3). The sum is one inner product of unit vectors: those
of the checkpoints side by side, each times the root of its weight.
"""

import copy
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import jax
import numpy as np
from jax.sharding import Mesh
from jax.sharding import PartitionSpec as P

from zsg_jax.data.tokenize.encode import Form
from zsg_jax.data.tokenize.tokenizer import Tokenizer
from zsg_jax.models.families import ModelConfig
from zsg_jax.models.gradients import Named, example_gradients, flat
from zsg_jax.models.lora import LoRA
from zsg_jax.similarity.encoders.address import ADAM, GRADIENTS, PLAIN, Gradients
from zsg_jax.similarity.encoders.buckets import Buckets, Tokens, first_device
from zsg_jax.similarity.encoders.conversations import Conversations, needed
from zsg_jax.similarity.encoders.fingerprint import fingerprint
from zsg_jax.similarity.encoders.projection import Projection

# Part of every fingerprint: raise it when the same model would give other embeddings.
_VERSION = 1
_LEAST = 1e-30  # a shorter gradient stays shorter than one


class Stage(NamedTuple):
    """A model as it was at one step of its training.

    Attributes:
        chosen, others: its parameters, as `models.gradients.select` parts them, float32.
        weight: what a cosine counts here, above 0.
        moments: of the optimizer, for `chosen`, as `Direction` takes them; None: none are kept.
    """

    chosen: Named
    others: Named
    weight: float = 1.0
    moments: Any = None


# Of a gradient and an optimizer's moments makes the direction of its next step, a number of each.
Direction = Callable[[Any, Any], Any]


class GradientsEncoder:
    """The gradients of a decoder's loss, projected; computed in float32.

    Attributes:
        name: what was asked for, every setting spelled out.
        dimension: columns of an embedding: those of a projection for each stage.
        fingerprint: SHA-256 over everything that decides an embedding: weights, moments, config,
            tokenizer, form, settings, the side and this module's version.
        max_tokens: longer conversations are cut to this many.
        prompts, default_prompt: there are none.
        conversations: True: what is embedded is what `views.conversations` gives.
        count: P, how many numbers a gradient has.
    """

    def __init__(
        self,
        model: ModelConfig,
        stages: Sequence[Stage],
        tokenizer: Tokenizer,
        form: Form,
        settings: Gradients,
        *,
        lora: LoRA | None = None,
        direction: Direction | None = None,
        mesh: Mesh | None = None,
        called: str = "",
    ) -> None:
        """Takes an opened decoder; it embeds training examples, `targets` the others.

        Args:
            model: its config.
            stages: at least one, of the same shapes.
            tokenizer, form: how conversations become tokens.
            settings: the projection; the others are those that `stages` and `form` were made by.
            lora: the model's adapters.
            direction: what a training example's gradient becomes; None: it stays.
            mesh: as `Buckets` takes it.
            called: the model's name; "" for `settings.model`.

        Raises:
            UserError: the tokenizer has words that the model has not.
        """
        self.prompts: Mapping[str, str] = {}
        self.default_prompt: str | None = None
        self.conversations = True
        self._called, self._settings = called or settings.model, settings
        self._conversations = Conversations(
            f"{GRADIENTS}{settings.model}", model, tokenizer, form, settings.length
        )
        self.max_tokens = self._conversations.max_tokens
        self.count = sum(leaf.size for leaf in stages[0].chosen.values())
        self.dimension = settings.dimension * len(stages)
        total = math.fsum(stage.weight for stage in stages)
        self._stages, self._weights = stages, [stage.weight / total for stage in stages]
        self._mesh = mesh or first_device()
        self._projection = Projection(self.count, settings.dimension, settings.seed, self._mesh)
        gradients = example_gradients(model, lora)

        def embed(
            params: Any, tokens_BxL: jax.Array, lengths_B: jax.Array, mask_BxL: jax.Array
        ) -> jax.Array:
            chosen, others = params["chosen"], params["others"]
            found = gradients(chosen, others, tokens_BxL, lengths_B, mask_BxL)
            return self._projection.fill(flat(found))

        self._buckets = Buckets(
            embed,
            {},
            dimension=self._projection.width,
            max_tokens=self.max_tokens,
            mesh=self._mesh,
            most_rows=self._projection.rows,
            coarse=True,
            gathered=False,
        )
        decides = [self._weights, settings.dimension, settings.seed, self.max_tokens]
        self._content = fingerprint(
            _each_once(stages), _VERSION, model, lora, decides, self._conversations.told
        )
        self._become(direction)

    def targets(self) -> "GradientsEncoder":
        """The encoder of test examples, whose gradients stay; this one, if training ones' do."""
        if self._direction is None:
            return self
        other = copy.copy(self)
        other._become(None)
        return other

    def _become(self, direction: Direction | None) -> None:
        """Sets what gradients become, and what follows from that."""
        side = PLAIN if direction is None else ADAM
        settings = self._settings
        self._direction = direction
        self.name = (
            f"{GRADIENTS}{self._called},dimension={settings.dimension},seed={settings.seed},"
            f"weights={settings.weights or 'all'},train={side}"
        )
        moments = [stage.moments for stage in self._stages if direction is not None]
        self.fingerprint = fingerprint(moments, _VERSION, self._content, side)
        if direction is not None:
            rows = P(self._mesh.axis_names)
            mapped = jax.shard_map(
                jax.vmap(direction, in_axes=(0, None)),
                mesh=self._mesh,
                in_specs=(rows, P()),
                out_specs=rows,
                check_vma=False,
            )
            self._directed = jax.jit(mapped)

    def encode(
        self, texts: Sequence[str], on_progress: Callable[[int], object] | None = None
    ) -> np.ndarray:
        """The embeddings of conversations, (n, dimension) float32 of length one, in their order.

        Where a gradient is zero, so is what stands for it. Which others are given with a
        conversation changes no bit. Memory does not grow with n but for tokens and embeddings.

        Args:
            texts: as `views.conversations` gives them.
            on_progress: called with the number of texts that have just been finished.

        Raises:
            UserError: a conversation does not fit the form, or has no answer token.
        """
        sequences = list(self._conversations.tokens(texts, needed(self._settings)))
        found = np.empty((len(texts), self.dimension), np.float32)
        finished, count = 0, len(self._stages)
        parts = np.split(found, count, axis=1)
        for stage, weight, own in zip(self._stages, self._weights, parts, strict=True):
            for places, rows in self._projection.run(self._vectors(stage, sequences)):
                lengths = np.linalg.norm(rows.astype(np.float64), axis=1, keepdims=True)
                own[places] = weight**0.5 * rows / np.maximum(lengths, _LEAST)
                before, finished = finished, finished + len(places)
                if on_progress is not None:
                    on_progress(finished // count - before // count)
        self._buckets.params = {}  # the devices' memory is another's now
        return found

    def _vectors(
        self, stage: Stage, sequences: Sequence[Tokens]
    ) -> Iterator[tuple[list[int], jax.Array]]:
        """What is projected, a batch at a time, as `Buckets.run` gives it."""
        params = {"chosen": stage.chosen, "others": stage.others}
        self._buckets.params = self._buckets.placed(params)
        batches = self._buckets.run(sequences)
        if self._direction is None:
            yield from batches
            return
        # As one vector, behind which Adam makes zeros of zeros.
        moments = self._buckets.placed(jax.tree.map(self._vector, stage.moments, is_leaf=_is_named))
        for places, rows in batches:
            yield places, self._directed(rows, moments)

    def _vector(self, moments: Any) -> Any:
        """Arrays by parameter as a vector like those that are projected; others as they are."""
        if not _is_named(moments):
            return moments
        return self._projection.fill(flat({name: x[None] for name, x in moments.items()}))[0]


def _is_named(x: Any) -> bool:
    return isinstance(x, dict)


def _each_once(stages: Sequence[Stage]) -> list[Named]:
    """The parameters of all stages, those that several share of the first alone."""
    seen = set[int]()
    found = []
    for stage in stages:
        new = {k: x for k, x in (stage.others | stage.chosen).items() if id(x) not in seen}
        seen |= {id(x) for x in new.values()}
        found.append(new)
    return found
