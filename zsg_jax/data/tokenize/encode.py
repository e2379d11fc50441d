"""Instances to tokens and loss masks: a form renders them, a limit cuts them."""

from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np

from zsg_jax.data.instance import Instance, Turn
from zsg_jax.data.tokenize import chat
from zsg_jax.data.tokenize import user_assistant as study
from zsg_jax.data.tokenize.examples import Examples
from zsg_jax.data.tokenize.jinja import ChatTemplate
from zsg_jax.data.tokenize.tokenizer import Tokenizer
from zsg_jax.data.tokenize.truncation import Fitted, TokenizedExample, Unfit, fit
from zsg_jax.runtime.errors import UserError

# "each" makes instances of answers (`data.by_answer`), of which the last is learned then.
ALL, LAST, EACH = ANSWERS = ("all", "last", "each")
LEARN, MASK = THOUGHTS = ("learn", "mask")


class Form(NamedTuple):
    """How instances are put into tokens.

    Attributes:
        template: as `jinja.load` gives it; None for the study's own form.
        answers: which of a conversation's answers carry loss, "all" or "last".
        truncation: one of `truncation.TRUNCATIONS`.
        max_answer: tokens at most of an answer with what closes it; None: as many as there are.
        thoughts: whether the empty block of thought that a template puts before an answer is
            learned with it, "learn", or carries no loss, "mask".
        join: of the study's form, whether a prompt and its answer are tokenized as one text.
    """

    template: ChatTemplate | None = None
    answers: str = "all"
    truncation: str = "tail"
    max_answer: int | None = None
    thoughts: str = LEARN
    join: bool = False

    @property
    def fingerprint(self) -> str:
        """The template's digest; of the study's form, its name and where it cuts tokens apart."""
        if self.template:
            return self.template.fingerprint
        return f"study, {'joined' if self.join else 'cut apart'}"


STUDY_FORM = Form()


def encode(
    instances: Sequence[Instance],
    tokenizer: Tokenizer,
    max_length: int,
    on_progress: Callable[[int], object] = lambda examples: None,
    form: Form = STUDY_FORM,
) -> Examples:
    """Tokenizes instances, marks what is learned and cuts examples to `max_length` tokens.

    Examples that the template does not fit hold no token and are listed in `Examples.refused`.
    """
    made: list[Fitted] = []
    stripped: list[int] = []
    refused: dict[int, str] = {}
    for start in range(0, len(instances), 1024):
        turns = [instance.turns for instance in instances[start : start + 1024]]
        for its, one in zip(turns, _tokenized(turns, tokenizer, form), strict=True):
            if isinstance(one, Unfit):
                refused[len(made)] = str(one)
                one = TokenizedExample(*[np.zeros(0, np.int32)] * 3)
            made.append(fit(one, its, max_length, form.truncation, form.max_answer))
            blank = (turn.content[:1].isspace() for turn in its)
            stripped.append(0 if form.template else sum(blank))
        on_progress(len(turns))
    limits = [
        (one.prompt_cut + one.answer_cut, one.answer_cut, count)
        for one, count in zip(made, stripped, strict=True)
    ]
    return Examples(
        [(one.ids, one.loss_mask) for one in made], np.reshape(limits, (-1, 3)), refused
    )


class Prompts(NamedTuple):
    """What a model is given to answer the last prompts of instances.

    Attributes:
        ids: of each, (n,) int32, exactly one bos where the form or the template writes one: the
            tokens that stand before the answer in what `encode` makes of the instance.
        cut: (N,) int32, the tokens taken away from each to fit.
    """

    ids: list[np.ndarray]
    cut: np.ndarray


def encode_prompts(
    instances: Sequence[Instance],
    tokenizer: Tokenizer,
    form: Form = STUDY_FORM,
    max_length: int | None = None,
) -> Prompts:
    """The prompts that models are given to go on from; the last answers are not read.

    Args:
        max_length: tokens at most of a prompt. What is over is taken from its words as
            `form.truncation` says, under "tail" from the end of the last turn first; only when no
            words are left is the prompt cut at the tail.

    Raises:
        UserError: if the template does not fit.
    """
    asked = [instance.turns[:-1] for instance in instances]
    made, lengths = [], []
    for instance, one in zip(instances, _tokenized(asked, tokenizer, form), strict=True):
        if isinstance(one, Unfit):
            raise UserError(f"example {instance.id!r}: the chat template does not fit: {one}")
        # A token stands for the answer, which limits cut last.
        whole = TokenizedExample(
            np.append(one.ids, 0),
            np.append(one.answer, one.answer.max(initial=-1) + 1),
            np.append(one.turn, -1),
        )
        fitted = fit(whole, instance.turns, len(whole.ids), "head", form.max_answer)
        lengths.append(fitted.prompt)
        limit = fitted.prompt if max_length is None else max_length
        if fitted.prompt > limit:
            cut = "end" if form.truncation == "tail" else form.truncation
            fitted = fit(whole, instance.turns, limit + 1, cut, form.max_answer)
        made.append(fitted.ids[: min(fitted.prompt, limit)])
    kept = np.array([len(one) for one in made], np.int32)
    return Prompts(made, np.array(lengths, np.int32) - kept)


def closing_tokens(tokenizer: Tokenizer, form: Form = STUDY_FORM) -> list[int]:
    """What closes an answer: of the study's form eos, of a chat template what it writes there."""
    (one,) = _tokenized([(Turn("user", "a"), Turn("assistant", "b"))], tokenizer, form)
    if isinstance(one, Unfit):
        return [tokenizer.eos_id]
    words = np.flatnonzero((one.answer >= 0) & (one.turn >= 0))[-1:]
    after = one.ids[int(words[0]) + 1 :] if len(words) else one.ids[:0]
    return after[one.answer[len(one.ids) - len(after) :] >= 0].tolist() or [tokenizer.eos_id]


class ChoiceTokens(NamedTuple):
    """An example with one of its choices as its answer.

    Attributes:
        ids: (n,) int32, what `encode` makes of it.
        prompt: how many of them stand before the choice.
        scored: (n,) bool, the choice's tokens that carry loss, with what closes it.
        whole: whether no token of the choice was cut.
    """

    ids: np.ndarray
    prompt: int
    scored: np.ndarray
    whole: bool


def encode_choices(
    instances: Sequence[Instance], tokenizer: Tokenizer, max_length: int, form: Form = STUDY_FORM
) -> list[list[ChoiceTokens]]:
    """The tokens of every choice of every instance.

    Raises:
        UserError: if the template does not fit.
    """
    pairs = [
        (number, (*one.turns[:-1], one.turns[-1]._replace(content=choice, learned=True)))
        for number, one in enumerate(instances)
        for choice in one.choices
    ]
    made: list[list[ChoiceTokens]] = [[] for _ in instances]
    for start in range(0, len(pairs), 1024):
        part = pairs[start : start + 1024]
        tokenized = _tokenized([turns for _, turns in part], tokenizer, form)
        for (number, turns), one in zip(part, tokenized, strict=True):
            if isinstance(one, Unfit):
                name = instances[number].id
                raise UserError(f"example {name!r}: the chat template does not fit: {one}")
            fitted = fit(one, turns, max_length, form.truncation, form.max_answer)
            scored = fitted.loss_mask & (np.arange(len(fitted.ids)) >= fitted.prompt)
            whole = scored.sum() == (one.answer == one.answer.max(initial=0)).sum()
            made[number].append(ChoiceTokens(fitted.ids, fitted.prompt, scored, bool(whole)))
    return made


def _tokenized(
    conversations: Sequence[Sequence[Turn]], tokenizer: Tokenizer, form: Form
) -> Sequence[TokenizedExample | Unfit]:
    made: Sequence[TokenizedExample | Unfit]
    if form.template is None:
        made = study.tokenized(conversations, tokenizer, form.answers, form.join)
    else:
        made = chat.tokenized(conversations, tokenizer, form.template, form.answers, form.thoughts)
    if form.answers == "all":
        return made
    unlearned = Unfit("its last answer, which alone is learned, has weight 0")
    pairs = zip(conversations, made, strict=True)
    return [one if turns[-1].learned else unlearned for turns, one in pairs]
