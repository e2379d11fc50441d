"""Conversations to the tokens that a decoder would be trained on."""

from collections.abc import Iterator, Sequence

import numpy as np

from zsg_jax.data.instance import TEXT, Instance
from zsg_jax.data.tokenize.encode import Form, encode, encode_prompts
from zsg_jax.data.tokenize.tokenizer import Tokenizer
from zsg_jax.data.views import read_conversation
from zsg_jax.models.families import ModelConfig
from zsg_jax.runtime.errors import UserError, check
from zsg_jax.similarity.encoders.address import ANSWERS, Gradients, States
from zsg_jax.similarity.encoders.buckets import Tokens

_TOKENIZED_AT_ONCE = 1024
_SHOWN = 40  # characters by which a message calls a conversation


def needed(settings: States | Gradients) -> str:
    """What asks that each conversation has an answer token, as `tokens` takes it; "": nothing."""
    if isinstance(settings, Gradients):
        return "gradients are of answers"
    return f"tokens={ANSWERS}" if settings.tokens == ANSWERS else ""


class Conversations:
    """Makes the tokens of conversations.

    Attributes:
        max_tokens: longer conversations are cut to this many.
        told: what else decides the tokens of a conversation, as JSON values.
    """

    def __init__(
        self, called: str, model: ModelConfig, tokenizer: Tokenizer, form: Form, length: int
    ) -> None:
        """Takes what makes tokens.

        Args:
            called: what messages call the encoder.
            model: that the tokens are for.
            tokenizer, form: how conversations become tokens.
            length: tokens at most, and no more than the model has positions.

        Raises:
            UserError: the tokenizer has words that the model has not.
        """
        check(
            tokenizer.vocab_size <= model.vocab_size,
            f"{called}: the tokenizer has {tokenizer.vocab_size} entries, the model only "
            f"{model.vocab_size}; use the files that belong together",
        )
        self.max_tokens = min(length, model.max_positions)
        self.told = [tokenizer.fingerprint, form.fingerprint, *form[1:]]
        self._called, self._tokenizer, self._form = called, tokenizer, form

    def tokens(self, texts: Sequence[str], needed: str = "") -> Iterator[Tokens]:
        """The tokens of each, of which those are counted that carry loss; one may have none.

        Args:
            texts: as `views.conversations` gives them.
            needed: what asks that some are counted of each; "": nothing does.

        Raises:
            UserError: a conversation does not fit the form, or has no answer token though `needed`.
        """
        for start in range(0, len(texts), _TOKENIZED_AT_ONCE):
            several = [_instance(text) for text in texts[start : start + _TOKENIZED_AT_ONCE]]
            for one, made in zip(several, self._tokenized(several), strict=True):
                check(
                    not needed or bool(np.any(made.counted)),
                    f"{self._called}: {needed}, but {one.id!r} has no answer token within "
                    f"{self.max_tokens} tokens; give truncation=head"
                    + ("" if one.answered else ", or examples with answers"),
                )
                yield made

    def _tokenized(self, several: list[Instance]) -> list[Tokens]:
        made: dict[int, Tokens] = {}
        plain = [i for i, one in enumerate(several) if one.turns[0].role == TEXT]
        encodings = self._tokenizer.encode([several[i].turns[0].content for i in plain])
        bos = [] if self._tokenizer.bos_id is None else [self._tokenizer.bos_id]
        for i, encoding in zip(plain, encodings, strict=True):
            ids = np.append(np.array(bos, np.int32), encoding.ids)[: self.max_tokens]
            made[i] = Tokens(ids, np.zeros(len(ids), bool))
        rest = [i for i in range(len(several)) if i not in made]
        answered = [i for i in rest if several[i].answered]
        examples = encode(
            [several[i] for i in answered], self._tokenizer, self.max_tokens, form=self._form
        )
        for place, reason in examples.refused.items():
            raise UserError(
                f"{self._called}: the form does not fit {several[answered[place]].id!r}: {reason}; "
                "give another template="
            )
        for place, i in enumerate(answered):
            made[i] = Tokens(*examples[place])
        asked = [i for i in rest if not several[i].answered]
        prompts = encode_prompts(
            [_asked(several[i]) for i in asked], self._tokenizer, self._form, self.max_tokens
        )
        for i, ids in zip(asked, prompts.ids, strict=True):
            made[i] = Tokens(ids, np.zeros(len(ids), bool))
        return [made[i] for i in range(len(several))]


def _instance(text: str) -> Instance:
    """A conversation, which messages call by how it begins."""
    turns = read_conversation(text)
    return Instance(" ".join(turn.text for turn in turns)[:_SHOWN], "", turns, ())


def _asked(one: Instance) -> Instance:
    """A prompt, behind which stands an answer that nobody reads."""
    turns = (*one.turns, one.turns[-1]._replace(role="assistant", content="", more=""))
    return Instance(one.id, "", turns, ())
