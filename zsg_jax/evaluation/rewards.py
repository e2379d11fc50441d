"""What a reward model makes of a text that answers a prompt: one number.

A reward is the model's head applied to the final hidden state of the last token, which is found by
where a text ends in its sequence, never by a padding id.
"""

from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh

from zsg_jax.data.batches.packing import lay_packed, pack
from zsg_jax.data.instance import Instance, Turn
from zsg_jax.data.tokenize import jinja
from zsg_jax.data.tokenize.chat import tokenized_whole
from zsg_jax.data.tokenize.examples import Examples
from zsg_jax.data.tokenize.jinja import ChatTemplate
from zsg_jax.data.tokenize.tokenizer import from_folder
from zsg_jax.data.tokenize.truncation import Unfit, fit
from zsg_jax.data.tokenize.user_assistant import has_tools
from zsg_jax.models import huggingface
from zsg_jax.models.model import abstract, hidden
from zsg_jax.models.placement import Compute, Params
from zsg_jax.runtime.errors import UserError, check
from zsg_jax.runtime.progress import say
from zsg_jax.runtime.settings import setting
from zsg_jax.training.sharding import (
    compile_by_rows,
    heads_fit,
    place_own,
    row_devices,
    shardings,
    vocabulary_padding,
)

# UltraRM's form, by which the study asks it (arXiv 2406.11721, section 3): the blank behind
# "Assistant:" is the answer's, as in a text that is tokenized whole.
STUDY = (
    "{{ bos_token }}{% for message in messages %}{% if message.role == 'assistant' %}"
    " {{ message.content }}{% else %}{{ '' if loop.first else '\n\n' }}Human: "
    "{{ message.content }}{{ '\n\n' }}Assistant:{% endif %}{% endfor %}"
)
REWARD_TEMPLATE = "evaluation.texts.reward_template"
# Tokens of a sequence at least; more is rounded up to a power of two, so that little is compiled.
SHORTEST = 256
# Sequences of more tokens are fewer at once, so that memory follows the longest alone.
LONG = 2048


class RewardModel:
    """A reward model on a mesh, beside the model whose texts it judges.

    Attributes:
        cut: how many texts lost words of their prompt so far, to fit.
    """

    def __init__(
        self,
        folder: str | Path,
        mesh: Mesh,
        *,
        template: str = jinja.STUDY,
        max_length: int | None = None,
        batch_size: int = 8,
        compute: Compute | None = None,
    ) -> None:
        """Loads the model, every device its own part.

        Args:
            folder: transformers' classifier of sequences with one label, of a family that is
                computed here, or UltraRM's layout; and its tokenizer.
            template: how prompt and text become one: "study", which is `STUDY`, "chat" for the
                folder's own chat template, or a Jinja file. Each writes its bos itself.
            max_length: tokens at most, None: the model's positions; what is over is taken from the
                words of the prompt, the oldest first, and never from the text.
            batch_size: sequences at once, rounded up to a multiple of `sharding.row_devices`;
                fewer of those that are longer than `LONG`.
            compute: how it is computed, its dtype being that of the parameters too; None: float32.

        Raises:
            UserError: something is missing, damaged or not computed here, or does not divide over
                the mesh; or there is no such template.
        """
        model, compute = huggingface.read_reward_config(folder), compute or Compute()
        heads_fit(mesh, model.num_kv_heads)
        max_length = model.max_positions if max_length is None else max_length
        check(
            0 < max_length <= model.max_positions,
            f"{folder}: texts of {max_length} tokens do not fit the model's {model.max_positions} "
            "positions; give a smaller length",
        )
        self._tokenizer = from_folder(folder)
        check(
            self._tokenizer.vocab_size <= model.vocab_size,
            f"{folder}: its tokenizer has {self._tokenizer.vocab_size:,} entries, its model only "
            f"{model.vocab_size:,}; put the tokenizer there that the model was trained with",
        )
        model = replace(model, vocab_padding=vocabulary_padding(model.vocab_size, mesh))
        self._graphdef, shapes = abstract(model, compute)
        head = jax.ShapeDtypeStruct((model.hidden_size, 1), jnp.float32)
        shapes["reward"] = {"kernel": head}
        self._abstract = jax.tree.map(
            lambda leaf, where: jax.ShapeDtypeStruct(leaf.shape, compute.dtype, sharding=where),
            shapes,
            shardings(shapes, mesh),
        )
        self._params = huggingface.load_reward(folder, model, self._abstract)
        special = self._tokenizer.special_tokens
        given = jinja.load(template, folder, special, key=REWARD_TEMPLATE)
        self._study = given is None
        self._template = given or ChatTemplate(STUDY, "the study's form of rewards", special)
        self._unit = row_devices(mesh)
        self._folder, self._mesh, self._longest = folder, mesh, max_length
        self._batch_size = -(-batch_size // self._unit) * self._unit
        self._step = cache(self._compile)
        self.cut = 0
        self._scored, self._told = 0, (0, 0)

    def tell(self) -> int:
        """Says how many prompts were cut of the texts scored since it was last asked; gives it."""
        cut, scored = self.cut - self._told[0], self._scored - self._told[1]
        self._told = self.cut, self._scored
        if cut:
            say(
                f"rewards: {cut:,} of {scored:,} prompts were cut to fit, with their texts, "
                f"{self._longest:,} tokens of the reward model"
            )
        return cut

    def score(
        self, prompts: Sequence[Sequence[Turn]], texts: Sequence[str], ids: Sequence[str] = ()
    ) -> np.ndarray:
        """The reward of each text after its prompt, (n,) float64.

        Args:
            prompts: the turns before each text, the last a user's; of "study" a system turn goes
                before the first user's words, with a blank line.
            ids: of the rows, for messages.

        Raises:
            UserError: a text does not fit by itself, the template does not fit, or a reward is not
                finite.
        """
        examples = self._tokenized(prompts, texts, ids)
        self._scored += len(texts)
        longest = int(examples.lengths.max(initial=0))
        length = min(self._longest, max(SHORTEST, 1 << max(longest - 1, 0).bit_length()))
        sequences = pack(examples.lengths, length)
        index, rewards = np.arange(len(examples)), np.full(len(examples), np.nan)
        under_way: list[Any] = []

        def fetch() -> None:
            scores_RxL, slots, ends = under_way.pop(0)
            rewards[slots] = np.asarray(jax.device_get(scores_RxL), np.float64)[ends]

        rows = self._rows(length)
        for start in range(0, len(sequences), rows):
            part = sequences[start : start + rows]
            filled = [*part, *[[]] * (rows - len(part))]
            most = max(map(len, part))
            batch = lay_packed(examples, index, filled, length=length, segments=most)
            ends = [
                (row, int(end) - 1)
                for row, slots in enumerate(part)
                for end in np.cumsum(examples.lengths[slots])
            ]
            names = ("tokens", "positions", "segment_ids")
            placed = place_own({name: batch[name] for name in names}, self._mesh)
            slots = [slot for one in part for slot in one]
            places = tuple(np.array(ends).T)
            under_way.append((self._step(length)(self._params, placed), slots, places))
            if len(under_way) == 2:
                fetch()
        while under_way:
            fetch()
        for text, reward in zip(texts, rewards, strict=True):
            check(bool(np.isfinite(reward)), f"{self._folder}: the reward of {text!r} is {reward}")
        return rewards

    def of(
        self, instances: Sequence[Instance]
    ) -> Callable[[Sequence[int], Sequence[str]], np.ndarray]:
        """What `texts.TextEvaluator` takes: rewards of texts, by the places of their instances."""
        return lambda places, texts: self.score(
            [instances[i].turns[:-1] for i in places], texts, [instances[i].id for i in places]
        )

    def _rows(self, length: int) -> int:
        """Sequences at once, of so many tokens."""
        fewer = self._batch_size * LONG // max(length, LONG) // self._unit * self._unit
        return max(fewer, self._unit)

    def _tokenized(
        self, prompts: Sequence[Sequence[Turn]], texts: Sequence[str], ids: Sequence[str]
    ) -> Examples:
        for turns in prompts if self._study else ():
            check(
                not has_tools(turns),
                f"{turns[-1].content[:40]!r}: tools and calls have no place in the study's form of "
                f"rewards; give another {setting('evaluation.texts.reward_template')}",
            )
        told = [
            (*(_joined(turns) if self._study else turns), Turn("assistant", text))
            for turns, text in zip(prompts, texts, strict=True)
        ]
        tokenized = tokenized_whole(told, self._tokenizer, self._template)
        made = []
        for place, (turns, one) in enumerate(zip(told, tokenized, strict=True)):
            if isinstance(one, Unfit):
                raise UserError(f"{self._template.name}: does not fit a text to be rewarded: {one}")
            fitted = fit(one, turns, self._longest, "head")
            check(
                not fitted.answer_cut,
                f"{self._folder}: {f'row {ids[place]}: ' if ids else ''}the text "
                f"{turns[-1].content[:40]!r} alone has more than the {self._longest:,} tokens that "
                "the reward model takes; shorten it, or leave its row out",
            )
            self.cut += fitted.prompt_cut > 0
            made.append((fitted.ids, fitted.loss_mask))
        return Examples(made)

    def _compile(self, length: int) -> jax.stages.Compiled:
        one = jax.ShapeDtypeStruct((self._rows(length), length), np.int32)
        batch = dict.fromkeys(("tokens", "positions", "segment_ids"), one)
        return compile_by_rows(self._scores, self._abstract, batch, self._mesh)

    def _scores(self, params: Params, batch: dict[str, jax.Array]) -> jax.Array:
        """What the head makes of every token, (R, L) float32."""
        params = dict(params)
        head_Dx1 = params.pop("reward")["kernel"]
        x, _ = hidden(
            self._graphdef, params, batch["tokens"], batch["positions"], batch["segment_ids"]
        )
        head = head_Dx1.astype(x.dtype)
        return jnp.einsum("rld,do->rl", x, head, preferred_element_type=jnp.float32)


def _joined(turns: Sequence[Turn]) -> tuple[Turn, ...]:
    """Turns without a system turn, whose words go before the first user's."""
    if turns[0].role != "system":
        return tuple(turns)
    first = turns[1]._replace(content=f"{turns[0].content}\n\n{turns[1].content}")
    return (first, *turns[2:])
